//! Reads file systems such as this crate writes, also after a kernel has changed them.
//!
//! ```text
//! Reader::open --inode(ROOT)--> names --inode--> ... --> attributes, places of contents
//! ```
//!
//! The disk was a guest's and is not trusted: every number is checked against the size of the
//! disk, and the whole of what is read is bounded by it. Contents are not read: an inode says where
//! they are. Checksums are not looked at; who can write to a disk can make them, too.
//!
//! What is refused: disks that were not unmounted or on which a kernel found errors, and features
//! that are not ours: encryption, contents in inodes, attributes in inodes of their own, files with
//! lists of blocks in the place of extents.

use std::cell::Cell;
use std::io;
use std::ops::Range;

use crate::builder::Xattrs;
use crate::{Attributes, BLOCK_SIZE, Error, Result, Special, Time, xattr};

/// The root folder's number.
pub const ROOT: u32 = 2;

const BLOCK: usize = BLOCK_SIZE as usize;
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;
/// Kinds in folders, extents, block numbers of 64 bits, flexible block groups, a checksum seed.
const INCOMPATIBLE_KNOWN: u32 = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000;
const INCOMPATIBLE_64BIT: u32 = 0x80;
/// The journal has something that the disk has not.
const INCOMPATIBLE_RECOVER: u32 = 0x4;
const STATE_ERRORS: u16 = 0x2;
const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_XATTR_INODE: u32 = 0x20_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
const EXTENT_MAGIC: u16 = 0xF30A;
const EXTENT_DEPTH_MAX: u16 = 5;
/// A longer extent has room, but no content yet.
const EXTENT_WRITTEN_MAX: u32 = 32_768;
/// How many blocks of metadata are read at most, for each block of the disk.
const READS_PER_BLOCK: u64 = 4;

/// Where a disk's bytes come from.
pub trait Image {
    /// Fills `to` with what is at this offset.
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()>;
}

/// A file system that is read.
pub struct Reader<'a> {
    image: &'a dyn Image,
    blocks: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_len: usize,
    descriptor_len: usize,
    wide: bool,
    /// Blocks that may still be read.
    reads: Cell<u64>,
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Mode, owner, time.
    pub attributes: Attributes,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// What it is.
    pub body: Body,
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A folder: names and inodes, without `.` and `..`.
    Folder(Vec<(Vec<u8>, u32)>),
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Ranges of it with their places on the disk, in ascending order.
        places: Vec<(Range<u64>, u64)>,
    },
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A device, a pipe or a socket.
    Special(Special),
}

impl<'a> Reader<'a> {
    /// Looks at the superblock of a disk of this many bytes.
    pub fn open(image: &'a dyn Image, size: u64) -> Result<Self> {
        let mut superblock = [0; SUPERBLOCK_LEN];
        image.read(SUPERBLOCK_AT, &mut superblock).map_err(Error::Read)?;
        let (word, half) = (|at| get32(&superblock, at), |at| get16(&superblock, at));
        if half(0x38) != 0xEF53 {
            return Err(Error::Damaged("it has no ext4 file system"));
        }
        let incompatible = word(0x60);
        if incompatible & INCOMPATIBLE_RECOVER != 0 {
            return Err(Error::Damaged("it was not unmounted"));
        }
        if half(0x3A) & STATE_ERRORS != 0 {
            return Err(Error::Damaged("its file system has errors"));
        }
        if incompatible & !INCOMPATIBLE_KNOWN != 0 || word(0x18) != 2 || word(0x14) != 0 {
            return Err(Error::Damaged("its file system is of another form than ours"));
        }
        let wide = incompatible & INCOMPATIBLE_64BIT != 0;
        let descriptor_len = if wide { usize::from(half(0xFE)) } else { 32 };
        let reader = Reader {
            image,
            blocks: u64::from(word(0x04)).min(size / BLOCK_SIZE),
            inodes: word(0x00),
            inodes_per_group: word(0x28),
            inode_len: usize::from(half(0x58)),
            descriptor_len,
            wide,
            reads: Cell::new((size / BLOCK_SIZE).saturating_mul(READS_PER_BLOCK)),
        };
        let sound = (256..=BLOCK).contains(&reader.inode_len)
            && (32..=1024).contains(&reader.descriptor_len)
            && reader.inodes_per_group > 0;
        if sound { Ok(reader) } else { Err(Error::Damaged("its superblock is damaged")) }
    }

