//! What travels between interrupt sources and local APICs: a [`Message`] from
//! an I/O APIC pin or an MSI write, an [`Ipi`] from another processor.
//!
//! Destinations are normalised when a message is made: the 8-bit broadcast
//! `0xff` of the I/O APIC, of MSI and of an xAPIC's ICR becomes
//! [`DESTINATION_BROADCAST`], so that a target in either mode compares with one
//! value.

/// The destination that every local APIC matches, in either destination mode.
pub const DESTINATION_BROADCAST: u32 = u32::MAX;

/// How the target treats a message (SDM vol. 3A, table "Delivery Mode").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector goes to every processor that matches.
    Fixed,
    /// The vector goes to one processor among those that match.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi,
    /// Resets the target to its wait-for-SIPI state.
    Init,
    /// Starts a waiting target at `vector << 12`; only from an ICR.
    StartUp,
    /// The target fetches the vector from the 8259A pair.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the three-bit field that the ICR, the local vector table, the
    /// redirection table and MSI data share. The reserved value is `None`.
    pub fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }

    /// Whether the vector lands in the target's IRR, which is when a level
    /// trigger and an illegal vector mean something.
    pub fn carries_vector(self) -> bool {
        match self {
            Self::Fixed | Self::LowestPriority => true,
            Self::Smi | Self::Nmi | Self::Init | Self::StartUp | Self::ExtInt => false,
        }
    }
}

/// How a destination names its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationMode {
    /// By APIC ID.
    Physical,
    /// By the logical destination register.
    Logical,
}

impl DestinationMode {
    pub(crate) fn from_bit(logical: bool) -> Self {
        if logical { Self::Logical } else { Self::Physical }
    }
}

/// Whether an EOI must reach the I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// One event; the EOI stays in the local APIC.
    Edge,
    /// A line that may still be asserted at the EOI.
    Level,
}

impl Trigger {
    pub(crate) fn from_bit(level: bool) -> Self {
        if level { Self::Level } else { Self::Edge }
    }
}

/// One interrupt on its way to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The vector, or the start page of a start-up message.
    pub vector: u8,
    /// An APIC ID or a logical destination, by `destination_mode`.
    pub destination: u32,
    /// How `destination` is read.
    pub destination_mode: DestinationMode,
    /// What the target does.
    pub delivery: DeliveryMode,
    /// Level only for [`DeliveryMode::carries_vector`] modes.
    pub trigger: Trigger,
}

const MSI_ADDRESS_PREFIX: u64 = 0xfee;

impl Message {
    /// Decodes a message-signalled interrupt (SDM vol. 3A, "Message Signalled
    /// Interrupts"). `None` when the address is not the APICs' or the delivery
    /// mode is reserved or start-up, which MSI cannot send. The redirection
    /// hint is ignored: the delivery mode already says whether one target
    /// among several is wanted.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != MSI_ADDRESS_PREFIX {
            return None;
        }
        let delivery = DeliveryMode::from_bits(data >> 8)?;
        if delivery == DeliveryMode::StartUp {
            return None;
        }
        Some(Self {
            vector: data as u8,
            destination: normalise_destination((address >> 12) as u8),
            destination_mode: DestinationMode::from_bit(address & 1 << 2 != 0),
            delivery,
            trigger: Trigger::from_bit(data & 1 << 15 != 0 && delivery.carries_vector()),
        })
    }
}

/// Widens an 8-bit destination, whose `0xff` means everybody.
pub(crate) fn normalise_destination(destination: u8) -> u32 {
    match destination {
        0xff => DESTINATION_BROADCAST,
        id => u32::from(id),
    }
}

/// Which processors an ICR write names besides its destination field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// The destination field counts.
    Destination,
    /// The sender alone.
    SelfOnly,
    /// Everybody.
    AllIncludingSelf,
    /// Everybody but the sender.
    AllExcludingSelf,
}

impl Shorthand {
    pub(crate) fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Destination,
            1 => Self::SelfOnly,
            2 => Self::AllIncludingSelf,
            _ => Self::AllExcludingSelf,
        }
    }
}

/// An interrupt that a guest sends from one processor to others. Always
/// edge-triggered: processors since the Pentium 4 ignore the ICR's trigger
/// bit, and an INIT de-assert does nothing and is never turned into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// What to deliver; its destination counts for [`Shorthand::Destination`].
    pub message: Message,
    /// Who gets it.
    pub shorthand: Shorthand,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: u64, data: u32, expected: Option<Message>) {
        assert_eq!(Message::from_msi(address, data), expected, "{address:#x} {data:#x}");
    }

    fn fixed(vector: u8, destination: u32) -> Message {
        Message {
            vector,
            destination,
            destination_mode: DestinationMode::Physical,
            delivery: DeliveryMode::Fixed,
            trigger: Trigger::Edge,
        }
    }

    #[test]
    fn decodes_msi() {
        check(0xfee0_0000, 0x41, Some(fixed(0x41, 0)));
        check(0xfee0_3000, 0x4021, Some(fixed(0x21, 3)));
        check(0xfeef_f000, 0x30, Some(fixed(0x30, DESTINATION_BROADCAST)));
        let level = Message { trigger: Trigger::Level, ..fixed(0x30, 1) };
        check(0xfee0_1000, 0xc030, Some(level));
        let logical = Message {
            destination_mode: DestinationMode::Logical,
            delivery: DeliveryMode::LowestPriority,
            ..fixed(0x30, 1)
        };
        check(0xfee0_100c, 0x4130, Some(logical));
        let nmi = Message { delivery: DeliveryMode::Nmi, ..fixed(0, 2) };
        check(0xfee0_2000, 0x8400, Some(nmi));
    }

    #[test]
    fn refuses_what_is_not_msi() {
        check(0xfed0_0000, 0x41, None);
        check(0x1_fee0_0000, 0x41, None);
        check(0xfee0_0000, 0x341, None);
        check(0xfee0_0000, 0x641, None);
    }
}
