//! An inode's 256 bytes (Documentation/filesystems/ext4/inodes.rst).

use crate::builder::{Attributes, Special, Time};
use crate::checksum::Crc;
use crate::extent::ROOT_LEN;
use crate::put::{Put, high16, low16, low32};

/// Bytes of an inode.
pub(crate) const INODE_LEN: usize = 256;
/// Bytes of fields behind the first 128.
const EXTRA_LEN: u16 = 32;
const XATTRS_AT: usize = 128 + EXTRA_LEN as usize;
/// More links than this of a folder are not counted: it says 1.
const FOLDER_LINKS_MAX: u32 = 64_998;

/// Its blocks are in an extent tree.
pub(crate) const FLAG_EXTENTS: u32 = 0x8_0000;
/// It is an indexed folder.
pub(crate) const FLAG_INDEXED: u32 = 0x1000;

/// The upper four bits of a mode, and the kind's number in folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Pipe,
    Character,
    Folder,
    Block,
    File,
    Symlink,
    Socket,
}

impl Type {
    fn mode(self) -> u16 {
        match self {
            Type::Pipe => 0o010_000,
            Type::Character => 0o020_000,
            Type::Folder => 0o040_000,
            Type::Block => 0o060_000,
            Type::File => 0o100_000,
            Type::Symlink => 0o120_000,
            Type::Socket => 0o140_000,
        }
    }

    pub(crate) fn in_folders(self) -> u8 {
        match self {
            Type::File => 1,
            Type::Folder => 2,
            Type::Character => 3,
            Type::Block => 4,
            Type::Pipe => 5,
            Type::Socket => 6,
            Type::Symlink => 7,
        }
    }
}

/// What an inode says.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) kind: Type,
    pub(crate) attributes: Attributes,
    pub(crate) size: u64,
    /// Blocks of 4 KiB, with those of its tree and its attributes.
    pub(crate) blocks: u64,
    pub(crate) links: u32,
    pub(crate) flags: u32,
    /// An extent tree's root, a short link's target, or a device's number.
    pub(crate) body: [u8; ROOT_LEN],
    /// The block of its extended attributes; 0 if it has none.
    pub(crate) xattr_block: u64,
    pub(crate) xattrs: Vec<u8>,
}

impl Inode {
    /// The bytes of inode `number`.
    pub(crate) fn render(&self, number: u32, filesystem: Crc) -> [u8; INODE_LEN] {
        let mut inode = [0; INODE_LEN];
        let Attributes { mode, uid, gid, modified } = self.attributes;
        let (seconds, extra) = time(modified);
        // Sectors of 512 bytes, in 48 bits.
        let sectors = self.blocks * 8;
        inode.put16(0x00, self.kind.mode() | mode & 0o7777);
        inode.put16(0x02, low16(uid));
        inode.put32(0x04, low32(self.size));
        for at in [0x08, 0x0C, 0x10, 0x90] {
            inode.put32(at, seconds);
        }
        inode.put16(0x18, low16(gid));
        inode.put16(0x1A, self.link_count());
        inode.put32(0x1C, low32(sectors));
        inode.put32(0x20, self.flags);
        inode.put_bytes(0x28, &self.body);
        inode.put32(0x68, low32(self.xattr_block));
        inode.put32(0x6C, low32(self.size >> 32));
        inode.put16(0x74, low16(low32(sectors >> 32)));
        inode.put16(0x78, high16(uid));
        inode.put16(0x7A, high16(gid));
        inode.put16(0x80, EXTRA_LEN);
        for at in [0x84, 0x88, 0x8C, 0x94] {
            inode.put32(at, extra);
        }
        inode.put_bytes(XATTRS_AT, &self.xattrs);
        sign(&mut inode, number, filesystem);
        inode
    }

    fn link_count(&self) -> u16 {
        match self.kind {
            Type::Folder if self.links > FOLDER_LINKS_MAX => 1,
            _ => low16(self.links),
        }
    }
}

/// An inode that is kept free for the file system's own use.
pub(crate) fn reserved(number: u32, filesystem: Crc) -> [u8; INODE_LEN] {
    let mut inode = [0; INODE_LEN];
    sign(&mut inode, number, filesystem);
    inode
}

/// A device's number where an inode has it, in the old form if that suffices
/// (include/linux/kdev_t.h).
pub(crate) fn special_body(special: Special) -> (Type, [u8; ROOT_LEN]) {
    let mut body = [0; ROOT_LEN];
    let mut device = |major: u32, minor: u32| {
        if major < 256 && minor < 256 {
            body.put32(0, major << 8 | minor);
        } else {
            body.put32(4, minor & 0xFF | (major & 0xFFF) << 8 | (minor & 0xF_FF00) << 12);
        }
    };
    let kind = match special {
        Special::Character(major, minor) => {
            device(major, minor);
            Type::Character
        }
        Special::Block(major, minor) => {
            device(major, minor);
            Type::Block
        }
        Special::Pipe => Type::Pipe,
        Special::Socket => Type::Socket,
    };
    (kind, body)
}

fn sign(inode: &mut [u8; INODE_LEN], number: u32, filesystem: Crc) {
    let sum = filesystem.of_inode(number).then(&inode[..]).value();
    inode.put16(0x7C, low16(sum));
    if inode[0x80] != 0 {
        inode.put16(0x82, high16(sum));
    }
}

/// The lower 32 bits of the seconds, and what is beyond them: two more bits, and nanoseconds.
fn time(time: Time) -> (u32, u32) {
    let (min, max) = (i64::from(i32::MIN), i64::from(i32::MAX) + (3 << 32));
    let seconds = time.seconds.clamp(min, max);
    let low = seconds as i32;
    let epoch = ((seconds - i64::from(low)) >> 32) as u32 & 3;
    (low as u32, time.nanoseconds.min(999_999_999) << 2 | epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_32_bits() {
        for (seconds, expected) in [
            (0, (0, 0)),
            (-1, (0xFFFF_FFFF, 0)),
            (0x7FFF_FFFF, (0x7FFF_FFFF, 0)),
            (0x8000_0000, (0x8000_0000, 1)),
            (0x1_8000_0000, (0x8000_0000, 2)),
            (i64::MAX, (0x7FFF_FFFF, 3)),
            (i64::MIN, (0x8000_0000, 0)),
        ] {
            assert_eq!(time(Time { seconds, nanoseconds: 0 }), expected, "{seconds}");
        }
        assert_eq!(time(Time { seconds: 0, nanoseconds: 1 }), (0, 4));
    }

    #[test]
    fn device_numbers_take_the_form_that_suffices() {
        let words = |special| {
            let (_, body) = special_body(special);
            let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
            (word(0), word(4))
        };
        assert_eq!(words(Special::Character(5, 1)), (0x501, 0));
        assert_eq!(words(Special::Block(3, 0x1002)), (0, 0x0100_0302));
    }
}
