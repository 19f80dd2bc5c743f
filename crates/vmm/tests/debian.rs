//! A Debian 12 user land on the software CPU: bash, perl, python3, gcc and what it compiles, and
//! openssl, each with the results that the host's own CPU gives.
//!
//! The disk is made once, by mmdebstrap from the archives that the host's apt knows, and kept in the
//! cache with the output of the script (`data/debian.sh`) when it ran natively in the same tree. On
//! a host that lets nobody change root, that output is `data/debian.expected`.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use image::cache::{Entry, Key};
use image::kernel::Source;
use image::{Cache, Quiet, ext4, starter};

use support::Guest;

const NAME: &str = "debian";
/// Counts up when the disk would change for the same inputs.
const RECIPE: u32 = 1;
const PACKAGES: &str = "python3-minimal,perl-base,gcc,libc6-dev,binutils,openssl";
const DISK_MIB: u64 = 1024;
const SCRIPT: &str = include_str!("data/debian.sh");
const EXPECTED: &str = include_str!("data/debian.expected");
/// Lines around the script's output.
const BEGIN: &str = "----- begin";
const END: &str = "----- end";
/// When the machine is given up.
const PATIENCE: Duration = Duration::from_secs(240);

/// The first process: it runs the script, which is all of the second disk, and ends the machine by
/// the system call reboot, as this user land has no program for that.
const FIRST: &str = "#!/bin/bash\n\
    mount -t proc proc /proc 2>/dev/null\n\
    mount -t tmpfs tmp /tmp\n\
    bash < /dev/vdb 2>&1\n\
    perl -e 'syscall(169, 0xfee1dead, 672274793, 0x1234567)'\n";

#[test]
fn a_debian_user_land_computes_what_the_host_does() {
    let programs = [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("tar", "tar")];
    if !support::has_programs(NAME, &programs) {
        return;
    }
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    let Some(entry) = disk(&cache) else { return };
    let expected = std::fs::read_to_string(entry.file("native")).expect("the entry is complete");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, sectors(SCRIPT)).unwrap();

    let mut guest = Guest::new(&kernel, "root=/dev/vda ro rootfstype=ext4 init=/check");
    guest.disks = vec![(entry.file("root.ext4"), true), (script, true)];
    guest.memory_mib = 512;
    guest.vcpus = 2;
    if kernel.source == Source::Debian {
        guest.initrd = Some(starter::root_initramfs(&cache, &kernel, &Quiet).unwrap());
    }
    let ended = guest.run(PATIENCE);
    assert_eq!(ended.status, Some(0), "{}", ended.text);
    let found = support::between(&ended.text, BEGIN, END);
    let found = found.unwrap_or_else(|| panic!("the script did not end:\n{}", ended.text));
    let (found, expected): (Vec<&str>, Vec<&str>) =
        (found.lines().collect(), expected.lines().collect());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{}", ended.text);
}

/// The disk from the cache, and what the script prints on the host's CPU.
fn disk(cache: &Cache) -> Option<Entry> {
    let key = Key::new("test-debian", RECIPE)
        .with("packages", PACKAGES)
        .with("first", FIRST)
        .with("script", SCRIPT);
    let mut why = None;
    let entry = cache.entry(&key, |folder| {
        let work = tempfile::tempdir_in("/var/tmp").expect("a folder in /var/tmp");
        let tree = work.path().join("tree");
        if let Err(reason) = bootstrap(&tree) {
            why = Some(reason.clone());
            return Err(image::Error::Format { what: "mmdebstrap".into(), why: reason });
        }
        let native = natively(&tree).unwrap_or_else(|reason| {
            support::skip("debian's native run", &reason);
            EXPECTED.to_string()
        });
        std::fs::write(folder.join("native"), native).expect("the output is kept");
        ext4::ext4_from_folder(&tree, DISK_MIB, ext4::Owner::Root, &folder.join("root.ext4"))?;
        Ok(Vec::new())
    });
    if let Some(reason) = why {
        support::skip(NAME, &format!("no user land could be made: {reason}"));
        return None;
    }
    Some(entry.expect("the disk is made"))
}

/// Makes the tree. Without documentation, which is half of the files.
fn bootstrap(tree: &Path) -> Result<(), String> {
    let archive = tree.with_extension("tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")]);
    for folder in ["doc", "man", "info", "locale"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    }
    command.arg("--dpkgopt=force-unsafe-io").arg("--aptopt=Acquire::Languages \"none\"");
    support::tool(command.arg("bookworm").arg(&archive))?;
    std::fs::create_dir(tree).map_err(|error| error.to_string())?;
    let mut command = Command::new("tar");
    command.args(["--no-same-owner", "--exclude=./dev/*", "-x", "-f"]).arg(&archive);
    support::tool(command.arg("-C").arg(tree))?;
    std::fs::remove_file(&archive).map_err(|error| error.to_string())?;
    let first = tree.join("check");
    std::fs::write(&first, FIRST).map_err(|error| error.to_string())?;
    support::tool(Command::new("chmod").arg("755").arg(&first)).map(drop)
}

/// Runs the script in the tree on the host's own CPU, in a mount name space that ends with it.
fn natively(tree: &Path) -> Result<String, String> {
    let mut command = Command::new("unshare");
    // Root by name where not by right.
    let root = support::tool(Command::new("id").arg("-u"))?.stdout == b"0\n";
    command.arg(if root { "-m" } else { "-rm" }).args(["sh", "-c"]);
    command.arg(
        "mount --rbind /dev \"$0/dev\" && mount -t tmpfs tmp \"$0/tmp\" && cat > \"$0/tmp/script\" \
         && exec chroot \"$0\" bash /tmp/script",
    );
    let script = tree.with_extension("sh");
    std::fs::write(&script, SCRIPT).map_err(|error| error.to_string())?;
    let input = std::fs::File::open(&script).map_err(|error| error.to_string())?;
    let output = command.arg(tree).stdin(input).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = support::between(&text, BEGIN, END).map(str::to_owned);
    found.ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A script as a disk: whole sectors, the rest of the last one blank lines.
fn sectors(script: &str) -> Vec<u8> {
    let mut bytes = script.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), b'\n');
    bytes
}
