//! Debian user lands, by mmdebstrap from the archives that the host's apt knows.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::tool;

/// What [`tree`] and making a disk of it need of the host: programs and their Debian packages.
pub const PROGRAMS: [(&str, &str); 3] =
    [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("tar", "tar")];

/// Folders of documentation, which is half of the files.
const LEFT_OUT: [&str; 4] = ["doc", "man", "info", "locale"];

/// Makes the folder `tree` with one of mmdebstrap's variants of Debian 12 and `packages`, whose
/// names are separated by commas. The folder /dev in it is empty.
pub fn tree(variant: &str, packages: &str, tree: &Path) -> Result<(), String> {
    let archive = tree.with_extension("tar");
    let mut command = Command::new("mmdebstrap");
    command.arg("--quiet").arg(format!("--variant={variant}"));
    command.arg(format!("--include={packages}"));
    for folder in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    }
    command.arg("--dpkgopt=force-unsafe-io").arg("--aptopt=Acquire::Languages \"none\"");
    tool(command.arg("bookworm").arg(&archive))?;
    fs::create_dir(tree).map_err(|error| error.to_string())?;
    let mut command = Command::new("tar");
    command.args(["--no-same-owner", "--exclude=./dev/*", "-x", "-f"]).arg(&archive);
    tool(command.arg("-C").arg(tree))?;
    fs::remove_file(&archive).map_err(|error| error.to_string())
}

/// Writes a program into a tree.
pub fn add_program(tree: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = tree.join(name);
    fs::write(&path, text).map_err(|error| error.to_string())?;
    tool(Command::new("chmod").arg("755").arg(&path)).map(drop)
}
