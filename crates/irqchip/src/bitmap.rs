//! A set of interrupt vectors, 256 bits wide, as the APIC's ISR, TMR and IRR.

/// A set of vectors. Bank `n` of the APIC's 32-bit registers holds vectors
/// `32 n` to `32 n + 31`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bitmap256(pub [u64; 4]);

impl Bitmap256 {
    /// Adds `vector`.
    pub fn insert(&mut self, vector: u8) {
        self.0[word(vector)] |= bit(vector);
    }

    /// Removes `vector`.
    pub fn remove(&mut self, vector: u8) {
        self.0[word(vector)] &= !bit(vector);
    }

    /// Whether `vector` is in the set.
    pub fn contains(&self, vector: u8) -> bool {
        self.0[word(vector)] & bit(vector) != 0
    }

    /// The highest vector of the set.
    pub fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&bits| bits != 0)?;
        let bit = 63 - self.0[word].leading_zeros();
        Some((word as u32 * 64 + bit) as u8)
    }

    /// One 32-bit register of the eight that show the set; only the low three
    /// bits of `bank` count.
    pub fn bank(&self, bank: u8) -> u32 {
        let word = self.0[usize::from(bank >> 1 & 3)];
        (word >> (32 * u32::from(bank & 1))) as u32
    }
}

fn word(vector: u8) -> usize {
    usize::from(vector >> 6)
}

fn bit(vector: u8) -> u64 {
    1 << (vector & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_each_vector_in_its_bank() {
        for vector in 0..=255u8 {
            let mut set = Bitmap256::default();
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
            for bank in 0..8 {
                let expected = if bank == vector / 32 { 1 << (vector % 32) } else { 0 };
                assert_eq!(set.bank(bank), expected, "vector {vector} bank {bank}");
            }
            set.remove(vector);
            assert_eq!(set, Bitmap256::default());
        }
    }
}
