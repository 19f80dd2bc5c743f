use super::*;

/// One step of a guest, a device or the CPU.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Drives lines, one bit each.
    Raise(u16),
    Lower(u16),
    /// Writes ports.
    Out(PicPort, u8),
    /// A read must give this.
    In(PicPort, u8),
    /// INTR is asserted and the acknowledge cycle gives this line's vector.
    Ack(u8),
    /// INTR is not asserted, yet the acknowledge cycle gives this vector.
    Spurious(u8),
    /// INTR is not asserted.
    Quiet,
}
use PicPort::*;
use Step::{Ack, In, Lower, Out, Quiet, Raise, Spurious};

const EOI: u8 = 0x20;
const MASTER_BASE: u8 = 0x30;
const SLAVE_BASE: u8 = 0x38;

/// Runs `steps` on a pair that is initialised as Linux does, with `icw4`.
#[track_caller]
fn check_with(icw4: u8, steps: &[Step]) {
    let mut pic = Pic::new();
    for (port, value) in [
        (MasterCommand, 0x11),
        (MasterData, MASTER_BASE),
        (MasterData, 4),
        (MasterData, icw4),
        (SlaveCommand, 0x11),
        (SlaveData, SLAVE_BASE),
        (SlaveData, 2),
        (SlaveData, icw4),
    ] {
        pic.write(port, value);
    }
    for (index, step) in steps.iter().enumerate() {
        let lines = |bits: u16| (0..16u8).filter(move |irq| bits & 1 << irq != 0);
        match *step {
            Raise(bits) => lines(bits).for_each(|irq| pic.set_line(irq, true)),
            Lower(bits) => lines(bits).for_each(|irq| pic.set_line(irq, false)),
            Out(port, value) => pic.write(port, value),
            In(port, expected) => assert_eq!(pic.read(port), expected, "step {index}: {step:?}"),
            Ack(irq) => {
                assert!(pic.intr(), "step {index}: {step:?}");
                assert_eq!(pic.ack(), MASTER_BASE + irq, "step {index}: {step:?}");
            }
            Spurious(irq) => {
                assert!(!pic.intr(), "step {index}: {step:?}");
                assert_eq!(pic.ack(), MASTER_BASE + irq, "step {index}: {step:?}");
            }
            Quiet => assert!(!pic.intr(), "step {index}: {step:?}"),
        }
    }
}

#[track_caller]
fn check(steps: &[Step]) {
    check_with(1, steps);
}

#[test]
fn requests_nothing_before_initialisation() {
    let mut pic = Pic::new();
    pic.set_line(0, true);
    assert!(!pic.intr());
    pic.write(MasterData, 0xff);
    assert_eq!(pic.read(MasterData), 0xff, "Linux probes for the chip by its mask");
}

#[test]
fn edge_is_served_once_and_latched() {
    check(&[Raise(1), Ack(0), Quiet, Out(MasterCommand, EOI), Quiet]);
    check(&[Raise(1), Lower(1), Ack(0), Out(MasterCommand, EOI), Raise(1), Ack(0)]);
}

#[test]
fn level_is_served_again_while_asserted() {
    check(&[
        Out(MasterLevelSelect, 0x20),
        Raise(1 << 5),
        Ack(5),
        Quiet,
        Out(MasterCommand, EOI),
        Ack(5),
        Lower(1 << 5),
        Out(MasterCommand, EOI),
        Quiet,
    ]);
}

#[test]
fn slave_level_is_served_again_in_either_order_of_eoi() {
    for first in [MasterCommand, SlaveCommand] {
        let second = if first == MasterCommand { SlaveCommand } else { MasterCommand };
        check(&[
            Out(SlaveLevelSelect, 0x04),
            Raise(1 << 10),
            Ack(10),
            Quiet,
            Out(first, EOI),
            Quiet,
            Out(second, EOI),
            Ack(10),
        ]);
    }
}

#[test]
fn higher_priority_interrupts_lower() {
    check(&[
        Raise(1 << 4),
        Ack(4),
        Raise(1 << 5),
        Quiet,
        Raise(1 << 1),
        Ack(1),
        In(MasterCommand, 1 << 5),
        Out(MasterCommand, 0x0b),
        In(MasterCommand, 1 << 4 | 1 << 1),
        Out(MasterCommand, EOI),
        In(MasterCommand, 1 << 4),
        Quiet,
        Out(MasterCommand, EOI),
        Ack(5),
    ]);
}

#[test]
fn slave_ranks_between_1_and_3() {
    check(&[
        Raise(1 << 3 | 1 << 8 | 1 << 15 | 1 << 1),
        Ack(1),
        Out(MasterCommand, EOI),
        Ack(8),
        Out(SlaveCommand, EOI),
        Out(MasterCommand, EOI),
        Ack(15),
        Out(SlaveCommand, 0x67),
        Out(MasterCommand, 0x62),
        Ack(3),
    ]);
}

