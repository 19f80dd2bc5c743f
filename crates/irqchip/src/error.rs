//! The one way in which a guest's access to these chips fails: a model-specific
//! register access that the processor answers with a general-protection fault.
//! Memory-mapped and port accesses never fail; a reserved one reads as zero or
//! all ones and is ignored when written.

use thiserror::Error;

/// A guest's fault. The CPU back end turns it into `#GP(0)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The register does not exist in the APIC's present mode, or cannot be
    /// accessed in this direction.
    #[error("APIC register {msr:#x} does not allow this access; the guest gets #GP")]
    NoSuchMsr {
        /// The register's number, as the guest gave it in ECX.
        msr: u32,
    },
    /// The value sets reserved bits or asks for a forbidden change of mode.
    #[error("APIC register {msr:#x} does not accept {value:#x}; the guest gets #GP")]
    InvalidValue {
        /// The register's number, as the guest gave it in ECX.
        msr: u32,
        /// What the guest tried to write.
        value: u64,
    },
}
