//! `cargo xtask test`: sets up what the tests need, and runs them.
//!
//! On a fresh Debian 12 it installs what is missing (as root; else it says what to install, and
//! tests that need it say that they are skipped), pulls Debian's kernel into the cache, and runs
//! every suite. A second run finds everything in place.

use std::process::Command;

use crate::build;
use crate::shell::{self, cargo, has};

/// Which tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those that need nothing but the compiler.
    Units,
    /// All.
    All,
}

/// (program that shows that it is there, Debian package)
const PACKAGES: [(&str, &str); 20] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("xz", "xz-utils"),
    ("mke2fs", "e2fsprogs"),
    ("cpio", "cpio"),
    ("gcc", "gcc libc6-dev"),
    ("mmdebstrap", "mmdebstrap"),
    ("passt", "passt"),
    ("setfacl", "acl"),
    ("setfattr", "attr"),
    ("setcap", "libcap2-bin"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("buildah", "buildah"),
    ("docker-registry", "docker-registry"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("ssh", "openssh-client"),
    ("curl", "curl"),
    ("socat", "socat"),
];

/// Runs the tests.
pub fn run(extent: Extent) -> anyhow::Result<()> {
    match extent {
        Extent::Units => {
            let args = ["test", "--workspace", "--lib", "--bins", "--no-fail-fast"];
            shell::run("unit tests", &mut cargo(&args))
        }
        Extent::All => {
            packages()?;
            kernel()?;
            let args = ["test", "--workspace", "--no-fail-fast"];
            shell::run("all tests", &mut cargo(&args))?;
            // A workspace of its own, because its other way of being built needs special flags.
            let fuzz = ["test", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target"];
            shell::run("the bodies of the fuzz targets", &mut cargo(&fuzz))?;
            build::run()
        }
    }
}

fn packages() -> anyhow::Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| !has(program))
        .flat_map(|(_, names)| names.split(' '))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let root = shell::output(Command::new("id").arg("-u"))?.trim() == "0";
    if !root || !has("apt-get") {
        let list = missing.join(" ");
        eprintln!("== some tests will be skipped; to run them: sudo apt-get install {list}");
        return Ok(());
    }
    let mut update = Command::new("apt-get");
    shell::run("package lists", update.args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
    shell::run("packages", install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The kernel that the end-to-end tests boot, in the user's cache.
fn kernel() -> anyhow::Result<()> {
    let args = ["run", "--quiet", "--package", "sparkler", "--", "kernel", "pull"];
    shell::run("Debian's kernel", &mut cargo(&args))
}
