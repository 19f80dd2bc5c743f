//! Any code on the software CPU, in any mode, with all privileges: it may ruin its guest, but it
//! must neither panic, nor reach beyond the guest's RAM, nor go on after a kick. In the interpreter
//! here; `translator` is the same with every block translated.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bus::IoSpace;
use memory::{Bytes, GuestAddress, GuestMemory};
use softcpu::{JitOptions, Options, SoftVm};
use vcpu::{CpuState, DescriptorTable, Segment};

use crate::source::Source;

const RAM_LEN: u64 = 1 << 20;
const GUARD_LEN: u64 = 64 << 10;
const GUARD: u8 = 0xA5;
/// How long a guest runs.
const RUN: Duration = Duration::from_micros(300);
/// How long it may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const PML4: u64 = 0x4000;
const CODE: u64 = 0x8000;
const STACK_TOP: u64 = 0x7_0000;
/// Null, code and data for each of 64-bit ring 0, 32-bit ring 0, 64-bit ring 3.
const GDT_ENTRIES: [u64; 7] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
];
/// Handlers that go on a byte behind the fault, so that more of the code is reached.
const RESUME_REAL: &[u8] = b"\x55\x89\xE5\xFF\x46\x02\x5D\xCF";
const RESUME_32: &[u8] = b"\xFF\x04\x24\xCF";
const RESUME_32_ERROR: &[u8] = b"\x83\xC4\x04\xFF\x04\x24\xCF";
const RESUME_64: &[u8] = b"\x48\xFF\x04\x24\x48\xCF";
const RESUME_64_ERROR: &[u8] = b"\x48\x83\xC4\x08\x48\xFF\x04\x24\x48\xCF";
const RESUME_AT: u64 = 0x3000;
const RESUME_ERROR_AT: u64 = 0x3010;
const WITH_ERROR: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    Protected,
    Long,
    User,
}

/// Runs the code that `data` describes in the interpreter.
pub fn run(data: &[u8]) {
    run_with(data, None);
}

/// Runs the code that `data` describes.
pub(crate) fn run_with(data: &[u8], jit: Option<JitOptions>) {
    let mut source = Source::new(data);
    let below = guard();
    let memory = Arc::new(memory::allocate(&[(GuestAddress(0), RAM_LEN)]).expect("a MiB"));
    let above = guard();
    let choice = source.u8();
    let mode = [Mode::Real, Mode::Protected, Mode::Long, Mode::User][usize::from(choice & 3)];
    let mut state = first_state(mode);
    scatter(&mut state, &mut source);
    if choice & 0xE0 == 0xE0 {
        spoil(&mut state, &mut source);
    }
    lay_out(&memory, mode);
    write(&memory, CODE, source.bytes(32 << 10));
    execute(memory, &state, jit);
    for memory in [below, above] {
        let mut bytes = vec![0; GUARD_LEN as usize];
        memory.read_slice(&mut bytes, GuestAddress(0)).expect("in its memory");
        assert!(bytes.iter().all(|byte| *byte == GUARD), "the guest wrote beyond its RAM");
    }
}

/// Memory that mostly lies beside the guest's.
fn guard() -> GuestMemory {
    let memory = memory::allocate(&[(GuestAddress(0), GUARD_LEN)]).expect("little");
    write(&memory, 0, &[GUARD; GUARD_LEN as usize]);
    memory
}

fn write(memory: &GuestMemory, at: u64, bytes: &[u8]) {
    memory.write_slice(bytes, GuestAddress(at)).expect("in RAM");
}

fn execute(memory: Arc<GuestMemory>, state: &CpuState, jit: Option<JitOptions>) {
    let options = Options { jit, ..Options::default() };
    let vm = SoftVm::new(memory, options).expect("a vCPU is allowed");
    let mut cpu = vm.vcpu(0).expect("the first");
    // A state that the CPU refuses is no state to run.
    if cpu.set_state(state).is_err() {
        return;
    }
    let (kicker, io) = (cpu.kicker(), Arc::new(IoSpace::default()));
    let (ended, wait) = mpsc::channel::<()>();
    std::thread::scope(|threads| {
        let stopper = threads.spawn(move || {
            let stopped = wait.recv_timeout(RUN).is_ok();
            let kicked = Instant::now();
            if !stopped {
                kicker.kick();
                let late = wait.recv_timeout(STOP_MAX).is_err();
                assert!(!late, "the vCPU goes on {:?} after a kick", kicked.elapsed());
            }
        });
        // However it ends, it may; and the stopper may have gone already.
        let _ = cpu.run(&io);
        let _ = ended.send(());
        stopper.join().expect("the vCPU stops");
    });
    cpu.state().expect("the state is at hand between runs");
}

