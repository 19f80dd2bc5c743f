//! Invariants that hold whatever the guest and the devices do.

use proptest::collection::vec;
use proptest::prelude::*;
use sparkler_irqchip::{
    ApicAction, ApicConfig, Clock, Gsi0Pin, IoApic, IoApicVersion, IrqChip, IrqChipConfig,
    IrqInbox, LocalApic, Message, PIT_HZ, Pic, PicPort, Pit, PitPort, Sink, Trigger,
};

struct Nowhere;

impl Sink for Nowhere {
    fn message(&self, _: &Message) {}
    fn extint(&self, _: bool) {}
}

/// Times that go anywhere, with a liking for the plausible.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_000_000_000u64, any::<u64>()]
}

#[derive(Clone, Debug)]
enum ApicStep {
    Read(u16),
    Write(u16, u32),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Base(u64),
    Deadline(u64),
    Post(u8, bool),
    Lint0(bool),
    Poll,
    Ack,
    Restore,
}

fn apic_step() -> impl Strategy<Value = ApicStep> {
    let offset = prop_oneof![(0..0x40u16).prop_map(|index| index * 16), any::<u16>()];
    let msr = prop_oneof![0x800..0x840u32, any::<u32>()];
    let value = prop_oneof![0..0x8_0000u32, any::<u32>()];
    let base = (0..4u64).prop_map(|mode| 0xfee0_0000 | mode << 10);
    prop_oneof![
        1 => offset.clone().prop_map(ApicStep::Read),
        4 => (offset, value).prop_map(|(offset, value)| ApicStep::Write(offset, value)),
        1 => msr.clone().prop_map(ApicStep::ReadMsr),
        2 => (msr, any::<u64>()).prop_map(|(msr, value)| ApicStep::WriteMsr(msr, value & 0xff)),
        1 => prop_oneof![base, any::<u64>()].prop_map(ApicStep::Base),
        1 => any::<u64>().prop_map(ApicStep::Deadline),
        2 => any::<(u8, bool)>().prop_map(|(vector, level)| ApicStep::Post(vector, level)),
        1 => any::<bool>().prop_map(ApicStep::Lint0),
        1 => Just(ApicStep::Poll),
        2 => Just(ApicStep::Ack),
        1 => Just(ApicStep::Restore),
    ]
}

fn run_apic_step(apic: &mut LocalApic, inbox: &IrqInbox, step: &ApicStep, now_ns: u64) {
    match *step {
        ApicStep::Read(offset) => drop(apic.read(offset, now_ns)),
        ApicStep::Write(offset, value) => drop(apic.write(offset, value, now_ns)),
        ApicStep::ReadMsr(msr) => drop(apic.read_msr(msr, now_ns)),
        ApicStep::WriteMsr(msr, value) => drop(apic.write_msr(msr, value, now_ns)),
        ApicStep::Base(value) => drop(apic.set_base_msr(value)),
        ApicStep::Deadline(tsc) => drop(apic.set_tsc_deadline(tsc, now_ns)),
        ApicStep::Post(vector, level) => {
            inbox.post_vector(vector, if level { Trigger::Level } else { Trigger::Edge });
            apic.drain(inbox);
        }
        ApicStep::Lint0(level) => apic.set_lint0(level),
        ApicStep::Poll => drop(apic.poll_timer(now_ns)),
        ApicStep::Ack => {
            let pending = apic.pending_vector();
            let vector = apic.ack();
            assert_eq!(vector, pending.unwrap_or(apic.state().spurious as u8));
        }
        ApicStep::Restore => {
            *apic = LocalApic::from_state(ApicConfig::default(), apic.state().clone());
        }
    }
}

#[derive(Clone, Debug)]
enum ChipStep {
    In(u16),
    Out(u16, u8),
    Read(u16),
    Write(u16, u32),
    Line(u32, bool),
    Msi(u64, u32),
    Eoi(u8),
    Ack,
    Poll,
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        prop::sample::select(vec![
            0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71, 0xa0, 0xa1, 0x4d0, 0x4d1u16
        ]),
        any::<u16>()
    ]
}

