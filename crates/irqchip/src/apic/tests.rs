use std::sync::{Arc, Mutex};

use super::*;
use crate::bus::ApicBus;
use crate::message::{DESTINATION_BROADCAST, DestinationMode, Shorthand};

const ID: u16 = 0x20;
const TPR: u16 = 0x80;
const PPR: u16 = 0xa0;
const EOI: u16 = 0xb0;
const LDR: u16 = 0xd0;
const DFR: u16 = 0xe0;
const SVR: u16 = 0xf0;
const ESR: u16 = 0x280;
const ICR_LOW: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_LINT0: u16 = 0x350;
const LVT_ERROR: u16 = 0x370;
const INITIAL: u16 = 0x380;
const CURRENT: u16 = 0x390;
const DIVIDE: u16 = 0x3e0;
const DIVIDE_BY_1: u32 = 0xb;

/// An APIC that software enabled.
fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(ApicConfig { id: 3, ..ApicConfig::default() });
    assert_eq!(apic.write(SVR, 0x1ff, 0), ApicAction::RoutingChanged);
    apic
}

fn eoi(vector: u8, level_triggered: bool) -> ApicAction {
    ApicAction::Eoi { vector, level_triggered }
}

/// One step of the guest, the CPU or another thread.
#[derive(Clone, Copy, Debug)]
enum Step {
    Accept(u8, Trigger),
    /// The pending vector.
    Pending(Option<u8>),
    Ack(u8),
    Write(u16, u32),
    /// A write with its action.
    Acts(u16, u32, ApicAction),
    Read(u16, u32),
}
use Step::{Accept, Ack, Acts, Pending, Read, Write};
use Trigger::{Edge, Level};

#[track_caller]
fn check(steps: &[Step]) {
    let mut apic = enabled();
    for (index, step) in steps.iter().enumerate() {
        let at = format!("step {index}: {step:x?}");
        match *step {
            Accept(vector, trigger) => apic.accept(vector, trigger),
            Pending(expected) => assert_eq!(apic.pending_vector(), expected, "{at}"),
            Ack(expected) => assert_eq!(apic.ack(), expected, "{at}"),
            Write(offset, value) => drop(apic.write(offset, value, 0)),
            Acts(offset, value, expected) => {
                assert_eq!(apic.write(offset, value, 0), expected, "{at}");
            }
            Read(offset, expected) => assert_eq!(apic.read(offset, 0), expected, "{at}"),
        }
    }
}

#[test]
fn delivers_by_priority_class() {
    check(&[
        Accept(0x31, Edge),
        Accept(0x52, Level),
        Read(0x200 + 0x10, 1 << 0x11),
        Read(0x200 + 0x20, 1 << 0x12),
        Read(0x180 + 0x20, 1 << 0x12),
        Ack(0x52),
        Pending(None),
        Read(PPR, 0x50),
        Accept(0x5f, Edge),
        Pending(None),
        Accept(0x60, Edge),
        Ack(0x60),
        Acts(EOI, 0, eoi(0x60, false)),
        Acts(EOI, 0, eoi(0x52, true)),
        Ack(0x5f),
        Acts(EOI, 0, eoi(0x5f, false)),
        Ack(0x31),
        Acts(EOI, 0, eoi(0x31, false)),
        Acts(EOI, 0, ApicAction::None),
        Ack(0xff),
        Read(0x100 + 0x70, 0),
    ]);
}

#[test]
fn task_priority_holds_back_its_class() {
    check(&[
        Write(TPR, 0x45),
        Read(PPR, 0x45),
        Accept(0x4f, Edge),
        Pending(None),
        Accept(0x50, Edge),
        Ack(0x50),
        Read(PPR, 0x50),
        Write(TPR, 0),
        Pending(None),
        Write(EOI, 0),
        Ack(0x4f),
    ]);
    let mut apic = enabled();
    apic.set_cr8(0xf);
    assert_eq!((apic.cr8(), apic.read(TPR, 0)), (0xf, 0xf0));
    apic.accept(0xff, Edge);
    assert_eq!(apic.pending_vector(), None);
}

#[test]
fn the_last_acceptance_decides_the_trigger() {
    check(&[Accept(0x41, Level), Accept(0x41, Edge), Ack(0x41), Acts(EOI, 0, eoi(0x41, false))]);
}

