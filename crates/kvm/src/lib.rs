//! The CPU back end on Linux's KVM: the contract of `vcpu`, with hardware virtualisation.
//!
//! [`KvmVm`] is the virtual machine: RAM slots, the in-kernel interrupt controllers and timer,
//! interrupt lines as irqfds, doorbells as ioeventfds. Each vCPU is set up with a normalised CPUID
//! and runs on whatever thread calls `Vcpu::run`; another thread stops it with a signal that cannot
//! be lost (see the `kick` module). [`probe::probe`] says whether the host's KVM is fit to run
//! guests at all: some nested hosts offer a `/dev/kvm` that interprets the guest's kernel.
//!
//! It refuses: hosts without a required capability, guests whose instructions KVM cannot emulate,
//! and interrupt lines above 23. It has no fix-ups for a KVM that fails; the software CPU is the
//! way out there. Only AMD's half was exercised against a real kernel in the project's own tests;
//! what differs on Intel is reviewed, not tested.

mod cpu;
mod cpuid;
mod kick;
mod msrs;
pub mod probe;
mod state;
mod vm;

pub use vm::{KvmVm, Options, REQUIRED_CAPABILITIES};

use kvm_ioctls::Kvm;
use vcpu::Error;

/// Opens `/dev/kvm`, with a message that says what to do where that fails.
fn open_kvm() -> Result<Kvm, Error> {
    Kvm::new().map_err(|e| {
        let advice = match e.errno() {
            libc::ENOENT => {
                "this host has no KVM: load the module kvm_intel or kvm_amd, enable \
                             virtualisation in the firmware, or use the software CPU"
            }
            libc::EACCES | libc::EPERM => {
                "this user may not use KVM: join the group `kvm`, or use \
                                           the software CPU"
            }
            _ => "KVM is not usable here: use the software CPU",
        };
        failed(format!("open /dev/kvm ({advice})"), e)
    })
}

/// A failed call to the host as the contract's error.
fn failed(what: impl Into<String>, errno: kvm_ioctls::Error) -> Error {
    Error::Host { what: what.into(), source: std::io::Error::from_raw_os_error(errno.errno()) }
}
