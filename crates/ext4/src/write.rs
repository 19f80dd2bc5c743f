//! From a plan to bytes.
//!
//! Everything is written in ascending order, but for the first superblock, which comes last: what
//! was interrupted is no file system.

use std::io;

use crate::builder::NodeId;
use crate::checksum::Crc;
use crate::geometry::BLOCKS_PER_GROUP;
use crate::plan::{Plan, hash_seed, used_in};
use crate::superblock::{self, NO_BLOCKS, NO_INODES, Superblock};
use crate::{BLOCK_SIZE, Error, Result};

const BLOCK: usize = BLOCK_SIZE as usize;
/// Contents are read in pieces of this size.
const PIECE: usize = 1 << 20;

/// Gives the contents of files.
pub trait Contents {
    /// Fills `to` with what the file `node` has at `offset`, which is within its data.
    fn read(&mut self, node: NodeId, offset: u64, to: &mut [u8]) -> io::Result<()>;
}

/// Takes the bytes of the image. What is never written is to read as zeros.
pub trait Sink {
    /// Writes all of `bytes` at `offset`. Calls come in ascending order, but for the first block.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Sink for std::fs::File {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }
}

impl Plan {
    /// Writes the image. `written` is told how many bytes of content are done.
    pub fn write(
        &self,
        sink: &mut dyn Sink,
        contents: &mut dyn Contents,
        written: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut writer = Writer { sink, start: 0, pending: Vec::with_capacity(PIECE + BLOCK) };
        self.write_groups(&mut writer)?;
        for (place, bytes) in &self.metadata {
            writer.put(place * BLOCK_SIZE, bytes)?;
        }
        let mut done = 0;
        for (node, mappings, size) in &self.files {
            for mapping in mappings {
                let from = mapping.logical * BLOCK_SIZE;
                let end = (from + mapping.run.len * BLOCK_SIZE).min(*size);
                let place = mapping.run.start * BLOCK_SIZE;
                writer.content(contents, *node, from..end, place)?;
                done += mapping.run.len * BLOCK_SIZE;
                written(done);
            }
        }
        writer.flush()?;
        let first = self.superblock().render(0);
        writer.sink.write(superblock::FIRST_AT as u64, &first).map_err(Error::Write)
    }

    fn superblock(&self) -> Superblock<'_> {
        let label = self.options.label.as_bytes();
        Superblock {
            geometry: &self.geometry,
            free_blocks: self.free_blocks(),
            free_inodes: self.groups.iter().map(|group| group.free_inodes).sum(),
            uuid: self.options.uuid,
            hash_seed: hash_seed(&self.options.uuid),
            label: &label[..label.len().min(16)],
            epoch: self.options.epoch,
            journal: self.journal,
        }
    }

    pub(crate) fn free_blocks(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.free_blocks)).sum()
    }

    /// Superblocks, descriptors, bitmaps, tables.
    fn write_groups(&self, writer: &mut Writer<'_>) -> Result<()> {
        let seed = Crc::of_filesystem(&self.options.uuid);
        let mut groups = self.groups.clone();
        let mut bitmaps = Vec::new();
        for (group, number) in groups.iter_mut().zip(0..) {
            if group.flags & NO_BLOCKS == 0 {
                let bitmap = self.block_bitmap(number);
                group.block_bitmap_sum = seed.then(&bitmap).value();
                bitmaps.push((group.block_bitmap, bitmap));
            }
            if group.flags & NO_INODES == 0 {
                let bitmap = self.inode_bitmap(number);
                let counted = &bitmap[..self.geometry.inodes_per_group as usize / 8];
                group.inode_bitmap_sum = seed.then(counted).value();
                bitmaps.push((group.inode_bitmap, bitmap));
            }
        }
        let mut descriptors: Vec<u8> = Vec::new();
        for (group, number) in groups.iter().zip(0..) {
            descriptors.extend(group.render(number, seed));
        }
        descriptors.resize(self.geometry.descriptor_blocks as usize * BLOCK, 0);
        for number in 0..self.geometry.groups {
            let Some(run) = self.geometry.backup(number) else { continue };
            if number > 0 {
                let mut block = self.superblock().render(number).to_vec();
                block.resize(BLOCK, 0);
                writer.put(run.start * BLOCK_SIZE, &block)?;
            }
            writer.put((run.start + 1) * BLOCK_SIZE, &descriptors)?;
        }
        bitmaps.sort_by_key(|(place, _)| *place);
        for (place, bitmap) in &bitmaps {
            writer.put(place * BLOCK_SIZE, bitmap)?;
        }
        let tables = self.inodes.chunks(self.geometry.inodes_per_group as usize);
        for (group, table) in groups.iter().zip(tables) {
            let mut bytes: Vec<u8> = table.concat();
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            writer.put(group.inode_table * BLOCK_SIZE, &bytes)?;
        }
        Ok(())
    }

    /// What is in use, and what is behind the end.
    fn block_bitmap(&self, group: u32) -> Vec<u8> {
        let mut bitmap = vec![0; BLOCK];
        let first = u64::from(group) * BLOCKS_PER_GROUP;
        for run in used_in(&self.used, group) {
            set_bits(&mut bitmap, run.start - first, run.start + run.len - first);
        }
        set_bits(&mut bitmap, self.geometry.blocks_in(group), BLOCKS_PER_GROUP);
        bitmap
    }

    fn inode_bitmap(&self, group: u32) -> Vec<u8> {
        let mut bitmap = vec![0; BLOCK];
        let per_group = u64::from(self.geometry.inodes_per_group);
        set_bits(&mut bitmap, 0, per_group - u64::from(self.groups[group as usize].unused_inodes));
        set_bits(&mut bitmap, per_group, BLOCKS_PER_GROUP);
        bitmap
    }
}