#[test]
fn registers_read_back() {
    check(&[
        Read(ID, 3 << 24),
        Read(0x30, 0x0005_0014),
        Acts(ID, 7 << 24, ApicAction::RoutingChanged),
        Read(ID, 7 << 24),
        Write(LDR, 0xaabb_ccdd),
        Read(LDR, 0xaa00_0000),
        Read(DFR, u32::MAX),
        Write(DFR, 0),
        Read(DFR, 0x0fff_ffff),
        Write(LVT_TIMER, u32::MAX),
        Read(LVT_TIMER, 0x0007_00ff),
        Write(LVT_LINT0, u32::MAX),
        Read(LVT_LINT0, 0x0001_a7ff),
        Write(ICR_HIGH, u32::MAX),
        Read(ICR_HIGH, 0xff00_0000),
        Write(DIVIDE, u32::MAX),
        Read(DIVIDE, 0xb),
        Write(SVR, 0xff),
        Write(LVT_ERROR, 0x33),
        Read(LVT_ERROR, 0x0001_0033),
    ]);
}

#[test]
fn reports_errors() {
    check(&[
        Write(LVT_ERROR, 0xfe),
        Read(0x3f0, 0),
        Read(0x24, 0),
        Read(ESR, 0),
        Write(ESR, 0),
        Read(ESR, 0x80),
        Ack(0xfe),
        Accept(0x0f, Edge),
        Acts(ICR_LOW, 0x0f, ApicAction::None),
        Write(ESR, 0),
        Read(ESR, 0x60),
        Write(ESR, 0),
        Read(ESR, 0),
    ]);
}

#[test]
fn software_disable_refuses_vectors_and_masks() {
    check(&[
        Write(LVT_ERROR, 0x33),
        Accept(0x50, Edge),
        Write(SVR, 0x0ff),
        Accept(0x60, Edge),
        Read(LVT_ERROR, 0x0001_0033),
        Ack(0x50),
        Pending(None),
    ]);
}

/// An ICR write with destination 2 must send this.
#[track_caller]
fn check_icr(low: u32, expected: Option<(DeliveryMode, u8, DestinationMode, Shorthand)>) {
    let mut apic = enabled();
    let _ = apic.write(ICR_HIGH, 2 << 24, 0);
    let expected = match expected {
        None => ApicAction::None,
        Some((delivery, vector, destination_mode, shorthand)) => {
            let message =
                Message { vector, destination: 2, destination_mode, delivery, trigger: Edge };
            ApicAction::SendIpi(Ipi { message, shorthand })
        }
    };
    assert_eq!(apic.write(ICR_LOW, low, 0), expected, "{low:#x}");
}

#[test]
fn sends_ipis() {
    use DestinationMode::{Logical, Physical};
    let to = Shorthand::Destination;
    check_icr(0x0_00fd, Some((DeliveryMode::Fixed, 0xfd, Physical, to)));
    check_icr(0x0_08fd, Some((DeliveryMode::Fixed, 0xfd, Logical, to)));
    check_icr(0x0_09fd, Some((DeliveryMode::LowestPriority, 0xfd, Logical, to)));
    check_icr(0x0_0400, Some((DeliveryMode::Nmi, 0, Physical, to)));
    check_icr(0x0_4500, Some((DeliveryMode::Init, 0, Physical, to)));
    check_icr(0x0_c500, Some((DeliveryMode::Init, 0, Physical, to)));
    check_icr(0x0_8500, None);
    check_icr(0x0_0699, Some((DeliveryMode::StartUp, 0x99, Physical, to)));
    check_icr(0x0_0300, None);
    check_icr(0x0_0700, None);
    check_icr(0x8_00fd, Some((DeliveryMode::Fixed, 0xfd, Physical, Shorthand::AllIncludingSelf)));
    check_icr(0xc_00fd, Some((DeliveryMode::Fixed, 0xfd, Physical, Shorthand::AllExcludingSelf)));
    check_icr(0x4_00fd, None);
}

