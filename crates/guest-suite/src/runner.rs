//! Runs one guest: a machine, a thread for each vCPU, and a watchdog.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bus::IoSpace;
use vcpu::{Exit, Kick, Vcpu};

use crate::board::{Board, End};
use crate::case::{Expect, Guest, MakeVm, Verdict};
use crate::layout;

/// vCPUs of the suite's machine.
pub const VCPUS: u8 = 2;
/// How long a guest may run.
const GUEST_MAX: Duration = Duration::from_secs(10);
/// How long a vCPU may take to come back after kicks.
const KICK_MAX: Duration = Duration::from_secs(5);
/// The result code by which a guest says that the processor lacks what the case is about.
const SKIP: u8 = 0xF5;

/// Runs `guest` on a new machine and compares.
pub(crate) fn run(guest: &Guest, make_vm: MakeVm<'_>) -> Verdict {
    match run_machine(guest, make_vm) {
        Ok((end, notes)) => judge(guest, &end, &notes),
        Err(reason) => Verdict::Failed(reason),
    }
}

fn run_machine(guest: &Guest, make_vm: MakeVm<'_>) -> Result<(End, Vec<u64>), String> {
    let ram = [(memory::GuestAddress(0), layout::RAM_LEN)];
    let memory = Arc::new(memory::allocate(&ram).map_err(|e| e.to_string())?);
    layout::load(&memory, guest.blob.code()).map_err(|e| e.to_string())?;
    let vm = make_vm(memory).map_err(|e| e.to_string())?;
    let board = Board::new(vm.clone());
    let io = board.io().map_err(|e| e.to_string())?;
    let mut cpus = Vec::new();
    for id in 0..VCPUS {
        let mut cpu = vm.vcpu(id).map_err(|e| e.to_string())?;
        if id == 0 {
            cpu.set_state(&layout::first_state(guest.entry)).map_err(|e| e.to_string())?;
        }
        cpus.push(cpu);
    }
    let kickers: Vec<Arc<dyn Kick>> = cpus.iter().map(|c| c.kicker()).collect();
    let (sender, stopped) = channel();
    for cpu in cpus {
        let (io, board, sender) = (io.clone(), board.clone(), sender.clone());
        std::thread::spawn(move || drive(cpu, &io, &board, &sender));
    }
    let (end, notes) = board.wait(GUEST_MAX);
    let positions = stop(&kickers, &stopped)?;
    if end == End::TimedOut {
        let text =
            format!("no end after {GUEST_MAX:?}; {}; notes {notes:x?}", positions.join(", "));
        return Err(text);
    }
    Ok((end, notes))
}

/// A vCPU's thread. Reports where the vCPU was when the guest ended.
fn drive(
    mut cpu: Box<dyn Vcpu>,
    io: &Arc<IoSpace>,
    board: &Arc<Board>,
    stopped: &mpsc::Sender<String>,
) {
    while !board.has_ended() {
        match cpu.run(io) {
            Ok(Exit::Kicked) => {}
            Ok(Exit::TripleFault) => board.end(End::TripleFault),
            Ok(Exit::Reset) => board.end(End::Reset),
            Err(error) => board.end(End::Broken(error.to_string())),
        }
    }
    let at = match cpu.state() {
        Ok(s) => {
            format!("rip {:#x} {:?} rcx {:#x} rsp {:#x}", s.rip, s.mp_state, s.gpr[1], s.gpr[4])
        }
        Err(error) => error.to_string(),
    };
    // The suite may have given up on this vCPU.
    let _ = stopped.send(at);
}

/// Kicks the vCPUs until their threads are back.
fn stop(kickers: &[Arc<dyn Kick>], stopped: &Receiver<String>) -> Result<Vec<String>, String> {
    let start = Instant::now();
    kickers.iter().for_each(|k| k.kick());
    let mut positions = Vec::new();
    while positions.len() < kickers.len() {
        let left = KICK_MAX.saturating_sub(start.elapsed());
        match stopped.recv_timeout(left) {
            Ok(position) => positions.push(position),
            Err(_) => return Err("a vCPU does not come back after a kick".to_string()),
        }
    }
    Ok(positions)
}

fn judge(guest: &Guest, end: &End, notes: &[u64]) -> Verdict {
    let expected_end = match guest.expect {
        Expect::Notes(_) => End::Code(0),
        Expect::Code(code) => End::Code(code),
        Expect::TripleFault => End::TripleFault,
    };
    if *end == End::Code(SKIP) {
        return Verdict::Skipped(guest.skip.to_string());
    }
    if let Expect::Notes(expected) = guest.expect {
        let differs = |i: &usize| notes.get(*i) != expected.get(*i);
        if let Some(i) = (0..notes.len().max(expected.len())).find(differs) {
            let show = |list: &[u64]| list.get(i).map_or("none".into(), |n| format!("{n:#x}"));
            let (got, want) = (show(notes), show(expected));
            let text = format!("note {i} is {got}, expected {want}; end {end:?}; all {notes:x?}");
            return Verdict::Failed(text);
        }
    }
    if *end == expected_end {
        return Verdict::Passed;
    }
    Verdict::Failed(format!("end {end:?}, expected {expected_end:?}; notes {notes:x?}"))
}
