//! An encoder for the host instructions that translations are made of besides the guest's own.
//!
//! Registers are numbers as instructions encode them, 0 to 15. Producing code is safe: it is bytes.

/// A place in memory: a base register and a displacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The base register.
    pub base: u8,
    /// The displacement.
    pub disp: i32,
}

/// The place of a jump's distance that is not known yet: its position in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap(pub usize);

/// One-byte opcodes of the arithmetic group, as in `op r64, r/m64`.
pub mod alu {
    /// ADD.
    pub const ADD: u8 = 0x03;
    /// XOR.
    pub const XOR: u8 = 0x33;
    /// CMP.
    pub const CMP: u8 = 0x3B;
}

/// ModRM.reg of the group `op r/m, imm`.
pub mod group {
    /// ADD.
    pub const ADD: u8 = 0;
    /// AND.
    pub const AND: u8 = 4;
    /// SUB.
    pub const SUB: u8 = 5;
    /// CMP.
    pub const CMP: u8 = 7;
}

/// The conditions that are used, as Jcc encodes them.
pub mod cc {
    /// Equal.
    pub const E: u8 = 4;
    /// Not equal.
    pub const NE: u8 = 5;
    /// Above or equal.
    pub const AE: u8 = 3;
    /// Below or equal.
    pub const BE: u8 = 6;
    /// Above.
    pub const A: u8 = 7;
    /// Sign.
    pub const S: u8 = 8;
}

/// Code under construction.
#[derive(Default)]
pub struct Code {
    /// The bytes so far.
    pub bytes: Vec<u8>,
}

impl Code {
    /// The position of the next byte.
    pub fn here(&self) -> usize {
        self.bytes.len()
    }

    /// `opcode` with register `reg` and a place in memory. `wide` is REX.W.
    pub fn op_at(&mut self, wide: bool, opcode: &[u8], reg: u8, at: At) {
        self.rex(wide, reg, at.base);
        self.bytes.extend_from_slice(opcode);
        self.modrm_at(reg, at);
    }

    /// `opcode` with two registers: ModRM.reg and ModRM.rm.
    pub fn op_reg(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: u8) {
        self.rex(wide, reg, rm);
        self.bytes.extend_from_slice(opcode);
        self.bytes.push(0xC0 | (reg & 7) << 3 | rm & 7);
    }

    /// A REX prefix, if one is needed.
    fn rex(&mut self, wide: bool, reg: u8, base: u8) {
        let rex = u8::from(wide) << 3 | (reg >> 3) << 2 | base >> 3;
        if rex != 0 {
            self.bytes.push(0x40 | rex);
        }
    }

    /// ModRM, SIB and displacement of a place in memory.
    pub fn modrm_at(&mut self, reg: u8, at: At) {
        let (reg, base) = ((reg & 7) << 3, at.base & 7);
        let short = i8::try_from(at.disp).ok();
        let mode = match short {
            Some(0) if base != 5 => 0x00,
            Some(_) => 0x40,
            None => 0x80,
        };
        self.bytes.push(mode | reg | base);
        if base == 4 {
            self.bytes.push(0x24);
        }
        match (mode, short) {
            (0x00, _) => {}
            (_, Some(short)) => self.bytes.push(short as u8),
            (_, None) => self.imm32(at.disp),
        }
    }

    fn imm32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// MOV of a 64-bit register from memory.
    pub fn load(&mut self, reg: u8, at: At) {
        self.op_at(true, &[0x8B], reg, at);
    }

    /// MOV of a 64-bit register to memory.
    pub fn store(&mut self, reg: u8, at: At) {
        self.op_at(true, &[0x89], reg, at);
    }

    /// MOV r64, r64.
    pub fn mov(&mut self, to: u8, from: u8) {
        if to != from {
            self.op_reg(true, &[0x8B], to, from);
        }
    }

    /// MOV r32, r32.
    pub fn mov32(&mut self, to: u8, from: u8) {
        self.op_reg(false, &[0x8B], to, from);
    }

    /// MOV r64, the sign-extended immediate.
    pub fn mov_imm(&mut self, to: u8, value: i32) {
        self.op_reg(true, &[0xC7], 0, to);
        self.imm32(value);
    }

    /// MOV r32, imm32.
    pub fn mov_imm32(&mut self, to: u8, value: u32) {
        self.rex(false, 0, to);
        self.bytes.push(0xB8 | to & 7);
        self.imm32(value as i32);
    }

