//! The contract of `vcpu`, tested from the host's side: kicks, states, and what must be refused.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bus::IoSpace;
use memory::{Bytes, GuestAddress, GuestMemory};
use vcpu::{CpuState, Exit, MpState, Vcpu, Vm};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::board::{Board, End};
use crate::case::MakeVm;
use crate::guests::{self, Blob};
use crate::layout::{self, Entry};

/// How long a call may take that ought to come back at once.
const PROMPT: Duration = Duration::from_secs(5);
/// How long a test lets a guest run before it kicks it.
const A_WHILE: Duration = Duration::from_millis(20);

type Outcome = Result<(), String>;

/// A machine whose vCPUs the test runs itself.
struct Machine {
    vm: Arc<dyn Vm>,
    memory: Arc<GuestMemory>,
    board: Arc<Board>,
    io: Arc<IoSpace>,
}

impl Machine {
    fn new(blob: Blob, make_vm: MakeVm<'_>) -> Result<Self, String> {
        let ram = [(GuestAddress(0), layout::RAM_LEN)];
        let memory = Arc::new(memory::allocate(&ram).map_err(text)?);
        layout::load(&memory, blob.code()).map_err(text)?;
        let vm = make_vm(memory.clone()).map_err(text)?;
        let board = Board::new(vm.clone());
        let io = board.io().map_err(text)?;
        Ok(Self { vm, memory, board, io })
    }

    /// The first vCPU at the guest's first instruction.
    fn first_vcpu(&self) -> Result<Box<dyn Vcpu>, String> {
        let mut cpu = self.vm.vcpu(0).map_err(text)?;
        cpu.set_state(&layout::first_state(Entry::Long)).map_err(text)?;
        Ok(cpu)
    }
}

/// Runs on a thread of its own and gives the vCPU back with its exit.
fn run_kicked(
    mut cpu: Box<dyn Vcpu>,
    io: &Arc<IoSpace>,
    kick_after: Option<Duration>,
) -> Result<Box<dyn Vcpu>, String> {
    let kicker = cpu.kicker();
    let (sender, receiver) = channel();
    let io = io.clone();
    std::thread::spawn(move || {
        let exit = cpu.run(&io);
        // The test may have given up.
        let _ = sender.send((cpu, exit));
    });
    if let Some(delay) = kick_after {
        std::thread::sleep(delay);
        kicker.kick();
    }
    match receiver.recv_timeout(PROMPT) {
        Ok((cpu, Ok(Exit::Kicked))) => Ok(cpu),
        Ok((_, other)) => Err(format!("run came back with {other:?}")),
        Err(_) => Err("run does not come back after a kick".to_string()),
    }
}

pub(crate) fn kick_before_run(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::SPIN, make_vm)?;
    let cpu = machine.first_vcpu()?;
    cpu.kicker().kick();
    cpu.kicker().kick();
    let mut cpu = run_kicked(cpu, &machine.io, None)?;
    same("instructions before the kick is served", cpu.state().map_err(text)?.gpr[3], 0)?;
    let mut cpu = run_kicked(cpu, &machine.io, Some(A_WHILE))?;
    match cpu.state().map_err(text)?.gpr[3] {
        0 => Err("the guest made no progress between kicks".to_string()),
        _ => Ok(()),
    }
}

/// A machine keeps its vCPUs and lets go of the rest: RAM stays as long as they do.
pub(crate) fn regression_a_vcpu_outlives_its_vm(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::SPIN, make_vm)?;
    let cpu = machine.first_vcpu()?;
    drop(machine);
    let mut cpu = run_kicked(cpu, &Arc::new(IoSpace::default()), Some(A_WHILE))?;
    match cpu.state().map_err(text)?.gpr[3] {
        0 => Err("the guest made no progress".to_string()),
        _ => Ok(()),
    }
}

pub(crate) fn kick_while_halted(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::HALT, make_vm)?;
    let mut cpu = machine.first_vcpu()?;
    for _ in 0..3 {
        cpu = run_kicked(cpu, &machine.io, Some(A_WHILE))?;
    }
    Ok(())
}

pub(crate) fn kick_while_waiting_for_sipi(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::SPIN, make_vm)?;
    let _first = machine.first_vcpu()?;
    let second = machine.vm.vcpu(1).map_err(text)?;
    let mut second = run_kicked(second, &machine.io, Some(A_WHILE))?;
    match second.state().map_err(text)?.mp_state {
        MpState::Uninitialized | MpState::WaitForSipi => Ok(()),
        other => Err(format!("the second vCPU is {other:?}")),
    }
}

