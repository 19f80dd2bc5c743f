//! The VM's shared chips in one value: 8259A pair, I/O APIC, interval timer and
//! CMOS clock, with the wires between them.
//!
//! ```text
//!   GSI n < 16 ──┬──▶ Pic line n ──INTR──▶ Sink::extint (LINT0 of every vCPU)
//!                └──▶ I/O APIC pin ──────▶ Sink::message
//!   16 ≤ n < 24 ────▶ I/O APIC pin n
//!   Pit counter 0 ──▶ GSI 0
//! ```
//!
//! GSI 0 reaches I/O APIC pin 0 unless the configuration says pin 2
//! ([`Gsi0Pin`]). The identity is what KVM's default routing table has and
//! what a MADT without an interrupt source override tells Linux; a PC's
//! firmware wires the timer to pin 2 and says so in its tables.
//!
//! The value is meant to sit behind one mutex. The [`Sink`] is called with that
//! mutex held, so it must only post to inboxes and kick vCPUs, and never call
//! back. One line has one level: devices that share a GSI combine their levels
//! before they call [`IrqChip::set_gsi`].

use crate::ioapic::{IoApic, IoApicState, IoApicVersion};
use crate::message::Message;
use crate::pic::{PIC_LINE_COUNT, Pic, PicPort, PicState};
use crate::pit::{Pit, PitPort, PitState};
use crate::rtc::{Rtc, RtcPort, RtcState};

/// Where interrupts go: to the vCPUs' inboxes.
pub trait Sink {
    /// Delivers a message, normally by
    /// [`ApicBus::deliver`](crate::ApicBus::deliver).
    fn message(&self, message: &Message);

    /// The 8259A pair's INTR output changed, normally for
    /// [`ApicBus::set_extint`](crate::ApicBus::set_extint).
    fn extint(&self, level: bool);
}

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The VM's monotonic clock, in nanoseconds.
    pub now_ns: u64,
    /// The wall clock, in seconds since 1970.
    pub unix_s: i64,
}

/// The I/O APIC pin that GSI 0, the interval timer, is wired to. It must agree
/// with the MADT or MP table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gsi0Pin {
    /// Pin 0, as KVM's default routing; needs no override.
    #[default]
    Pin0,
    /// Pin 2, as on a PC; needs an override of interrupt 0 to GSI 2. GSI 2
    /// itself then has no pin.
    Pin2,
}

/// What does not change in a chip's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqChipConfig {
    /// Where the interval timer goes.
    pub gsi0_pin: Gsi0Pin,
    /// The I/O APIC's version.
    pub ioapic_version: IoApicVersion,
}

/// Everything that a snapshot needs of the chips.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IrqChipState {
    /// The 8259A pair.
    pub pic: PicState,
    /// The I/O APIC.
    pub ioapic: IoApicState,
    /// The interval timer.
    pub pit: PitState,
    /// The CMOS clock.
    pub rtc: RtcState,
}

/// A run of I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub base: u16,
    /// The number of ports.
    pub len: u16,
}

/// The ports that [`IrqChip`] answers, for the bus.
pub const IRQCHIP_PORTS: [PortRange; 6] = [
    PortRange { base: 0x20, len: 2 },
    PortRange { base: 0x40, len: 4 },
    PortRange { base: 0x61, len: 1 },
    PortRange { base: 0x70, len: 2 },
    PortRange { base: 0xa0, len: 2 },
    PortRange { base: 0x4d0, len: 2 },
];

/// A port of one of the chips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Pic(PicPort),
    Pit(PitPort),
    Rtc(RtcPort),
}

impl Port {
    fn from_number(port: u16) -> Option<Self> {
        Some(match port {
            0x20 => Self::Pic(PicPort::MasterCommand),
            0x21 => Self::Pic(PicPort::MasterData),
            0x40 => Self::Pit(PitPort::Counter0),
            0x41 => Self::Pit(PitPort::Counter1),
            0x42 => Self::Pit(PitPort::Counter2),
            0x43 => Self::Pit(PitPort::Control),
            0x61 => Self::Pit(PitPort::Speaker),
            0x70 => Self::Rtc(RtcPort::Index),
            0x71 => Self::Rtc(RtcPort::Data),
            0xa0 => Self::Pic(PicPort::SlaveCommand),
            0xa1 => Self::Pic(PicPort::SlaveData),
            0x4d0 => Self::Pic(PicPort::MasterLevelSelect),
            0x4d1 => Self::Pic(PicPort::SlaveLevelSelect),
            _ => return None,
        })
    }
}

const TIMER_GSI: u32 = 0;

/// The shared interrupt controllers and timers of a VM.
#[derive(Clone, Debug, Default)]
pub struct IrqChip {
    config: IrqChipConfig,
    pic: Pic,
    ioapic: IoApic,
    pit: Pit,
    rtc: Rtc,
    /// INTR as the sink last heard of it.
    extint: bool,
}

impl IrqChip {
    /// Chips out of reset.
    pub fn new(config: IrqChipConfig) -> Self {
        Self { config, ioapic: IoApic::new(config.ioapic_version), ..Self::default() }
    }