#[test]
fn delivers_the_self_shorthand_itself() {
    let mut apic = enabled();
    let _ = apic.write(ICR_LOW, 0x4_00fd, 0);
    assert_eq!(apic.ack(), 0xfd);
    let _ = apic.write(ICR_LOW, 0x4_0400, 0);
    assert!(apic.take_nmi() && !apic.take_nmi());
}

#[test]
fn one_shot_timer() {
    let mut apic = enabled();
    let _ = apic.write(LVT_TIMER, 0x31, 0);
    let _ = apic.write(DIVIDE, 0x3, 0);
    assert_eq!(apic.write(INITIAL, 1000, 500), ApicAction::TimerChanged);
    assert_eq!(apic.next_deadline(), Some(16_500));
    for (now_ns, count) in [(500, 1000), (501, 1000), (8_500, 500), (16_499, 1), (16_500, 0)] {
        assert_eq!(apic.clone().read(CURRENT, now_ns), count, "at {now_ns}");
    }
    assert!(!apic.poll_timer(16_499));
    assert!(apic.poll_timer(16_500));
    assert!(!apic.poll_timer(99_999));
    assert_eq!((apic.ack(), apic.next_deadline()), (0x31, None));
    let _ = apic.write(INITIAL, 1000, 20_000);
    let _ = apic.write(INITIAL, 0, 20_001);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn periodic_timer_keeps_its_phase() {
    let mut apic = enabled();
    let _ = apic.write(LVT_TIMER, 0x2_0031, 0);
    let _ = apic.write(DIVIDE, DIVIDE_BY_1, 0);
    let _ = apic.write(INITIAL, 100_000, 0);
    for (now_ns, fires, next_ns) in
        [(99_999, false, 100_000), (100_000, true, 200_000), (1_234_567, true, 1_300_000)]
    {
        assert_eq!(apic.poll_timer(now_ns), fires);
        assert_eq!(apic.next_deadline(), Some(next_ns));
    }
    assert_eq!(apic.read(CURRENT, 1_234_567), 65_433);
    // A period of a nanosecond is not followed.
    let _ = apic.write(INITIAL, 1, 2_000_000);
    assert_eq!(apic.next_deadline(), Some(2_050_000));
    assert!(apic.poll_timer(2_050_000));
}

#[test]
fn masked_timer_runs_silently() {
    let mut apic = enabled();
    let _ = apic.write(LVT_TIMER, 0x1_0031, 0);
    let _ = apic.write(DIVIDE, DIVIDE_BY_1, 0);
    let _ = apic.write(INITIAL, 1000, 0);
    assert_eq!(apic.next_deadline(), None);
    assert_eq!(apic.read(CURRENT, 400), 600);
    let _ = apic.write(LVT_TIMER, 0x31, 2000);
    assert!(!apic.poll_timer(3000), "what expired while masked is gone");
}

#[test]
fn divisor_changes_on_the_run() {
    let mut apic = enabled();
    let _ = apic.write(LVT_TIMER, 0x31, 0);
    for (config, divisor) in
        [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xa, 128), (0xb, 1)]
    {
        let _ = apic.write(DIVIDE, config, 0);
        let _ = apic.write(INITIAL, 1000, 0);
        assert_eq!(apic.next_deadline(), Some(1000 * divisor), "{config:#x}");
    }
    let _ = apic.write(DIVIDE, 0, 400);
    assert_eq!(apic.next_deadline(), Some(400 + 600 * 2));
}

#[test]
fn tsc_deadline_timer() {
    let hz = NonZeroU64::new(2_500_000_000).unwrap();
    let tsc = TscClock { hz, offset: 1000u64.wrapping_neg() };
    let mut apic = LocalApic::new(ApicConfig { tsc, ..ApicConfig::default() });
    let _ = apic.write(SVR, 0x1ff, 0);
    assert_eq!(apic.set_tsc_deadline(5000, 1000), ApicAction::None, "not in this mode");
    let _ = apic.write(LVT_TIMER, 0x4_0031, 1000);
    assert_eq!(apic.set_tsc_deadline(5000, 1000), ApicAction::TimerChanged);
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (5000, Some(2400)));
    assert_eq!((tsc.at(2399), tsc.at(2400)), (4997, 5000));
    assert_eq!(apic.write(INITIAL, 77, 1000), ApicAction::None);
    assert_eq!(apic.read(CURRENT, 1000), 0);
    assert!(apic.poll_timer(2400));
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (0, None));
    let _ = apic.set_tsc_deadline(10, 3000);
    assert!(apic.poll_timer(3000), "the past is due at once");
    let _ = apic.set_tsc_deadline(u64::MAX, 3000);
    assert!(!apic.poll_timer(1 << 50));
    let _ = apic.set_tsc_deadline_at(9, 7777);
    assert_eq!(apic.next_deadline(), Some(7777));
    let _ = apic.write(LVT_TIMER, 0x31, 3000);
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (0, None));
}

