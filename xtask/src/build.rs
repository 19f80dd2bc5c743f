//! `cargo xtask build`: `sparkler-vmm` as one static file, which runs where nothing is installed.
//!
//! ```text
//!   cargo build, strip ──▶ no interpreter? ──▶ starts alone in a chroot? ──▶ target/static/…
//! ```
//!
//! It is what a jail gets: there is no dynamic linker in there, and no library. The flag that makes
//! it static must not reach procedural macros, which are libraries, so the target is named
//! although it is the host's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::shell::{self, cargo, output};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROGRAM: &str = "sparkler-vmm";

/// Builds the program, and proves that it needs nothing but the kernel.
pub fn run() -> anyhow::Result<()> {
    let target_folder = target_folder()?;
    let args = ["build", "--release", "--package", PROGRAM, "--bin", PROGRAM, "--target", TARGET];
    let mut build = cargo(&args);
    shell::run("static build", build.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let built = target_folder.join(TARGET).join("release").join(PROGRAM);
    let folder = target_folder.join("static");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let (program, new) = (folder.join(PROGRAM), folder.join(format!("{PROGRAM}.new")));
    // Names of functions stay, for the message of a panic.
    let mut strip = Command::new("strip");
    shell::run("strip", strip.arg("--strip-debug").arg("-o").arg(&new).arg(&built))?;
    let bytes = fs::read(&new).with_context(|| format!("read {}", new.display()))?;
    ensure!(!has_interpreter(&bytes)?, "{} needs a dynamic linker", built.display());
    start_alone(&bytes)?;
    // Renamed into place, because the old one may be running.
    fs::rename(&new, &program).with_context(|| format!("write {}", program.display()))?;
    eprintln!("== {} ({} KiB)", program.display(), bytes.len() >> 10);
    Ok(())
}

fn target_folder() -> anyhow::Result<PathBuf> {
    let metadata = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata: no target")?;
    Ok(PathBuf::from(folder))
}

/// Whether an ELF file for 64-bit hosts asks for a dynamic linker (PT_INTERP; gABI, "Program
/// Header").
fn has_interpreter(elf: &[u8]) -> anyhow::Result<bool> {
    const PT_INTERP: u32 = 3;
    const HEADERS_AT: usize = 0x20;
    const HEADER_SIZE_AT: usize = 0x36;
    const HEADER_COUNT_AT: usize = 0x38;
    ensure!(elf.starts_with(b"\x7FELF\x02\x01"), "this is no 64-bit ELF file");
    let field = |at: usize, size: usize| -> anyhow::Result<u64> {
        let bytes = at.checked_add(size).and_then(|end| elf.get(at..end));
        let mut value = [0; 8];
        value[..size].copy_from_slice(bytes.context("the ELF file ends too early")?);
        Ok(u64::from_le_bytes(value))
    };
    let start = usize::try_from(field(HEADERS_AT, 8)?)?;
    let size = usize::try_from(field(HEADER_SIZE_AT, 2)?)?;
    for n in 0..usize::try_from(field(HEADER_COUNT_AT, 2)?)? {
        let at = start.checked_add(n * size).context("a header beyond all addresses")?;
        if field(at, 4)? == u64::from(PT_INTERP) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Starts the program where there is nothing else, by the name that it stands in for.
fn start_alone(program: &[u8]) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("sparkler-alone-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join("firecracker");
    let written = fs::write(&path, program)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", path.display()));
    let tried = written.and_then(|()| {
        for (args, code, text) in [
            (&["--version"][..], 0, "Firecracker v1."),
            (&["--snapshot-version"], 0, "v"),
            (&["--help"], 0, "--api-sock"),
            (&["--no-such-flag"], 153, "Found argument 'no-such-flag'"),
        ] {
            start_in(&folder, args, code, text)?;
        }
        Ok(())
    });
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    tried
}

fn start_in(folder: &Path, args: &[&str], code: i32, text: &str) -> anyhow::Result<()> {
    // Who is not root is, in a namespace of its own.
    let mut chroot = Command::new("unshare");
    chroot.args(["--user", "--map-root-user", "chroot"]).arg(folder).arg("/firecracker");
    let done = chroot.args(args).output().context("run unshare (package util-linux)")?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if err.contains("unshare") {
        eprintln!("== SKIPPED: started alone: this host has no user namespaces: {}", err.trim());
        return Ok(());
    }
    if done.status.code() != Some(code) || !out.contains(text) {
        bail!("alone in a chroot, firecracker {args:?} ended with {}: {out}{err}", done.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with program headers of these types right behind it.
    fn elf(types: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7FELF\x02\x01".to_vec();
        bytes.resize(0x40, 0);
        bytes[0x20] = 0x40;
        bytes[0x36] = 56;
        bytes[0x38] = types.len() as u8;
        for kind in types {
            bytes.push(*kind);
            bytes.resize(bytes.len() + 55, 0);
        }
        bytes
    }

    #[test]
    fn an_interpreter_is_found() {
        assert!(!has_interpreter(&elf(&[1, 2, 4])).unwrap());
        assert!(has_interpreter(&elf(&[1, 3])).unwrap());
        assert!(!has_interpreter(&elf(&[])).unwrap());
        assert!(has_interpreter(&elf(&[1, 1])[..0x79]).is_err());
        assert!(has_interpreter(b"#!/bin/sh").is_err());
        // Tests themselves are not static.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_interpreter(&own).unwrap());
    }
}
