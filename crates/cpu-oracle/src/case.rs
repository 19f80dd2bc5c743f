//! What both sides are given and what they give back.

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};

use crate::layout::{CODE, DATA_LEN};

/// The instruction behind the sequence, which ends it: INT3.
pub(crate) const INT3: u8 = 0xCC;
const DECODING: u32 = DecoderOptions::NO_MPFX_0FBC | DecoderOptions::NO_MPFX_0FBD;

/// One experiment.
#[derive(Clone)]
pub struct Case {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// RFLAGS; only the arithmetic flags, DF and TF may be set.
    pub rflags: u64,
    /// The FXSAVE image.
    pub fx: Box<[u8; 512]>,
    /// The data pages.
    pub data: Box<[u8; DATA_LEN as usize]>,
    /// Where the first instruction lies.
    pub start: u64,
    /// The instructions.
    pub units: Vec<Unit>,
}

/// An instruction, or a few that belong together.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The bytes, but for what `fix` puts there.
    pub bytes: Vec<u8>,
    /// What depends on where the unit lies.
    pub fix: Fix,
}

/// A displacement that depends on where its unit lies.
#[derive(Debug, Clone, Copy)]
pub enum Fix {
    /// None.
    Nothing,
    /// The 32-bit displacement at `at` leads to `target`, from the unit's end.
    Rip {
        /// Offset in the unit.
        at: usize,
        /// The address.
        target: u64,
    },
    /// The branch displacement at the unit's end leads over some units.
    Jump {
        /// Bytes of the displacement: 1 or 4.
        len: usize,
        /// Units: 0 is the unit behind this one, -1 this one.
        over: i8,
    },
}

impl Case {
    /// The code, with the instruction that ends it.
    pub fn code(&self) -> Vec<u8> {
        let starts = self.unit_starts();
        let mut code = Vec::new();
        for (n, unit) in self.units.iter().enumerate() {
            let begin = code.len();
            code.extend_from_slice(&unit.bytes);
            let end = code.len();
            match unit.fix {
                Fix::Nothing => {}
                Fix::Rip { at, target } => {
                    let distance = target.wrapping_sub(self.start + end as u64) as i32;
                    code[begin + at..][..4].copy_from_slice(&distance.to_le_bytes());
                }
                Fix::Jump { len, over } => {
                    let to = (n as i64 + 1 + i64::from(over)).clamp(0, self.units.len() as i64);
                    let distance = starts[to as usize] as i32 - end as i32;
                    code[end - len..].copy_from_slice(&distance.to_le_bytes()[..len]);
                }
            }
        }
        code.push(INT3);
        code
    }

    /// Offsets of the units, and of what is behind them.
    fn unit_starts(&self) -> Vec<usize> {
        let mut starts = vec![0];
        for unit in &self.units {
            starts.push(starts[starts.len() - 1] + unit.bytes.len());
        }
        starts
    }

    /// The instruction at `address`, if it is in the code.
    pub fn instruction_at(&self, address: u64) -> Option<Instruction> {
        let code = self.code();
        let offset = usize::try_from(address.wrapping_sub(self.start)).ok()?;
        let mut decoder = Decoder::with_ip(64, code.get(offset..)?, address, DECODING);
        decoder.can_decode().then(|| decoder.decode())
    }

    /// A line for each instruction: address, bytes, and what they mean.
    pub fn listing(&self) -> String {
        let code = self.code();
        let mut decoder = Decoder::with_ip(64, &code, self.start, DECODING);
        let mut listing = String::new();
        while decoder.can_decode() {
            let at = decoder.position();
            let instruction = decoder.decode();
            let bytes: String =
                code[at..decoder.position()].iter().map(|b| format!("{b:02x}")).collect();
            let address = CODE.max(self.start + at as u64);
            listing += &format!("  {address:#x}: {bytes:<30} {}\n", describe(&instruction));
        }
        listing
    }
}

/// The instruction's form and operands.
fn describe(i: &Instruction) -> String {
    let operand = |n| match i.op_kind(n) {
        OpKind::Register => format!("{:?}", i.op_register(n)),
        OpKind::Memory => format!(
            "{:?}:[{:?}+{:?}*{}+{:#x}]",
            i.memory_segment(),
            i.memory_base(),
            i.memory_index(),
            i.memory_index_scale(),
            i.memory_displacement64(),
        ),
        OpKind::NearBranch64 => format!("{:#x}", i.near_branch64()),
        kind => i.try_immediate(n).map_or(format!("{kind:?}"), |value| format!("{value:#x}")),
    };
    let operands: Vec<String> = (0..i.op_count()).map(operand).collect();
    let prefix = match (i.has_lock_prefix(), i.has_rep_prefix(), i.has_repne_prefix()) {
        (true, ..) => "lock ",
        (_, true, _) => "rep ",
        (_, _, true) => "repne ",
        _ => "",
    };
    format!("{prefix}{:?} {}", i.code(), operands.join(", "))
}

/// How a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By an exception; INT3 is the regular one.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, or 0.
        error: u64,
        /// The address of a page fault, or 0.
        cr2: u64,
    },
    /// It did not end.
    TimedOut,
}

/// What a side made of a case.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The general registers.
    pub gpr: [u64; 16],
    /// RIP as the exception saved it.
    pub rip: u64,
    /// RFLAGS as the exception saved it.
    pub rflags: u64,
    /// The FXSAVE image.
    pub fx: Box<[u8; 512]>,
    /// The data pages.
    pub data: Box<[u8; DATA_LEN as usize]>,
}
