//! Pseudo-random numbers, the same everywhere.

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of case `number` of `seed`.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut first = Self(seed);
        Self(first.next() ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    /// A number below `bound`, which is not zero and fits 32 bits.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((self.next() >> 32) * bound) >> 32
    }

    /// True `percent` times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items`.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// A value at which arithmetic turns: zero, ones, the ends of a width, powers of two.
    pub(crate) fn interesting(&mut self) -> u64 {
        let bit = self.below(64);
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => 1 << bit,
            4 => (1u64 << bit).wrapping_sub(1),
            5 => !(1 << bit),
            6 => self.pick(&[0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000]),
            _ => self.pick(&[0xFFFF_FFFF, i64::MAX as u64, i64::MIN as u64, !0x7F, !0x7FFF]),
        }
    }

    /// Interesting or not.
    pub(crate) fn value(&mut self) -> u64 {
        match self.below(3) {
            0 => self.interesting(),
            1 => self.below(256),
            _ => self.next(),
        }
    }
}
