//! `cargo xtask`: everything that is done to this repository, as one program.
//!
//! | command | what it does |
//! | --- | --- |
//! | `ci [--skip-tests]` | formatting, lints, layers, documentation, unit tests |
//! | `test [--quick]` | sets up what the tests need, and runs all of them (or the unit tests) |
//! | `bench [boot | cpu | io | kvm]` | criterion's benches; in alternation with QEMU: boots, a user land's work, disk and network, boots with KVM |
//! | `build` | the static program, checked, in `target/static` |
//! | `fuzz [SECONDS]` | lists the fuzz targets, and how to run them; or runs each for some seconds |
#![forbid(unsafe_code)]

mod bench;
mod build;
mod ci;
mod fuzz;
mod layers;
mod shell;
mod test;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask ci [--skip-tests] | layers | test [--quick] | bench [boot | cpu | io | kvm] | build | \
     fuzz [SECONDS]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["ci"] => ci::run(true),
        ["ci", "--skip-tests"] => ci::run(false),
        ["layers"] => layers::check(),
        ["test"] => test::run(test::Extent::All),
        ["test", "--quick"] => test::run(test::Extent::Units),
        ["bench"] => bench::criterion(),
        ["bench", "boot", rest @ ..] => bench::boot(rest),
        ["bench", "cpu"] => bench::cpu(),
        ["bench", "kvm"] => bench::kvm(),
        ["bench", "io"] => bench::io(),
        ["bench", "api"] => bench::api(),
        ["build"] => build::run(),
        ["fuzz"] => fuzz::list(),
        ["fuzz", seconds] => fuzz::run(seconds),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