    /// MOV r64, imm64.
    pub fn mov_imm64(&mut self, to: u8, value: u64) {
        self.rex(true, 0, to);
        self.bytes.push(0xB8 | to & 7);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// MOV of the sign-extended immediate to 64 bits of memory.
    pub fn store_imm(&mut self, at: At, value: i32) {
        self.op_at(true, &[0xC7], 0, at);
        self.imm32(value);
    }

    /// LEA of a 64-bit register.
    pub fn lea(&mut self, to: u8, at: At) {
        self.op_at(true, &[0x8D], to, at);
    }

    /// LEA of base + index * 2^scale + displacement; `wide` or cut to 32 bits.
    pub fn lea_index(&mut self, wide: bool, to: u8, base: Option<u8>, index: (u8, u8), disp: i32) {
        let (index, scale) = index;
        let low = base.unwrap_or(5);
        let rex = 0x40
            | u8::from(wide) << 3
            | (to >> 3) << 2
            | (index >> 3) << 1
            | base.unwrap_or(0) >> 3;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
        let mode = if base.is_none() {
            0x00
        } else if i8::try_from(disp).is_ok() {
            0x40
        } else {
            0x80
        };
        self.bytes.extend_from_slice(&[
            0x8D,
            mode | (to & 7) << 3 | 4,
            scale << 6 | (index & 7) << 3 | low & 7,
        ]);
        if mode == 0x40 { self.bytes.push(disp as u8) } else { self.imm32(disp) }
    }

    /// An arithmetic instruction of [`alu`] on a 64-bit register and memory.
    pub fn alu_at(&mut self, opcode: u8, reg: u8, at: At) {
        self.op_at(true, &[opcode], reg, at);
    }

    /// An arithmetic instruction of [`group`] on a register and an immediate.
    pub fn alu_imm(&mut self, wide: bool, which: u8, reg: u8, value: i32) {
        match i8::try_from(value) {
            Ok(short) => {
                self.op_reg(wide, &[0x83], which, reg);
                self.bytes.push(short as u8);
            }
            Err(_) => {
                self.op_reg(wide, &[0x81], which, reg);
                self.imm32(value);
            }
        }
    }

    /// An arithmetic instruction of [`group`] on 32 bits of memory and an immediate.
    pub fn alu_at_imm(&mut self, which: u8, at: At, value: i32) {
        match i8::try_from(value) {
            Ok(short) => {
                self.op_at(false, &[0x83], which, at);
                self.bytes.push(short as u8);
            }
            Err(_) => {
                self.op_at(false, &[0x81], which, at);
                self.imm32(value);
            }
        }
    }

    /// TEST r64, the sign-extended immediate.
    pub fn test_imm(&mut self, reg: u8, value: i32) {
        self.op_reg(true, &[0xF7], 0, reg);
        self.imm32(value);
    }

    /// SHR or (`left`) SHL of a register by an immediate.
    pub fn shift(&mut self, wide: bool, left: bool, reg: u8, by: u8) {
        self.op_reg(wide, &[0xC1], if left { 4 } else { 5 }, reg);
        self.bytes.push(by);
    }

    /// SAR of a register by an immediate.
    pub fn shift_signed(&mut self, wide: bool, reg: u8, by: u8) {
        self.op_reg(wide, &[0xC1], 7, reg);
        self.bytes.push(by);
    }

    /// JMP, over a distance that is filled in later.
    pub fn jump(&mut self) -> Gap {
        self.bytes.push(0xE9);
        self.gap()
    }

    /// Jcc, over a distance that is filled in later.
    pub fn jump_if(&mut self, condition: u8) -> Gap {
        self.bytes.extend_from_slice(&[0x0F, 0x80 | condition]);
        self.gap()
    }

    fn gap(&mut self) -> Gap {
        let gap = Gap(self.here());
        self.imm32(0);
        gap
    }

    /// JMP to the address in memory.
    pub fn jump_at(&mut self, at: At) {
        self.op_at(false, &[0xFF], 4, at);
    }

    /// CALL of the address in memory.
    pub fn call_at(&mut self, at: At) {
        self.op_at(false, &[0xFF], 2, at);
    }

    /// Fills a distance in, so that the jump leads to `target`.
    pub fn fill(&mut self, gap: Gap, target: usize) {
        let distance = target as i64 - (gap.0 as i64 + 4);
        let distance = i32::try_from(distance).expect("code is far shorter than 2 GiB");
        self.bytes[gap.0..gap.0 + 4].copy_from_slice(&distance.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Instruction};

    use super::*;

    /// What the bytes are, as the decoder that everybody uses reads them.
    fn check(build: impl Fn(&mut Code), expected: &dyn Fn(&Instruction) -> bool) {
        let mut code = Code::default();
        build(&mut code);
        let mut decoder = Decoder::new(64, &code.bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        assert!(!decoder.can_decode() && !instruction.is_invalid(), "{:02x?}", code.bytes);
        assert!(expected(&instruction), "{:?} of {:02x?}", instruction.code(), code.bytes);
    }

    #[test]
    fn every_base_register_and_displacement_is_encoded() {
        for base in 0..16 {
            for disp in [0, 1, -8, 127, -128, 128, 0x1234_5678] {
                for reg in 0..16 {
                    check(|code| code.load(reg, At { base, disp }), &|i| {
                        i.op0_register().number() == usize::from(reg)
                            && i.memory_base().number() == usize::from(base)
                            && i.memory_displacement64() as i32 == disp
                            && i.memory_index() == iced_x86::Register::None
                    });
                }
            }
        }
    }

    #[test]
    fn every_index_is_encoded() {
        for base in (0..16).map(Some).chain([None]) {
            for index in (0..16).filter(|i| *i != 4) {
                for disp in [0, -3, 0x4000] {
                    check(|code| code.lea_index(true, 5, base, (index, 2), disp), &|i| {
                        i.memory_index().number() == usize::from(index)
                            && i.memory_index_scale() == 4
                            && i.memory_displacement64() as i32 == disp
                            && base.is_none_or(|b| i.memory_base().number() == usize::from(b))
                    });
                }
            }
        }
    }
}
