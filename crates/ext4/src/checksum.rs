//! CRC32C as ext4 takes it: not inverted at the ends, and seeded with what the structure belongs
//! to, so that a block that was written to the wrong place does not pass
//! (Documentation/filesystems/ext4/checksums.rst).

/// A checksum that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crc(u32);

impl Crc {
    /// The seed of all structures of a file system but the superblock.
    pub(crate) fn of_filesystem(uuid: &[u8; 16]) -> Self {
        Self::start().then(uuid)
    }

    /// No seed.
    pub(crate) fn start() -> Self {
        Crc(!0)
    }

    /// The seed of an inode's structures; generations are zero here.
    pub(crate) fn of_inode(self, number: u32) -> Self {
        self.then(&number.to_le_bytes()).then(&[0; 4])
    }

    pub(crate) fn then(self, bytes: &[u8]) -> Self {
        // The library inverts before and after.
        Crc(!crc32c::crc32c_append(!self.0, bytes))
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc32c_without_its_last_inversion() {
        assert_eq!(!Crc::start().then(b"1234").then(b"56789").value(), 0xE306_9283);
    }
}
