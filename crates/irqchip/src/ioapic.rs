//! The I/O APIC (Intel 82093AA data sheet): 24 pins, each with a redirection
//! entry that turns its assertion into a [`Message`].
//!
//! ```text
//!   level pin:  idle ──assert, unmasked──▶ remote IRR ──EOI──▶ idle
//!                 ▲                                       │ still asserted:
//!                 └───────────────────────────────────────┘ again at once
//!   edge pin:   every rise while unmasked is one message; a rise while masked
//!               is lost (data sheet, "Interrupt Mask")
//! ```
//!
//! Lines are logical: `true` is asserted, and the polarity bit is stored but
//! changes nothing, as in KVM. As there, an entry that is rewritten as
//! edge-triggered drops its remote IRR: that is how Linux ends an interrupt on
//! a chip without an EOI register.
//!
//! Every method returns the messages to send; the caller delivers them.

use crate::message::{DeliveryMode, DestinationMode, Message, Trigger, normalise_destination};

/// The physical address of the registers.
pub const IOAPIC_BASE_ADDRESS: u64 = 0xfec0_0000;

/// Number of input pins.
pub const IOAPIC_PIN_COUNT: u8 = 24;

/// What the version register says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoApicVersion {
    /// 0x11, the 82093AA, without an EOI register. KVM's in-kernel chip says
    /// the same, so a guest sees no difference between the back ends.
    #[default]
    V11,
    /// 0x20, with an EOI register at offset 0x40.
    V20,
}

/// A redirection entry. Layout of the register pair: vector in bits 0 to 7,
/// delivery mode 8 to 10, logical destination 11, delivery status 12, polarity
/// 13, remote IRR 14, level trigger 15, mask 16, destination 56 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirection(pub u64);

const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Everything but delivery status and remote IRR, which are the chip's.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

impl Redirection {
    /// Whether the pin is masked.
    pub fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    /// Whether a level interrupt waits for its EOI.
    pub fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    /// The vector.
    pub fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The message that the entry describes; `None` for a reserved delivery
    /// mode and for start-up, which an I/O APIC cannot send.
    pub fn message(self) -> Option<Message> {
        let delivery = DeliveryMode::from_bits((self.0 >> 8) as u32)?;
        if delivery == DeliveryMode::StartUp {
            return None;
        }
        Some(Message {
            vector: self.vector(),
            destination: normalise_destination((self.0 >> 56) as u8),
            destination_mode: DestinationMode::from_bit(self.0 & LOGICAL != 0),
            delivery,
            // Only vectors are ended by an EOI, so nothing else can be level.
            trigger: Trigger::from_bit(self.0 & LEVEL != 0 && delivery.carries_vector()),
        })
    }

    fn set_remote_irr(&mut self, value: bool) {
        self.0 = self.0 & !REMOTE_IRR | if value { REMOTE_IRR } else { 0 };
    }

    /// Replaces one half, keeping the chip's own bits.
    fn write_half(&mut self, high: bool, value: u32) {
        let (shift, other) = if high { (32, 0xffff_ffff) } else { (0, 0xffff_ffff << 32) };
        let written = self.0 & other | u64::from(value) << shift;
        self.0 = written & WRITABLE | self.0 & REMOTE_IRR;
        if self.0 & LEVEL == 0 {
            self.set_remote_irr(false);
        }
    }
}

/// Everything that a snapshot needs of an I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApicState {
    /// The ID register's four bits.
    pub id: u8,
    /// The index of the register that the window shows.
    pub select: u8,
    /// One entry a pin.
    pub redirection: [Redirection; IOAPIC_PIN_COUNT as usize],
    /// Which pins are asserted, one bit each.
    pub lines: u32,
}

impl Default for IoApicState {
    fn default() -> Self {
        Self {
            id: 0,
            select: 0,
            redirection: [Redirection(MASKED); IOAPIC_PIN_COUNT as usize],
            lines: 0,
        }
    }
}

/// The registers of the memory-mapped page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Select,
    Window,
    Eoi,
}

impl Port {
    fn at_offset(offset: u16, version: IoApicVersion) -> Option<Self> {
        match (offset, version) {
            (0x00, _) => Some(Self::Select),
            (0x10, _) => Some(Self::Window),
            (0x40, IoApicVersion::V20) => Some(Self::Eoi),
            _ => None,
        }
    }
}

/// The registers behind the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Id,
    Version,
    Arbitration,
    Redirection { pin: u8, high: bool },
}

impl Register {
    fn selected_by(select: u8) -> Option<Self> {
        match select {
            0 => Some(Self::Id),
            1 => Some(Self::Version),
            2 => Some(Self::Arbitration),
            0x10.. => {
                let pin = (select - 0x10) / 2;
                let high = select & 1 != 0;
                (pin < IOAPIC_PIN_COUNT).then_some(Self::Redirection { pin, high })
            }
            3..0x10 => None,
        }
    }
}

