//! Debian and Ubuntu by release, made from their packages by mmdebstrap, which needs no root where
//! the host lets users have namespaces of their own.
//!
//! The system has an init (systemd), a login as root on the console, and an SSH server whose keys
//! are made when it first starts, so that no two machines share them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ::ext4::builder::Xattrs;
use ::ext4::{Attributes, Time};

use crate::apt::tail;
use crate::oci::layer::tempfile_in;
use crate::progress::Progress;
use crate::tar::{self, Meaning};
use crate::tree::{Content, Item, Tree};
use crate::{Error, Result};

/// What every image gets; the user's own packages come on top.
pub const PACKAGES: [&str; 8] = [
    "systemd-sysv",
    "udev",
    "dbus",
    "openssh-server",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "less",
];
/// Files are not newer than this, so that the same packages give the same bytes: the second that
/// Debian 12 was released in, 2023-06-10 00:00 UTC.
const NEWEST: &str = "1686355200";
/// Most bytes of a system's archive.
const ARCHIVE_MAX: u64 = 1 << 40;

/// (distribution, release, suite), the default of each distribution first
const SUITES: [(&str, &str, &str); 7] = [
    ("debian", "12", "bookworm"),
    ("debian", "13", "trixie"),
    ("debian", "11", "bullseye"),
    ("debian", "sid", "sid"),
    ("ubuntu", "24.04", "noble"),
    ("ubuntu", "22.04", "jammy"),
    ("ubuntu", "20.04", "focal"),
];

/// Files that make a guest of it.
const FILES: [(&str, u16, &str); 5] = [
    ("etc/fstab", 0o644, "/dev/vda / ext4 defaults,noatime 0 1\n"),
    ("etc/hostname", 0o644, "sparkler\n"),
    // Empty: systemd fills it in at the first start.
    ("etc/machine-id", 0o444, ""),
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/10-sparkler.conf",
        0o644,
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 %I $TERM\n",
    ),
    (
        "etc/systemd/system/ssh.service.d/10-sparkler.conf",
        0o644,
        "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n",
    ),
];
/// What the package made when it was installed, and must be a machine's own.
const KEYS: [&str; 3] = ["rsa", "ecdsa", "ed25519"];

/// A release of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    distribution: &'static str,
    suite: &'static str,
}

impl Suite {
    /// Reads `debian:12`, `debian:bookworm`, or `debian`; none if it is no distribution's name.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let (distribution, release) = text.split_once(':').unwrap_or((text, ""));
        let mut of_it = SUITES.iter().filter(|(known, ..)| *known == distribution).peekable();
        of_it.peek()?;
        let found = of_it
            .find(|(_, number, suite)| release.is_empty() || [*number, *suite].contains(&release));
        let known = || {
            let list =
                SUITES.iter().map(|(name, number, suite)| format!("{name}:{number} ({suite})"));
            list.collect::<Vec<_>>().join(", ")
        };
        Some(match found {
            Some(&(distribution, _, suite)) => Ok(Suite { distribution, suite }),
            None => Err(Error::Suite { text: text.to_owned(), known: known() }),
        })
    }

    /// Installs the system with further packages, and reads it into a tree whose contents are in
    /// the folder `work`.
    pub fn tree(
        self,
        packages: &[String],
        mirror: Option<&str>,
        work: &Path,
        progress: &dyn Progress,
    ) -> Result<Tree> {
        progress.step(&format!("installing {} {}", self.distribution, self.suite));
        let archive = tempfile_in(work)?;
        let output = archive.try_clone().map_err(Error::file("make a file in", work))?;
        let mut command = self.command(packages, mirror);
        let run = command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped()).output();
        let run = run.map_err(|source| Error::NoProgram {
            program: "mmdebstrap",
            package: "mmdebstrap",
            source,
        })?;
        if !run.status.success() {
            return Err(Error::ProgramFailed {
                program: "mmdebstrap",
                purpose: format!("install {} {}", self.distribution, self.suite),
                status: run.status.to_string(),
                output: tail(&run.stderr),
            });
        }
        progress.step("reading the system");
        let len = archive.metadata().map_err(Error::file("read", work))?.len().min(ARCHIVE_MAX);
        let mut tree = Tree::new();
        tar::read_into(&mut tree, &Arc::new(archive), 0..len, Meaning::Whole, &mut |_| ())?;
        make_guest(&mut tree)?;
        Ok(tree)
    }

    fn command(self, packages: &[String], mirror: Option<&str>) -> Command {
        let mut include: Vec<&str> = PACKAGES.to_vec();
        include.extend(packages.iter().map(String::as_str));
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--variant=minbase", "--format=tar"]);
        command.arg(format!("--include={}", include.join(",")));
        if self.distribution == "ubuntu" {
            command.arg("--components=main,universe");
        }
        if packages.iter().any(|package| package == "man-db" || package == "manpages") {
            // Some configurations of hosts leave them out.
            command.arg("--dpkgopt=path-include=/usr/share/man/*");
        }
        command.args([self.suite, "-"]).args(mirror);
        // A package's questions have nobody to answer them.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        if std::env::var_os("SOURCE_DATE_EPOCH").is_none() {
            command.env("SOURCE_DATE_EPOCH", NEWEST);
        }
        command
    }
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let release = SUITES.iter().find(|(_, _, suite)| *suite == self.suite);
        write!(f, "{}:{}", self.distribution, release.map_or(self.suite, |(_, number, _)| number))
    }
}

/// Refuses names that are no package's, which would be options of another program.
pub fn check_packages(packages: &[String]) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    for name in packages {
        let usual = name.bytes().all(|byte| plain(byte) || b"+-.".contains(&byte));
        if name.len() < 2 || !usual || !name.bytes().next().is_some_and(plain) {
            return Err(Error::format(name, "it is no name of a package"));
        }
    }
    Ok(())
}

fn make_guest(tree: &mut Tree) -> Result<()> {
    tree.next_layer();
    for key in KEYS {
        for ending in ["", ".pub"] {
            tree.remove(format!("etc/ssh/ssh_host_{key}_key{ending}").as_bytes())?;
        }
    }
    let modified = Time { seconds: NEWEST.parse().unwrap_or_default(), nanoseconds: 0 };
    for (path, mode, text) in FILES {
        let attributes = Attributes { mode, uid: 0, gid: 0, modified };
        let item = Item::File(Content::of(text.as_bytes()));
        tree.put(path.as_bytes(), attributes, Xattrs::new(), item)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_by_number_and_by_name() {
        let suite =
            |text: &str| Suite::parse(text).map(|found| found.map(|suite| suite.suite).ok());
        assert_eq!(suite("debian"), Some(Some("bookworm")));
        assert_eq!(suite("debian:13"), Some(Some("trixie")));
        assert_eq!(suite("ubuntu:noble"), Some(Some("noble")));
        assert_eq!(suite("ubuntu:24.04"), Some(Some("noble")));
        assert_eq!(suite("debian:4"), Some(None));
        assert_eq!(suite("alpine"), None);
    }

    #[test]
    fn packages_are_names() {
        assert!(check_packages(&["g++".into(), "linux-perf".into()]).is_ok());
        for bad in ["", "a", "-x", "a,b", "a b", "A"] {
            assert!(check_packages(&[bad.into()]).is_err(), "{bad}");
        }
    }
}
