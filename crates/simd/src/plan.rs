//! From a decoded instruction to what running it needs.

use iced_x86::{Code, CodeSize, Instruction, OpKind, Register};

use crate::exec::Exec;
use crate::state::{FpState, Operand, ST, XMM};
use crate::stub::Stub;
use crate::table::{self, Row, Tweak};
use crate::{Gprs, Outcome};

/// Which of CR0's and CR4's bits forbid the instruction; the caller checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// #NM if CR0.EM or CR0.TS is set. Also FXSAVE and FXRSTOR.
    X87,
    /// FWAIT: #NM if both CR0.MP and CR0.TS are set.
    Wait,
    /// #UD if CR0.EM is set, #NM if CR0.TS is.
    Mmx,
    /// #UD if CR0.EM is set or CR4.OSFXSR is clear, #NM if CR0.TS is set.
    Sse,
    /// #UD if CR4.OSXSAVE is clear, #NM if CR0.TS is set.
    Xsave,
    /// No check: CRC32, POPCNT, MOVNTI, fences and prefetches.
    Plain,
}

/// What the caller does with the operand buffer around [`Plan::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemUse {
    /// There is no memory operand, or it is not accessed (a prefetch).
    None,
    /// Load it before.
    Read,
    /// Store it after, unless an exception was raised.
    Write,
    /// Load it before and store it after, unless an exception was raised. x87 stores are of this
    /// kind, since an unmasked exception makes them store nothing and yet complete.
    ReadWrite,
}

/// What an instruction needs to run, resolved once.
#[derive(Clone, Copy)]
pub struct Plan {
    exec: Exec,
    pub(crate) stub: Stub,
    pub(crate) dst: Loc,
    pub(crate) src: Loc,
    pub(crate) mask: Loc,
    /// The immediate; of an x87 instruction, its slot.
    pub(crate) imm: u16,
    /// Bytes of the memory operand.
    pub mem_bytes: u16,
    /// What is done with the memory operand.
    pub mem: MemUse,
    /// The alignment that the operand's address must have, in bytes: 1, 16 or 64. Otherwise #GP(0).
    pub align: u8,
    /// Which control-register checks apply.
    pub class: Class,
    /// Whether the operand is at DS:rDI (with the instruction's segment override and address size)
    /// and has no ModRM form: MASKMOVQ and MASKMOVDQU.
    pub at_rdi: bool,
}

/// What `instr` needs to run, or `None` where it is not an x87, MMX or SSE instruction of the set
/// that this crate executes: the caller's own, or #UD.
pub fn plan(instr: &Instruction) -> Option<Plan> {
    let row = table::row(instr)?;
    let mut plan = Plan::new(instr, &row);
    plan.tweak(instr, row.tweak);
    Some(plan)
}

impl Plan {
    /// Runs the instruction. The caller has made the class's checks and, for an operand that is
    /// read, filled `mem`. `rflags` is read by FCMOVcc only. On [`Outcome::Raise`] the destination is
    /// unchanged and `mem` is not to be stored; the flags of MXCSR say what raised #XM.
    #[inline(always)]
    pub fn run(&self, fp: &mut FpState, gpr: &mut Gprs, mem: &mut Operand, rflags: u64) -> Outcome {
        (self.exec)(self, fp, gpr, mem, rflags)
    }

