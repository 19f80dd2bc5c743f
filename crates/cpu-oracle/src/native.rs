//! The host's own CPU, by way of signals.
//!
//! ```text
//!   run: INT3 ──▶ handler: keep the frame's registers, put the case's there ──▶ sigreturn
//!                                                                                  │ the case runs
//!   run goes on ◀── sigreturn ◀── handler: keep the case's registers, put ours ◀── exception
//! ```
//!
//! So the kernel loads and saves all registers, and reports vector, error code and CR2. The handler
//! runs on a stack of its own and touches nothing but [`Slot`].
//!
//! `unsafe` is in this file only. The code that runs is what this crate generates: no system calls,
//! no FS, and memory operands that point to the pages of [`crate::layout`] or, by 64 random bits,
//! anywhere: that such an address is one of this process's pages is not to be expected in any
//! number of cases.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use anyhow::{Context, Result, ensure};
use libc::{c_int, c_void, siginfo_t, ucontext_t};

use crate::case::{Case, End, INT3, Outcome};
use crate::layout::{CODE, CODE_LEN, DATA, DATA_LEN, GS_BASE, PAGE, WRITABLE_LEN};
use crate::watchdog::Watchdog;

const SIGNALS: [c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
/// Ends a sequence that takes too long.
const TIME_OUT: c_int = libc::SIGUSR2;
const TIME_OUT_TICKS: u32 = 2;
const STACK_LEN: usize = 256 << 10;
/// Bytes of the FXSAVE image that the processor defines; the kernel uses what is behind.
const FX_LEN: usize = 416;
/// Where an XSAVE area says which parts of it are not in their initial state.
const XSTATE_BV: usize = 512;
/// RFLAGS bits that a signal frame loads: the arithmetic flags, TF and DF.
const LOADED_FLAGS: u64 = 0xDD5;
const VECTOR_PF: i64 = 14;

static IN_USE: AtomicBool = AtomicBool::new(false);
static SLOT: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

/// What the handler and [`Native::run`] hand each other.
struct Slot {
    phase: Phase,
    ours: Registers,
    case: Registers,
    signal: c_int,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Entering,
    Running,
}

#[derive(Clone, Copy)]
struct Registers {
    general: [i64; 23],
    fx: [u8; FX_LEN],
}

const NO_REGISTERS: Registers = Registers { general: [0; 23], fx: [0; FX_LEN] };

/// The host's CPU, with the pages mapped.
pub struct Native {
    slot: Box<Slot>,
    /// A second view of all pages, which may be written.
    alias: *mut u8,
    /// Where the last case's code lies, and how long it is.
    last: (usize, usize),
    watchdog: Watchdog,
    _stack: Vec<u8>,
}

impl Native {
    /// Maps the pages and takes over this process's exceptions, for good.
    pub fn new() -> Result<Self> {
        ensure!(!IN_USE.swap(true, Ordering::SeqCst), "there is one host CPU in a process");
        let mut slot = Box::new(Slot {
            phase: Phase::Idle,
            ours: NO_REGISTERS,
            case: NO_REGISTERS,
            signal: 0,
        });
        SLOT.store(&mut *slot, Ordering::SeqCst);
        let alias = map_pages().context("cannot map the pages of the cases")?;
        let stack = catch_signals().context("cannot catch exceptions")?;
        // SAFETY: sets this thread's GS base, which nothing in a Linux process uses.
        let done = unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1001, GS_BASE) };
        ensure!(done == 0, "cannot set the base of GS: {}", io::Error::last_os_error());
        // SAFETY: no preconditions.
        let thread = unsafe { libc::pthread_self() } as usize;
        let watchdog = Watchdog::new(TIME_OUT_TICKS, move || {
            // SAFETY: the thread that made the `Native` runs it, so it is alive while a run lasts,
            // and only then is this called.
            unsafe { libc::pthread_kill(thread as libc::pthread_t, TIME_OUT) };
        });
        Ok(Self { slot, alias, last: (0, 0), watchdog, _stack: stack })
    }

    /// Runs `case` on this thread.
    pub fn run(&mut self, case: &Case) -> Result<Outcome> {
        self.load(case);
        self.watchdog.start();
        let slot: *mut Slot = &mut *self.slot;
        // SAFETY: the handler comes back here with all of this thread's registers as they were;
        // it reads and writes the slot meanwhile, which is why it is reached by a raw pointer.
        unsafe {
            (&raw mut (*slot).phase).write_volatile(Phase::Entering);
            // A signal frame does not load NT and ID, which the last case may have set.
            std::arch::asm!("push 0x202", "popfq", "int3");
        }
        self.watchdog.stop();
        Ok(self.save())
    }

    fn load(&mut self, case: &Case) {
        let code = case.code();
        let at = (case.start - CODE) as usize;
        assert!(at + code.len() <= CODE_LEN as usize, "the sequence lies in its pages");
        let (last_at, last_len) = std::mem::replace(&mut self.last, (at, code.len()));
        // SAFETY: `alias` maps CODE_LEN + DATA_LEN bytes for writing, and nobody holds a reference
        // to them.
        unsafe {
            ptr::write_bytes(self.alias.add(last_at), INT3, last_len);
            ptr::copy_nonoverlapping(code.as_ptr(), self.alias.add(at), code.len());
            let data = self.alias.add(CODE_LEN as usize);
            ptr::copy_nonoverlapping(case.data.as_ptr(), data, DATA_LEN as usize);
        }
        let registers = &mut self.slot.case;
        for (value, index) in case.gpr.iter().zip(GREGS) {
            registers.general[index] = *value as i64;
        }
        registers.general[libc::REG_RIP as usize] = case.start as i64;
        registers.general[libc::REG_EFL as usize] = (case.rflags & LOADED_FLAGS) as i64;
        registers.fx.copy_from_slice(&case.fx[..FX_LEN]);
    }

    fn save(&self) -> Outcome {
        let registers = &self.slot.case;
        let get = |index: c_int| registers.general[index as usize];
        let vector = get(libc::REG_TRAPNO);
        let cr2 = if vector == VECTOR_PF { get(libc::REG_CR2) as u64 } else { 0 };
        let end = match self.slot.signal {
            TIME_OUT => End::TimedOut,
            _ => End::Exception { vector: vector as u8, error: get(libc::REG_ERR) as u64, cr2 },
        };
        let mut fx = Box::new([0; 512]);
        fx[..FX_LEN].copy_from_slice(&registers.fx);
        let mut data = Box::new([0; DATA_LEN as usize]);
        // SAFETY: as in `load`.
        unsafe {
            let from = self.alias.add(CODE_LEN as usize);
            ptr::copy_nonoverlapping(from, data.as_mut_ptr(), DATA_LEN as usize);
        }
        Outcome {
            end,
            gpr: GREGS.map(|index| registers.general[index] as u64),
            rip: get(libc::REG_RIP) as u64,
            rflags: get(libc::REG_EFL) as u64,
            fx,
            data,
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        SLOT.store(ptr::null_mut(), Ordering::SeqCst);
    }
}