    /// Reads an inode.
    pub fn inode(&self, number: u32) -> Result<Inode> {
        let bytes = self.inode_bytes(number)?;
        let flags = get32(&bytes, 0x20);
        if flags & (FLAG_ENCRYPTED | FLAG_XATTR_INODE | FLAG_INLINE) != 0 {
            return Err(Error::Damaged("an inode is of another form than ours"));
        }
        let mode = get16(&bytes, 0);
        let size = u64::from(get32(&bytes, 0x04)) | u64::from(get32(&bytes, 0x6C)) << 32;
        let body = match mode >> 12 {
            0o4 => Body::Folder(self.names(&bytes, size)?),
            0o10 => Body::File { size, places: self.places(&bytes, size)? },
            0o12 => Body::Symlink(self.target(&bytes, size)?),
            0o2 => {
                let (major, minor) = device(&bytes);
                Body::Special(Special::Character(major, minor))
            }
            0o6 => {
                let (major, minor) = device(&bytes);
                Body::Special(Special::Block(major, minor))
            }
            0o1 => Body::Special(Special::Pipe),
            0o14 => Body::Special(Special::Socket),
            _ => return Err(Error::Damaged("an inode is of no kind")),
        };
        Ok(Inode { attributes: attributes(&bytes), xattrs: self.xattrs(&bytes)?, body })
    }

    fn inode_bytes(&self, number: u32) -> Result<Vec<u8>> {
        let index = number.checked_sub(1).filter(|_| number <= self.inodes);
        let index = index.ok_or(Error::Damaged("the number of an inode is out of bounds"))?;
        let (group, index) = (index / self.inodes_per_group, index % self.inodes_per_group);
        // Descriptors begin in the block behind the superblock's.
        let at = BLOCK_SIZE + u64::from(group) * self.descriptor_len as u64;
        let mut descriptor = [0; 64];
        let wanted = self.descriptor_len.min(descriptor.len());
        self.read(at, &mut descriptor[..wanted])?;
        let high = if self.wide && wanted == 64 { get32(&descriptor, 0x28) } else { 0 };
        let table = u64::from(get32(&descriptor, 0x08)) | u64::from(high) << 32;
        let at = self.byte(table)?.saturating_add(u64::from(index) * self.inode_len as u64);
        let mut bytes = vec![0; self.inode_len];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    fn names(&self, inode: &[u8], size: u64) -> Result<Vec<(Vec<u8>, u32)>> {
        let mut names = Vec::new();
        let mut block = vec![0; BLOCK];
        for (range, at) in self.places(inode, size)? {
            for piece in (0..range.end - range.start).step_by(BLOCK) {
                self.read(at + piece, &mut block)?;
                names_in(&block, &mut names)?;
            }
        }
        Ok(names)
    }

    fn target(&self, inode: &[u8], size: u64) -> Result<Vec<u8>> {
        let bad = || Error::Damaged("the target of a symbolic link is too long");
        let len = usize::try_from(size).ok().filter(|len| *len <= BLOCK).ok_or_else(bad)?;
        if get32(inode, 0x20) & FLAG_EXTENTS == 0 {
            return inode[0x28..0x28 + 60].get(..len).map(<[u8]>::to_vec).ok_or_else(bad);
        }
        let mut target = vec![0; len];
        for (range, at) in self.places(inode, size)? {
            let (start, end) = (range.start as usize, range.end as usize);
            self.read(at, &mut target[start..end])?;
        }
        Ok(target)
    }

    /// Ranges of a file that are on the disk; those without content are left out.
    fn places(&self, inode: &[u8], size: u64) -> Result<Vec<(Range<u64>, u64)>> {
        let mut walk = Walk { reader: self, size, next: 0, places: Vec::new() };
        match get32(inode, 0x20) & FLAG_EXTENTS {
            0 if size == 0 => {}
            0 => return Err(Error::Damaged("a file has no extents")),
            _ => {
                let root = &inode[0x28..0x28 + 60];
                let depth = get16(root, 6);
                walk.node(root, depth.min(EXTENT_DEPTH_MAX))?;
            }
        }
        Ok(walk.places)
    }

    fn xattrs(&self, inode: &[u8]) -> Result<Xattrs> {
        let mut xattrs = Xattrs::new();
        let inner = 128 + usize::from(get16(inode, 0x80));
        if let Some(area) = inode.get(inner..).filter(|area| area.len() >= 4) {
            xattr::read::inode(area, &mut xattrs).map_err(Error::Damaged)?;
        }
        let block = u64::from(get32(inode, 0x68)) | u64::from(get16(inode, 0x76)) << 32;
        if block != 0 {
            let mut bytes = [0; BLOCK];
            self.read(self.byte(block)?, &mut bytes)?;
            xattr::read::block(&bytes, &mut xattrs).map_err(Error::Damaged)?;
        }
        Ok(xattrs)
    }

    /// The offset of a block that is on the disk.
    fn byte(&self, block: u64) -> Result<u64> {
        match block < self.blocks {
            true => Ok(block * BLOCK_SIZE),
            false => Err(Error::Damaged("the number of a block is out of bounds")),
        }
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        let left = self.reads.get().checked_sub(1);
        self.reads.set(left.ok_or(Error::Damaged("its metadata goes in circles"))?);
        let end = offset.checked_add(to.len() as u64);
        if end.is_none_or(|end| end > self.blocks * BLOCK_SIZE) {
            return Err(Error::Damaged("its metadata is out of bounds"));
        }
        self.image.read(offset, to).map_err(Error::Read)
    }
}

/// Goes through a tree of extents, in the order of the file.
struct Walk<'a> {
    reader: &'a Reader<'a>,
    size: u64,
    /// The first logical block that may come now.
    next: u64,
    places: Vec<(Range<u64>, u64)>,
}

