//! The local APIC's register map (SDM vol. 3A, "Local APIC Register Address
//! Map"): one index space, which is `offset / 16` in the memory-mapped page and
//! `msr - 0x800` in x2APIC mode.

/// A register of the local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    Eoi,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    SpuriousVector,
    InService(u8),
    TriggerMode(u8),
    Request(u8),
    ErrorStatus,
    IcrLow,
    IcrHigh,
    Lvt(LvtEntry),
    InitialCount,
    CurrentCount,
    DivideConfig,
    SelfIpi,
}

/// An entry of the local vector table, in the order of [`LocalApicState::lvt`].
///
/// [`LocalApicState::lvt`]: crate::LocalApicState::lvt
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LvtEntry {
    /// The APIC timer.
    Timer,
    /// The thermal sensor, which never fires.
    Thermal,
    /// The performance counters, which never fire.
    Performance,
    /// The LINT0 pin, wired to the 8259A pair's INTR output.
    Lint0,
    /// The LINT1 pin, wired to nothing here.
    Lint1,
    /// The APIC's own errors.
    Error,
}

impl LvtEntry {
    /// The bits that software can change.
    pub(crate) fn writable_bits(self) -> u32 {
        match self {
            Self::Timer => 0x0007_00ff,
            Self::Thermal | Self::Performance => 0x0001_07ff,
            Self::Lint0 | Self::Lint1 => 0x0001_a7ff,
            Self::Error => 0x0001_00ff,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Timer => 0,
            Self::Thermal => 1,
            Self::Performance => 2,
            Self::Lint0 => 3,
            Self::Lint1 => 4,
            Self::Error => 5,
        }
    }
}

/// Number of entries in the local vector table.
pub(crate) const LVT_COUNT: usize = 6;

impl Register {
    /// The register at `index`, if there is one in either mode.
    pub(crate) fn from_index(index: u32) -> Option<Self> {
        Some(match index {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::TaskPriority,
            0x09 => Self::ArbitrationPriority,
            0x0a => Self::ProcessorPriority,
            0x0b => Self::Eoi,
            0x0c => Self::RemoteRead,
            0x0d => Self::LogicalDestination,
            0x0e => Self::DestinationFormat,
            0x0f => Self::SpuriousVector,
            0x10..=0x17 => Self::InService((index - 0x10) as u8),
            0x18..=0x1f => Self::TriggerMode((index - 0x18) as u8),
            0x20..=0x27 => Self::Request((index - 0x20) as u8),
            0x28 => Self::ErrorStatus,
            0x30 => Self::IcrLow,
            0x31 => Self::IcrHigh,
            0x32 => Self::Lvt(LvtEntry::Timer),
            0x33 => Self::Lvt(LvtEntry::Thermal),
            0x34 => Self::Lvt(LvtEntry::Performance),
            0x35 => Self::Lvt(LvtEntry::Lint0),
            0x36 => Self::Lvt(LvtEntry::Lint1),
            0x37 => Self::Lvt(LvtEntry::Error),
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3e => Self::DivideConfig,
            0x3f => Self::SelfIpi,
            _ => return None,
        })
    }

    /// The register at a byte offset of the memory-mapped page. Software must
    /// use aligned 32-bit accesses; the other bytes of a 16-byte slot do not
    /// exist.
    pub(crate) fn at_offset(offset: u16) -> Option<Self> {
        let aligned = offset.is_multiple_of(0x10);
        let register = aligned.then(|| Self::from_index(u32::from(offset >> 4))).flatten()?;
        (register != Self::SelfIpi).then_some(register)
    }

    /// The register of a model-specific register number, with what may be done
    /// to it. The ICR is one 64-bit register there.
    pub(crate) fn at_msr(msr: u32) -> Option<(Self, MsrAccess)> {
        let register = Self::from_index(msr.checked_sub(X2APIC_MSR_BASE)?)?;
        let access = match register {
            Self::ArbitrationPriority
            | Self::RemoteRead
            | Self::DestinationFormat
            | Self::IcrHigh => return None,
            Self::Id
            | Self::Version
            | Self::ProcessorPriority
            | Self::LogicalDestination
            | Self::InService(_)
            | Self::TriggerMode(_)
            | Self::Request(_)
            | Self::CurrentCount => MsrAccess::ReadOnly,
            Self::Eoi => MsrAccess::WriteOnly { valid: 0 },
            Self::SelfIpi => MsrAccess::WriteOnly { valid: 0xff },
            Self::TaskPriority => MsrAccess::ReadWrite { valid: 0xff },
            Self::SpuriousVector => MsrAccess::ReadWrite { valid: 0x3ff },
            Self::ErrorStatus => MsrAccess::ReadWrite { valid: 0 },
            Self::IcrLow => MsrAccess::ReadWrite { valid: 0xffff_ffff_000c_dfff },
            Self::Lvt(entry) => {
                let valid = u64::from(entry.writable_bits() | LVT_READ_ONLY);
                MsrAccess::ReadWrite { valid }
            }
            Self::InitialCount => MsrAccess::ReadWrite { valid: 0xffff_ffff },
            Self::DivideConfig => MsrAccess::ReadWrite { valid: 0xb },
        };
        Some((register, access))
    }
}

/// The first model-specific register of the x2APIC range.
const X2APIC_MSR_BASE: u32 = 0x800;

/// Delivery status and remote IRR, which read as zero here: interrupts are
/// accepted at once, and LINT pins do not track level interrupts.
const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;

/// What `RDMSR` and `WRMSR` may do to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsrAccess {
    ReadOnly,
    /// Bits outside `valid` raise `#GP`.
    WriteOnly {
        valid: u64,
    },
    /// Bits outside `valid` raise `#GP` when written.
    ReadWrite {
        valid: u64,
    },
}
