//! `cargo xtask ci`: what every change passes.

use crate::shell::{self, cargo};
use crate::{layers, test};

/// Checks everything; `tests` says whether the unit tests are among it.
pub fn run(tests: bool) -> anyhow::Result<()> {
    shell::run("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
    layers::check()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    shell::run("lints", &mut cargo(&clippy))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    shell::run("documentation", doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    if tests {
        test::run(test::Extent::Units)?;
    }
    Ok(())
}
