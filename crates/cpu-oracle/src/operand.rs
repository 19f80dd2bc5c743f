//! ModRM, SIB and displacement: every form, mostly so that memory operands hit the data pages.

use crate::case::Fix;
use crate::layout::{DATA, DATA_LEN, GS_BASE, PAGE, WRITABLE_LEN};
use crate::random::Random;

/// The prefixes that bear on an address.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addressing {
    /// 67: addresses of 32 bits.
    pub(crate) short: bool,
    /// GS.
    pub(crate) gs: bool,
}

/// A ModRM byte with what follows it.
pub(crate) struct Operand {
    /// REX.R, REX.X and REX.B in bits 2, 1 and 0.
    pub(crate) rex: u8,
    /// ModRM, SIB, displacement.
    pub(crate) bytes: Vec<u8>,
    /// A displacement from RIP: its offset in `bytes`.
    pub(crate) rip: Option<(usize, u64)>,
}

/// An address in the data pages or close to them.
pub(crate) fn target(random: &mut Random) -> u64 {
    let align = random.pick(&[1, 1, 2, 4, 8, 16, 16]);
    let edge = DATA + random.pick(&[0, 1, 2, 2, 3]) * PAGE;
    let address = match random.below(100) {
        0..60 => DATA + random.below(WRITABLE_LEN - 64),
        60..66 => DATA + random.below(DATA_LEN - 64),
        66..80 => DATA + PAGE - 16 + random.below(32),
        80..90 => edge - 16 + random.below(32),
        _ => DATA + PAGE + random.below(64),
    };
    address & !(align - 1)
}

/// A register operand.
pub(crate) fn register(random: &mut Random, reg: u8) -> Operand {
    let rm = random.below(8) as u8;
    let modrm = 0xC0 | (reg & 7) << 3 | rm;
    Operand { rex: random.below(8) as u8, bytes: vec![modrm], rip: None }
}

/// A memory operand, given what the registers hold at the start.
pub(crate) fn memory(
    random: &mut Random,
    reg: u8,
    gpr: &[u64; 16],
    addressing: Addressing,
) -> Operand {
    for _ in 0..6 {
        if let Some(operand) = aimed(random, reg, gpr, addressing) {
            return operand;
        }
        if random.chance(3) {
            break;
        }
    }
    wild(random, reg)
}

/// One whose address is in the data pages, if the form that comes up can reach them.
fn aimed(random: &mut Random, reg: u8, gpr: &[u64; 16], addressing: Addressing) -> Option<Operand> {
    let gs = if addressing.gs { GS_BASE } else { 0 };
    let aim = target(random).wrapping_sub(gs);
    let rex = random.below(8) as u8;
    let reg = (reg & 7) << 3;
    if random.chance(12) {
        let bytes = vec![reg | 5, 0, 0, 0, 0];
        return Some(Operand { rex, bytes, rip: Some((1, aim)) });
    }
    let (rm, sib) = (random.below(8) as u8, random.below(256) as u8);
    let base = if rm == 4 { sib & 7 } else { rm };
    let base_value = gpr[usize::from(base | (rex & 1) << 3)];
    let index = sib >> 3 & 7 | (rex >> 1 & 1) << 3;
    let index_value = if rm == 4 && index != 4 { gpr[usize::from(index)] << (sib >> 6) } else { 0 };
    let no_base = rm == 4 && base == 5 && random.chance(50);
    let sum = index_value.wrapping_add(if no_base { 0 } else { base_value });
    let distance = aim.wrapping_sub(sum);
    let near = i8::try_from(distance as i64).ok().filter(|_| !no_base && random.chance(80));
    let reaches = addressing.short || i32::try_from(distance as i64).is_ok();
    if !reaches {
        return None;
    }
    let (mode, displacement) = match near {
        _ if no_base => (0, (distance as i32).to_le_bytes().to_vec()),
        Some(0) if base != 5 => (0, Vec::new()),
        Some(near) => (1, vec![near as u8]),
        None => (2, (distance as i32).to_le_bytes().to_vec()),
    };
    let mut bytes = vec![mode << 6 | reg | rm];
    if rm == 4 {
        bytes.push(sib);
    }
    bytes.extend(displacement);
    Some(Operand { rex, bytes, rip: None })
}

/// One with any address.
fn wild(random: &mut Random, reg: u8) -> Operand {
    let (mode, rm) = (random.below(3) as u8, random.below(8) as u8);
    let sib = random.below(256) as u8;
    let mut bytes = vec![mode << 6 | (reg & 7) << 3 | rm];
    if rm == 4 {
        bytes.push(sib);
    }
    let full = mode == 2 || mode == 0 && (rm == 5 || rm == 4 && sib & 7 == 5);
    // A displacement from RIP of just below 2 GiB, which no linker makes, does not fit the software
    // CPU's ops.
    let is_rip = mode == 0 && rm == 5;
    let value = random.value() & if is_rip { !(1 << 30) } else { !0 };
    let displacement = value.to_le_bytes();
    bytes.extend(&displacement[..if full { 4 } else { usize::from(mode == 1) }]);
    Operand { rex: random.below(8) as u8, bytes, rip: None }
}

impl Operand {
    /// The fix of a unit in which the operand begins at `at`.
    pub(crate) fn fix(&self, at: usize) -> Fix {
        self.rip.map_or(Fix::Nothing, |(offset, target)| Fix::Rip { at: at + offset, target })
    }
}
