use super::*;
use crate::time::ns_of_ticks;

/// Programs counter 0 with `control` (counter bits excluded) and `reload` at
/// time zero; then at each tick count, output and rises must be as given.
#[track_caller]
fn check(control: u8, reload: u16, expected: &[(u64, u16, bool, u64)]) {
    let mut pit = Pit::new();
    pit.write(PitPort::Control, 0x30 | control, 0);
    let [low, high] = reload.to_le_bytes();
    pit.write(PitPort::Counter0, low, 0);
    pit.write(PitPort::Counter0, high, 0);
    for &(tick, count, level, rises) in expected {
        let now_ns = ns_of_ticks(tick, PIT_HZ);
        pit.write(PitPort::Control, 0x00, now_ns);
        let bytes = [pit.read(PitPort::Counter0, 0), pit.read(PitPort::Counter0, 0)];
        assert_eq!(u16::from_le_bytes(bytes), count, "count at tick {tick}");
        assert_eq!(pit.poll(now_ns), PitOutput { rises, level }, "output at tick {tick}");
    }
}

#[test]
fn counts_in_every_mode() {
    // Mode 0.
    check(0, 10, &[(0, 10, false, 0), (9, 1, false, 0), (10, 0, true, 1), (11, 0xffff, true, 0)]);
    check(0, 0, &[(0, 0, false, 0), (1, 0xffff, false, 0), (0x1_0000, 0, true, 1)]);
    // Mode 2.
    check(4, 10, &[(0, 10, true, 0), (9, 1, false, 0), (10, 10, true, 1), (35, 5, true, 2)]);
    check(4, 0, &[(0, 0, true, 0), (1, 0xffff, true, 0), (0x1_0000, 0, true, 1)]);
    // Mode 3, even and odd.
    check(6, 10, &[(0, 10, true, 0), (4, 2, true, 0), (5, 10, false, 0), (9, 2, false, 0)]);
    check(6, 10, &[(10, 10, true, 1), (15, 10, false, 0), (100, 10, true, 9)]);
    check(6, 5, &[(0, 4, true, 0), (2, 0, true, 0), (3, 4, false, 0), (5, 4, true, 1)]);
    // Mode 4.
    check(
        8,
        10,
        &[(0, 10, true, 0), (10, 0, false, 0), (11, 0xffff, true, 1), (90_000, 41082, true, 0)],
    );
    // Modes 1 and 5 wait for a gate that counter 0 does not have.
    check(2, 10, &[(0, 10, true, 0), (50, 10, true, 0)]);
    check(10, 10, &[(0, 10, true, 0), (50, 10, true, 0)]);
    // Decimal.
    check(5, 0x0100, &[(0, 0x100, true, 0), (1, 0x99, true, 0), (99, 1, false, 0)]);
    check(1, 0, &[(0, 0, false, 0), (1, 0x9999, false, 0), (10_000, 0, true, 1)]);
}

#[test]
fn says_when_the_output_rises() {
    for (control, reload, first_tick, next_tick) in [
        (0x30, 1000u16, 1000, None),
        (0x34, 1000, 1000, Some(2000)),
        (0x36, 1000, 1000, Some(2000)),
        (0x38, 1000, 1001, None),
        // Too fast to follow: 59 periods of one tick are one poll.
        (0x34, 1, 59, Some(118)),
    ] {
        let mut pit = Pit::new();
        assert_eq!(pit.next_deadline(), None);
        pit.write(PitPort::Control, control, 7);
        pit.write(PitPort::Counter0, reload as u8, 7);
        pit.write(PitPort::Counter0, (reload >> 8) as u8, 7);
        let deadline_ns = 7 + ns_of_ticks(first_tick, PIT_HZ);
        assert_eq!(pit.next_deadline(), Some(deadline_ns), "{control:#x}");
        let early = pit.clone().poll(deadline_ns - 1).rises;
        assert_eq!(early, if reload == 1 { 58 } else { 0 }, "{control:#x}");
        assert_ne!(pit.poll(deadline_ns).rises, 0, "{control:#x}");
        let next_ns = next_tick.map(|tick| 7 + ns_of_ticks(tick, PIT_HZ));
        assert_eq!(pit.next_deadline(), next_ns, "{control:#x}");
    }
}

