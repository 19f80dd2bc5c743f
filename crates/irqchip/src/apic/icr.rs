//! The interrupt command register: decoding a write into an [`Ipi`].

use super::{ApicAction, ApicMode, LocalApic};
use super::{ERROR_SEND_VECTOR, FIRST_LEGAL_VECTOR};
use crate::message::{
    DeliveryMode, DestinationMode, Ipi, Message, Shorthand, Trigger, normalise_destination,
};

const LEVEL_ASSERT: u32 = 1 << 14;
const LOGICAL: u32 = 1 << 11;
const LOW_WRITABLE: u32 = 0x000c_cfff;

impl LocalApic {
    pub(super) fn write_icr_high(&mut self, value: u32) -> ApicAction {
        self.state.icr = self.state.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
        ApicAction::None
    }

    pub(super) fn write_icr(&mut self, value: u32) -> ApicAction {
        let low = value & LOW_WRITABLE;
        self.state.icr = self.state.icr & !0xffff_ffff | u64::from(low);
        let Some(message) = self.decode_icr(low) else {
            return ApicAction::None;
        };
        if message.vector < FIRST_LEGAL_VECTOR && message.delivery.carries_vector() {
            self.report_error(ERROR_SEND_VECTOR);
            return ApicAction::None;
        }
        let shorthand = Shorthand::from_bits(low >> 18);
        match shorthand {
            Shorthand::SelfOnly => self.deliver_to_self(&message),
            Shorthand::Destination | Shorthand::AllIncludingSelf | Shorthand::AllExcludingSelf => {
                ApicAction::SendIpi(Ipi { message, shorthand })
            }
        }
    }

    /// `None` for what an ICR cannot send: reserved and ExtINT modes, and an
    /// INIT de-assert, which modern processors ignore.
    fn decode_icr(&self, low: u32) -> Option<Message> {
        let delivery = DeliveryMode::from_bits(low >> 8)?;
        match delivery {
            DeliveryMode::ExtInt => return None,
            DeliveryMode::Init if low & LEVEL_ASSERT == 0 => return None,
            DeliveryMode::Fixed
            | DeliveryMode::LowestPriority
            | DeliveryMode::Smi
            | DeliveryMode::Nmi
            | DeliveryMode::Init
            | DeliveryMode::StartUp => {}
        }
        let high = (self.state.icr >> 32) as u32;
        let destination = match self.state.mode {
            ApicMode::X2Apic => high,
            ApicMode::XApic | ApicMode::Disabled => normalise_destination((high >> 24) as u8),
        };
        Some(Message {
            vector: low as u8,
            destination,
            destination_mode: DestinationMode::from_bit(low & LOGICAL != 0),
            delivery,
            trigger: Trigger::Edge,
        })
    }

    /// The self shorthand needs no inbox. Only vectors and NMIs can be sent
    /// with it.
    fn deliver_to_self(&mut self, message: &Message) -> ApicAction {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.accept(message.vector, Trigger::Edge);
            }
            DeliveryMode::Nmi => self.state.nmi = true,
            DeliveryMode::Smi
            | DeliveryMode::Init
            | DeliveryMode::StartUp
            | DeliveryMode::ExtInt => {}
        }
        ApicAction::None
    }

    pub(super) fn send_self_ipi(&mut self, vector: u8) -> ApicAction {
        if vector < FIRST_LEGAL_VECTOR {
            self.report_error(ERROR_SEND_VECTOR);
        } else {
            self.accept(vector, Trigger::Edge);
        }
        ApicAction::None
    }
}
