//! The tree that says where a file's blocks are
//! (Documentation/filesystems/ext4/ifork.rst, "Extent Tree").

use crate::checksum::Crc;
use crate::geometry::{Allocator, Full, Run};
use crate::put::{Put, low16};

/// Bytes of the root, which is in the inode.
pub(crate) const ROOT_LEN: usize = 60;
const BLOCK: usize = crate::BLOCK_SIZE as usize;
const MAGIC: u16 = 0xF30A;
const HEADER_LEN: usize = 12;
const ENTRY_LEN: usize = 12;
const ROOT_ENTRIES: usize = 4;
/// A checksum stands behind the entries.
const BLOCK_ENTRIES: usize = (BLOCK - HEADER_LEN - 4) / ENTRY_LEN;
const CHECKSUM_AT: usize = HEADER_LEN + BLOCK_ENTRIES * ENTRY_LEN;
/// Most blocks of one extent that is in use.
const EXTENT_MAX: u64 = 32_768;

/// Blocks of a file that are mapped to blocks of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) logical: u64,
    pub(crate) run: Run,
}

/// A tree: its root, and its other blocks with their places.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: [u8; ROOT_LEN],
    pub(crate) blocks: Vec<(u64, Vec<u8>)>,
}

/// Blocks that are mapped one after another, from this block of the file on.
pub(crate) fn mappings(mut logical: u64, runs: &[Run]) -> Vec<Mapping> {
    let mut all = Vec::with_capacity(runs.len());
    for &run in runs {
        all.push(Mapping { logical, run });
        logical += run.len;
    }
    all
}

/// The tree for these mappings; `seed` is the inode's.
pub(crate) fn tree(
    mappings: &[Mapping],
    seed: Crc,
    allocator: &mut Allocator,
) -> Result<Tree, Full> {
    let mut entries = leaves(mappings);
    let mut blocks = Vec::new();
    let mut depth = 0;
    while entries.len() > ROOT_ENTRIES {
        let mut above = Vec::with_capacity(entries.len().div_ceil(BLOCK_ENTRIES));
        for part in entries.chunks(BLOCK_ENTRIES) {
            let place = allocator.contiguous(1)?;
            let mut block = vec![0; BLOCK];
            fill(&mut block, part, BLOCK_ENTRIES, depth);
            let sum = seed.then(&block[..CHECKSUM_AT]).value();
            block.put32(CHECKSUM_AT, sum);
            blocks.push((place, block));
            above.push(index(part[0].0, place));
        }
        entries = above;
        depth += 1;
    }
    let mut root = [0; ROOT_LEN];
    fill(&mut root, &entries, ROOT_ENTRIES, depth);
    Ok(Tree { root, blocks })
}

/// An entry: its first logical block, and the eight bytes behind that.
type Entry = (u32, [u8; 8]);

fn leaves(mappings: &[Mapping]) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(mappings.len());
    for mapping in mappings {
        let mut done = 0;
        while done < mapping.run.len {
            let len = (mapping.run.len - done).min(EXTENT_MAX);
            let mut rest = [0; 8];
            rest.put16(0, len as u16);
            // The upper 16 bits of the block number are zero: it has 32.
            rest.put32(4, (mapping.run.start + done) as u32);
            entries.push(((mapping.logical + done) as u32, rest));
            done += len;
        }
    }
    entries
}

fn index(logical: u32, place: u64) -> Entry {
    let mut rest = [0; 8];
    rest.put32(0, place as u32);
    (logical, rest)
}

fn fill(to: &mut [u8], entries: &[Entry], max: usize, depth: u16) {
    to.put16(0, MAGIC);
    to.put16(2, low16(entries.len() as u32));
    to.put16(4, max as u16);
    to.put16(6, depth);
    for (at, (logical, rest)) in entries.iter().enumerate() {
        let at = HEADER_LEN + at * ENTRY_LEN;
        to.put32(at, *logical);
        to.put_bytes(at + 4, rest);
    }
}
