//! A Debian user land that runs a script: what benches and long tests boot. Its disk is made once and
//! kept in the cache; the script is a disk of its own.
//!
//! ```text
//! let Some(land) = UserLand::new(NAME, &cache, &kernel) else { return };
//! let ended = land.guest(&script(folder, "echo hello")).run(PATIENCE);
//! ```

use std::path::{Path, PathBuf};

use image::cache::Key;
use image::kernel::{Kernel, Source};
use image::{Cache, Quiet, ext4, starter};

use super::{Guest, debian, has_programs, skip};

/// What the first process prints before anything else.
pub const FIRST_LINE: &str = "----- user land";

/// Counts up when the disk would change for the same inputs.
const RECIPE: u32 = 1;
const PACKAGES: &str = "binutils,bzip2,gcc,gzip,libc6-dev,luajit,openssl,perl-base,python3-minimal,\
                        sqlite3,stress-ng,zstd";
const DISK_MIB: u64 = 1536;

/// The first process: it runs the script, which is all of the second disk, and ends the machine by
/// the system call reboot, as this user land has no program for that.
const FIRST: &str = "#!/bin/bash\n\
    echo '----- user land'\n\
    export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp\n\
    mount -t proc proc /proc\n\
    mount -t sysfs sys /sys\n\
    mount -t tmpfs tmp /tmp -o size=80%\n\
    cd /tmp\n\
    bash < /dev/vdb 2>&1\n\
    perl -e 'syscall(169, 0xfee1dead, 672274793, 0x1234567)'\n";

/// A kernel and a disk that boot to the script.
pub struct UserLand<'a> {
    kernel: &'a Kernel,
    initrd: Option<PathBuf>,
    disk: PathBuf,
}

impl<'a> UserLand<'a> {
    /// Finds or makes the disk. None, said aloud as a reason of the test `name`, if it cannot be
    /// had.
    pub fn new(name: &str, cache: &Cache, kernel: &'a Kernel) -> Option<Self> {
        let disk = disk(name, cache)?;
        let needs_initrd = kernel.source == Source::Debian;
        let initrd = needs_initrd.then(|| starter::root_initramfs(cache, kernel, &Quiet));
        Some(Self { kernel, initrd: initrd.map(|made| made.expect("an initramfs")), disk })
    }

    /// A machine with one processor and 512 MiB that runs the script.
    pub fn guest(&self, script: &Path) -> Guest<'a> {
        let mut guest =
            Guest::new(self.kernel, "root=/dev/vda ro rootfstype=ext4 init=/run-script");
        guest.disks = vec![(self.disk.clone(), true), (script.to_owned(), true)];
        guest.initrd.clone_from(&self.initrd);
        guest.memory_mib = 512;
        guest
    }
}

/// Makes the script's disk in a folder: whole sectors, the rest of the last one blank lines.
pub fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("script");
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), b'\n');
    std::fs::write(&path, bytes).expect("the script is written");
    path
}

fn disk(name: &str, cache: &Cache) -> Option<PathBuf> {
    if !has_programs(name, &debian::PROGRAMS) {
        return None;
    }
    let key = Key::new("test-userland", RECIPE).with("packages", PACKAGES).with("first", FIRST);
    let mut why = None;
    let entry = cache.entry(&key, |folder| {
        let work = tempfile::tempdir_in("/var/tmp").expect("a folder in /var/tmp");
        let tree = work.path().join("tree");
        let made = debian::tree("minbase", PACKAGES, &tree)
            .and_then(|()| debian::add_program(&tree, "run-script", FIRST));
        if let Err(reason) = made {
            why = Some(reason.clone());
            return Err(image::Error::Format { what: "mmdebstrap".into(), why: reason });
        }
        ext4::ext4_from_folder(&tree, DISK_MIB, ext4::Owner::Root, &folder.join("root.ext4"))?;
        Ok(Vec::new())
    });
    if let Some(reason) = why {
        skip(name, &format!("no user land could be made: {reason}"));
        return None;
    }
    Some(entry.expect("the disk is made").file("root.ext4"))
}