    /// Chips as they were saved. The sink hears the present level of INTR.
    pub fn from_state(config: IrqChipConfig, state: IrqChipState, sink: &impl Sink) -> Self {
        let mut chip = Self {
            config,
            pic: Pic::from_state(state.pic),
            ioapic: IoApic::from_state(config.ioapic_version, state.ioapic),
            pit: Pit::from_state(state.pit),
            rtc: Rtc::from_state(state.rtc),
            extint: false,
        };
        chip.update_extint(sink);
        chip
    }

    /// The state to save.
    pub fn state(&self) -> IrqChipState {
        IrqChipState {
            pic: self.pic.state().clone(),
            ioapic: self.ioapic.state().clone(),
            pit: self.pit.state().clone(),
            rtc: self.rtc.state().clone(),
        }
    }

    /// Drives a global system interrupt. Those that do not exist are ignored.
    pub fn set_gsi(&mut self, gsi: u32, level: bool, sink: &impl Sink) {
        if gsi < PIC_LINE_COUNT {
            self.pic.set_line(gsi as u8, level);
        }
        if let Some(message) = self.pin_of(gsi).and_then(|pin| self.ioapic.set_line(pin, level)) {
            sink.message(&message);
        }
        self.update_extint(sink);
    }

    /// A rise and a fall, for a device that signals events.
    pub fn pulse_gsi(&mut self, gsi: u32, sink: &impl Sink) {
        self.set_gsi(gsi, true, sink);
        self.set_gsi(gsi, false, sink);
    }

    /// A message-signalled interrupt. What is not one is ignored.
    pub fn send_msi(&self, address: u64, data: u32, sink: &impl Sink) {
        if let Some(message) = Message::from_msi(address, data) {
            sink.message(&message);
        }
    }

    /// A one-byte read of a port; `None` if the port is not one of the chips'.
    pub fn read_port(&mut self, port: u16, clock: Clock, sink: &impl Sink) -> Option<u8> {
        let value = match Port::from_number(port)? {
            Port::Pic(port) => {
                self.update_timer(clock.now_ns, sink);
                self.pic.read(port)
            }
            Port::Pit(port) => self.pit.read(port, clock.now_ns),
            Port::Rtc(port) => self.rtc.read(port, clock.unix_s),
        };
        self.update_extint(sink);
        Some(value)
    }

    /// A one-byte write of a port; whether the port is one of the chips'.
    /// [`Self::next_deadline`] may change.
    pub fn write_port(&mut self, port: u16, value: u8, clock: Clock, sink: &impl Sink) -> bool {
        let Some(port) = Port::from_number(port) else {
            return false;
        };
        match port {
            Port::Pic(port) => self.pic.write(port, value),
            Port::Pit(port) => {
                self.update_timer(clock.now_ns, sink);
                self.pit.write(port, value, clock.now_ns);
                self.update_timer(clock.now_ns, sink);
            }
            Port::Rtc(port) => self.rtc.write(port, value, clock.unix_s),
        }
        self.update_extint(sink);
        true
    }

    /// A 32-bit read at byte `offset` of the I/O APIC's page.
    pub fn read_ioapic(&self, offset: u16) -> u32 {
        self.ioapic.read(offset)
    }

    /// A 32-bit write at byte `offset` of the I/O APIC's page.
    pub fn write_ioapic(&mut self, offset: u16, value: u32, sink: &impl Sink) {
        let messages = self.ioapic.write(offset, value);
        messages.iter().for_each(|message| sink.message(message));
    }

    /// A local APIC ended a level-triggered interrupt.
    pub fn end_of_interrupt(&mut self, vector: u8, sink: &impl Sink) {
        let messages = self.ioapic.end_of_interrupt(vector);
        messages.iter().for_each(|message| sink.message(message));
    }

    /// A CPU's interrupt acknowledge cycle with the 8259A pair: the vector to
    /// take.
    pub fn ack_pic(&mut self, sink: &impl Sink) -> u8 {
        let vector = self.pic.ack();
        self.update_extint(sink);
        vector
    }

    /// Moves the interval timer on. Call it when [`Self::next_deadline`] has
    /// come; a late or early call does no harm.
    pub fn poll(&mut self, now_ns: u64, sink: &impl Sink) {
        self.update_timer(now_ns, sink);
    }

    /// When to call [`Self::poll`], on the VM clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.pit.next_deadline()
    }

    fn pin_of(&self, gsi: u32) -> Option<u8> {
        match (gsi, self.config.gsi0_pin) {
            (TIMER_GSI, Gsi0Pin::Pin2) => Some(2),
            (2, Gsi0Pin::Pin2) => None,
            (gsi, Gsi0Pin::Pin0 | Gsi0Pin::Pin2) => u8::try_from(gsi).ok(),
        }
    }

    /// Shows the timer's output on its line. Rises that nobody saw become one.
    fn update_timer(&mut self, now_ns: u64, sink: &impl Sink) {
        let output = self.pit.poll(now_ns);
        if output.rises != 0 {
            self.set_gsi(TIMER_GSI, false, sink);
            self.set_gsi(TIMER_GSI, true, sink);
        }
        self.set_gsi(TIMER_GSI, output.level, sink);
    }

    fn update_extint(&mut self, sink: &impl Sink) {
        let level = self.pic.intr();
        if level != self.extint {
            self.extint = level;
            sink.extint(level);
        }
    }
}

#[cfg(test)]
mod tests;