/// An I/O APIC with its 24 lines.
#[derive(Clone, Debug, Default)]
pub struct IoApic {
    version: IoApicVersion,
    state: IoApicState,
}

impl IoApic {
    /// A chip out of reset: everything masked.
    pub fn new(version: IoApicVersion) -> Self {
        Self::from_state(version, IoApicState::default())
    }

    /// A chip as it was saved.
    pub fn from_state(version: IoApicVersion, state: IoApicState) -> Self {
        Self { version, state }
    }

    /// The state to save.
    pub fn state(&self) -> &IoApicState {
        &self.state
    }

    /// Drives a pin. Pins that do not exist are ignored.
    pub fn set_line(&mut self, pin: u8, level: bool) -> Option<Message> {
        if pin >= IOAPIC_PIN_COUNT {
            return None;
        }
        let bit = 1 << pin;
        let rises = level && self.state.lines & bit == 0;
        self.state.lines = self.state.lines & !bit | if level { bit } else { 0 };
        if rises { self.raise(pin) } else { None }
    }

    /// A 32-bit read at byte `offset` of the registers.
    pub fn read(&self, offset: u16) -> u32 {
        match Port::at_offset(offset, self.version) {
            Some(Port::Select) => u32::from(self.state.select),
            Some(Port::Window) => self.read_window(),
            Some(Port::Eoi) | None => 0,
        }
    }

    /// A 32-bit write at byte `offset` of the registers.
    pub fn write(&mut self, offset: u16, value: u32) -> Vec<Message> {
        match Port::at_offset(offset, self.version) {
            Some(Port::Select) => {
                self.state.select = value as u8;
                Vec::new()
            }
            Some(Port::Window) => self.write_window(value).into_iter().collect(),
            Some(Port::Eoi) => self.end_of_interrupt(value as u8),
            None => Vec::new(),
        }
    }

