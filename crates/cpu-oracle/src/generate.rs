//! Cases from numbers.

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};

use crate::case::{Case, Fix, Unit};
use crate::layout::{CODE, DATA, DATA_LEN, PAGE};
use crate::opcodes::{self, Imm, Map, ModRm, Row, Table};
use crate::operand::{self, Addressing};
use crate::random::Random;

/// Instructions in a sequence at most, not counting those that prepare others.
const UNITS_MAX: u64 = 8;
const ARITHMETIC_FLAGS: u64 = 0x8D5;
const DF: u64 = 0x400;
const TF: u64 = 0x100;
/// TF and AC.
const NOT_POPPED: u32 = 0x4_0100;
/// The longest instruction (SDM Vol. 2A, 2.3.11).
const INSTRUCTION_MAX: usize = 15;
const LOCK: u8 = 0xF0;
/// The digit of CMP among ADD and its family.
const CMP: u8 = 7;
const RSP: usize = 4;
const RCX: usize = 1;

/// Case `number` of `seed`.
pub fn case(seed: u64, number: u64) -> Case {
    let random = &mut Random::new(seed, number);
    let gpr = registers(random);
    let mut rflags = random.next() & ARITHMETIC_FLAGS;
    if random.chance(20) {
        rflags |= DF;
    }
    if random.chance(1) {
        rflags |= TF;
    }
    let count = 1 + random.below(UNITS_MAX);
    let floating = random.chance(15);
    let mut units: Vec<Unit> = Vec::new();
    for _ in 0..count {
        let table =
            if floating && random.chance(60) { opcodes::floating() } else { opcodes::integer() };
        units.push(unit(random, table, &gpr));
    }
    if random.chance(10) {
        make_loop(random, &mut units);
    }
    let start = CODE
        + match random.below(10) {
            0 => PAGE - 1 - random.below(40),
            1 => random.below(PAGE),
            _ => 0x100,
        };
    Case { gpr, rflags, fx: floating_state(random, floating), data: data(random), start, units }
}

fn registers(random: &mut Random) -> [u64; 16] {
    let mut gpr = [0; 16];
    for (n, value) in gpr.iter_mut().enumerate() {
        let pointers = match n {
            RSP => 92,
            6 | 7 => 75,
            RCX => 10,
            _ => 35,
        };
        *value = if random.chance(pointers) {
            let address = DATA + 64 + random.below(DATA_LEN - PAGE - 128);
            if n == RSP { address & !7 } else { address & !random.pick(&[0, 1, 3, 7, 15]) }
        } else if n == RCX && random.chance(70) {
            random.below(40)
        } else {
            random.value()
        };
    }
    gpr
}

