//! The parts of an instruction's encoding (SDM Vol. 2A, chapter 2), so that it can be put together
//! again with other registers and another memory operand.
//!
//! Legacy encodings in 64-bit mode only; the instruction was found valid by the decoder before.

/// Opcode maps: one byte, 0F, 0F 38, 0F 3A.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    /// One opcode byte.
    One,
    /// 0F.
    Two,
    /// 0F 38.
    Three38,
    /// 0F 3A.
    Three3A,
}

/// An instruction taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding<'a> {
    /// F0.
    pub lock: bool,
    /// 66.
    pub operand_16: bool,
    /// F2 or F3, or 0.
    pub repeat: u8,
    /// The REX prefix, or 0.
    pub rex: u8,
    /// Which map the opcode is in.
    pub map: Map,
    /// The opcode.
    pub opcode: u8,
    /// ModRM, if there is one.
    pub modrm: Option<u8>,
    /// The immediate.
    pub imm: &'a [u8],
}

impl<'a> Encoding<'a> {
    /// Takes the instruction in `bytes` apart. None if it is not of a kind that this knows.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (mut lock, mut operand_16, mut repeat, mut rex) = (false, false, 0, 0);
        let mut rest = bytes;
        loop {
            let (&byte, behind) = rest.split_first()?;
            match byte {
                0xF0 => lock = true,
                0x66 => operand_16 = true,
                0xF2 | 0xF3 => repeat = byte,
                0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0x67 => {}
                0x40..=0x4F => {}
                _ => break,
            }
            // A REX prefix counts only right before the opcode.
            rex = if byte & 0xF0 == 0x40 { byte } else { 0 };
            rest = behind;
        }
        let (map, opcode, rest) = match rest {
            [0x0F, 0x38, opcode, rest @ ..] => (Map::Three38, *opcode, rest),
            [0x0F, 0x3A, opcode, rest @ ..] => (Map::Three3A, *opcode, rest),
            [0x0F, opcode, rest @ ..] => (Map::Two, *opcode, rest),
            [opcode, rest @ ..] => (Map::One, *opcode, rest),
            [] => return None,
        };
        let modrm = if has_modrm(map, opcode) { Some(*rest.first()?) } else { None };
        let imm = rest.get(modrm.map_or(0, |m| operand_len(m, rest.get(1)))..)?;
        Some(Self { lock, operand_16, repeat, rex, map, opcode, modrm, imm })
    }

    /// ModRM.reg with REX.R.
    pub fn reg(&self) -> u8 {
        self.modrm.unwrap_or(0) >> 3 & 7 | (self.rex & 4) << 1
    }

    /// ModRM.rm with REX.B, where it is a register.
    pub fn rm(&self) -> u8 {
        self.modrm.unwrap_or(0) & 7 | (self.rex & 1) << 3
    }

    /// The register in the opcode's low bits, with REX.B.
    pub fn in_opcode(&self) -> u8 {
        self.opcode & 7 | (self.rex & 1) << 3
    }

    /// Whether ModRM names a place in memory.
    pub fn has_memory(&self) -> bool {
        self.modrm.is_some_and(|modrm| modrm < 0xC0)
    }
}

/// Bytes of ModRM, SIB and displacement.
fn operand_len(modrm: u8, sib: Option<&u8>) -> usize {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let no_base = has_sib && sib.is_some_and(|sib| sib & 7 == 5);
    let displacement = match mode {
        0 if rm == 5 || no_base => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    1 + usize::from(has_sib) + displacement
}

fn has_modrm(map: Map, opcode: u8) -> bool {
    match map {
        Map::One => match opcode {
            0x00..=0x3F => opcode & 7 < 4,
            0x63 | 0x69 | 0x6B | 0x80..=0x8F | 0xC0 | 0xC1 | 0xC4..=0xC7 => true,
            0xD0..=0xD3 | 0xD8..=0xDF | 0xF6 | 0xF7 | 0xFE | 0xFF | 0x62 => true,
            _ => false,
        },
        Map::Two => !matches!(
            opcode,
            0x05..=0x09 | 0x0B | 0x0E | 0x30..=0x37 | 0x77 | 0x80..=0x8F | 0xA0..=0xA2
                | 0xA8..=0xAA | 0xC8..=0xCF
        ),
        Map::Three38 | Map::Three3A => true,
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn check(bytes: &[u8], expected: (bool, u8, Option<u8>, usize)) {
        let got = Encoding::parse(bytes).unwrap();
        assert_eq!((got.operand_16, got.rex, got.modrm, got.imm.len()), expected, "{bytes:02x?}");
    }

    #[test]
    fn parts_are_found() {
        check(&[0x48, 0x01, 0xD8], (false, 0x48, Some(0xD8), 0)); // add rax, rbx
        check(&[0x66, 0x81, 0x44, 0x24, 8, 1, 2], (true, 0, Some(0x44), 2)); // add word [rsp+8], imm16
        check(&[0x48, 0x66, 0x90], (true, 0, None, 0)); // REX before 66 counts for nothing
        check(&[0xC7, 0x05, 1, 2, 3, 4, 5, 6, 7, 8], (false, 0, Some(0x05), 4));
        check(&[0x42, 0x8B, 0x04, 0x25, 1, 2, 3, 4], (false, 0x42, Some(0x04), 0));
        check(&[0x66, 0x0F, 0x3A, 0x0F, 0xC1, 8], (true, 0, Some(0xC1), 1)); // palignr
    }

    /// Every encoding with a ModRM and every way to address, against the decoder's own length.
    #[test]
    fn lengths_agree_with_the_decoder() {
        for map in [&[][..], &[0x0F], &[0x0F, 0x38], &[0x0F, 0x3A]] {
            for opcode in 0..=255u8 {
                for modrm in 0..=255u8 {
                    let mut bytes = [map, &[opcode, modrm, 0x25]].concat();
                    bytes.resize(16, 0x11);
                    let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
                    let instruction = decoder.decode();
                    let prefix = map.is_empty()
                        && matches!(opcode, 0x0F | 0x26 | 0x2E | 0x36 | 0x3E | 0x40..=0x4F | 0x62
                            | 0x64..=0x67 | 0xC4 | 0xC5 | 0xF0 | 0xF2 | 0xF3);
                    let escape = map == [0x0F] && matches!(opcode, 0x38 | 0x3A | 0x0F);
                    // MOV of control registers takes ModRM for a register whatever its mode.
                    let escape = escape || map == [0x0F] && matches!(opcode, 0x20..=0x27);
                    if instruction.is_invalid() || prefix || escape {
                        continue;
                    }
                    let parts = decoder.get_constant_offsets(&instruction);
                    let got = Encoding::parse(&bytes[..instruction.len()]);
                    let got = got.unwrap_or_else(|| panic!("{:?}", instruction.code()));
                    let absolute = got.modrm.is_none().then_some(parts.displacement_size());
                    let immediate = parts.immediate_size() + parts.immediate_size2();
                    let expected = immediate + absolute.unwrap_or(0);
                    assert_eq!(got.imm.len(), expected, "{:?} {bytes:02x?}", instruction.code());
                }
            }
        }
    }
}