fn set_bits(bitmap: &mut [u8], from: u64, to: u64) {
    for (byte, first) in bitmap.iter_mut().zip((0..).step_by(8)) {
        let (low, high) = (from.clamp(first, first + 8), to.clamp(first, first + 8));
        if low < high {
            *byte |= ((1u16 << (high - first)) - (1u16 << (low - first))) as u8;
        }
    }
}

/// Puts what is next to each other on the disk into one call, and leaves zeros out.
struct Writer<'a> {
    sink: &'a mut dyn Sink,
    start: u64,
    pending: Vec<u8>,
}

impl Writer<'_> {
    /// Bytes at an offset that is a block's beginning.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.go_to(offset)?;
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// A range of a file, to the blocks from `place` on.
    fn content(
        &mut self,
        contents: &mut dyn Contents,
        node: NodeId,
        mut range: std::ops::Range<u64>,
        mut place: u64,
    ) -> Result<()> {
        while range.start < range.end {
            self.go_to(place)?;
            let len = (range.end - range.start).min((PIECE - self.pending.len()) as u64) as usize;
            let at = self.pending.len();
            self.pending.resize((at + len).next_multiple_of(BLOCK), 0);
            let to = &mut self.pending[at..at + len];
            contents
                .read(node, range.start, to)
                .map_err(|source| Error::Content { node, source })?;
            range.start += len as u64;
            place += len as u64;
        }
        Ok(())
    }

    /// Sees to it that what is added now stands at `offset`, and that there is room.
    fn go_to(&mut self, offset: u64) -> Result<()> {
        if offset != self.start + self.pending.len() as u64 || self.pending.len() >= PIECE {
            self.flush()?;
            self.start = offset;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut blocks = self.pending.chunks(BLOCK).peekable();
        let (mut at, mut from) = (0, None);
        while let Some(block) = blocks.next() {
            let zero = is_zero(block);
            let begin = *from.get_or_insert(at);
            let end = at + block.len();
            if zero || blocks.peek().is_none() {
                let end = if zero { at } else { end };
                if begin < end {
                    let bytes = &self.pending[begin..end];
                    self.sink.write(self.start + begin as u64, bytes).map_err(Error::Write)?;
                }
                from = None;
            }
            at = end;
        }
        self.start += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

fn is_zero(block: &[u8]) -> bool {
    // Sixteen bytes at a time, which the compiler makes vector instructions of.
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
