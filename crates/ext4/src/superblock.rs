//! The superblock, the descriptors of groups, and the head of an empty journal
//! (Documentation/filesystems/ext4/{super,group_descr,journal}.rst).

use crate::BLOCK_SIZE;
use crate::checksum::Crc;
use crate::extent::ROOT_LEN;
use crate::geometry::{BLOCKS_PER_GROUP, DESCRIPTOR_LEN, Geometry};
use crate::put::{Put, low16};

/// Where the first one begins; backups begin with their block.
pub(crate) const FIRST_AT: usize = 1024;
const LEN: usize = 1024;
const CHECKSUM_AT: usize = LEN - 4;

const COMPATIBLE_JOURNAL: u32 = 0x4;
/// Extended attributes, indexed folders.
const COMPATIBLE: u32 = 0x8 | 0x20;
/// Kinds in folders, extents, flexible block groups.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x200;
/// Few backups, large files, huge files, many links of folders, large inodes, checksums.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
/// Hashes of names are taken over bytes without sign.
const FLAG_UNSIGNED_HASH: u32 = 0x2;

/// A group has no inode in use, and its bitmap of inodes was not written.
pub(crate) const NO_INODES: u16 = 0x1;
/// A group has no block in use but for its backup, and its bitmap was not written.
pub(crate) const NO_BLOCKS: u16 = 0x2;
/// The inode table is zeroed.
pub(crate) const TABLE_ZEROED: u16 = 0x4;

/// What a superblock says besides constants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Superblock<'a> {
    pub(crate) geometry: &'a Geometry,
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: [u32; 4],
    pub(crate) label: &'a [u8],
    /// When the file system was made.
    pub(crate) epoch: u32,
    /// The journal's inode: its extent tree's root and its size.
    pub(crate) journal: Option<([u8; ROOT_LEN], u64)>,
}

impl Superblock<'_> {
    /// The copy in this group.
    pub(crate) fn render(&self, group: u32) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        for (at, value) in self.words() {
            bytes.put32(at, value);
        }
        for (at, value) in self.halves(group) {
            bytes.put16(at, value);
        }
        bytes.put_bytes(0x68, &self.uuid);
        bytes.put_bytes(0x78, self.label);
        self.hash_seed.iter().zip(0..).for_each(|(word, n)| bytes.put32(0xEC + 4 * n, *word));
        // Half-MD4.
        bytes.put8(0xFC, 1);
        // 16 groups are a flexible one.
        bytes.put8(0x174, 4);
        // CRC32C.
        bytes.put8(0x175, 1);
        if let Some((root, size)) = self.journal {
            bytes.put32(0xE0, JOURNAL_INODE);
            // A copy of the inode follows, as extent tree and size.
            bytes.put8(0xFD, 1);
            bytes.put_bytes(0x10C, &root);
            bytes.put32(0x10C + 64, size as u32);
        }
        let sum = Crc::start().then(&bytes[..CHECKSUM_AT]).value();
        bytes.put32(CHECKSUM_AT, sum);
        bytes
    }

    fn words(&self) -> [(usize, u32); 20] {
        let compatible = COMPATIBLE | self.journal.map_or(0, |_| COMPATIBLE_JOURNAL);
        [
            (0x00, self.geometry.inodes()),
            (0x04, self.geometry.blocks as u32),
            (0x0C, self.free_blocks as u32),
            (0x10, self.free_inodes),
            // Blocks and clusters of 4 KiB.
            (0x18, 2),
            (0x1C, 2),
            (0x20, BLOCKS_PER_GROUP as u32),
            (0x24, BLOCKS_PER_GROUP as u32),
            (0x28, self.geometry.inodes_per_group),
            (0x30, self.epoch),
            (0x40, self.epoch),
            // The revision that has what follows.
            (0x4C, 1),
            // The first inode that is free for use.
            (0x54, FIRST_INODE),
            (0x5C, compatible),
            (0x60, INCOMPATIBLE),
            (0x64, READ_ONLY_COMPATIBLE),
            // Mounted with user.* attributes and lists of access rights.
            (0x100, 0x4 | 0x8),
            (0x108, self.epoch),
            // Sizes of inodes' further fields: minimum and what is wanted, 32 each.
            (0x15C, 32 << 16 | 32),
            (0x160, FLAG_UNSIGNED_HASH),
        ]
    }

    fn halves(&self, group: u32) -> [(usize, u16); 6] {
        [
            // Never checked for having been mounted often.
            (0x36, u16::MAX),
            (0x38, 0xEF53),
            // Clean; and after errors, go on.
            (0x3A, 1),
            (0x3C, 1),
            (0x58, crate::inode::INODE_LEN as u16),
            (0x5A, low16(group)),
        ]
    }
}

/// The root folder.
pub(crate) const ROOT_INODE: u32 = 2;
/// The journal.
pub(crate) const JOURNAL_INODE: u32 = 8;
/// The first that the file system does not need for itself.
pub(crate) const FIRST_INODE: u32 = 11;

/// What a group's descriptor says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) folders: u32,
    pub(crate) flags: u16,
    /// Inodes at the end of the table that were never used.
    pub(crate) unused_inodes: u32,
    pub(crate) block_bitmap_sum: u32,
    pub(crate) inode_bitmap_sum: u32,
}

impl Descriptor {
    /// The bytes for this group.
    pub(crate) fn render(&self, group: u32, filesystem: Crc) -> [u8; DESCRIPTOR_LEN] {
        let mut bytes = [0; DESCRIPTOR_LEN];
        bytes.put32(0x00, self.block_bitmap as u32);
        bytes.put32(0x04, self.inode_bitmap as u32);
        bytes.put32(0x08, self.inode_table as u32);
        bytes.put16(0x0C, low16(self.free_blocks));
        bytes.put16(0x0E, low16(self.free_inodes));
        bytes.put16(0x10, low16(self.folders));
        bytes.put16(0x12, self.flags);
        bytes.put16(0x18, low16(self.block_bitmap_sum));
        bytes.put16(0x1A, low16(self.inode_bitmap_sum));
        bytes.put16(0x1C, low16(self.unused_inodes));
        let sum = filesystem.then(&group.to_le_bytes()).then(&bytes).value();
        bytes.put16(0x1E, low16(sum));
        bytes
    }
}

/// The first block of an empty journal; its numbers are big-endian.
pub(crate) fn journal_head(blocks: u64, uuid: &[u8; 16]) -> Vec<u8> {
    let mut head = vec![0; BLOCK_SIZE as usize];
    let words: [u32; 7] = [0xC03B_3998, 4, 0, BLOCK_SIZE as u32, blocks as u32, 1, 1];
    for (word, at) in words.into_iter().zip((0..).step_by(4)) {
        head.put_bytes(at, &word.to_be_bytes());
    }
    head.put_bytes(0x30, uuid);
    // One file system uses it.
    head.put_bytes(0x40, &1u32.to_be_bytes());
    head
}
