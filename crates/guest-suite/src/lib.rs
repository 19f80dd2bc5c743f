//! One suite, every CPU back end: small guests of our own whose trace is known, as data.
//!
//! A case is a guest in assembly (a file in `guests/`) that leaves *notes* on a port as it goes,
//! and a table row that says which notes are right; or a function that tests the contract of
//! `vcpu` from the host's side. [`run_all`] runs all of them on whatever back end it is given, each
//! on a machine of its own, bounded in time. [`nested::run`] brings a working KVM where the host
//! has none: a machine inside QEMU.
//!
//! It refuses to know the back ends: they come in as a function.

mod board;
mod case;
mod cases;
mod contract;
mod guests;
mod layout;
pub mod nested;
mod runner;

pub use case::{Case, CaseResult, MakeVm, Verdict};
pub use cases::all;
pub use layout::Entry;
pub use runner::VCPUS;

use std::time::Instant;

use case::Kind;

/// Runs every case on machines that `make_vm` makes.
pub fn run_all(make_vm: MakeVm<'_>) -> Vec<CaseResult> {
    all().iter().map(|case| run_case(case, make_vm)).collect()
}

/// Runs one case.
pub fn run_case(case: &Case, make_vm: MakeVm<'_>) -> CaseResult {
    let start = Instant::now();
    let verdict = match &case.kind {
        Kind::Guest(guest) => runner::run(guest, make_vm),
        Kind::Host(test) => match test(make_vm) {
            Ok(()) => Verdict::Passed,
            Err(reason) => Verdict::Failed(reason),
        },
    };
    CaseResult { name: case.name, verdict, took: start.elapsed() }
}