/// Kicks as fast as they go, against runs as fast as they go: each run comes back.
pub(crate) fn kicks_are_never_lost(make_vm: MakeVm<'_>) -> Outcome {
    const ROUNDS: u32 = 500;
    let machine = Machine::new(guests::SPIN, make_vm)?;
    let mut cpu = machine.first_vcpu()?;
    let kicker = cpu.kicker();
    let (asked, ask) = channel();
    let (answer, answered) = channel();
    let io = machine.io.clone();
    std::thread::spawn(move || {
        for round in ask {
            let exit = cpu.run(&io);
            if answer.send((round, exit.is_ok_and(|e| e == Exit::Kicked))).is_err() {
                return;
            }
        }
    });
    for round in 0..ROUNDS {
        asked.send(round).map_err(text)?;
        // Vary where the kick lands: before the run, at its start, inside.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(u64::from(round % 50) * 4) {}
        kicker.kick();
        match answered.recv_timeout(PROMPT) {
            Ok((_, true)) => {}
            Ok((_, false)) => return Err(format!("run {round} came back without a kick")),
            Err(_) => return Err(format!("the kick of round {round} is lost")),
        }
    }
    Ok(())
}

/// Sets a state and reads it back.
pub(crate) fn states_come_back(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::SPIN, make_vm)?;
    let mut cpu = machine.vm.vcpu(0).map_err(text)?;
    let mut new = layout::first_state(Entry::Long);
    new.gpr = std::array::from_fn(|i| 0x1111_1111_1111_1111 * i as u64);
    new.rflags = 0x246;
    new.cr2 = 0xFFFF_8000_1234_5678;
    new.cr8 = 3;
    new.debug = [0x1000, 0x2000, 0x3000, 0x4000, 0xFFFF_0FF1, 0x400];
    new.segments[4].base = 0x1234_5678_9ABC;
    new.segments[5].base = 0xFFFF_8000_0000_1000;
    for (i, byte) in new.fxsave[160..416].iter_mut().enumerate() {
        *byte = i as u8;
    }
    new.msrs = vec![(0xC000_0082, 0xFFFF_8000_0000_0042), (0xC000_0102, 0x77)];
    cpu.set_state(&new).map_err(text)?;
    let now = cpu.state().map_err(text)?;
    same("gpr", now.gpr, new.gpr)?;
    same("rip, rflags", (now.rip, now.rflags), (new.rip, new.rflags))?;
    same("segments", now.segments.map(visible), new.segments.map(visible))?;
    same("tr", visible(now.tr), visible(new.tr))?;
    same("gdtr, idtr", (now.gdtr, now.idtr), (new.gdtr, new.idtr))?;
    same("cr0 to cr4", [now.cr0, now.cr2, now.cr3, now.cr4], [new.cr0, new.cr2, new.cr3, new.cr4])?;
    same("cr8, efer", (now.cr8, now.efer), (new.cr8, new.efer))?;
    same("apic_base, xcr0", (now.apic_base, now.xcr0), (new.apic_base, new.xcr0))?;
    same("debug", now.debug, new.debug)?;
    same("xmm", &now.fxsave[160..416], &new.fxsave[160..416])?;
    same(
        "x87 control and MXCSR",
        (&now.fxsave[..2], &now.fxsave[24..28]),
        (&new.fxsave[..2], &new.fxsave[24..28]),
    )?;
    for msr in &new.msrs {
        same("msr", now.msrs.iter().find(|m| m.0 == msr.0), Some(msr))?;
    }
    if now.lapic.is_none() {
        return Err("the local APIC is missing from the state".to_string());
    }
    // What was read can be set, and is the same then.
    cpu.set_state(&now).map_err(text)?;
    let mut again = cpu.state().map_err(text)?;
    // Clocks go on.
    let clocks = |m: &(u32, u64)| [0x10, 0x6E0, 0x3B].contains(&m.0);
    again.msrs.retain(|m| !clocks(m));
    let mut before = now;
    before.msrs.retain(|m| !clocks(m));
    same_states(again, before)
}

