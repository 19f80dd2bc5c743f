//! `cargo xtask fuzz`: which fuzz targets there are; `cargo xtask fuzz SECONDS` runs each for so
//! long with inputs that are made at random and out of each other, without a fuzzer.

use anyhow::Context;

use crate::shell::{self, cargo};

/// Runs each target's body for so many seconds.
pub fn run(seconds: &str) -> anyhow::Result<()> {
    let fuzz =
        ["test", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target"];
    let mut command = cargo(&fuzz);
    command.env("SPARKLER_FUZZ_SECONDS", seconds);
    shell::run("fuzz targets", &mut command)
}

/// Lists the targets with the command for each. Their bodies also run as ordinary tests.
pub fn list() -> anyhow::Result<()> {
    let folder = shell::root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("no fuzz targets in {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    println!("with a nightly compiler and `cargo install cargo-fuzz`:");
    for name in names {
        println!("  cargo +nightly fuzz run {name}");
    }
    Ok(())
}
