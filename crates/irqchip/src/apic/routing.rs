//! How a local APIC is addressed: the part of its state that senders on other
//! threads need, packed into the one word that an inbox publishes.

use super::ApicMode;
use crate::message::{DESTINATION_BROADCAST, DestinationMode, Message};

/// How an 8-bit logical destination is compared (the DFR's model field).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicalModel {
    /// One bit a processor.
    Flat,
    /// A cluster number in the high four bits, one bit a processor in the low.
    Cluster,
}

/// What a sender needs to know of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicRouting {
    /// The APIC ID.
    pub id: u32,
    /// Whether the APIC is on, and in which mode.
    pub mode: ApicMode,
    /// The xAPIC's 8-bit logical destination; unused in x2APIC mode, where it
    /// follows from the ID.
    pub logical_id: u8,
    /// How `logical_id` is compared in xAPIC mode.
    pub model: LogicalModel,
    /// Whether the APIC accepts vectors at all.
    pub software_enabled: bool,
    /// Whether the 8259A pair's INTR reaches the CPU through it.
    pub extint_enabled: bool,
}

const LOGICAL_ID_SHIFT: u32 = 32;
const MODE_SHIFT: u32 = 40;
const CLUSTER: u64 = 1 << 42;
const SOFTWARE_ENABLED: u64 = 1 << 43;
const EXTINT_ENABLED: u64 = 1 << 44;

impl ApicRouting {
    /// Whether `message` is addressed to this APIC. One that is disabled
    /// matches nothing, apart from its answer to [`Self::extint_enabled`].
    pub fn matches(&self, message: &Message) -> bool {
        match self.mode {
            ApicMode::Disabled => false,
            ApicMode::XApic | ApicMode::X2Apic => {
                message.destination == DESTINATION_BROADCAST
                    || self.matches_destination(message.destination, message.destination_mode)
            }
        }
    }

    fn matches_destination(&self, destination: u32, mode: DestinationMode) -> bool {
        match (mode, self.mode) {
            (DestinationMode::Physical, _) => destination == self.id,
            (DestinationMode::Logical, ApicMode::X2Apic) => {
                let own = x2apic_logical_id(self.id);
                destination >> 16 == own >> 16 && destination & own & 0xffff != 0
            }
            (DestinationMode::Logical, ApicMode::XApic | ApicMode::Disabled) => {
                self.matches_logical(destination as u8)
            }
        }
    }

    fn matches_logical(&self, destination: u8) -> bool {
        let common = destination & self.logical_id;
        match self.model {
            LogicalModel::Flat => common != 0,
            LogicalModel::Cluster => destination >> 4 == self.logical_id >> 4 && common & 0xf != 0,
        }
    }

    pub(crate) fn pack(self) -> u64 {
        let mode: u64 = match self.mode {
            ApicMode::Disabled => 0,
            ApicMode::XApic => 1,
            ApicMode::X2Apic => 2,
        };
        let mut word = u64::from(self.id)
            | u64::from(self.logical_id) << LOGICAL_ID_SHIFT
            | mode << MODE_SHIFT;
        for (set, bit) in [
            (self.model == LogicalModel::Cluster, CLUSTER),
            (self.software_enabled, SOFTWARE_ENABLED),
            (self.extint_enabled, EXTINT_ENABLED),
        ] {
            word |= if set { bit } else { 0 };
        }
        word
    }

    pub(crate) fn unpack(word: u64) -> Self {
        Self {
            id: word as u32,
            mode: match word >> MODE_SHIFT & 3 {
                1 => ApicMode::XApic,
                2 => ApicMode::X2Apic,
                _ => ApicMode::Disabled,
            },
            logical_id: (word >> LOGICAL_ID_SHIFT) as u8,
            model: if word & CLUSTER != 0 { LogicalModel::Cluster } else { LogicalModel::Flat },
            software_enabled: word & SOFTWARE_ENABLED != 0,
            extint_enabled: word & EXTINT_ENABLED != 0,
        }
    }
}

/// The logical ID that an x2APIC derives from its ID: a cluster of sixteen in
/// the high half, one bit in the low.
pub(crate) fn x2apic_logical_id(id: u32) -> u32 {
    id >> 4 << 16 | 1 << (id & 0xf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DeliveryMode, Trigger};

    fn xapic(id: u32, logical_id: u8, model: LogicalModel) -> ApicRouting {
        ApicRouting {
            id,
            mode: ApicMode::XApic,
            logical_id,
            model,
            software_enabled: true,
            extint_enabled: false,
        }
    }

    #[track_caller]
    fn check(routing: ApicRouting, mode: DestinationMode, destination: u32, expected: bool) {
        let message = Message {
            vector: 0x40,
            destination,
            destination_mode: mode,
            delivery: DeliveryMode::Fixed,
            trigger: Trigger::Edge,
        };
        assert_eq!(routing.matches(&message), expected, "{routing:?} {message:?}");
        assert_eq!(ApicRouting::unpack(routing.pack()), routing);
    }

    #[test]
    fn matches_destinations() {
        use DestinationMode::{Logical, Physical};
        use LogicalModel::{Cluster, Flat};
        let x2apic = |id| ApicRouting { mode: ApicMode::X2Apic, ..xapic(id, 0, Flat) };
        let disabled = ApicRouting { mode: ApicMode::Disabled, ..xapic(1, 1, Flat) };
        for (routing, mode, destination, expected) in [
            (xapic(3, 8, Flat), Physical, 3, true),
            (xapic(3, 8, Flat), Physical, 8, false),
            (xapic(3, 8, Flat), Physical, DESTINATION_BROADCAST, true),
            (xapic(3, 8, Flat), Logical, 8, true),
            (xapic(3, 8, Flat), Logical, 0x0c, true),
            (xapic(3, 8, Flat), Logical, 0xf7, false),
            (xapic(3, 0, Flat), Logical, DESTINATION_BROADCAST, true),
            (xapic(3, 0x24, Cluster), Logical, 0x24, true),
            (xapic(3, 0x24, Cluster), Logical, 0x2c, true),
            (xapic(3, 0x24, Cluster), Logical, 0x28, false),
            (xapic(3, 0x24, Cluster), Logical, 0x34, false),
            (x2apic(0x123), Physical, 0x123, true),
            (x2apic(0x123), Logical, 0x12_0008, true),
            (x2apic(0x123), Logical, 0x12_0004, false),
            (x2apic(0x123), Logical, 0x13_0008, false),
            (x2apic(2), Logical, 4, true),
            (disabled, Physical, 1, false),
            (disabled, Physical, DESTINATION_BROADCAST, false),
        ] {
            check(routing, mode, destination, expected);
        }
    }
}
