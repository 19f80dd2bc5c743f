//! The memory type range registers (SDM Vol. 3A, 12.11): kept as written, without effect, since
//! all of the guest's RAM is write-back and devices are never cached.

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mtrrs {
    /// IA32_MTRR_DEF_TYPE.
    pub default_type: u64,
    /// The eleven fixed-range registers in the order of their addresses.
    pub fixed: [u64; 11],
    /// Base and mask of each of the eight variable ranges, in turn.
    pub variable: [u64; 16],
}

/// Address bits 12 to 45: see `PHYSICAL_BITS`.
const ADDRESS: u64 = (1 << crate::paging::PHYSICAL_BITS) - (1 << 12);
const MASK_VALID: u64 = 1 << 11;
const DEFAULT_ENABLES: u64 = 3 << 10;

impl Mtrrs {
    /// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.
    pub const CAP: u64 = 0x508;

    /// Writes a base (even `i`) or mask (odd `i`); false if it is refused.
    #[must_use]
    pub fn set_variable(&mut self, i: usize, value: u64) -> bool {
        let valid = match i % 2 {
            0 => value & !(ADDRESS | 0xFF) == 0 && is_type(value & 0xFF),
            _ => value & !(ADDRESS | MASK_VALID) == 0,
        };
        if valid {
            self.variable[i] = value;
        }
        valid
    }

    /// Writes a fixed-range register; false if it is refused.
    #[must_use]
    pub fn set_fixed(&mut self, i: usize, value: u64) -> bool {
        let valid = value.to_le_bytes().iter().all(|kind| is_type(u64::from(*kind)));
        if valid {
            self.fixed[i] = value;
        }
        valid
    }

    /// Writes IA32_MTRR_DEF_TYPE; false if it is refused.
    #[must_use]
    pub fn set_default_type(&mut self, value: u64) -> bool {
        let valid = value & !(DEFAULT_ENABLES | 0xFF) == 0 && is_type(value & 0xFF);
        if valid {
            self.default_type = value;
        }
        valid
    }
}

/// UC, WC, WT, WP or WB.
fn is_type(kind: u64) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let mut mtrrs = Mtrrs::default();
        assert!(mtrrs.set_default_type(0xC06));
        assert!(!mtrrs.set_default_type(0xC02));
        assert!(!mtrrs.set_default_type(0x1C06));
        assert!(mtrrs.set_variable(0, 0x8000_0000));
        assert!(!mtrrs.set_variable(0, 1 << 46));
        assert!(mtrrs.set_variable(1, 0x3FFF_8000_0800));
        assert!(!mtrrs.set_variable(1, 0x3FFF_8000_0801));
        assert!(mtrrs.set_fixed(10, 0x0606_0606_0606_0606));
        assert!(!mtrrs.set_fixed(10, 0x0606_0606_0606_0607));
        assert_eq!((mtrrs.default_type, mtrrs.variable[0]), (0xC06, 0x8000_0000));
    }
}