    fn new(instr: &Instruction, row: &Row) -> Self {
        let mut locs = [Loc::MEM; 3];
        let mut imm = row.slot;
        let mut mem = MemUse::None;
        let mut at_rdi = false;
        for i in 0..instr.op_count().min(3) {
            match instr.op_kind(i) {
                OpKind::Register => locs[i as usize] = Loc::register(instr.op_register(i)),
                OpKind::Immediate8 => imm = u16::from(instr.immediate8()),
                OpKind::Memory if i == 0 && !matches!(row.tweak, Tweak::Reads) => {
                    mem = MemUse::Write
                }
                OpKind::Memory => mem = MemUse::Read,
                OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
                    mem = MemUse::ReadWrite;
                    at_rdi = true;
                }
                _ => {}
            }
        }
        let mem_bytes = instr.memory_size().size() as u16;
        Plan {
            exec: row.exec,
            stub: row.stub,
            dst: locs[0],
            src: locs[1],
            mask: locs[2],
            imm,
            mem_bytes,
            mem,
            align: if mem_bytes == 16 && mem != MemUse::None && !at_rdi { 16 } else { 1 },
            class: row.class,
            at_rdi,
        }
    }

    fn tweak(&mut self, instr: &Instruction, tweak: Tweak) {
        let from_memory = self.mem == MemUse::Read;
        let imm = self.imm as usize;
        match tweak {
            Tweak::Obvious | Tweak::Reads => {}
            Tweak::Unaligned => self.align = 1,
            Tweak::DstHigh => self.dst = self.dst.plus(8),
            Tweak::SrcHigh => self.src = self.src.plus(8),
            Tweak::DstLane(bytes, lanes) => {
                self.dst = self.dst.plus(usize::from(bytes) * (imm & (usize::from(lanes) - 1)));
            }
            Tweak::SrcLane(bytes, lanes) => {
                self.src = self.src.plus(usize::from(bytes) * (imm & (usize::from(lanes) - 1)));
            }
            Tweak::FromMemory(exec) if from_memory => self.exec = exec,
            Tweak::FromMemory(_) => {}
            Tweak::Insertps if from_memory => self.imm &= 0x3f,
            Tweak::Insertps => {}
            Tweak::NoMemory => self.mem = MemUse::None,
            Tweak::Updates => self.mem = MemUse::ReadWrite,
            Tweak::Area(bytes, align, mem) => {
                (self.mem_bytes, self.align, self.mem) = (bytes, align, mem);
                self.imm = u16::from(instr.code_size() == CodeSize::Code64);
            }
        }
    }

    /// Whether the instruction was decoded in 64-bit mode, which the plan of a state area keeps in
    /// place of an immediate.
    pub(crate) fn in_64_bit_mode(&self) -> bool {
        self.imm != 0
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("class", &self.class)
            .field("mem", &self.mem)
            .field("mem_bytes", &self.mem_bytes)
            .field("align", &self.align)
            .field("imm", &self.imm)
            .finish_non_exhaustive()
    }
}

/// What a location is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Fp,
    Gpr,
    Mem,
}

/// Where an operand is: a base and an offset into it. 16 bytes may be accessed from there, which
/// the constructors keep: registers 0 to 15 of 32, MMX and XMM registers of the image, and their
/// lanes, all end at least 16 bytes before their base does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loc(u16);

impl Loc {
    pub(crate) const MEM: Loc = Loc::new(Base::Mem, 0);
    const OFFSET: u16 = 0x3ff;

    const fn new(base: Base, offset: usize) -> Loc {
        assert!(offset < 496);
        Loc((base as u16) << 10 | offset as u16)
    }

    /// A general, MMX or XMM register; x87's stack registers have no location.
    fn register(register: Register) -> Loc {
        let number = register.number();
        if register.is_xmm() {
            Loc::new(Base::Fp, XMM + 16 * (number & 15))
        } else if register.is_mm() {
            Loc::new(Base::Fp, ST + 16 * (number & 7))
        } else if matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) {
            Loc::new(Base::Gpr, 8 * (register.full_register().number() & 15) + 1)
        } else {
            Loc::new(Base::Gpr, 8 * (register.full_register().number() & 15))
        }
    }

    fn plus(self, bytes: usize) -> Loc {
        Loc::new(self.base(), self.offset() + bytes)
    }

    #[inline(always)]
    pub(crate) fn base(self) -> Base {
        match self.0 >> 10 {
            0 => Base::Fp,
            1 => Base::Gpr,
            _ => Base::Mem,
        }
    }

    #[inline(always)]
    pub(crate) fn offset(self) -> usize {
        usize::from(self.0 & Self::OFFSET)
    }
}

/// The number of the x87 register that the instruction names beside ST(0).
pub(crate) fn stack_register(instr: &Instruction) -> u16 {
    (0..instr.op_count())
        .filter(|&i| instr.op_kind(i) == OpKind::Register)
        .map(|i| instr.op_register(i))
        .filter(|register| register.is_st())
        .map(|register| register.number() as u16)
        .max()
        .unwrap_or(0)
}

/// Whether the instruction's encoding is one that this crate's tables know.
pub(crate) fn is_legacy(code: Code) -> bool {
    code.encoding() == iced_x86::EncodingKind::Legacy
}
