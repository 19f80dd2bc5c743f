//! A guest for tests of networks: a Debian with an SSH server, iperf3, curl, ping and an echo on
//! vsock, on a disk that is made once and kept in the cache. `network-init.sh` is its first process.
//!
//! ```text
//! let Some(disk) = network::image(NAME, &cache) else { return };
//! let (login, ip) = (network::Login::new(), "10.0.0.2::10.0.0.1:255.255.255.252::eth0");
//! let mut guest = Guest::new(&kernel, &network::arguments(Some(ip), Some(&login)));
//! guest.disks = vec![(disk, true)];
//! ... until the console says network::READY ...
//! login.ssh("10.0.0.2").args(["ip", "address"]).output()
//! ```

use std::path::PathBuf;
use std::process::Command;

use image::cache::Key;
use image::{Cache, ext4};

use super::{debian, has_programs, skip, tool};

/// How the line begins that the guest writes when all runs; then come the names of what runs:
/// `ssh`, `iperf3`, and `vsock` if there is such a device.
pub const READY: &str = "----- network image runs:";
/// The TCP port of iperf3.
pub const IPERF_PORT: u16 = 5201;
/// The vsock port that echoes.
pub const ECHO_PORT: u32 = 5000;

/// Counts up when the disk would change for the same inputs.
const RECIPE: u32 = 1;
const PACKAGES: &str = "busybox,curl,dropbear-bin,iperf3,iproute2,iputils-ping,mount,socat";
const INIT: &str = include_str!("network-init.sh");
const DISK_MIB: u64 = 256;

/// The disk, which is not to be written to. None, said aloud as a reason of the test `name`, if it
/// cannot be had.
pub fn image(name: &str, cache: &Cache) -> Option<PathBuf> {
    if !has_programs(name, &debian::PROGRAMS) {
        return None;
    }
    let key = Key::new("test-network", RECIPE).with("packages", PACKAGES).with("init", INIT);
    let mut why = None;
    let entry = cache.entry(&key, |folder| {
        let work = tempfile::tempdir_in("/var/tmp").expect("a folder in /var/tmp");
        let tree = work.path().join("tree");
        let made = debian::tree("essential", PACKAGES, &tree)
            .and_then(|()| debian::add_program(&tree, "network-init", INIT));
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

/// What the kernel's command line needs for this disk as the first one: with `ip`, the network
/// device gets an address (`ADDRESS::GATEWAY:MASK::DEVICE`, the gateway may be empty); with
/// `login`, its key opens the SSH server.
pub fn arguments(ip: Option<&str>, login: Option<&Login>) -> String {
    let mut arguments = "root=/dev/vda ro rootfstype=ext4 init=/network-init".to_string();
    if let Some(ip) = ip {
        arguments += &format!(" ip={ip}");
    }
    if let Some(login) = login {
        arguments += &format!(" network.key={}", login.public);
    }
    arguments
}

/// An SSH key for one test.
pub struct Login {
    folder: tempfile::TempDir,
    public: String,
}

impl Login {
    /// A new key, by ssh-keygen.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("key");
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&file);
        tool(&mut command).expect("ssh-keygen, of openssh-client, makes a key");
        let public = std::fs::read_to_string(file.with_extension("pub")).expect("it is there");
        let public = public.split(' ').nth(1).expect("type, then key").trim().to_owned();
        Self { folder, public }
    }

    /// ssh to root at `address`; the command to run there is to be added.
    pub fn ssh(&self, address: &str) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-i").arg(self.folder.path().join("key"));
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        command.arg(format!("root@{address}"));
        command
    }
}
