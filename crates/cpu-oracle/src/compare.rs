//! What must be equal, the smallest case that is not, and the report of it.
//!
//! Everything is compared, the flags that the manuals leave undefined included: the software CPU
//! takes them from the host's own instructions. Not compared are
//!
//! - the instruction and data pointers and the opcode in the x87 state, which depend on the maker of
//!   the host (FOP, FIP, FDP);
//! - the present bit in the error code of a page fault at an address that no process has,
//!   which Linux always shows as set;
//! - the arithmetic flags where a sequence ends by another exception than the INT3 behind it: the
//!   software CPU leaves flags out that an instruction behind the faulting one sets anew;
//! - which of its two operands a CMPS reports where both fail;
//! - which fault an access through GS ends in: some hosts check the offset as well, before the base
//!   is added, for being canonical;
//! - the flags after DIV and IDIV, which a processor's microcode leaves behind: the generator puts an
//!   ADD behind each;
//! - a case in which POPF sets AC: Linux then delivers alignment faults, which the software CPU does
//!   not have.

use anyhow::Result;
use iced_x86::{Mnemonic, Register};

use crate::case::{Case, End, Fix, Outcome};
use crate::layout::DATA;

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const RFLAGS_AC: u64 = 1 << 18;
/// An error code's bit for a page that is present.
const PRESENT: u64 = 1;
const ARITHMETIC_FLAGS: u64 = 0x8D5;
const VECTOR_BP: u8 = 3;
const VECTOR_GP: u8 = 13;
const VECTOR_PF: u8 = 14;
const VECTOR_AC: u8 = 17;
/// The first address that Linux takes for the kernel's.
const KERNEL: u64 = 0x7FFF_FFFF_F000;
const FOP_FIP_FDP: std::ops::Range<usize> = 6..24;
const DIFFERENCES_MAX: usize = 24;

/// Whether the host's outcome says what the software CPU should do.
pub fn is_comparable(native: &Outcome) -> bool {
    let alignment = matches!(native.end, End::Exception { vector: VECTOR_AC, .. });
    native.end != End::TimedOut && !alignment && native.rflags & RFLAGS_AC == 0
}

/// What differs, a line each.
pub fn differences(case: &Case, native: &Outcome, soft: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |name: &dyn Fn() -> String, n: u64, s: u64| {
        if n != s {
            found.push(format!("{}: host {n:#x}, software {s:#x}", name()));
        }
    };
    for (n, name) in NAMES.iter().enumerate() {
        note(&|| name.to_string(), native.gpr[n], soft.gpr[n]);
    }
    note(&|| "rip".to_owned(), native.rip, soft.rip);
    let ignored = if is_regular(native.end) { 0 } else { ARITHMETIC_FLAGS };
    note(&|| "rflags".to_owned(), native.rflags & !ignored, soft.rflags & !ignored);
    for at in (0..416).step_by(2).filter(|at| is_compared(*at)) {
        let word = |o: &Outcome| u64::from(u16::from_le_bytes([o.fx[at], o.fx[at + 1]]));
        note(&|| format!("fxsave+{at}"), word(native), word(soft));
    }
    if native.data != soft.data {
        for (at, (n, s)) in (DATA..).zip(native.data.iter().zip(soft.data.iter())) {
            note(&|| format!("[{at:#x}]"), u64::from(*n), u64::from(*s));
        }
    }
    if normalized(native.end) != normalized(soft.end) && !is_either_of_two(case, native, soft) {
        found.push(format!("end: host {:x?}, software {:x?}", native.end, soft.end));
    }
    found
}

/// Whether the two bytes at `at` of the FXSAVE image are compared.
fn is_compared(at: usize) -> bool {
    const REGISTERS: std::ops::Range<usize> = 32..160;
    const MXCSR_MASK: std::ops::Range<usize> = 28..32;
    let unused = REGISTERS.contains(&at) && at % 16 >= 10 || MXCSR_MASK.contains(&at);
    !unused && !FOP_FIP_FDP.contains(&at)
}

/// Whether both ended by a fault at an instruction of which hosts report one or another: CMPS with
/// its two operands, or one through GS.
fn is_either_of_two(case: &Case, native: &Outcome, soft: &Outcome) -> bool {
    let is_access = |end| matches!(end, End::Exception { vector: VECTOR_GP | VECTOR_PF, .. });
    is_access(native.end) && is_access(soft.end) && native.rip == soft.rip && {
        let comparisons = [Mnemonic::Cmpsb, Mnemonic::Cmpsw, Mnemonic::Cmpsd, Mnemonic::Cmpsq];
        case.instruction_at(native.rip).is_some_and(|i| {
            comparisons.contains(&i.mnemonic()) || i.segment_prefix() == Register::GS
        })
    }
}

/// Whether the sequence ran to the INT3 behind it.
fn is_regular(end: End) -> bool {
    matches!(end, End::Exception { vector: VECTOR_BP, .. })
}

fn normalized(end: End) -> End {
    match end {
        End::Exception { vector: VECTOR_PF, error, cr2 } if cr2 >= KERNEL => {
            End::Exception { vector: VECTOR_PF, error: error | PRESENT, cr2 }
        }
        other => other,
    }
}

/// Makes `case` smaller as long as `differs` says that it still does.
pub fn shrink(mut case: Case, mut differs: impl FnMut(&Case) -> Result<bool>) -> Result<Case> {
    let mut n = 0;
    while n < case.units.len() {
        let mut smaller = case.clone();
        smaller.units.remove(n);
        for (m, unit) in smaller.units.iter_mut().enumerate() {
            if let Fix::Jump { over, .. } = &mut unit.fix {
                *over -= i8::from(m < n && *over > 0);
                *over += i8::from(m >= n && *over < -1);
            }
        }
        if !smaller.units.is_empty() && differs(&smaller)? {
            case = smaller;
        } else {
            n += 1;
        }
    }
    let mut simplify = |change: &dyn Fn(&mut Case)| -> Result<()> {
        let mut simpler = case.clone();
        change(&mut simpler);
        if differs(&simpler)? {
            case = simpler;
        }
        Ok(())
    };
    for n in 0..16 {
        simplify(&|c| c.gpr[n] = 0)?;
    }
    simplify(&|c| c.rflags = 0)?;
    simplify(&|c| c.data.fill(0))?;
    simplify(&|c| *c.fx = *vcpu::CpuState::default().fxsave)?;
    Ok(case)
}

/// The case, and what differs.
pub fn report(case: &Case, native: &Outcome, soft: &Outcome) -> String {
    let mut text = case.listing();
    for (name, value) in NAMES.iter().zip(case.gpr).filter(|(_, value)| *value != 0) {
        text += &format!("  {name}={value:#x}");
    }
    text += &format!("  rflags={:#x} data {}\n", case.rflags, data_summary(case));
    if case.fx[..] != vcpu::CpuState::default().fxsave[..] {
        text += &format!("  fxsave={:02x?}\n", &case.fx[..416]);
    }
    let found = differences(case, native, soft);
    for line in found.iter().take(DIFFERENCES_MAX) {
        text += &format!("  ! {line}\n");
    }
    if found.len() > DIFFERENCES_MAX {
        text += &format!("  ! and {} more\n", found.len() - DIFFERENCES_MAX);
    }
    text + &format!("  ended: host {:x?}, software {:x?}\n", native.end, soft.end)
}

fn data_summary(case: &Case) -> &'static str {
    if case.data.iter().all(|byte| *byte == 0) { "zero" } else { "random" }
}
