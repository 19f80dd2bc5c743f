//! What a case is, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use memory::GuestMemory;
use vcpu::{Error, Vm};

use crate::guests::Blob;
use crate::layout::Entry;

/// Makes a virtual machine with [`crate::VCPUS`] vCPUs over the given RAM.
pub type MakeVm<'a> = &'a dyn Fn(Arc<GuestMemory>) -> Result<Arc<dyn Vm>, Error>;

/// One thing that every back end does alike.
pub struct Case {
    /// What it is about, in `snake_case`.
    pub name: &'static str,
    /// What QEMU's TCG gets wrong that the case is about, so that a KVM inside of it fails too.
    pub tcg_flaw: Option<&'static str>,
    /// How it is run.
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    /// A guest's code and its expected trace.
    Guest(Guest),
    /// The contract seen from the host.
    Host(fn(MakeVm<'_>) -> Result<(), String>),
}

/// A guest and what it must do.
pub(crate) struct Guest {
    pub blob: Blob,
    pub entry: Entry,
    pub expect: Expect,
    /// Why the guest may give up: what the processor may lack.
    pub skip: &'static str,
}

/// How a guest must end.
#[derive(Clone, Copy)]
pub(crate) enum Expect {
    /// With code 0, after exactly these notes.
    Notes(&'static [u64]),
    /// With this result code.
    Code(u8),
    /// With the shutdown of its vCPU.
    TripleFault,
}

/// What came of one case.
#[derive(Debug, Clone)]
pub struct CaseResult {
    /// The case's name.
    pub name: &'static str,
    /// Whether it passed.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// Whether a case passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It did.
    Passed,
    /// It did not, and why.
    Failed(String),
    /// The processor or back end lacks what the case is about.
    Skipped(String),
}
