//! `cargo xtask fuzz`: which fuzz targets there are.

use anyhow::Context;

use crate::shell;

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