fn chip_step() -> impl Strategy<Value = ChipStep> {
    let register = prop_oneof![Just(0u16), Just(0x10), Just(0x40), any::<u16>()];
    prop_oneof![
        2 => port().prop_map(ChipStep::In),
        8 => (port(), any::<u8>()).prop_map(|(port, value)| ChipStep::Out(port, value)),
        1 => register.clone().prop_map(ChipStep::Read),
        4 => (register, prop_oneof![0..0x50u32, any::<u32>()])
            .prop_map(|(offset, value)| ChipStep::Write(offset, value)),
        4 => (0..30u32, any::<bool>()).prop_map(|(gsi, level)| ChipStep::Line(gsi, level)),
        1 => any::<(u64, u32)>().prop_map(|(address, data)| ChipStep::Msi(address, data)),
        1 => any::<u8>().prop_map(ChipStep::Eoi),
        2 => Just(ChipStep::Ack),
        2 => Just(ChipStep::Poll),
    ]
}

fn run_chip_step(chip: &mut IrqChip, step: &ChipStep, clock: Clock) {
    match *step {
        ChipStep::In(port) => drop(chip.read_port(port, clock, &Nowhere)),
        ChipStep::Out(port, value) => drop(chip.write_port(port, value, clock, &Nowhere)),
        ChipStep::Read(offset) => drop(chip.read_ioapic(offset)),
        ChipStep::Write(offset, value) => chip.write_ioapic(offset, value, &Nowhere),
        ChipStep::Line(gsi, level) => chip.set_gsi(gsi, level, &Nowhere),
        ChipStep::Msi(address, data) => chip.send_msi(address, data, &Nowhere),
        ChipStep::Eoi(vector) => chip.end_of_interrupt(vector, &Nowhere),
        ChipStep::Ack => drop(chip.ack_pic(&Nowhere)),
        ChipStep::Poll => chip.poll(clock.now_ns, &Nowhere),
    }
}

/// A pair in Linux's arrangement, with the given ELCR.
fn ready_pic(level_select: u16) -> Pic {
    let mut pic = Pic::new();
    for (port, value) in [
        (PicPort::MasterCommand, 0x11),
        (PicPort::MasterData, 0x30),
        (PicPort::MasterData, 4),
        (PicPort::MasterData, 1),
        (PicPort::SlaveCommand, 0x11),
        (PicPort::SlaveData, 0x38),
        (PicPort::SlaveData, 2),
        (PicPort::SlaveData, 1),
        (PicPort::MasterLevelSelect, level_select as u8),
        (PicPort::SlaveLevelSelect, (level_select >> 8) as u8),
    ] {
        pic.write(port, value);
    }
    pic
}

/// What the pair shows in 16 bits: the master's in the low byte.
fn both(master: u8, slave: u8) -> u16 {
    u16::from_le_bytes([master, slave])
}

