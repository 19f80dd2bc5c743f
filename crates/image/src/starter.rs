//! The starter image: busybox and sparkler's init, made in a second or two.
//!
//! - [`initramfs`]: the system in memory. It has the kernel's modules too, if
//!   the kernel has any.
//! - [`disk`]: the same as an ext4 root disk.
//! - [`root_initramfs`]: no system, only init and modules, to start a disk with
//!   a kernel that needs modules for it.
//! - [`command_overlay`]: a command for init, as a second archive that is put
//!   behind one of these initramfs files when a machine starts.
//! - [`place_overlay`]: as whom and where it runs, as a third.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::check;
use crate::cache::Key;
use crate::cpio::Writer;
use crate::ext4::{Owner, ext4_from_folder};
use crate::kernel::{Kernel, Module, pull_busybox};
use crate::progress::Progress;
use crate::{Cache, Error, Result};

/// The guests' init, a static program.
pub const INIT: &[u8] = include_bytes!(env!("SPARKLER_GUEST_INIT"));

/// Count up when the content would change for the same inputs.
const INITRAMFS_RECIPE: u32 = 1;
const DISK_RECIPE: u32 = 1;

/// Folders of the system, with their modes.
const FOLDERS: [(&str, u32); 16] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Text files of the system.
const FILES: [(&str, &str); 5] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost sparkler\n::1 localhost\n"),
    ("etc/profile", "export PS1='\\u@\\h:\\w\\$ '\n"),
    ("etc/os-release", "NAME=sparkler\nID=sparkler\nPRETTY_NAME=\"sparkler starter image\"\n"),
];

/// The two devices that a program may need before init has mounted /dev.
const DEVICES: [(&str, u32, (u32, u32)); 2] =
    [("dev/console", 0o600, (5, 1)), ("dev/null", 0o666, (1, 3))];

/// The starter image as an initramfs for this kernel, uncompressed: the host's
/// memory is large, and unpacking would be the guest's work.
pub fn initramfs(cache: &Cache, kernel: &Kernel, progress: &dyn Progress) -> Result<PathBuf> {
    let busybox = pull_busybox(cache, progress)?;
    let program = fs::read(&busybox).map_err(Error::file("read", &busybox))?;
    let key = Key::new("initramfs-starter", INITRAMFS_RECIPE)
        .with("init", blake3::hash(INIT).as_bytes())
        .with("busybox", blake3::hash(&program).as_bytes())
        .with("kernel", &kernel.id);
    let entry = cache.entry(&key, |folder| {
        progress.step("making the starter image");
        let applets = applets(&busybox)?;
        write_archive(&folder.join("initrd.cpio"), |writer| {
            write_system(writer, &program, &applets)?;
            write_init(writer, &kernel.modules)
        })?;
        Ok(vec![("kernel", kernel.version.clone())])
    })?;
    progress.done();
    Ok(entry.file("initrd.cpio"))
}

/// An initramfs with init and the kernel's modules only, which changes to the
/// disk that `root=` names.
pub fn root_initramfs(cache: &Cache, kernel: &Kernel, progress: &dyn Progress) -> Result<PathBuf> {
    let key = Key::new("initramfs-root", INITRAMFS_RECIPE)
        .with("init", blake3::hash(INIT).as_bytes())
        .with("kernel", &kernel.id);
    let entry = cache.entry(&key, |folder| {
        progress.step("making the initramfs");
        write_archive(&folder.join("initrd.cpio"), |writer| {
            for name in ["dev", "proc", "sys"] {
                writer.folder(name, 0o755)?;
            }
            write_init(writer, &kernel.modules)
        })?;
        Ok(vec![("kernel", kernel.version.clone())])
    })?;
    progress.done();
    Ok(entry.file("initrd.cpio"))
}

/// The starter image as an ext4 root disk of this size. The file in the cache
/// is not to be written to; copy it, or give it to the machine read-only.
pub fn disk(cache: &Cache, size_mib: u64, progress: &dyn Progress) -> Result<PathBuf> {
    let busybox = pull_busybox(cache, progress)?;
    let program = fs::read(&busybox).map_err(Error::file("read", &busybox))?;
    let key = Key::new("disk-starter", DISK_RECIPE)
        .with("init", blake3::hash(INIT).as_bytes())
        .with("busybox", blake3::hash(&program).as_bytes())
        .with("size", size_mib.to_le_bytes());
    let entry = cache.entry(&key, |folder| {
        progress.step("making the starter disk");
        let work = cache.temporary()?;
        fill_folder(work.path(), &program, &applets(&busybox)?)?;
        ext4_from_folder(work.path(), size_mib, Owner::Root, &folder.join("root.ext4"))?;
        Ok(Vec::new())
    })?;
    progress.done();
    Ok(entry.file("root.ext4"))
}

/// An archive that gives init a command, and variables on top of its own. It
/// goes behind an initramfs, whose length is a multiple of four.
pub fn command_overlay<A, E>(arguments: &[A], environment: &[(E, E)]) -> io::Result<Vec<u8>>
where
    A: AsRef<[u8]>,
    E: AsRef<[u8]>,
{
    let mut command = Vec::new();
    for argument in arguments {
        command.extend(argument.as_ref());
        command.push(0);
    }
    let mut variables = Vec::new();
    for (name, value) in environment {
        variables.extend(name.as_ref());
        variables.push(b'=');
        variables.extend(value.as_ref());
        variables.push(0);
    }
    let mut writer = Writer::new(Vec::new());
    writer.folder("sparkler", 0o755)?;
    writer.file("sparkler/cmd", 0o644, &command)?;
    writer.file("sparkler/env", 0o644, &variables)?;
    writer.finish()
}

