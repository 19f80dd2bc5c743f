//! AAA, AAS, DAA, DAS, AAM, AAD: instructions of 16- and 32-bit code only.

use crate::cpu::{Cpu, Exception, RAX, Step, vector};
use crate::flags::{FX_AF, FX_CF, FX_OF, FX_PF, FX_SF, FX_ZF};

/// Adjusts AL or AX by instruction `kind`: 0 AAA, 1 AAS, 2 DAA, 3 DAS, 4 AAM, 5 AAD.
pub fn adjust(kind: u8, base: u8, cpu: &mut Cpu) -> Step {
    let ax = cpu.get::<u16>(RAX as u8);
    let (al, ah) = (ax as u8, (ax >> 8) as u8);
    match kind {
        0 | 1 => ascii_adjust(kind == 1, ax, cpu),
        2 | 3 => decimal_adjust(kind == 3, al, cpu),
        4 if base == 0 => return Err(cpu.raise(Exception::plain(vector::DE))),
        4 => {
            cpu.set(RAX as u8, u16::from(al / base) << 8 | u16::from(al % base));
            set_szp(al % base, 0, cpu);
        }
        _ => {
            let value = al.wrapping_add(ah.wrapping_mul(base));
            cpu.set(RAX as u8, u16::from(value));
            set_szp(value, 0, cpu);
        }
    }
    Ok(())
}

fn ascii_adjust(subtract: bool, ax: u16, cpu: &mut Cpu) {
    let adjusts = ax & 0xF > 9 || cpu.fx & FX_AF != 0;
    let value = match (adjusts, subtract) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    };
    cpu.set(RAX as u8, value & 0xFF0F);
    let carry = if adjusts { FX_CF | FX_AF } else { 0 };
    set_szp(value as u8 & 0xF, carry, cpu);
}

fn decimal_adjust(subtract: bool, old: u8, cpu: &mut Cpu) {
    let old_carry = cpu.fx & FX_CF != 0;
    let mut value = old;
    let mut flags = 0;
    let step =
        |value: u8, by: u8| if subtract { value.wrapping_sub(by) } else { value.wrapping_add(by) };
    if old & 0xF > 9 || cpu.fx & FX_AF != 0 {
        let borrows = if subtract { old < 6 } else { old > 0xF9 };
        value = step(value, 6);
        flags |= FX_AF;
        if old_carry || borrows {
            flags |= FX_CF;
        }
    }
    if old > 0x99 || old_carry {
        value = step(value, 0x60);
        flags |= FX_CF;
    }
    cpu.set(0, value);
    set_szp(value, flags, cpu);
}

fn set_szp(value: u8, others: u16, cpu: &mut Cpu) {
    let mut fx = others;
    fx |= if value == 0 { FX_ZF } else { 0 };
    fx |= if value & 0x80 != 0 { FX_SF } else { 0 };
    fx |= if value.count_ones().is_multiple_of(2) { FX_PF } else { 0 };
    cpu.fx = fx & !FX_OF;
}