/// [`same`] for whole states, with a message that names the field.
fn same_states(got: CpuState, want: CpuState) -> Outcome {
    for (got, want) in got.msrs.iter().zip(&want.msrs) {
        same("an MSR that was read and set", got, want)?;
    }
    let image = |s: &CpuState| s.lapic.as_ref().map(|l| l.to_vec()).unwrap_or_default();
    let pairs = image(&got).into_iter().zip(image(&want));
    for (offset, (got, want)) in pairs.enumerate() {
        same("a byte of the local APIC", (offset, got), (offset, want))?;
    }
    for (offset, (got, want)) in got.fxsave.iter().zip(want.fxsave.iter()).enumerate() {
        same("a byte of the FXSAVE image", (offset, *got), (offset, *want))?;
    }
    same("the state, read, set and read", got, want)
}

/// The part of a segment register that a running processor tells: the accessed and busy bits, and
/// nothing of an unusable register but that.
fn visible(s: vcpu::Segment) -> vcpu::Segment {
    if s.unusable { vcpu::Segment { unusable: true, ..Default::default() } } else { s }
}

pub(crate) fn registers_reach_the_guest(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::COUNT, make_vm)?;
    let mut cpu = machine.vm.vcpu(0).map_err(text)?;
    let mut state = layout::first_state(Entry::Long);
    (state.gpr[0], state.gpr[1], state.gpr[3], state.gpr[15]) = (1, 20, 300, 4000);
    state.fxsave[160 + 48..160 + 56].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    cpu.set_state(&state).map_err(text)?;
    let kicker = cpu.kicker();
    let io = machine.io.clone();
    std::thread::spawn(move || cpu.run(&io));
    let (end, notes) = machine.board.wait(PROMPT);
    kicker.kick();
    same("end and notes", (end, notes), (End::Code(0), vec![4321, 0x1122_3344_5566_7788]))
}

/// A guest goes on in another machine, on another thread, where it was stopped.
pub(crate) fn a_guest_moves_house(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::SPIN, make_vm)?;
    let mut cpu = run_kicked(machine.first_vcpu()?, &machine.io, Some(A_WHILE))?;
    let state: CpuState = cpu.state().map_err(text)?;
    let mut ram = vec![0; layout::RAM_LEN as usize];
    machine.memory.read_slice(&mut ram, GuestAddress(0)).map_err(text)?;
    let other = Machine::new(guests::SPIN, make_vm)?;
    other.memory.write_slice(&ram, GuestAddress(0)).map_err(text)?;
    let mut cpu = other.vm.vcpu(0).map_err(text)?;
    cpu.set_state(&state).map_err(text)?;
    let mut cpu = run_kicked(cpu, &other.io, Some(A_WHILE))?;
    let (before, after) = (state.gpr[3], cpu.state().map_err(text)?.gpr[3]);
    if after > before {
        return Ok(());
    }
    Err(format!("the count was {before} and is {after}"))
}

pub(crate) fn nonsense_is_refused(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::SPIN, make_vm)?;
    let _first = machine.first_vcpu()?;
    let refusals = [
        ("a vCPU made twice", machine.vm.vcpu(0).is_err()),
        ("vCPU 200", machine.vm.vcpu(200).is_err()),
        ("interrupt line 24", machine.vm.irq_line(24).is_err()),
        (
            "the same line twice is fine",
            machine.vm.irq_line(5).is_ok() && machine.vm.irq_line(5).is_ok(),
        ),
    ];
    match refusals.iter().find(|(_, right)| !right) {
        Some((what, _)) => Err(format!("wrong answer to: {what}")),
        None => Ok(()),
    }
}

/// A doorbell takes exactly its value past the bus, if the back end has doorbells.
pub(crate) fn doorbells(make_vm: MakeVm<'_>) -> Outcome {
    let machine = Machine::new(guests::DOORBELL, make_vm)?;
    let event = EventFd::new(EFD_NONBLOCK).map_err(text)?;
    // SAFETY: `event` lives to the end of this function.
    let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
    let taken = machine.vm.doorbell(0xD000_0100, 1, fd).map_err(text)?;
    let mut cpu = machine.first_vcpu()?;
    let kicker = cpu.kicker();
    let io = machine.io.clone();
    std::thread::spawn(move || cpu.run(&io));
    let (end, notes) = machine.board.wait(PROMPT);
    kicker.kick();
    same("end", end, End::Code(0))?;
    let head = 4 << 56 | 0x100 << 32;
    if taken {
        same("writes that reach the bus", notes, vec![head, 2])?;
        same("rings of the bell", event.read().map_err(text)?, 1)
    } else {
        same("writes that reach the bus", notes, vec![head, 1, head, 2])
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: {got:x?}, expected {want:x?}")) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