/// Serves one interrupt as a guest with non-specific EOIs does; its line.
fn serve(pic: &mut Pic) -> Option<u8> {
    if !pic.intr() {
        return None;
    }
    let irq = pic.ack() - 0x30;
    if irq >= 8 {
        pic.write(PicPort::SlaveCommand, 0x20);
    }
    pic.write(PicPort::MasterCommand, 0x20);
    Some(irq)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apic_takes_anything(steps in vec((apic_step(), time()), 0..80)) {
        let mut apic = LocalApic::new(ApicConfig::default());
        let _ = apic.write(0xf0, 0x1ff, 0);
        let inbox = IrqInbox::new(apic.routing());
        for (step, now_ns) in steps {
            run_apic_step(&mut apic, &inbox, &step, now_ns);
            let state = apic.state();
            let serving = state.in_service.highest().unwrap_or(0) >> 4;
            if let Some(vector) = apic.pending_vector() {
                prop_assert!(vector >= 16);
                prop_assert!(vector >> 4 > serving && vector >> 4 > apic.cr8());
            }
            // In-service vectors nest: never two of one priority class.
            for class in 0..16 {
                let members = state.in_service.0[class / 4] >> (16 * (class % 4));
                prop_assert!((members as u16).count_ones() <= 1);
            }
        }
    }

    #[test]
    fn apic_serves_every_request_in_order(vectors in vec(any::<u8>(), 1..100)) {
        let mut apic = LocalApic::new(ApicConfig::default());
        let _ = apic.write(0xf0, 0x1ff, 0);
        let inbox = IrqInbox::new(apic.routing());
        for &vector in &vectors {
            inbox.post_vector(vector, Trigger::Edge);
        }
        apic.drain(&inbox);
        let mut expected: Vec<u8> = vectors.into_iter().filter(|&vector| vector >= 16).collect();
        expected.sort_unstable();
        expected.dedup();
        while let Some(vector) = expected.pop() {
            prop_assert_eq!(apic.ack(), vector);
            prop_assert_eq!(apic.write(0xb0, 0, 0), ApicAction::Eoi { vector, level_triggered: false });
        }
        prop_assert_eq!(apic.pending_vector(), None);
    }

    #[test]
    fn apic_timer_fires_at_its_deadline(
        count in 1..u32::MAX, divide in 0..16u32, start_ns in 0..1u64 << 60, periodic: bool
    ) {
        let mut apic = LocalApic::new(ApicConfig::default());
        let _ = apic.write(0xf0, 0x1ff, 0);
        let _ = apic.write(0x320, 0x40 | u32::from(periodic) << 17, 0);
        let _ = apic.write(0x3e0, divide, 0);
        let _ = apic.write(0x380, count, start_ns);
        let deadline_ns = apic.next_deadline().expect("the timer runs");
        prop_assert_eq!(apic.read(0x390, start_ns), count);
        if !periodic || deadline_ns - start_ns > 50_000 {
            prop_assert!(!apic.clone().poll_timer(deadline_ns - 1));
            prop_assert_eq!(apic.clone().read(0x390, deadline_ns - 1), 1);
        }
        prop_assert!(apic.poll_timer(deadline_ns));
        prop_assert_eq!(apic.next_deadline().is_some(), periodic);
    }

    #[test]
    fn chips_take_anything(
        steps in vec((chip_step(), time(), any::<i64>()), 0..80), pin2: bool, v20: bool
    ) {
        let config = IrqChipConfig {
            gsi0_pin: if pin2 { Gsi0Pin::Pin2 } else { Gsi0Pin::Pin0 },
            ioapic_version: if v20 { IoApicVersion::V20 } else { IoApicVersion::V11 },
        };
        let mut chip = IrqChip::new(config);
        for (step, now_ns, unix_s) in &steps {
            run_chip_step(&mut chip, step, Clock { now_ns: *now_ns, unix_s: *unix_s });
            let _ = chip.next_deadline();
        }
        let restored = IrqChip::from_state(config, chip.state(), &Nowhere);
        prop_assert_eq!(restored.state(), chip.state());
    }

    #[test]
    fn pic_never_gives_a_masked_interrupt(
        masks in any::<u16>(),
        level_select in any::<u16>(),
        steps in vec((0..16u8, any::<bool>(), any::<bool>()), 0..200),
    ) {
        let mut pic = ready_pic(level_select);
        pic.write(PicPort::MasterData, masks as u8);
        pic.write(PicPort::SlaveData, (masks >> 8) as u8);
        for (irq, level, acknowledge) in steps {
            pic.set_line(irq, level);
            if !acknowledge || !pic.intr() {
                continue;
            }
            let before = pic.state().clone();
            let given = pic.ack() - 0x30;
            prop_assert_eq!(masks >> given & 1, 0);
            let after = pic.state();
            let old = both(before.master.in_service, before.slave.in_service);
            let new = both(after.master.in_service, after.slave.in_service);
            prop_assert_eq!(new & !old & 1 << given, 1 << given);
            // Fully nested: what is served was of lower priority.
            let old_rank = before.master.in_service.trailing_zeros();
            prop_assert!(old_rank > after.master.in_service.trailing_zeros());
        }
    }

    #[test]
    fn pic_serves_asserted_levels_until_they_fall(lines in any::<u16>()) {
        let level_select = 0xdef8;
        let mut pic = ready_pic(level_select);
        for irq in (0..16).filter(|irq| lines & 1 << irq != 0) {
            pic.set_line(irq, true);
        }
        // An edge is served once; a level again and again until it falls. Line
        // 2 is the cascade.
        for irq in [0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7u8] {
            if lines & 1 << irq == 0 {
                continue;
            }
            prop_assert_eq!(serve(&mut pic), Some(irq));
            if level_select & 1 << irq != 0 {
                prop_assert_eq!(serve(&mut pic), Some(irq));
                pic.set_line(irq, false);
            }
        }
        prop_assert_eq!(serve(&mut pic), None);
    }

    #[test]
    fn ioapic_keeps_its_promises(
        entries in vec(any::<u32>(), 24),
        steps in vec((0..24u8, 0..3u8), 0..100),
    ) {
        let mut chip = IoApic::new(IoApicVersion::V20);
        for (pin, &entry) in entries.iter().enumerate() {
            chip.write(0, 0x10 + 2 * pin as u32);
            chip.write(0x10, entry);
        }
        for (pin, action) in steps {
            let entry = chip.state().redirection[usize::from(pin)];
            let sent = match action {
                0 | 1 => chip.set_line(pin, action == 1).into_iter().collect(),
                _ => chip.end_of_interrupt(entry.vector()),
            };
            let mut unmasked = chip.state().redirection.iter().filter(|entry| !entry.is_masked());
            prop_assert!(action == 2 || sent.is_empty() || !entry.is_masked());
            prop_assert!(sent.is_empty() || unmasked.any(|entry| entry.vector() == sent[0].vector));
            for (pin, entry) in chip.state().redirection.iter().enumerate() {
                // An asserted, unmasked level is always waiting for its EOI.
                let level = entry.message().is_some_and(|m| m.trigger == Trigger::Level);
                let asserted = chip.state().lines & 1 << pin != 0;
                if level && asserted && !entry.is_masked() {
                    prop_assert!(entry.remote_irr());
                }
                prop_assert!(!entry.remote_irr() || level);
            }
        }
    }

    #[test]
    fn pit_counts_by_its_closed_form(
        mode in 0..6u8, reload in 2..=u16::MAX, start_ns in 0..1u64 << 40, elapsed_ns in 0..1u64 << 40
    ) {
        let mut pit = Pit::new();
        pit.write(PitPort::Control, 0x30 | mode << 1, start_ns);
        pit.write(PitPort::Counter0, reload as u8, start_ns);
        pit.write(PitPort::Counter0, (reload >> 8) as u8, start_ns);
        let now_ns = start_ns + elapsed_ns;
        let ticks = (u128::from(elapsed_ns) * u128::from(PIT_HZ) / 1_000_000_000) as u64;
        let period = u64::from(reload);
        let low = pit.read(PitPort::Counter0, now_ns);
        let count = u16::from_le_bytes([low, pit.read(PitPort::Counter0, now_ns)]);
        let output = pit.poll(now_ns);
        match mode {
            0 => {
                prop_assert_eq!(count, reload.wrapping_sub(ticks as u16));
                prop_assert_eq!((output.rises, output.level), (u64::from(ticks >= period), ticks >= period));
            }
            2 => {
                prop_assert_eq!(u64::from(count), period - ticks % period);
                prop_assert_eq!((output.rises, output.level), (ticks / period, count != 1));
            }
            3 => {
                prop_assert!(u64::from(count) <= period && count.is_multiple_of(2));
                prop_assert_eq!(output.rises, ticks / period);
                prop_assert_eq!(output.level, 2 * (ticks % period) < period);
            }
            4 => prop_assert_eq!((output.rises, output.level), (u64::from(ticks > period), ticks != period)),
            _ => prop_assert_eq!((count, output.rises, output.level), (reload, 0, true)),
        }
    }

    #[test]
    fn pit_deadlines_miss_no_rise(mode in 2..4u8, reload in 2..=u16::MAX, polls in 1..50u32) {
        let mut pit = Pit::new();
        pit.write(PitPort::Control, 0x30 | mode << 1, 0);
        pit.write(PitPort::Counter0, reload as u8, 0);
        pit.write(PitPort::Counter0, (reload >> 8) as u8, 0);
        let mut rises = 0;
        let mut now_ns = 0;
        for _ in 0..polls {
            let next_ns = pit.next_deadline().expect("periodic");
            prop_assert!(next_ns > now_ns);
            now_ns = next_ns;
            let seen = pit.poll(now_ns).rises;
            prop_assert!(seen >= 1);
            rises += seen;
        }
        let ticks = (u128::from(now_ns) * u128::from(PIT_HZ) / 1_000_000_000) as u64;
        prop_assert_eq!(rises, ticks / u64::from(reload));
    }
}