/// An archive that says as whom init runs its command, as user and group with a colon between, and
/// in which folder. Without them it is root, in its home.
pub fn place_overlay(user: Option<&str>, folder: Option<&str>) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    writer.folder("sparkler", 0o755)?;
    for (name, text) in [("sparkler/user", user), ("sparkler/folder", folder)] {
        if let Some(text) = text {
            writer.file(name, 0o644, text.as_bytes())?;
        }
    }
    writer.finish()
}

/// The names that busybox goes by, as paths below `/`.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox).arg("--list-full").output();
    let output = output.map_err(Error::file("run", busybox))?;
    check("busybox", "list its applets", &output)?;
    Ok(parse_applets(&String::from_utf8_lossy(&output.stdout)))
}

/// Leaves out init, which is ours, and places that the system does not have.
fn parse_applets(list: &str) -> Vec<String> {
    let known = |path: &&str| {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        FOLDERS.iter().any(|(name, _)| *name == folder)
    };
    let ours = ["sbin/init", "linuxrc", "bin/busybox"];
    let mut paths: Vec<String> =
        list.lines().filter(known).filter(|path| !ours.contains(path)).map(String::from).collect();
    paths.sort();
    paths.dedup();
    paths
}

fn write_archive(
    path: &Path,
    fill: impl FnOnce(&mut Writer<BufWriter<File>>) -> io::Result<()>,
) -> Result<()> {
    let file = File::create(path).map_err(Error::file("make", path))?;
    let mut writer = Writer::new(BufWriter::new(file));
    fill(&mut writer).and_then(|()| writer.finish()).map_err(Error::file("write", path)).map(drop)
}

fn write_system<W: Write>(
    writer: &mut Writer<W>,
    busybox: &[u8],
    applets: &[String],
) -> io::Result<()> {
    for (name, mode) in FOLDERS {
        writer.folder(name, mode)?;
    }
    for (name, text) in FILES {
        writer.file(name, 0o644, text.as_bytes())?;
    }
    let mut names = vec!["bin/busybox"];
    names.extend(applets.iter().map(String::as_str));
    writer.hard_links(&names, 0o755, busybox)
}

/// Init with what it reads, in folders that may be there already.
fn write_init<W: Write>(writer: &mut Writer<W>, modules: &[Module]) -> io::Result<()> {
    for (name, mode, device) in DEVICES {
        writer.character_device(name, mode, device)?;
    }
    writer.file("init", 0o755, INIT)?;
    if modules.is_empty() {
        return Ok(());
    }
    writer.folder("sparkler", 0o755)?;
    let mut list = String::new();
    let mut written = std::collections::HashSet::new();
    for module in modules {
        list.push_str(&module.line());
        list.push('\n');
        if written.insert(&module.file) {
            let name = module.file.file_name().unwrap_or_default().to_string_lossy();
            writer.file(&format!("sparkler/{name}"), 0o644, &fs::read(&module.file)?)?;
        }
    }
    writer.file("sparkler/modules", 0o644, list.as_bytes())
}

fn fill_folder(folder: &Path, busybox: &[u8], applets: &[String]) -> Result<()> {
    for (name, mode) in FOLDERS {
        let path = folder.join(name);
        fs::create_dir(&path).map_err(Error::file("make the folder", &path))?;
        set_mode(&path, mode)?;
    }
    let programs = [("bin/busybox", busybox), ("sbin/init", INIT)];
    for (name, data) in programs {
        let path = folder.join(name);
        fs::write(&path, data).map_err(Error::file("write", &path))?;
        set_mode(&path, 0o755)?;
    }
    for (name, text) in FILES {
        let path = folder.join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
        set_mode(&path, 0o644)?;
    }
    for name in applets {
        let path = folder.join(name);
        symlink("/bin/busybox", &path).map_err(Error::file("make the link", &path))?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).map_err(Error::file("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_a_static_program() {
        assert!(INIT.starts_with(b"\x7FELF"));
        // Program headers begin after the file's, 56 bytes each (elf(5)).
        let headers = INIT[64..].chunks(56).take(usize::from(INIT[56]));
        let kinds: Vec<u8> = headers.map(|header| header[0]).collect();
        let (load, interpreter) = (1, 3);
        assert!(kinds.contains(&load) && !kinds.contains(&interpreter), "{kinds:?}");
    }

    #[test]
    fn applets_are_those_the_system_has_room_for() {
        let list = "bin/sh\nsbin/init\nlinuxrc\nusr/bin/env\nbin/sh\nopt/x/y\n";
        assert_eq!(parse_applets(list), ["bin/sh", "usr/bin/env"]);
    }

    #[test]
    fn an_overlay_has_the_command_and_its_environment() {
        let overlay = command_overlay(&["echo", "a b"], &[("A", "1")]).unwrap();
        assert_eq!(overlay.len() % 4, 0);
        let text = String::from_utf8(overlay).unwrap();
        assert!(text.contains("echo\0a b\0"));
        assert!(text.contains("A=1\0"));
        command_overlay::<&str, &str>(&[], &[]).unwrap();
    }

    #[test]
    fn a_place_names_only_what_is_given() {
        for (user, folder) in [(Some("www:7"), Some("/srv")), (None, Some("/srv")), (None, None)] {
            let overlay = place_overlay(user, folder).unwrap();
            assert_eq!(overlay.len() % 4, 0);
            let text = String::from_utf8(overlay).unwrap();
            assert_eq!(text.contains("sparkler/user\0") && text.contains("www:7"), user.is_some());
            assert_eq!(text.contains("sparkler/folder\0"), folder.is_some());
        }
    }
}