    /// A local APIC ended the level-triggered `vector`. Every entry that waits
    /// for it is free again, and those still asserted are sent again.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Message> {
        (0..IOAPIC_PIN_COUNT).filter_map(|pin| self.end_pin(pin, vector)).collect()
    }

    fn end_pin(&mut self, pin: u8, vector: u8) -> Option<Message> {
        let entry = &mut self.state.redirection[usize::from(pin)];
        if !entry.remote_irr() || entry.vector() != vector {
            return None;
        }
        entry.set_remote_irr(false);
        self.raise_if_level(pin)
    }

    fn read_window(&self) -> u32 {
        match Register::selected_by(self.state.select) {
            Some(Register::Id | Register::Arbitration) => u32::from(self.state.id) << 24,
            Some(Register::Version) => {
                let version = match self.version {
                    IoApicVersion::V11 => 0x11,
                    IoApicVersion::V20 => 0x20,
                };
                u32::from(IOAPIC_PIN_COUNT - 1) << 16 | version
            }
            Some(Register::Redirection { pin, high }) => {
                let entry = self.state.redirection[usize::from(pin)];
                (entry.0 >> if high { 32 } else { 0 }) as u32
            }
            None => 0,
        }
    }

    fn write_window(&mut self, value: u32) -> Option<Message> {
        match Register::selected_by(self.state.select)? {
            Register::Id => {
                self.state.id = (value >> 24) as u8 & 0xf;
                None
            }
            Register::Version | Register::Arbitration => None,
            Register::Redirection { pin, high } => {
                self.state.redirection[usize::from(pin)].write_half(high, value);
                self.raise_if_level(pin)
            }
        }
    }

    /// Sends a level pin that is asserted and not waiting; an edge pin has had
    /// its rise.
    fn raise_if_level(&mut self, pin: u8) -> Option<Message> {
        let entry = self.state.redirection[usize::from(pin)];
        let asserted = self.state.lines & 1 << pin != 0;
        let level = entry.message()?.trigger == Trigger::Level;
        (asserted && level).then(|| self.raise(pin)).flatten()
    }

    fn raise(&mut self, pin: u8) -> Option<Message> {
        let entry = &mut self.state.redirection[usize::from(pin)];
        if entry.is_masked() || entry.remote_irr() {
            return None;
        }
        let message = entry.message()?;
        entry.set_remote_irr(message.trigger == Trigger::Level);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step of a guest or a device.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Writes a redirection entry, high half first.
        Entry(u8, u64),
        Line(u8, bool),
        Eoi(u8),
    }
    use Step::{Entry, Eoi, Line};

    /// Runs `steps`; after each the vectors that were sent must be as given.
    #[track_caller]
    fn check(steps: &[(Step, &[u8])]) {
        let mut chip = IoApic::new(IoApicVersion::V20);
        for (index, (step, expected)) in steps.iter().enumerate() {
            let sent = match *step {
                Entry(pin, value) => {
                    chip.write(0, u32::from(0x11 + pin * 2));
                    let mut sent = chip.write(0x10, (value >> 32) as u32);
                    chip.write(0, u32::from(0x10 + pin * 2));
                    sent.extend(chip.write(0x10, value as u32));
                    sent
                }
                Line(pin, level) => chip.set_line(pin, level).into_iter().collect(),
                Eoi(vector) => chip.write(0x40, u32::from(vector)),
            };
            let vectors: Vec<u8> = sent.iter().map(|message| message.vector).collect();
            assert_eq!(&vectors, expected, "step {index}: {step:?}");
        }
    }

    #[test]
    fn sends_an_edge_once_per_rise() {
        check(&[
            (Entry(4, 0x34), &[]),
            (Line(4, true), &[0x34]),
            (Line(4, true), &[]),
            (Line(4, false), &[]),
            (Line(4, true), &[0x34]),
            (Eoi(0x34), &[]),
        ]);
    }

    #[test]
    fn loses_an_edge_while_masked() {
        check(&[
            (Line(4, true), &[]),
            (Entry(4, 0x34), &[]),
            (Line(4, false), &[]),
            (Line(4, true), &[0x34]),
        ]);
    }

    #[test]
    fn repeats_a_level_after_eoi_while_asserted() {
        check(&[
            (Entry(9, LEVEL | 0x49), &[]),
            (Line(9, true), &[0x49]),
            (Line(9, false), &[]),
            (Line(9, true), &[]),
            (Eoi(0x48), &[]),
            (Eoi(0x49), &[0x49]),
            (Line(9, false), &[]),
            (Eoi(0x49), &[]),
            (Line(9, true), &[0x49]),
        ]);
    }

    #[test]
    fn sends_a_waiting_level_when_unmasked() {
        check(&[
            (Entry(9, MASKED | LEVEL | 0x49), &[]),
            (Line(9, true), &[]),
            (Entry(9, LEVEL | 0x49), &[0x49]),
            (Entry(9, MASKED | LEVEL | 0x49), &[]),
            (Eoi(0x49), &[]),
            (Entry(9, LEVEL | 0x49), &[0x49]),
        ]);
    }

    #[test]
    fn linux_ends_a_level_by_making_it_an_edge() {
        check(&[
            (Entry(9, LEVEL | 0x49), &[]),
            (Line(9, true), &[0x49]),
            (Entry(9, MASKED | 0x49), &[]),
            (Entry(9, LEVEL | 0x49), &[0x49]),
        ]);
    }

    #[test]
    fn one_eoi_ends_all_pins_of_a_vector() {
        check(&[
            (Entry(5, LEVEL | 0x50), &[]),
            (Entry(6, LEVEL | 0x50), &[]),
            (Line(5, true), &[0x50]),
            (Line(6, true), &[0x50]),
            (Eoi(0x50), &[0x50, 0x50]),
        ]);
    }

    #[test]
    fn treats_nmi_as_an_edge_and_refuses_reserved_modes() {
        check(&[
            (Entry(1, LEVEL | 4 << 8), &[]),
            (Line(1, true), &[0]),
            (Line(1, false), &[]),
            (Line(1, true), &[0]),
            (Entry(2, 3 << 8 | 0x40), &[]),
            (Line(2, true), &[]),
            (Entry(3, 6 << 8 | 0x40), &[]),
            (Line(3, true), &[]),
            (Line(24, true), &[]),
        ]);
    }

    #[test]
    fn describes_the_entry_in_the_message() {
        let entry = Redirection(0xff00_0000_0000_0000 | 1 << 8 | LOGICAL | LEVEL | 0x61);
        let expected = Message {
            vector: 0x61,
            destination: crate::DESTINATION_BROADCAST,
            destination_mode: DestinationMode::Logical,
            delivery: DeliveryMode::LowestPriority,
            trigger: Trigger::Level,
        };
        assert_eq!(entry.message(), Some(expected));
    }

    #[test]
    fn registers_read_back() {
        for (select, written, expected) in [
            (0u32, 0xffff_ffffu32, 0x0f00_0000u32),
            (1, 0, 0x0017_0011),
            (2, 0, 0x0f00_0000),
            (3, 5, 0),
            (0x0f, 5, 0),
            (0x10, 0xffff_ffff, 0x0001_afff),
            (0x11, 0xffff_ffff, 0xff00_0000),
            (0x3f, 0x1234_5678, 0x1200_0000),
            (0x40, 5, 0),
            (0xff, 5, 0),
        ] {
            let mut chip = IoApic::new(IoApicVersion::V11);
            chip.write(0, 0);
            chip.write(0x10, 0x0f00_0000);
            chip.write(0, select);
            chip.write(0x10, written);
            assert_eq!(chip.read(0), select);
            assert_eq!(chip.read(0x10), expected, "register {select:#x}");
        }
        assert!(IoApic::new(IoApicVersion::V11).write(0x40, 1).is_empty());
    }
}