/// Registers: addresses in RAM, or anything.
fn scatter(state: &mut CpuState, source: &mut Source<'_>) {
    for register in &mut state.gpr {
        *register = match source.u8() {
            0..0x80 => u64::from(source.u16()) << 4,
            0x80..0xC0 => u64::from(source.u8()),
            _ => source.u64(),
        };
    }
    if source.u8() & 7 != 0 {
        state.gpr[4] = STACK_TOP;
    }
    state.rflags = 2 | u64::from(source.u16()) & 0x8DD5;
}

/// A state as no processor leaves it, but a file may hold it.
fn spoil(state: &mut CpuState, source: &mut Source<'_>) {
    state.rflags = source.u64();
    for word in [&mut state.cr0, &mut state.cr4, &mut state.efer, &mut state.cr3] {
        let flip = u64::from(source.u32());
        *word ^= flip & u64::from(source.u32());
    }
    (state.cr8, state.xcr0, state.rip) = (source.u64(), source.u64(), source.u64());
    for segment in &mut state.segments {
        segment.attributes ^= source.u16();
        segment.base = source.u64();
        segment.selector = source.u16();
    }
    for register in &mut state.debug {
        *register = source.u64();
    }
    state.fxsave.copy_from_slice(&source.array::<512>());
}

fn lay_out(memory: &GuestMemory, mode: Mode) {
    let put = |at: u64, word: u64| write(memory, at, &word.to_le_bytes());
    for (at, entry) in (GDT..).step_by(8).zip(GDT_ENTRIES) {
        put(at, entry);
    }
    put(PML4, (PML4 + 0x1000) | 7);
    put(PML4 + 0x1000, (PML4 + 0x2000) | 7);
    for n in 0..512 {
        put(PML4 + 0x2000 + n * 8, n << 21 | 0x87);
    }
    let (plain, error): (&[u8], &[u8]) = match mode {
        Mode::Real => (RESUME_REAL, RESUME_REAL),
        Mode::Protected => (RESUME_32, RESUME_32_ERROR),
        Mode::Long | Mode::User => (RESUME_64, RESUME_64_ERROR),
    };
    write(memory, RESUME_AT, plain);
    write(memory, RESUME_ERROR_AT, error);
    for vector in 0..256 {
        let has_error = vector < 32 && WITH_ERROR >> vector & 1 != 0;
        let handler = if has_error { RESUME_ERROR_AT } else { RESUME_AT };
        match mode {
            Mode::Real => write(memory, vector * 4, &(RESUME_AT as u32).to_le_bytes()),
            Mode::Protected => put(IDT + vector * 8, handler | 0x18 << 16 | 0xEE << 40),
            Mode::Long | Mode::User => put(IDT + vector * 16, handler | 8 << 16 | 0xEE << 40),
        }
    }
}

fn first_state(mode: Mode) -> CpuState {
    let (code, data) = match mode {
        Mode::Real => ((0, 0x9B), (0, 0x93)),
        Mode::Protected => ((0x18, 0xC9B), (0x20, 0xC93)),
        Mode::Long => ((8, 0xA9B), (0x10, 0xC93)),
        Mode::User => ((0x2B, 0xAFB), (0x33, 0xCF3)),
    };
    let limit = if mode == Mode::Real { 0xFFFF } else { !0 };
    let segment =
        |(selector, attributes)| Segment { selector, base: 0, limit, attributes, unusable: false };
    let mut segments = [segment(data); 6];
    segments[1] = segment(code);
    let long = matches!(mode, Mode::Long | Mode::User);
    let idt = if mode == Mode::Real { (0, 0x3FF) } else { (IDT, 0xFFF) };
    CpuState {
        rip: CODE,
        segments,
        // The stack of ring 0 comes from a TSS of zeros, whose stack is at the top of memory.
        tr: Segment { selector: 0, base: 0x6000, limit: 0x67, attributes: 0x8B, unusable: false },
        gdtr: DescriptorTable { base: GDT, limit: (GDT_ENTRIES.len() * 8 - 1) as u16 },
        idtr: DescriptorTable { base: idt.0, limit: idt.1 },
        cr0: match mode {
            Mode::Real => 0x30,
            Mode::Protected => 0x31,
            Mode::Long | Mode::User => 0x8000_0031,
        },
        cr3: PML4,
        cr4: if long { 0x6A0 } else { 0x600 },
        efer: if long { 0xD01 } else { 0 },
        apic_base: 0xFEE0_0900,
        ..CpuState::default()
    }
}