/// Where a signal frame has the registers, in the order of the instruction encoding.
const GREGS: [usize; 16] = [
    libc::REG_RAX as usize,
    libc::REG_RCX as usize,
    libc::REG_RDX as usize,
    libc::REG_RBX as usize,
    libc::REG_RSP as usize,
    libc::REG_RBP as usize,
    libc::REG_RSI as usize,
    libc::REG_RDI as usize,
    libc::REG_R8 as usize,
    libc::REG_R9 as usize,
    libc::REG_R10 as usize,
    libc::REG_R11 as usize,
    libc::REG_R12 as usize,
    libc::REG_R13 as usize,
    libc::REG_R14 as usize,
    libc::REG_R15 as usize,
];

/// Maps one file of memory at the addresses of the layout, and once more for us to write.
fn map_pages() -> io::Result<*mut u8> {
    use libc::{PROT_EXEC, PROT_READ, PROT_WRITE};
    const READ_ONLY_LEN: u64 = DATA_LEN - WRITABLE_LEN;
    // SAFETY: a valid name.
    let file = unsafe { libc::memfd_create(c"cpu-oracle".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: no memory is involved; a bad descriptor is refused.
    if unsafe { libc::ftruncate(file, (CODE_LEN + DATA_LEN) as i64) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let views = [
        (0, CODE_LEN + DATA_LEN, 0, PROT_READ | PROT_WRITE),
        (CODE, CODE_LEN, 0, PROT_READ | PROT_EXEC),
        (DATA, WRITABLE_LEN, CODE_LEN, PROT_READ | PROT_WRITE),
        (DATA + WRITABLE_LEN, READ_ONLY_LEN, CODE_LEN + WRITABLE_LEN, PROT_READ),
    ];
    let mut alias: *mut u8 = ptr::null_mut();
    for (address, len, offset, protection) in views {
        debug_assert!(address % PAGE == 0 && len % PAGE == 0);
        let fixed = if address == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE | fixed;
        let hint = address as *mut c_void;
        // SAFETY: a new mapping that replaces none.
        let view =
            unsafe { libc::mmap(hint, len as usize, protection, flags, file, offset as i64) };
        if view == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if alias.is_null() {
            alias = view.cast();
            // SAFETY: just mapped. INT3 wherever a case might jump to.
            unsafe { ptr::write_bytes(view.cast::<u8>(), INT3, CODE_LEN as usize) };
        }
    }
    Ok(alias)
}

/// Gives this thread a stack for signals, and the handler the signals of exceptions.
fn catch_signals() -> io::Result<Vec<u8>> {
    let mut stack = vec![0u8; STACK_LEN];
    let description =
        libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_LEN };
    // SAFETY: the stack lives as long as the `Native`, and no exception is expected behind that.
    if unsafe { libc::sigaltstack(&description, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for signal in SIGNALS.into_iter().chain([TIME_OUT]) {
        // SAFETY: all zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: fills the mask it is given; the handler has the type that SA_SIGINFO asks for.
        let failed = unsafe {
            libc::sigfillset(&mut action.sa_mask);
            libc::sigaction(signal, &action, ptr::null_mut())
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(stack)
}

extern "C" fn on_signal(signal: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: clears AC, which a case may have set and the kernel leaves set for handlers.
    unsafe { std::arch::asm!("push 0x202", "popfq") };
    let slot = SLOT.load(Ordering::SeqCst);
    // SAFETY: the slot, if there is one, lives while the pointer is published; the thread that
    // owns it is the one interrupted here, by its own INT3 or by the case's exception, and the
    // kernel's frame is this handler's to change.
    unsafe {
        let phase = if slot.is_null() { Phase::Idle } else { (*slot).phase };
        let frame = &mut *context.cast::<ucontext_t>();
        match phase {
            Phase::Entering if signal == libc::SIGTRAP => {
                (*slot).ours = read_frame(frame);
                let mut general = (*slot).case.general;
                // The segments, the signal mask's neighbour and the rest stay the frame's.
                general[libc::REG_CSGSFS as usize] =
                    frame.uc_mcontext.gregs[libc::REG_CSGSFS as usize];
                write_frame(frame, &Registers { general, fx: (*slot).case.fx });
                (*slot).phase = Phase::Running;
            }
            Phase::Running => {
                (*slot).case = read_frame(frame);
                (*slot).signal = signal;
                (*slot).phase = Phase::Idle;
                write_frame(frame, &(*slot).ours);
            }
            // A time-out that comes too late.
            Phase::Idle | Phase::Entering if signal == TIME_OUT => {}
            // Our own fault: let it happen again, without the handler.
            Phase::Idle | Phase::Entering => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// The registers in a signal frame.
///
/// # Safety
/// `frame` is one that the kernel made.
unsafe fn read_frame(frame: &ucontext_t) -> Registers {
    let mut registers = Registers { general: frame.uc_mcontext.gregs, fx: [0; FX_LEN] };
    let area = frame.uc_mcontext.fpregs.cast::<u8>();
    // SAFETY: a frame in 64-bit mode always has an FXSAVE image.
    unsafe { ptr::copy_nonoverlapping(area, registers.fx.as_mut_ptr(), FX_LEN) };
    registers
}

/// Changes the registers in a signal frame.
///
/// # Safety
/// `frame` is one that the kernel made, on a host with XSAVE.
unsafe fn write_frame(frame: &mut ucontext_t, registers: &Registers) {
    frame.uc_mcontext.gregs = registers.general;
    let area = frame.uc_mcontext.fpregs.cast::<u8>();
    // SAFETY: as above; with XSAVE, the header behind the image says that x87 and SSE are in use.
    unsafe {
        ptr::copy_nonoverlapping(registers.fx.as_ptr(), area, FX_LEN);
        *area.add(XSTATE_BV) |= 3;
    }
}
