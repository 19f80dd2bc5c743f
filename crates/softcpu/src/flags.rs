//! The arithmetic flags in the form that LAHF and SETO leave in AX.
//!
//! Bit 0 is OF; bits 8 to 15 are AH: CF (8), 1 (9), PF (10), AF (12), ZF (14), SF (15). Taking them
//! from the host's own flags after the host's own instruction makes them exact, undefined ones
//! included, and costs two instructions.

use crate::cpu::rflags;

/// OF in the LAHF/SETO form.
pub const FX_OF: u16 = 1;
/// CF in the LAHF/SETO form.
pub const FX_CF: u16 = 1 << 8;
/// PF in the LAHF/SETO form.
pub const FX_PF: u16 = 1 << 10;
/// AF in the LAHF/SETO form.
pub const FX_AF: u16 = 1 << 12;
/// ZF in the LAHF/SETO form.
pub const FX_ZF: u16 = 1 << 14;
/// SF in the LAHF/SETO form.
pub const FX_SF: u16 = 1 << 15;

const AH_FLAGS: u16 = FX_CF | FX_PF | FX_AF | FX_ZF | FX_SF;

/// The six flags at their RFLAGS positions.
#[inline]
pub fn to_rflags(fx: u16) -> u64 {
    u64::from((fx & AH_FLAGS) >> 8) | u64::from(fx & FX_OF) << 11
}

/// From RFLAGS positions; other bits are ignored.
#[inline]
pub fn from_rflags(value: u64) -> u16 {
    let ah = value & (rflags::ARITH & !rflags::OF);
    (ah as u16) << 8 | (value >> 11) as u16 & FX_OF
}

/// Whether condition `CC` (the low four bits of Jcc, SETcc, CMOVcc) holds.
#[inline(always)]
pub fn condition<const CC: u8>(fx: u16) -> bool {
    let holds = match CC >> 1 {
        0 => fx & FX_OF != 0,
        1 => fx & FX_CF != 0,
        2 => fx & FX_ZF != 0,
        3 => fx & (FX_CF | FX_ZF) != 0,
        4 => fx & FX_SF != 0,
        5 => fx & FX_PF != 0,
        6 => (fx >> 15 ^ fx) & 1 != 0,
        _ => fx & FX_ZF != 0 || (fx >> 15 ^ fx) & 1 != 0,
    };
    holds != (CC & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rflags_round_trip() {
        for bits in 0..64u64 {
            let value = bits & 1
                | (bits >> 1 & 1) << 2
                | (bits >> 2 & 1) << 4
                | (bits >> 3 & 1) << 6
                | (bits >> 4 & 1) << 7
                | (bits >> 5 & 1) << 11;
            assert_eq!(to_rflags(from_rflags(value | 0xFFFF_0000_F700)), value);
        }
    }

    #[test]
    fn conditions_follow_the_manual() {
        let check = |fx: u16, expected: u16| {
            let mut got = 0;
            macro_rules! all { ($($cc:literal)*) => { $(got |= u16::from(condition::<$cc>(fx)) << $cc;)* } }
            all!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            assert_eq!(got, expected, "{fx:#x}");
        };
        check(0, 0b1010_1010_1010_1010);
        check(FX_ZF, 0b0110_1010_0101_1010);
    }
}