fn data(random: &mut Random) -> Box<[u8; DATA_LEN as usize]> {
    let mut data = Box::new([0; DATA_LEN as usize]);
    let uniform = random.chance(10);
    let fill = random.interesting();
    for chunk in data.chunks_exact_mut(8) {
        let word = match random.next() {
            _ if uniform => fill,
            word if word & 7 == 0 => random.interesting(),
            word if word & 7 == 1 => word >> 56,
            word => word,
        };
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    data
}

/// An FXSAVE image, with all exceptions masked.
fn floating_state(random: &mut Random, used: bool) -> Box<[u8; 512]> {
    let mut fx = vcpu::CpuState::default().fxsave;
    if !used {
        return fx;
    }
    let control = 0x37F & !(random.below(4) << 8) | random.below(4) << 10;
    let status = random.below(8) << 11;
    fx[0..2].copy_from_slice(&(control as u16).to_le_bytes());
    fx[2..4].copy_from_slice(&(status as u16).to_le_bytes());
    let some = random.next() as u8;
    fx[4] = random.pick(&[0, 0xFF, some]);
    let mxcsr = 0x1F80 | random.below(4) << 13 | random.pick(&[0, 0x8040]);
    fx[24..28].copy_from_slice(&(mxcsr as u32).to_le_bytes());
    for register in 0..8 {
        let any = random.next() & 0xFFFF;
        let exponent = random.pick(&[0, 0x3FFF, 0x4005, 0x7FFF, 0xBFFF, any]);
        let integer = if exponent & 0x7FFF == 0 { 0 } else { 1 << 63 };
        let significand = integer | random.value() >> 1;
        let at = 32 + register * 16;
        fx[at..at + 8].copy_from_slice(&significand.to_le_bytes());
        fx[at + 8..at + 10].copy_from_slice(&(exponent as u16).to_le_bytes());
    }
    for chunk in fx[160..416].chunks_exact_mut(8) {
        let word = match random.below(4) {
            0 => f64::from(random.below(2000) as i32 - 1000).to_bits(),
            1 => {
                let single = |r: &mut Random| (r.below(2000) as f32 - 1000.0).to_bits();
                u64::from(single(random)) << 32 | u64::from(single(random))
            }
            _ => random.value(),
        };
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    fx
}

/// An instruction of `table`.
fn unit(random: &mut Random, table: &Table, gpr: &[u64; 16]) -> Unit {
    let row = *table.row(random.next() >> 8);
    let opcode = row.first + random.below(u64::from(row.count)) as u8;
    let is_memory = match row.modrm {
        ModRm::Absent | ModRm::RegisterDigits(_) => false,
        ModRm::Memory | ModRm::MemoryDigits(_) => true,
        ModRm::Any | ModRm::Digits(_) => random.chance(50),
    };
    let (mut bytes, small, wide, addressing) = prefixes(random, row, is_memory);
    let reg = match row.modrm {
        ModRm::Digits(d) | ModRm::MemoryDigits(d) | ModRm::RegisterDigits(d) => random.pick(d),
        _ => random.below(8) as u8,
    };
    let operand = match row.modrm {
        ModRm::Absent => None,
        _ if is_memory => Some(operand::memory(random, reg, gpr, addressing)),
        _ => Some(operand::register(random, reg)),
    };
    let extension = operand.as_ref().map_or(random.below(2) as u8, |o| o.rex);
    // Without REX, AH to BH are in reach.
    let legacy = !wide && (operand.as_ref().is_none_or(|o| o.rex == 0) || random.chance(25));
    let legacy = legacy && !(is_memory && extension != 0);
    if !legacy && (wide || extension != 0 || random.chance(50)) {
        bytes.push(0x40 | u8::from(wide) << 3 | extension);
    }
    match row.map {
        Map::One => {}
        Map::Two => bytes.push(0x0F),
        Map::Three38 => bytes.extend([0x0F, 0x38]),
        Map::Three3A => bytes.extend([0x0F, 0x3A]),
    }
    bytes.push(opcode);
    let mut fix = Fix::Nothing;
    if let Some(operand) = operand {
        fix = operand.fix(bytes.len());
        bytes.extend(operand.bytes);
    }
    if let Some(jump) = immediate(random, row.imm, small, wide, addressing, &mut bytes) {
        fix = jump;
    }
    if bytes.len() > INSTRUCTION_MAX && reg == CMP {
        // Only LOCK can be one too many. LOCK CMP is #UD, too long is #GP: the host's choice.
        let lock = bytes.iter().position(|byte| *byte == LOCK);
        bytes.remove(lock.expect("the longest forms fit without LOCK"));
    }
    prepare(random, row, opcode, Unit { bytes, fix })
}

/// Legacy prefixes; whether 66 and REX.W apply; and how addresses are formed.
fn prefixes(random: &mut Random, row: Row, is_memory: bool) -> (Vec<u8>, bool, bool, Addressing) {
    let mut bytes = Vec::new();
    let addresses =
        is_memory || row.imm == Imm::Address || row.prefixes.repeat || row.first == 0xD7;
    let branches = matches!(row.imm, Imm::Near) && row.first == 0xE0;
    let short = (addresses || branches) && random.chance(10);
    let gs = addresses && random.chance(6);
    if short {
        bytes.push(0x67);
    }
    if gs {
        bytes.push(0x65);
    } else if addresses && random.chance(4) {
        bytes.push(random.pick(&[0x26, 0x2E, 0x36, 0x3E]));
    }
    let wide = row.prefixes.size && random.chance(40);
    // MOVSXD of 16 bits reads two bytes or four, depending on the host's maker.
    let small = row.prefixes.size && row.first != 0x63 && random.chance(25);
    if small {
        bytes.push(0x66);
    }
    if row.prefixes.lock && random.chance(if is_memory { 30 } else { 1 }) {
        bytes.push(LOCK);
    }
    if row.prefixes.repeat && random.chance(75) {
        bytes.push(random.pick(&[0xF2, 0xF3]));
    }
    if row.prefixes.mandatory != 0 {
        bytes.push(row.prefixes.mandatory);
    }
    (bytes, small, wide, Addressing { short, gs })
}

/// Appends what follows the operand.
fn immediate(
    random: &mut Random,
    imm: Imm,
    small: bool,
    wide: bool,
    addressing: Addressing,
    bytes: &mut Vec<u8>,
) -> Option<Fix> {
    let value = random.value().to_le_bytes();
    let word = if small && !wide { 2 } else { 4 };
    match imm {
        Imm::None => {}
        Imm::Byte => bytes.push(value[0]),
        Imm::Count if random.chance(70) => bytes.push(random.below(70) as u8),
        Imm::Count => bytes.push(value[0]),
        Imm::Word => bytes.extend(&value[..word]),
        Imm::Full => bytes.extend(&value[..if wide { 8 } else { word }]),
        Imm::Enter => {
            let size = random.below(300) as u16;
            bytes.extend(size.to_le_bytes());
            bytes.push(random.pick(&[0, 0, 1, 2, 5, 31, value[0]]));
        }
        Imm::Two => bytes.extend((random.below(64) as u16).to_le_bytes()),
        Imm::Address => {
            let gs = if addressing.gs { crate::layout::GS_BASE } else { 0 };
            let address = operand::target(random).wrapping_sub(gs).to_le_bytes();
            bytes.extend(&address[..if addressing.short { 4 } else { 8 }]);
        }
        Imm::Near | Imm::Far => {
            let len = if imm == Imm::Near { 1 } else { 4 };
            bytes.extend(&[0; 4][..len]);
            return Some(Fix::Jump { len, over: random.pick(&[0, 1, 1, 2, 3]) });
        }
    }
    None
}

fn is_division(row: Row) -> bool {
    row.map == Map::One && row.first & 0xFE == 0xF6 && row.modrm == ModRm::Digits(&[6, 7])
}

/// Puts before an instruction what makes it do something of interest.
fn prepare(random: &mut Random, row: Row, opcode: u8, mut unit: Unit) -> Unit {
    if is_division(row) {
        // ADD AL, AL: the division's own flags are nobody's business.
        unit.bytes.extend([0x00, 0xC0]);
    }
    let before: Vec<u8> = match (row.map, opcode, row.modrm) {
        // DIV and IDIV: a dividend that fits, mostly.
        (Map::One, 0xF6 | 0xF7, ModRm::Digits(&[6, 7])) if random.chance(75) => {
            let clears: [&[u8]; 5] =
                [&[0x31, 0xD2], &[0x48, 0x99], &[0x99], &[0x66, 0x99], &[0x66, 0x98]];
            random.pick(&clears).to_vec()
        }
        // POPF: neither TF nor AC, mostly. AND DWORD [RSP], imm32.
        (Map::One, 0x9D, _) if random.chance(90) => {
            let mut and = vec![0x81, 0x24, 0x24];
            and.extend((!NOT_POPPED).to_le_bytes());
            and
        }
        // BT of memory by a register: a bit number that stays in the pages. AND r32, 0FFFh on all
        // registers that it may be is too much; on ECX and EDX will do.
        (Map::Two, 0xA3 | 0xAB | 0xB3 | 0xBB, _) if random.chance(50) => {
            vec![0x81, random.pick(&[0xE1, 0xE2]), 0xFF, 0x0F, 0, 0]
        }
        _ => return unit,
    };
    let fix = match unit.fix {
        Fix::Rip { at, target } => Fix::Rip { at: at + before.len(), target },
        other => other,
    };
    Unit { bytes: [before, unit.bytes].concat(), fix }
}

/// Makes a loop of the first units, if they leave RCX alone: MOV ECX, n; ...; LOOP. Of the first,
/// since a jump past the MOV would make it a very long one.
fn make_loop(random: &mut Random, units: &mut Vec<Unit>) {
    let len = 1 + random.below(units.len() as u64) as usize;
    if units[..len].iter().any(|u| !keeps_rcx(u)) {
        return;
    }
    let mut count = vec![0xB9];
    count.extend((1 + random.below(5) as u32).to_le_bytes());
    units.insert(0, Unit { bytes: count, fix: Fix::Nothing });
    let over = -(len as i8) - 1;
    let back: &[u8] = match random.below(4) {
        0 => &[0xE2, 0],
        1 => &[0xE1, 0],
        2 => &[0xE0, 0],
        // DEC ECX; JNZ
        _ => &[0xFF, 0xC9, 0x75, 0],
    };
    units.insert(len + 1, Unit { bytes: back.to_vec(), fix: Fix::Jump { len: 1, over } });
}

fn keeps_rcx(unit: &Unit) -> bool {
    let mut info = InstructionInfoFactory::new();
    Decoder::new(64, &unit.bytes, DecoderOptions::NONE).iter().all(|instruction| {
        let used = info.info(&instruction).used_registers();
        used.iter()
            .all(|r| r.access() == OpAccess::Read || r.register().full_register() != Register::RCX)
    })
}
