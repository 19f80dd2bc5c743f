use std::cell::RefCell;

use super::*;

/// Keeps what the chips sent, in order.
#[derive(Default)]
struct Log(RefCell<Vec<Event>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Vector(u8),
    Intr(bool),
}

impl Sink for Log {
    fn message(&self, message: &Message) {
        self.0.borrow_mut().push(Event::Vector(message.vector));
    }

    fn extint(&self, level: bool) {
        self.0.borrow_mut().push(Event::Intr(level));
    }
}

const START: Clock = Clock { now_ns: 1_000, unix_s: 0 };
/// 0x2e9c ticks, rounded up.
const PERIOD_NS: u64 = 10_000_151;

/// Chips whose 8259A pair is initialised at vector 0x30 and whose first eight
/// I/O APIC pins send vectors 0x40 and up.
fn chip(config: IrqChipConfig, sink: &Log) -> IrqChip {
    let mut chip = IrqChip::new(config);
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 2),
        (0xa1, 1),
    ] {
        assert!(chip.write_port(port, value, START, sink));
    }
    for pin in 0..8 {
        chip.write_ioapic(0, 0x10 + 2 * pin, sink);
        chip.write_ioapic(0x10, 0x40 + pin, sink);
    }
    chip
}

/// Runs `act` on fresh chips; what it sent must be as given.
#[track_caller]
fn check(config: IrqChipConfig, act: impl Fn(&mut IrqChip, &Log), expected: &[Event]) {
    let sink = Log::default();
    let mut chip = chip(config, &sink);
    act(&mut chip, &sink);
    assert_eq!(*sink.0.borrow(), expected);
}

fn program_timer(chip: &mut IrqChip, sink: &Log) {
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        assert!(chip.write_port(port, value, START, sink));
    }
}

#[test]
fn a_line_reaches_both_controllers() {
    let config = IrqChipConfig::default();
    let both = [Event::Vector(0x45), Event::Intr(true)];
    check(config, |chip, sink| chip.set_gsi(5, true, sink), &both);
    check(config, |chip, sink| chip.set_gsi(24, true, sink), &[]);
    check(config, |chip, sink| chip.set_gsi(u32::MAX, true, sink), &[]);
    let acknowledge = |chip: &mut IrqChip, sink: &Log| {
        chip.pulse_gsi(5, sink);
        assert_eq!(chip.ack_pic(sink), 0x35);
    };
    check(config, acknowledge, &[both[0], both[1], Event::Intr(false)]);
}

#[test]
fn gsi_0_goes_where_the_configuration_says() {
    let drive = |gsi| move |chip: &mut IrqChip, sink: &Log| chip.set_gsi(gsi, true, sink);
    let identity = IrqChipConfig::default();
    let pc = IrqChipConfig { gsi0_pin: Gsi0Pin::Pin2, ..identity };
    check(identity, drive(0), &[Event::Vector(0x40), Event::Intr(true)]);
    check(identity, drive(2), &[Event::Vector(0x42)]);
    check(pc, drive(0), &[Event::Vector(0x42), Event::Intr(true)]);
    check(pc, drive(2), &[]);
}

#[test]
fn the_timer_interrupts_once_a_period_and_coalesces() {
    let run = |chip: &mut IrqChip, sink: &Log| {
        program_timer(chip, sink);
        chip.ack_pic(sink);
        chip.write_port(0x20, 0x20, START, sink);
        sink.0.borrow_mut().clear();
        assert_eq!(chip.next_deadline(), Some(1_000 + PERIOD_NS));
        chip.poll(1_000 + PERIOD_NS - 1, sink);
        assert!(sink.0.borrow().iter().all(|&event| event != Event::Vector(0x40)));
        for now_ns in [1_000 + PERIOD_NS, 1_000 + 10 * PERIOD_NS] {
            chip.poll(now_ns, sink);
            assert_eq!(chip.ack_pic(sink), 0x30);
            chip.write_port(0x20, 0x20, START, sink);
        }
    };
    let tick = [Event::Vector(0x40), Event::Intr(true), Event::Intr(false)];
    check(IrqChipConfig::default(), run, &[tick, tick].concat());
}

#[test]
fn a_level_is_sent_again_after_eoi() {
    let run = |chip: &mut IrqChip, sink: &Log| {
        chip.write_ioapic(0, 0x10 + 2 * 20, sink);
        chip.write_ioapic(0x10, 0x8060, sink);
        chip.set_gsi(20, true, sink);
        chip.end_of_interrupt(0x60, sink);
        chip.set_gsi(20, false, sink);
        chip.end_of_interrupt(0x60, sink);
    };
    check(IrqChipConfig::default(), run, &[Event::Vector(0x60), Event::Vector(0x60)]);
}

#[test]
fn sends_msi() {
    let run = |chip: &mut IrqChip, sink: &Log| {
        chip.send_msi(0xfee0_0000, 0x77, sink);
        chip.send_msi(0x1000, 0x77, sink);
    };
    check(IrqChipConfig::default(), run, &[Event::Vector(0x77)]);
}

#[test]
fn answers_its_ports_and_no_others() {
    let sink = Log::default();
    let mut chip = IrqChip::new(IrqChipConfig::default());
    for port in 0..=u16::MAX {
        let ours =
            IRQCHIP_PORTS.iter().any(|range| (range.base..range.base + range.len).contains(&port));
        assert_eq!(chip.read_port(port, START, &sink).is_some(), ours, "{port:#x}");
        assert_eq!(chip.write_port(port, 0, START, &sink), ours, "{port:#x}");
    }
}

#[test]
fn restores_as_saved() {
    let sink = Log::default();
    let mut saved = chip(IrqChipConfig::default(), &sink);
    program_timer(&mut saved, &sink);
    saved.set_gsi(5, true, &sink);
    let restored_sink = Log::default();
    let restored = IrqChip::from_state(saved.config, saved.state(), &restored_sink);
    assert_eq!(restored.state(), saved.state());
    assert_eq!(restored.next_deadline(), saved.next_deadline());
    assert_eq!(*restored_sink.0.borrow(), [Event::Intr(true)]);
}
