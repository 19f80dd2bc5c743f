//! The command line as it is typed: one type a verb. What it means is in `cmd`.

pub mod dockerfile;
pub mod image;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use vmm::CpuChoice;

use self::image::ImageVerb;

/// Linux virtual machines in a click.
#[derive(Debug, Parser)]
#[command(name = "sparkler", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a Linux virtual machine, and be root in it
    Run(RunArgs),
    /// Find out what this host offers, and what to do about what it does not
    Doctor(DoctorArgs),
    /// Make, get and list images
    #[command(subcommand)]
    Image(ImageVerb),
    /// Get, build and list kernels
    #[command(subcommand)]
    Kernel(KernelVerb),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the versions
    Version,
}

/// `sparkler run`.
#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal, Ctrl-A x leaves the machine (Ctrl-A Ctrl-A is one Ctrl-A).\n\
    The exit status is the command's own; 125 if sparkler itself failed, 126 and 127 if the\n\
    command cannot be executed or found in the guest."
)]
pub struct RunArgs {
    /// Kernel: `debian` (Debian's own), `microvm` (made by `kernel build`), or the path of a
    /// vmlinux or bzImage; by default `microvm` if it has been built, else `debian`
    #[arg(long, value_name = "K")]
    pub kernel: Option<String>,
    /// Root disk: the path of an ext4 disk, which the guest may write to, or the name of an image
    /// from `image ls`, of which it gets a copy that goes with the machine; without one, a small
    /// system in memory
    #[arg(long, value_name = "PATH|NAME")]
    pub image: Option<PathBuf>,
    /// Virtual CPUs, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u64,
    /// Memory, with a unit (512M, 2G) or in MiB
    #[arg(short, long, value_name = "M", default_value = "256M", value_parser = parse_memory)]
    pub memory: u64,
    /// What runs the guest's code: KVM, sparkler's software CPU, or the better one
    #[arg(long, value_enum, value_name = "CPU", default_value_t = Cpu::Auto)]
    pub cpu: Cpu,
    /// Another disk, read-only with `:ro`; may be given more than once
    #[arg(long = "disk", value_name = "PATH[:ro]", value_parser = parse_disk)]
    pub disks: Vec<DiskArg>,
    /// Print where the time went, when the machine has ended
    #[arg(long)]
    pub timings: bool,
    /// A command for the guest instead of a shell, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cpu {
    /// KVM where it runs at hardware speed, else the software CPU
    Auto,
    /// KVM
    Kvm,
    /// The software CPU
    Soft,
}

impl From<Cpu> for CpuChoice {
    fn from(cpu: Cpu) -> Self {
        match cpu {
            Cpu::Auto => Self::Auto,
            Cpu::Kvm => Self::Kvm,
            Cpu::Soft => Self::Soft,
        }
    }
}

/// `sparkler doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// `sparkler kernel`.
#[derive(Debug, Subcommand)]
pub enum KernelVerb {
    /// Take the kernel of Debian's linux-image-cloud-amd64 package
    Pull,
    /// Compile a kernel for microVMs from Debian's kernel source
    Build,
    /// List the kernels in the cache
    Ls {
        /// Print the newest of each kind with initramfs and command line, for programs
        #[arg(long)]
        paths: bool,
    },
    /// Remove kernels from the cache
    Rm {
        /// `debian` or `microvm`
        name: String,
        /// Only this version; by default all
        version: Option<String>,
    },
}

/// A disk as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArg {
    /// Its file.
    pub path: PathBuf,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

fn parse_disk(text: &str) -> Result<DiskArg, String> {
    let (path, read_only) = match text.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    match path {
        "" => Err("a disk needs a path".to_owned()),
        path => Ok(DiskArg { path: path.into(), read_only }),
    }
}

/// MiB from `512`, `512M`, `512MiB` or `2G`.
fn parse_memory(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no amount of memory: write 512M, 2G, or a number of MiB");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 0,
        "g" | "gb" | "gib" => 10,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn memory_has_units() {
        for (text, expected) in [
            ("512", Some(512)),
            ("512M", Some(512)),
            ("1g", Some(1024)),
            ("2GiB", Some(2048)),
            ("0", Some(0)),
            ("", None),
            ("M", None),
            ("1T", None),
            ("-1", None),
            ("1.5G", None),
            ("99999999999999999999", None),
            ("18446744073709551615G", None),
        ] {
            assert_eq!(parse_memory(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn disks_may_be_read_only() {
        let disk = |path: &str, read_only| Some(DiskArg { path: path.into(), read_only });
        for (text, expected) in [
            ("a.img", disk("a.img", false)),
            ("a.img:ro", disk("a.img", true)),
            ("a.img:rw", disk("a.img", false)),
            ("a:b.img", disk("a:b.img", false)),
            (":ro", None),
            ("", None),
        ] {
            assert_eq!(parse_disk(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_command_comes_after_two_dashes() {
        let cli = Cli::parse_from(["sparkler", "run", "--cpus", "2", "--", "ls", "-l"]);
        let Verb::Run(run) = cli.verb else { panic!("not run") };
        assert_eq!((run.cpus, run.memory, run.command.len()), (2, 256, 2));
        assert!(Cli::try_parse_from(["sparkler", "run", "ls"]).is_err());
    }
}