#[test]
fn lint0_carries_external_interrupts() {
    let mut apic = LocalApic::new(ApicConfig::default());
    assert!(!apic.extint_enabled(), "masked out of reset");
    apic.wire_legacy_pins();
    assert!(apic.extint_enabled() && !apic.extint_pending());
    apic.set_lint0(true);
    assert!(apic.extint_pending());
    let _ = apic.write(SVR, 0x1ff, 0);
    assert!(apic.extint_enabled());
    assert_eq!(apic.write(LVT_LINT0, 0x1_0700, 0), ApicAction::RoutingChanged);
    assert!(!apic.extint_pending());
    // Through-8259A mode: the rise of the line is a fixed vector.
    apic.set_lint0(false);
    let _ = apic.write(LVT_LINT0, 0x31, 0);
    apic.set_lint0(true);
    apic.set_lint0(true);
    assert_eq!((apic.ack(), apic.pending_vector()), (0x31, None));
    assert!(!apic.extint_pending());
    assert!(apic.set_base_msr(APIC_BASE_ADDRESS).is_ok());
    assert!(apic.extint_pending(), "without an APIC the pin is INTR");
}

#[test]
fn base_register_changes_modes() {
    const OFF: u64 = APIC_BASE_ADDRESS | BASE_BSP_BIT;
    const X: u64 = OFF | 1 << 11;
    const X2: u64 = X | 1 << 10;
    const BASE_BSP_BIT: u64 = 1 << 8;
    for (path, valid) in [
        (&[X, X2, X2, OFF, X][..], true),
        (&[OFF, X2], false),
        (&[X2, X], false),
        (&[OFF | 1 << 10], false),
        (&[X | 1], false),
        (&[X + 0x1000], false),
    ] {
        let mut apic = enabled();
        for (index, &value) in path.iter().enumerate() {
            let accepted = apic.set_base_msr(value).is_ok();
            assert_eq!(accepted, valid || index + 1 < path.len(), "{path:x?} step {index}");
            if accepted {
                assert_eq!(apic.base_msr(), value);
            }
        }
    }
    let mut apic = LocalApic::new(ApicConfig { x2apic: false, ..ApicConfig::default() });
    assert!(apic.set_base_msr(X2).is_err());
}

#[test]
fn x2apic_registers() {
    let mut apic = LocalApic::new(ApicConfig { id: 0x123, ..ApicConfig::default() });
    assert!(apic.read_msr(0x802, 0).is_err());
    let _ = apic.set_base_msr(APIC_BASE_ADDRESS | 0xd00);
    assert_eq!(apic.read(ID, 0), u32::MAX, "no page in this mode");
    for (msr, expected) in [
        (0x802, Some(0x123)),
        (0x803, Some(0x0005_0014)),
        (0x80d, Some(0x12_0008)),
        (0x809, None),
        (0x80b, None),
        (0x80e, None),
        (0x831, None),
        (0x83f, None),
        (0x7ff, None),
        (0x8ff, None),
    ] {
        assert_eq!(apic.read_msr(msr, 0).ok(), expected, "{msr:#x}");
    }
    for (msr, value, valid) in [
        (0x802, 1, false),
        (0x808, 0x20, true),
        (0x808, 0x100, false),
        (0x80b, 1, false),
        (0x80b, 0, true),
        (0x80f, 0x1ff, true),
        (0x80d, 0, false),
        (0x832, 0x4_0031, true),
        (0x832, 0x8_0000, false),
        (0x83f, 0x100, false),
    ] {
        assert_eq!(apic.write_msr(msr, value, 0).is_ok(), valid, "{msr:#x} {value:#x}");
    }
    let Ok(ApicAction::SendIpi(ipi)) = apic.write_msr(0x830, 0xffff_ffff_0000_00fd, 0) else {
        panic!("an IPI is sent");
    };
    assert_eq!(ipi.message.destination, DESTINATION_BROADCAST);
    assert_eq!(apic.read_msr(0x830, 0), Ok(0xffff_ffff_0000_00fd));
    assert_eq!(apic.write_msr(0x83f, 0x71, 0), Ok(ApicAction::None));
    assert_eq!(apic.ack(), 0x71);
}