#[test]
fn linux_calibrates_with_counter_2() {
    let mut pit = Pit::new();
    pit.write(PitPort::Speaker, 0x01, 0);
    pit.write(PitPort::Control, 0xb0, 0);
    pit.write(PitPort::Counter2, 0x9b, 0);
    pit.write(PitPort::Counter2, 0x2e, 0);
    let end_ns = ns_of_ticks(0x2e9b, PIT_HZ);
    assert_eq!(pit.read(PitPort::Speaker, end_ns - 1) & 0x21, 0x01);
    assert_eq!(pit.read(PitPort::Speaker, end_ns) & 0x21, 0x21);
}

#[test]
fn gate_holds_and_restarts() {
    let at = |tick| ns_of_ticks(tick, PIT_HZ);
    for (control, count_while_held, count_after) in [(0xb0, 60, 50), (0xb4, 100, 90)] {
        let mut pit = Pit::new();
        pit.write(PitPort::Speaker, 1, 0);
        pit.write(PitPort::Control, control, 0);
        pit.write(PitPort::Counter2, 100, 0);
        pit.write(PitPort::Counter2, 0, 0);
        pit.write(PitPort::Speaker, 0, at(40));
        let held = pit.state().channels[2].count(at(70));
        assert_eq!(held, count_while_held, "{control:#x}");
        pit.write(PitPort::Speaker, 1, at(80));
        let after = pit.state().channels[2].count(at(90) + 1000);
        assert!((count_after - 1..=count_after).contains(&after), "{control:#x}: {after}");
    }
}

#[test]
fn gate_starts_the_one_shot() {
    let mut pit = Pit::new();
    pit.write(PitPort::Control, 0xb2, 0);
    pit.write(PitPort::Counter2, 100, 0);
    pit.write(PitPort::Counter2, 0, 0);
    let output = |pit: &mut Pit, tick| {
        pit.read(PitPort::Speaker, ns_of_ticks(tick, PIT_HZ)) & SPEAKER_OUTPUT != 0
    };
    assert!(output(&mut pit, 500));
    pit.write(PitPort::Speaker, 1, ns_of_ticks(1000, PIT_HZ));
    assert!(!output(&mut pit, 1001));
    assert!(output(&mut pit, 1101));
}

#[test]
fn reads_back_status_then_count() {
    let mut pit = Pit::new();
    pit.write(PitPort::Control, 0x34, 0);
    pit.write(PitPort::Control, 0xe2, 0);
    assert_eq!(pit.read(PitPort::Counter0, 0), 0xf4, "null count, output high");
    pit.write(PitPort::Counter0, 0x34, 0);
    pit.write(PitPort::Counter0, 0x12, 0);
    pit.write(PitPort::Control, 0xc2, 0);
    let later_ns = ns_of_ticks(10, PIT_HZ);
    pit.write(PitPort::Control, 0xd2, later_ns);
    assert_eq!(pit.read(PitPort::Counter0, later_ns), 0xb4);
    assert_eq!(pit.read(PitPort::Counter0, later_ns), 0x34, "the first latch holds");
    assert_eq!(pit.read(PitPort::Counter0, later_ns), 0x12);
    assert_eq!(pit.read(PitPort::Counter0, later_ns), 0x2a, "live again");
}

#[test]
fn single_byte_access() {
    let mut pit = Pit::new();
    pit.write(PitPort::Control, 0x14, 0);
    pit.write(PitPort::Counter0, 0x20, 0);
    assert_eq!(pit.read(PitPort::Counter0, 0), 0x20);
    assert_eq!(pit.read(PitPort::Counter0, 0), 0x20);
    pit.write(PitPort::Control, 0x24, 0);
    pit.write(PitPort::Counter0, 0x20, 0);
    assert_eq!(pit.read(PitPort::Counter0, 0), 0x20);
    assert_eq!(pit.state().channels[0].reload, 0x2000);
}

#[test]
fn refresh_bit_toggles() {
    let mut pit = Pit::new();
    let toggles = (0..100u64)
        .map(|step| pit.read(PitPort::Speaker, step * 15_085 + 100) & SPEAKER_REFRESH)
        .collect::<Vec<_>>();
    assert!(toggles.windows(2).filter(|pair| pair[0] != pair[1]).count() > 90);
}
