//! Changes to the CPU that a guest sees: CPUID, model-specific registers, and what the host must
//! have.
//!
//! ```text
//!   a list of modifiers ─┐
//!                        ├─▶ CpuTemplate ──▶ a back end: what it offers ─apply─▶ what it tells
//!   a name (T2, C3, …) ──┘
//! ```
//!
//! It refuses more modifiers than any CPU has registers. Whether a back end can do what a template
//! asks for is for the back end to say; a named template knows on which processors it may be used.

mod named;

pub use named::NamedTemplate;

use std::ops::{BitAnd, BitOr, Not};

use crate::Error;

/// Most modifiers of one kind in a template: more than the leaves or registers that a host has.
pub const CPU_MODIFIERS_MAX: usize = 1024;

/// A set of changes. The default changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTemplate {
    capabilities: Vec<Capability>,
    cpuid: Vec<CpuidModifier>,
    msrs: Vec<MsrModifier>,
    name: Option<NamedTemplate>,
}

impl CpuTemplate {
    /// A template of these changes, made in this order.
    pub fn new(
        capabilities: Vec<Capability>,
        cpuid: Vec<CpuidModifier>,
        msrs: Vec<MsrModifier>,
    ) -> Result<Self, Error> {
        for (field, count) in [
            ("the number of kvm_capabilities", capabilities.len()),
            ("the number of cpuid_modifiers", cpuid.len()),
            ("the number of msr_modifiers", msrs.len()),
        ] {
            if count > CPU_MODIFIERS_MAX {
                let (value, max) = (count as u64, CPU_MODIFIERS_MAX as u64);
                return Err(Error::Range { field, value, min: 0, max });
            }
        }
        Ok(Self { capabilities, cpuid, msrs, name: None })
    }

    /// What is asked of the host's KVM.
    pub fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    /// Changes to CPUID.
    pub fn cpuid(&self) -> &[CpuidModifier] {
        &self.cpuid
    }

    /// Changes to MSRs.
    pub fn msrs(&self) -> &[MsrModifier] {
        &self.msrs
    }

    /// Checks that the template may be used on a CPU: its vendor as leaf 0 of CPUID spells it, and
    /// its signature, EAX of leaf 1.
    pub fn check_cpu(&self, vendor: &[u8; 12], signature: u32) -> Result<(), Error> {
        self.name.map_or(Ok(()), |name| name.check_cpu(vendor, signature))
    }
}

/// A capability of KVM, by its number (`KVM_CAP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// The host must have it, besides those that every machine needs.
    Required(u32),
    /// The host need not have it, though every machine needs it.
    Waived(u32),
}

/// Changes to one leaf of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidModifier {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; 0 for leaves without sub-leaves.
    pub subleaf: u32,
    /// KVM's flags of the leaf (`KVM_CPUID_FLAG_*`).
    pub flags: u32,
    /// The changes to EAX, EBX, ECX and EDX.
    pub registers: [Bits<u32>; 4],
}

/// The output registers of CPUID, in the order of [`CpuidModifier::registers`].
pub const CPUID_REGISTERS: [&str; 4] = ["eax", "ebx", "ecx", "edx"];

/// A change to one MSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrModifier {
    /// ECX of RDMSR.
    pub index: u32,
    /// The change.
    pub bits: Bits<u64>,
}

/// Some bits of a register, and the values that they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bits<T> {
    mask: T,
    value: T,
}

impl<T: Copy + BitAnd<Output = T> + BitOr<Output = T> + Not<Output = T>> Bits<T> {
    /// The bits in `mask` become what they are in `value`; all others stay.
    pub fn new(mask: T, value: T) -> Self {
        Self { mask, value: value & mask }
    }

    /// The bits that change.
    pub fn mask(&self) -> T {
        self.mask
    }

    /// Their values; 0 elsewhere.
    pub fn value(&self) -> T {
        self.value
    }

    /// `old` with the change made.
    pub fn apply(&self, old: T) -> T {
        (old & !self.mask) | self.value
    }

    /// This change, and then `next`.
    pub fn then(&self, next: Self) -> Self {
        Self { mask: self.mask | next.mask, value: next.apply(self.value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_change_what_the_mask_says() {
        let check = |mask, value, old: u32, new| {
            assert_eq!(Bits::new(mask, value).apply(old), new, "{mask:#x} {value:#x} {old:#x}");
        };
        check(0, 0, 0x1234, 0x1234);
        check(0, 0xFF, 0x1234, 0x1234);
        check(0xF0, 0xFF, 0x1204, 0x12F4);
        check(0xF0, 0x00, 0x12F4, 0x1204);
        check(u32::MAX, 7, 0x1234, 7);
    }

    #[test]
    fn two_changes_in_a_row_are_one() {
        let (first, second) = (Bits::new(0xFFu32, 0x5A), Bits::new(0xF00Fu32, 0x1003));
        for old in [0, 0xFFFF_FFFF, 0x1234_5678] {
            assert_eq!(first.then(second).apply(old), second.apply(first.apply(old)), "{old:#x}");
        }
    }

    #[test]
    fn a_template_has_an_end() {
        let modifier = MsrModifier { index: 1, bits: Bits::default() };
        let made = |count| CpuTemplate::new(Vec::new(), Vec::new(), vec![modifier; count]);
        assert_eq!(made(CPU_MODIFIERS_MAX).unwrap().msrs().len(), CPU_MODIFIERS_MAX);
        let error = made(CPU_MODIFIERS_MAX + 1).unwrap_err().to_string();
        assert_eq!(error, "the number of msr_modifiers is 1025; it must be from 0 to 1024");
    }
}
