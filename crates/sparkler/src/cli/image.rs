//! `sparkler image` as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use image::ext4::Owner;

use super::dockerfile::DockerfileArgs;

/// `sparkler image`.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Make an image from a Dockerfile, a folder, an archive, a container image, or Debian's packages
    Build(BuildArgs),
    /// Get an image from a registry
    Pull(PullArgs),
    /// List the images, and what they take
    Ls {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Print everything that is known about images, as JSON
    Inspect {
        /// Names, or beginnings of numbers
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Remove images
    Rm {
        /// Names, or beginnings of numbers; a number removes an image with all its names
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Remove what has no name, and what is only kept for the next pull
    Prune {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Copy an image's disk to a file
    Export {
        /// Name, or beginning of a number
        image: String,
        /// The file, which is made
        file: PathBuf,
    },
}

/// `sparkler image build`.
#[derive(Debug, Args)]
#[command(
    after_help = "SOURCE is the path of a folder with a Dockerfile, of one with the files of the image, of an OCI layout, of a\n\
    tar archive (also compressed), or of what `docker save` writes; or a release, such as\n\
    debian:12 or ubuntu:24.04, which mmdebstrap installs. What a path is, is seen from what is in\n\
    it; dir:PATH, tar:PATH, oci:PATH[:NAME] and docker-archive:PATH[:NAME] say it."
)]
pub struct BuildArgs {
    /// What the image is made from
    pub source: String,
    #[command(flatten)]
    pub disk: DiskArgs,
    /// Who owns the files of a folder: `same` as on the host, `root`, or numbers as UID:GID
    #[arg(long, value_name = "OWNER", value_parser = parse_owner)]
    pub owner: Option<Owner>,
    /// A package that a release gets on top; may be given more than once
    #[arg(long = "package", value_name = "NAME")]
    pub packages: Vec<String>,
    /// Where a release's packages come from
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    #[command(flatten)]
    pub dockerfile: DockerfileArgs,
}

/// `sparkler image pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The image, as `[HOST/]REPOSITORY[:TAG][@DIGEST]`
    pub reference: String,
    #[command(flatten)]
    pub disk: DiskArgs,
    /// Ask this host instead of the image's own
    #[arg(long, value_name = "HOST[:PORT]")]
    pub mirror: Option<String>,
    /// Speak HTTP without TLS
    #[arg(long)]
    pub plain_http: bool,
}

/// How an image's disk is made, and what it is called.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// The image's name; by default that of its source
    #[arg(short = 't', long, value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// The disk's size, with a unit (800M, 4G) or in MiB; by default what fits, and some more
    #[arg(long, value_name = "SIZE", value_parser = super::parse_memory)]
    pub size: Option<u64>,
    /// Without a journal: faster, but a machine that is killed may leave its disk damaged
    #[arg(long)]
    pub no_journal: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

fn parse_owner(text: &str) -> Result<Owner, String> {
    let bad = || format!("`{text}` is no owner: write same, root, or numbers as 1000:1000");
    match text {
        "same" => Ok(Owner::Same),
        "root" => Ok(Owner::Root),
        _ => {
            let (uid, gid) = text.split_once(':').ok_or_else(bad)?;
            Ok(Owner::Is(uid.parse().map_err(|_| bad())?, gid.parse().map_err(|_| bad())?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        assert_eq!(parse_owner("same"), Ok(Owner::Same));
        assert_eq!(parse_owner("1000:5"), Ok(Owner::Is(1000, 5)));
        for bad in ["", "me", "1", "1:", "-1:1", "1:4294967296"] {
            assert!(parse_owner(bad).is_err(), "{bad}");
        }
    }
}