#[test]
fn init_resets_all_but_id_and_mode() {
    let mut apic = enabled();
    apic.accept(0x40, Edge);
    let _ = apic.write(ID, 9 << 24, 0);
    let inbox = IrqInbox::new(apic.routing());
    inbox.post_init();
    inbox.post_start_up(0x10);
    apic.drain(&inbox);
    assert!(apic.has_latched_event() && apic.take_init());
    apic.reset_by_init();
    assert_eq!(apic.take_start_up(), Some(0x10));
    assert!(!apic.has_latched_event());
    assert_eq!(apic.state(), &reset_state(9, ApicMode::XApic));
}

/// Sends on a bus of four APICs with logical IDs 1, 2, 4 and 8, of which the
/// first is software-disabled; these must have been woken.
#[track_caller]
fn check_bus(send: impl Fn(&ApicBus, &mut dyn FnMut(usize)), expected: &[usize]) {
    let inboxes = (0..4u32)
        .map(|id| {
            let mut apic = LocalApic::new(ApicConfig { id, ..ApicConfig::default() });
            let _ = apic.write(SVR, if id == 0 { 0xff } else { 0x1ff }, 0);
            let _ = apic.write(LDR, 1 << (24 + id), 0);
            let _ = apic.write(LVT_LINT0, 0x700, 0);
            Arc::new(IrqInbox::new(apic.routing()))
        })
        .collect();
    let bus = ApicBus::new(inboxes);
    let woken = Mutex::new(Vec::new());
    send(&bus, &mut |index| woken.lock().expect("no panic holds the lock").push(index));
    assert_eq!(*woken.lock().expect("no panic holds the lock"), expected);
    assert!(expected.iter().all(|&index| bus.inbox(index).is_some_and(|inbox| inbox.has_work())));
}

#[test]
fn the_bus_finds_its_targets() {
    use DestinationMode::{Logical, Physical};
    let message = |delivery, destination_mode, destination| Message {
        vector: 0x50,
        destination,
        destination_mode,
        delivery,
        trigger: Edge,
    };
    let fixed = |mode, destination| message(DeliveryMode::Fixed, mode, destination);
    let everybody = fixed(Physical, DESTINATION_BROADCAST);
    check_bus(|bus, wake| bus.deliver(&fixed(Physical, 2), wake), &[2]);
    check_bus(|bus, wake| bus.deliver(&fixed(Physical, 9), wake), &[]);
    check_bus(|bus, wake| bus.deliver(&fixed(Logical, 0xa), wake), &[1, 3]);
    check_bus(|bus, wake| bus.deliver(&everybody, wake), &[0, 1, 2, 3]);
    let lowest = message(DeliveryMode::LowestPriority, Logical, 0xf);
    check_bus(|bus, wake| bus.deliver(&lowest, wake), &[1]);
    check_bus(|bus, wake| bus.deliver(&message(DeliveryMode::Smi, Physical, 1), wake), &[]);
    for (shorthand, expected) in [
        (Shorthand::Destination, &[2][..]),
        (Shorthand::SelfOnly, &[1]),
        (Shorthand::AllIncludingSelf, &[0, 1, 2, 3]),
        (Shorthand::AllExcludingSelf, &[0, 2, 3]),
    ] {
        let ipi = Ipi { message: fixed(Physical, 2), shorthand };
        check_bus(|bus, wake| bus.send_ipi(1, &ipi, wake), expected);
    }
    // The first one's LINT0 is masked, being disabled.
    check_bus(|bus, wake| bus.set_extint(true, wake), &[1, 2, 3]);
}