#[test]
fn masks_hold_requests_back_but_keep_them() {
    check(&[
        Out(MasterData, 0x01),
        In(MasterData, 0x01),
        Raise(1),
        Quiet,
        In(MasterCommand, 1),
        Out(MasterData, 0),
        Ack(0),
    ]);
    check(&[Out(MasterData, 4), Raise(1 << 12), Quiet, Out(MasterData, 0), Ack(12)]);
    check(&[Out(SlaveData, 0x10), Raise(1 << 12), Quiet, Out(SlaveData, 0), Ack(12)]);
}

#[test]
fn withdrawn_request_is_spurious() {
    let withdraw = [Out(MasterLevelSelect, 0x20), Raise(1 << 5), Lower(1 << 5), Spurious(7)];
    check(&withdraw);
    check(&[Spurious(7), Out(MasterCommand, 0x0b), In(MasterCommand, 0)]);
    check(&[Out(SlaveLevelSelect, 4), Raise(1 << 10), Lower(1 << 10), Spurious(7)]);
}

#[test]
fn slave_with_nothing_left_is_spurious() {
    // The cascade cannot show a request that the slave has not, unless a
    // snapshot says so.
    let ready = Chip8259State { init: InitStep::Ready, ..Chip8259State::default() };
    let mut pic = Pic::from_state(PicState {
        master: Chip8259State { lines: CASCADE, ..ready.clone() },
        slave: Chip8259State { vector_base: 0x70, ..ready },
    });
    assert_eq!(pic.ack(), 0x77);
    assert_eq!(pic.state().slave.in_service, 0);
    assert_eq!(pic.state().master.in_service, CASCADE);
}

#[test]
fn automatic_eoi_keeps_nothing_in_service() {
    check_with(3, &[Raise(1), Ack(0), Lower(1), Raise(1), Ack(0)]);
    check_with(3, &[Raise(1 << 8 | 1 << 9), Ack(8), Ack(9), Quiet]);
    check_with(
        3,
        &[
            Out(MasterCommand, 0x80),
            Raise(1 | 1 << 1),
            Ack(0),
            Lower(1),
            Raise(1),
            Ack(1),
            Ack(0),
            Quiet,
        ],
    );
}

#[test]
fn rotation() {
    // On a non-specific EOI.
    check(&[Raise(1 | 1 << 1), Ack(0), Out(MasterCommand, 0xa0), Lower(1), Raise(1), Ack(1)]);
    // On a specific EOI.
    check(&[
        Raise(1 << 4),
        Ack(4),
        Out(MasterCommand, 0xe4),
        Raise(1 << 3 | 1 << 5),
        Ack(5),
        Out(MasterCommand, EOI),
        Ack(3),
    ]);
    // By command.
    check(&[Out(MasterCommand, 0xc4), Raise(1 << 4 | 1 << 5), Ack(5)]);
}

#[test]
fn special_mask_lets_lower_priorities_in() {
    check(&[
        Raise(1 << 3),
        Ack(3),
        Raise(1 << 6),
        Quiet,
        Out(MasterData, 1 << 3),
        Out(MasterCommand, 0x68),
        Ack(6),
        Out(MasterCommand, EOI),
        Out(MasterCommand, 0x0b),
        In(MasterCommand, 1 << 3),
        Out(MasterCommand, 0x48),
        Out(MasterCommand, EOI),
        In(MasterCommand, 0),
    ]);
}

#[test]
fn special_fully_nested_master_takes_a_second_slave_interrupt() {
    let nested = [Raise(1 << 12), Ack(12), Raise(1 << 9 | 1 << 3)];
    check_with(0x11, &[&nested[..], &[Ack(9), Quiet]].concat());
    check_with(0x01, &[&nested[..], &[Quiet]].concat());
}

#[test]
fn poll_command_acknowledges() {
    check(&[
        Raise(1 << 6),
        Out(MasterCommand, 0x0c),
        In(MasterCommand, 0x86),
        Quiet,
        Out(MasterCommand, 0x0c),
        In(MasterData, 0),
        In(MasterData, 0),
    ]);
}

#[test]
fn icw1_starts_over() {
    check(&[
        Out(MasterData, 0xaa),
        Raise(1),
        Out(MasterCommand, 0x13),
        Quiet,
        Out(MasterData, MASTER_BASE),
        Out(MasterData, 1),
        In(MasterData, 0),
        Quiet,
        Raise(1),
        Quiet,
        Lower(1),
        Raise(1),
        Ack(0),
    ]);
    // No ICW4: ready after ICW3.
    check(&[
        Out(MasterCommand, 0x10),
        Out(MasterData, MASTER_BASE),
        Out(MasterData, 4),
        Raise(1 << 7),
        Ack(7),
    ]);
}

#[test]
fn level_select_leaves_the_fixed_lines_alone() {
    check(&[
        Out(MasterLevelSelect, 0xff),
        In(MasterLevelSelect, 0xf8),
        Out(SlaveLevelSelect, 0xff),
        In(SlaveLevelSelect, 0xde),
    ]);
}