impl Walk<'_> {
    fn node(&mut self, node: &[u8], depth: u16) -> Result<()> {
        let entries = usize::from(get16(node, 2));
        if get16(node, 0) != EXTENT_MAGIC || get16(node, 6) != depth {
            return Err(Error::Damaged("a tree of extents is damaged"));
        }
        let entries = node[12..].chunks_exact(12).take(entries);
        for entry in entries {
            match depth {
                0 => self.extent(entry)?,
                _ => {
                    let below = u64::from(get32(entry, 4)) | u64::from(get16(entry, 8)) << 32;
                    let mut block = vec![0; BLOCK];
                    self.reader.read(self.reader.byte(below)?, &mut block)?;
                    self.node(&block, depth - 1)?;
                }
            }
        }
        Ok(())
    }

    fn extent(&mut self, entry: &[u8]) -> Result<()> {
        let (logical, len) = (u64::from(get32(entry, 0)), u32::from(get16(entry, 4)));
        let written = len <= EXTENT_WRITTEN_MAX;
        let len = u64::from(if written { len } else { len - EXTENT_WRITTEN_MAX });
        let start = u64::from(get32(entry, 8)) | u64::from(get16(entry, 6)) << 32;
        let on_disk = start.checked_add(len).is_some_and(|end| end <= self.reader.blocks);
        if logical < self.next || !on_disk {
            return Err(Error::Damaged("an extent is out of order or out of bounds"));
        }
        self.next = logical + len;
        let range = logical * BLOCK_SIZE..(self.next * BLOCK_SIZE).min(self.size);
        if written && range.start < range.end {
            self.places.push((range, start * BLOCK_SIZE));
        }
        Ok(())
    }
}

/// The names in a block of a folder. Blocks of an index look as if they had none.
fn names_in(block: &[u8], names: &mut Vec<(Vec<u8>, u32)>) -> Result<()> {
    let bad = Error::Damaged("a folder is damaged");
    let mut at = 0;
    while at + 8 <= block.len() {
        let (inode, len) = (get32(block, at), usize::from(get16(block, at + 4)));
        let name_len = usize::from(block[at + 6]);
        if len < 8 || !len.is_multiple_of(4) || at + len > block.len() || 8 + name_len > len {
            return Err(bad);
        }
        let name = &block[at + 8..at + 8 + name_len];
        at += len;
        if inode == 0 || name == b"." || name == b".." {
            continue;
        }
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(bad);
        }
        names.push((name.to_vec(), inode));
    }
    Ok(())
}

fn attributes(inode: &[u8]) -> Attributes {
    let wide = |low, high| u32::from(get16(inode, low)) | u32::from(get16(inode, high)) << 16;
    // The further fields of an inode may not reach to the time's second half.
    let extra = if get16(inode, 0x80) >= 12 { get32(inode, 0x88) } else { 0 };
    let seconds = i64::from(get32(inode, 0x10) as i32) + (i64::from(extra & 3) << 32);
    let nanoseconds = (extra >> 2).min(999_999_999);
    Attributes {
        mode: get16(inode, 0) & 0o7777,
        uid: wide(0x02, 0x78),
        gid: wide(0x18, 0x7A),
        modified: Time { seconds, nanoseconds },
    }
}

/// A device's number, in one of the two forms (include/linux/kdev_t.h).
fn device(inode: &[u8]) -> (u32, u32) {
    match (get32(inode, 0x28), get32(inode, 0x2C)) {
        (0, new) => ((new >> 8) & 0xFFF, new & 0xFF | (new >> 12) & 0xF_FF00),
        (old, _) => ((old >> 8) & 0xFF, old & 0xFF),
    }
}

/// Reads 16 bits; what is beyond the end is zero.
fn get16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]))
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) | u32::from(get16(bytes, at + 2)) << 16
}
