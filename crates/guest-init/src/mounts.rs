//! File systems: the kernel's own, and the change to the root disk.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::StatFs;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::disks;
use crate::options::Options;

/// How long to wait for the root disk to appear.
const ROOT_WAIT: Duration = Duration::from_secs(5);
/// Where the root disk is mounted before it becomes `/`.
const NEW_ROOT: &str = "/sparkler/root";
/// Programs that take over a disk, in the kernel's own order.
const INITS: [&str; 3] = ["/sbin/init", "/etc/init", "/bin/init"];

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// What goes where: type, target, flags, options.
const KERNEL_FILE_SYSTEMS: [(&str, &str, MountFlags, &str); 7] = [
    ("proc", "/proc", PLAIN.union(MountFlags::NOEXEC), ""),
    ("sysfs", "/sys", PLAIN.union(MountFlags::NOEXEC), ""),
    ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
    ("devpts", "/dev/pts", MountFlags::NOSUID, "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", PLAIN, "mode=1777"),
    ("tmpfs", "/run", PLAIN, "mode=0755"),
    ("tmpfs", "/tmp", PLAIN, "mode=1777"),
];

/// Those that come along to the root disk.
const MOVED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Mounts /proc, /sys and /dev, all that init itself needs.
pub fn essential() {
    KERNEL_FILE_SYSTEMS[..3].iter().for_each(mount_one);
}

/// Mounts the rest, for a system that init itself runs; but not what is to stay on the disk.
pub fn remaining(tmp_on_disk: bool) {
    let rest = KERNEL_FILE_SYSTEMS[3..].iter();
    rest.filter(|(_, target, ..)| !tmp_on_disk || target.starts_with("/dev")).for_each(mount_one);
    let cgroups = ("cgroup2", "/sys/fs/cgroup", PLAIN.union(MountFlags::NOEXEC), "");
    if Path::new(cgroups.1).exists() {
        mount_one(&cgroups);
    }
}

fn mount_one(&(kind, target, flags, options): &(&str, &str, MountFlags, &str)) {
    // A target that cannot be made shows as the failed mount below.
    let _ = fs::create_dir(target);
    let options = std::ffi::CString::new(options).unwrap_or_default();
    match mount(kind, target, kind, flags, options.as_c_str()) {
        // Busy: the kernel or an earlier init has mounted it already.
        Ok(()) | Err(rustix::io::Errno::BUSY) => {}
        Err(error) => eprintln!("init: cannot mount {kind} on {target}: {error}"),
    }
}

/// Whether `/` is still the kernel's initramfs.
pub fn in_initramfs() -> bool {
    rustix::fs::statfs("/").is_ok_and(|root| is_memory(&root))
}

fn is_memory(root: &StatFs) -> bool {
    // RAMFS_MAGIC and TMPFS_MAGIC of linux/magic.h.
    matches!(root.f_type, 0x8584_58F6 | 0x0102_1994)
}

/// Waits for the root disk, mounts it and makes it `/`.
pub fn change_root(root: &str, options: &Options) -> io::Result<()> {
    let device = wait_for(root)?;
    fs::create_dir_all(NEW_ROOT)?;
    mount_root(&device, options)?;
    for target in MOVED {
        let there = format!("{NEW_ROOT}{target}");
        // A disk without such a folder goes without that file system.
        let _ = fs::create_dir(&there);
        if let Err(error) = mount_move(target, there.as_str()) {
            eprintln!("init: the root disk has no {target} to mount on: {error}");
        }
    }
    empty_initramfs();
    std::env::set_current_dir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")
}

fn wait_for(root: &str) -> io::Result<PathBuf> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(device) = disks::find(root) {
            return Ok(device);
        }
        if start.elapsed() > ROOT_WAIT {
            let text = format!("no disk {root} after {} s", ROOT_WAIT.as_secs());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn mount_root(device: &Path, options: &Options) -> io::Result<()> {
    let flags = if options.root_writable { MountFlags::empty() } else { MountFlags::RDONLY };
    let data = std::ffi::CString::new(options.root_flags.as_str())?;
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for kind in root_types(options) {
        match mount(device, NEW_ROOT, kind.as_str(), flags, data.as_c_str()) {
            Ok(()) => return Ok(()),
            Err(error) => last = error.into(),
        }
    }
    Err(io::Error::new(last.kind(), format!("cannot mount {}: {last}", device.display())))
}

fn root_types(options: &Options) -> Vec<String> {
    if let Some(kind) = &options.root_type {
        return kind.split(',').map(String::from).collect();
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let mut kinds: Vec<String> =
        known.lines().filter(|l| !l.starts_with("nodev")).map(|l| l.trim().into()).collect();
    // Most likely first: a wrong guess is a message on the console.
    kinds.sort_by_key(|kind| kind != "ext4");
    kinds
}

/// Frees the memory of the initramfs, which is out of reach from here on.
fn empty_initramfs() {
    let Ok(root) = fs::metadata("/") else { return };
    // The one check that stands between a mistake here and somebody's disk.
    if in_initramfs() {
        remove_below(Path::new("/"), root.dev());
    }
}

fn remove_below(folder: &Path, device: u64) {
    for path in children(folder) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != device {
            continue;
        }
        // What stays, stays in memory: a loss of memory only.
        if meta.is_dir() {
            remove_below(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The program of the disk that init hands over to, if it has one.
pub fn init_of_root(asked: Option<&str>) -> Option<PathBuf> {
    let mut candidates = asked.into_iter().chain(INITS);
    candidates.find(|path| is_program(Path::new(path))).map(PathBuf::from)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}
