//! An ext4 disk from a folder, with neither root nor a mount.
//!
//! `mke2fs -d` writes the folder's files into a new file system. Files keep
//! the owners that they have on the host, which for an unprivileged user is
//! that user; `debugfs` then makes them root's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::apt::check;
use crate::{Error, Result};

/// The smallest disk, in MiB.
pub const SIZE_MIN_MIB: u64 = 8;
/// The largest disk, in MiB: 16 TiB, ext4's limit with blocks of 4 KiB.
pub const SIZE_MAX_MIB: u64 = 16 << 20;
const E2FSPROGS: &str = "e2fsprogs";

/// Who owns the files of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Root, whoever owns them on the host.
    Root,
    /// The same user and group numbers as on the host.
    Same,
}

/// Makes the file `out` an ext4 disk of this size with the content of a
/// folder. The file is sparse; it takes the room of what is in it.
pub fn ext4_from_folder(folder: &Path, size_mib: u64, owner: Owner, out: &Path) -> Result<()> {
    if !(SIZE_MIN_MIB..=SIZE_MAX_MIB).contains(&size_mib) {
        return Err(Error::DiskSize { size_mib, min_mib: SIZE_MIN_MIB, max_mib: SIZE_MAX_MIB });
    }
    let file = File::create(out).map_err(Error::file("make", out))?;
    file.set_len(size_mib << 20).map_err(Error::file("make room in", out))?;
    drop(file);
    make(folder, out)?;
    if owner == Owner::Root && !rustix::process::geteuid().is_root() {
        give_to_root(folder, out)?;
    }
    Ok(())
}

fn make(folder: &Path, out: &Path) -> Result<()> {
    let mut command = tool("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096", "-I", "256"]);
    // Written now, once; not by the guest's kernel after every start.
    command.args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"]);
    command.arg("-d").arg(folder).arg(out).stdin(Stdio::null());
    let output = command.output().map_err(not_started("mke2fs"))?;
    check("mke2fs", &format!("put {} into a disk", folder.display()), &output)
}

/// Sets user and group of everything that came from the folder to zero.
fn give_to_root(folder: &Path, out: &Path) -> Result<()> {
    let mut commands = String::new();
    list(folder, "", &mut commands)?;
    let mut command = tool("debugfs");
    command.args(["-w", "-f", "-"]).arg(out);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(not_started("debugfs"))?;
    let input = child.stdin.take();
    let fed = std::thread::spawn(move || match input {
        Some(mut input) => input.write_all(commands.as_bytes()),
        None => Ok(()),
    });
    let output = child.wait_with_output().map_err(not_started("debugfs"))?;
    check("debugfs", &format!("give the files of {} to root", out.display()), &output)?;
    match fed.join() {
        Ok(result) => result.map_err(not_started("debugfs")),
        Err(_) => Err(Error::format(out.display().to_string(), "debugfs got no commands")),
    }
}

fn list(folder: &Path, below: &str, commands: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::file("read", folder))? {
        let entry = entry.map_err(Error::file("read", folder))?;
        let name = entry.file_name();
        let name = name.to_str().filter(|name| !name.contains(['"', '\n'])).ok_or_else(|| {
            Error::format(entry.path().display().to_string(), "debugfs cannot take its name")
        })?;
        let path = format!("{below}/{name}");
        for field in ["uid", "gid"] {
            commands.push_str(&format!("sif \"{path}\" {field} 0\n"));
        }
        let kind = entry.file_type().map_err(Error::file("read", &entry.path()))?;
        if kind.is_dir() {
            list(&entry.path(), &path, commands)?;
        }
    }
    Ok(())
}

/// A program of e2fsprogs, which is not in every user's PATH.
fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command
}

fn not_started(program: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::NoProgram { program, package: E2FSPROGS, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, SIZE_MIN_MIB - 1, SIZE_MAX_MIB + 1, u64::MAX] {
            let result = ext4_from_folder(folder.path(), size, Owner::Root, Path::new("/none"));
            assert!(matches!(result, Err(Error::DiskSize { .. })), "{size}");
        }
    }

    #[test]
    fn owners_are_listed_with_quotes() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a b")).unwrap();
        fs::write(folder.path().join("a b/c"), "").unwrap();
        let mut commands = String::new();
        list(folder.path(), "", &mut commands).unwrap();
        let expected = "sif \"/a b\" uid 0\nsif \"/a b\" gid 0\n\
                        sif \"/a b/c\" uid 0\nsif \"/a b/c\" gid 0\n";
        assert_eq!(commands, expected);
    }
}
