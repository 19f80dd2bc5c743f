//! A device's line all the way to a vCPU and back, wired as a back end does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sparkler_irqchip::{
    ApicAction, ApicBus, ApicConfig, Clock, IrqChip, IrqChipConfig, IrqInbox, LocalApic, Message,
    Sink,
};

/// Posts to the inboxes and counts the kicks.
struct Wires {
    bus: ApicBus,
    kicks: AtomicU32,
}

impl Wires {
    fn kick(&self) {
        self.kicks.fetch_add(1, Ordering::Relaxed);
    }
}

impl Sink for Wires {
    fn message(&self, message: &Message) {
        self.bus.deliver(message, |_| self.kick());
    }

    fn extint(&self, level: bool) {
        self.bus.set_extint(level, |_| self.kick());
    }
}

/// A bootstrap processor with firmware's LINT pins and a software-enabled APIC.
fn machine() -> (LocalApic, Arc<IrqInbox>, IrqChip, Wires) {
    let mut apic = LocalApic::new(ApicConfig::default());
    apic.wire_legacy_pins();
    assert_eq!(apic.write(0xf0, 0x1ff, 0), ApicAction::RoutingChanged);
    let inbox = Arc::new(IrqInbox::new(apic.routing()));
    let bus = ApicBus::new(vec![Arc::clone(&inbox)]);
    let wires = Wires { bus, kicks: AtomicU32::new(0) };
    (apic, inbox, IrqChip::new(IrqChipConfig::default()), wires)
}

#[test]
fn a_level_through_the_ioapic() {
    let (mut apic, inbox, mut chip, wires) = machine();
    chip.write_ioapic(0x00, 0x10 + 2 * 5, &wires);
    chip.write_ioapic(0x10, 0x8051, &wires);
    chip.set_gsi(5, true, &wires);
    for _ in 0..2 {
        assert!(inbox.has_work());
        apic.drain(&inbox);
        assert!(!inbox.has_work());
        assert_eq!(apic.ack(), 0x51);
        let ended = apic.write(0xb0, 0, 0);
        assert_eq!(ended, ApicAction::Eoi { vector: 0x51, level_triggered: true });
        chip.end_of_interrupt(0x51, &wires);
    }
    assert_eq!(wires.kicks.load(Ordering::Relaxed), 3, "each delivery found the inbox empty");
}

#[test]
fn an_edge_through_the_8259_pair() {
    let (mut apic, inbox, mut chip, wires) = machine();
    let clock = Clock { now_ns: 0, unix_s: 0 };
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1)] {
        assert!(chip.write_port(port, value, clock, &wires));
    }
    chip.pulse_gsi(4, &wires);
    assert_eq!(wires.kicks.load(Ordering::Relaxed), 1);
    apic.drain(&inbox);
    assert!(apic.extint_pending());
    assert_eq!(chip.ack_pic(&wires), 0x34);
    apic.drain(&inbox);
    assert!(!apic.extint_pending() && apic.pending_vector().is_none());
}

#[test]
fn a_masked_lint0_is_not_kicked() {
    let (mut apic, inbox, mut chip, wires) = machine();
    assert_eq!(apic.write(0x350, 0x1_0700, 0), ApicAction::RoutingChanged);
    inbox.publish_routing(apic.routing());
    let clock = Clock { now_ns: 0, unix_s: 0 };
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1)] {
        assert!(chip.write_port(port, value, clock, &wires));
    }
    chip.set_gsi(4, true, &wires);
    assert_eq!(wires.kicks.load(Ordering::Relaxed), 0);
    apic.drain(&inbox);
    assert!(!apic.extint_pending());
    assert_eq!(apic.write(0x350, 0x0700, 0), ApicAction::RoutingChanged);
    assert!(apic.extint_pending(), "the level was there all along");
}
