//! Builds the guests' init, a static program, and gives it to the library to
//! embed.
//!
//! A cargo inside cargo: with a target folder of its own, so that the two do
//! not wait for each other; with the outer one's settings taken out of the
//! environment; and offline first, since the workspace's lock file has pinned
//! what it needs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const NAME: &str = "sparkler-guest-init";

/// A small program without unwinding; the workspace's profile is for the host.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

fn main() -> ExitCode {
    match build() {
        Ok(program) => {
            println!("cargo::rustc-env=SPARKLER_GUEST_INIT={}", program.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("cannot build the guests' init: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<PathBuf, String> {
    let folder = variable("CARGO_MANIFEST_DIR")?;
    let source = Path::new(&folder).join("../guest-init");
    for part in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", source.join(part).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let target = Path::new(&variable("OUT_DIR")?).join("guest");
    let manifest = source.join("Cargo.toml");
    let offline = cargo(&manifest, &target, &["--locked", "--offline"]);
    // A first build of this package alone has not fetched what init needs.
    if offline.is_err() {
        cargo(&manifest, &target, &["--locked"])?;
    }
    let program = target.join(TARGET).join("release").join(NAME);
    if program.is_file() { Ok(program) } else { Err(format!("{} was not made", program.display())) }
}

fn cargo(manifest: &Path, target: &Path, options: &[&str]) -> Result<(), String> {
    let mut command = Command::new(variable("CARGO")?);
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_outer_cargo(name)) {
        command.env_remove(name);
    }
    command.envs(PROFILE);
    // Linked at a fixed address: nothing to relocate at every start of a guest.
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    command.args(["build", "--release", "--quiet", "--target", TARGET]).args(options);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target);
    let output = command.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Settings that the outer cargo, clippy or rustdoc made for this package,
/// which would be wrong for the other.
fn is_of_outer_cargo(name: &OsString) -> bool {
    let Some(name) = name.to_str() else { return false };
    // Where cargo keeps what it has fetched, and the toolchain's choice.
    if matches!(name, "CARGO_HOME" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN") {
        return false;
    }
    let prefixes = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CLIPPY", "DEP_"];
    let names = ["OUT_DIR", "TARGET", "HOST", "NUM_JOBS", "OPT_LEVEL", "PROFILE", "DEBUG"];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
        || names.contains(&name)
        || name == "__CARGO_FIX_PLZ"
        || name == "MAKEFLAGS"
        || name == "LD_LIBRARY_PATH"
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
