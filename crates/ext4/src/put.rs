//! Little-endian numbers in structures of bytes.

/// Puts numbers where a structure has them. The offsets are constants of the structures.
pub(crate) trait Put {
    fn put8(&mut self, at: usize, value: u8);
    fn put16(&mut self, at: usize, value: u16);
    fn put32(&mut self, at: usize, value: u32);
    fn put_bytes(&mut self, at: usize, bytes: &[u8]);
}

impl Put for [u8] {
    fn put8(&mut self, at: usize, value: u8) {
        self[at] = value;
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.put_bytes(at, &value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put_bytes(at, &value.to_le_bytes());
    }

    fn put_bytes(&mut self, at: usize, bytes: &[u8]) {
        self[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The lower 16 bits.
pub(crate) fn low16(value: u32) -> u16 {
    (value & 0xFFFF) as u16
}

/// The upper 16 bits.
pub(crate) fn high16(value: u32) -> u16 {
    (value >> 16) as u16
}

/// The lower 32 bits.
pub(crate) fn low32(value: u64) -> u32 {
    (value & 0xFFFF_FFFF) as u32
}
