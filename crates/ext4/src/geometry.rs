//! Block groups: how many, what each holds, and where backups are.
//!
//! All bitmaps and inode tables stand behind the superblock, which flexible block groups allow;
//! then come the journal, the folders, and the files. What is allocated is allocated in ascending
//! order, so that the image is written from its beginning to its end.

use crate::{BLOCK_SIZE, Error, Result, SIZE_MAX, SIZE_MIN};

/// Blocks of a group: one bitmap's worth.
pub(crate) const BLOCKS_PER_GROUP: u64 = 32_768;
/// Inodes in a block of an inode table.
pub(crate) const INODES_PER_BLOCK: u32 = 16;
/// Bytes of a group's descriptor.
pub(crate) const DESCRIPTOR_LEN: usize = 32;
/// One inode for so many bytes, as mke2fs has it.
const BYTES_PER_INODE: u64 = 16_384;
/// A last group smaller than this is left out.
const LAST_GROUP_MIN: u64 = 64;

/// The number of blocks, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) blocks: u64,
    pub(crate) groups: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) descriptor_blocks: u64,
    pub(crate) journal_blocks: u64,
}

/// Blocks that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// No room is left.
#[derive(Debug)]
pub(crate) struct Full;

impl Geometry {
    /// For this size in bytes, with room for so many inodes.
    pub(crate) fn new(size: u64, inodes: u32, journal: bool) -> Result<Self> {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
            return Err(Error::Size(size));
        }
        let mut blocks = size / BLOCK_SIZE;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let descriptor_blocks = (groups * DESCRIPTOR_LEN as u64).div_ceil(BLOCK_SIZE);
        let last = blocks % BLOCKS_PER_GROUP;
        if groups > 1 && last > 0 && last < LAST_GROUP_MIN + descriptor_blocks {
            blocks -= last;
        }
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let wanted = u64::from(inodes).max(blocks * BLOCK_SIZE / BYTES_PER_INODE);
        let per_group = wanted.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK.into());
        if per_group > BLOCKS_PER_GROUP {
            return Err(Error::Inodes);
        }
        Ok(Geometry {
            blocks,
            groups: groups as u32,
            inodes_per_group: per_group as u32,
            descriptor_blocks,
            journal_blocks: if journal { journal_blocks(blocks) } else { 0 },
        })
    }

    /// The smallest that has `demand` free blocks besides its own structures.
    pub(crate) fn fit(demand: u64, inodes: u32, journal: bool) -> Result<Self> {
        let mut blocks = demand.max(SIZE_MIN / BLOCK_SIZE);
        loop {
            let geometry = Self::new(blocks.saturating_mul(BLOCK_SIZE), inodes, journal);
            let geometry = match geometry {
                // Few blocks cannot have many inodes.
                Err(Error::Inodes) => {
                    blocks += BLOCKS_PER_GROUP;
                    continue;
                }
                other => other?,
            };
            let needed = demand + geometry.overhead();
            if needed <= geometry.blocks {
                return Ok(geometry);
            }
            blocks = needed.max(blocks + LAST_GROUP_MIN);
        }
    }

    pub(crate) fn inodes(&self) -> u32 {
        self.groups * self.inodes_per_group
    }

    /// Blocks of a group's inode table.
    pub(crate) fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group / INODES_PER_BLOCK)
    }

    /// Blocks at the beginning of a group that hold a superblock and the descriptors.
    pub(crate) fn backup(&self, group: u32) -> Option<Run> {
        let power_of = |base: u32| {
            let mut rest = group;
            while rest.is_multiple_of(base) {
                rest /= base;
            }
            rest == 1
        };
        let has = group <= 1 || [3, 5, 7].into_iter().any(power_of);
        let start = u64::from(group) * BLOCKS_PER_GROUP;
        has.then_some(Run { start, len: 1 + self.descriptor_blocks })
    }

    pub(crate) fn blocks_in(&self, group: u32) -> u64 {
        (self.blocks - u64::from(group) * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    /// Blocks that no file can have, and some that are lost where a table does not fit in front
    /// of a backup.
    fn overhead(&self) -> u64 {
        let backups: Vec<Run> = (0..self.groups).filter_map(|group| self.backup(group)).collect();
        let own: u64 = backups.iter().map(|run| run.len).sum();
        let lost = backups.len() as u64 * self.table_blocks().min(BLOCKS_PER_GROUP / 8);
        own + u64::from(self.groups) * (2 + self.table_blocks()) + self.journal_blocks + lost
    }
}

/// As mke2fs chooses for small disks; larger journals than this are of no use to a guest.
fn journal_blocks(blocks: u64) -> u64 {
    match blocks {
        0..32_768 => 1024,
        32_768..262_144 => 4096,
        262_144..524_288 => 8192,
        _ => 16_384,
    }
}

/// Hands out blocks in ascending order.
#[derive(Debug)]
pub(crate) struct Allocator {
    geometry: Geometry,
    next: u64,
    used: Vec<Run>,
}

impl Allocator {
    /// All is free but for the superblock, the descriptors, and their backups.
    pub(crate) fn new(geometry: Geometry) -> Self {
        let used = (0..geometry.groups).filter_map(|group| geometry.backup(group)).collect();
        Allocator { geometry, next: 0, used }
    }

    /// So many blocks, in as few runs as there can be.
    pub(crate) fn runs(&mut self, mut count: u64) -> std::result::Result<Vec<Run>, Full> {
        let mut runs = Vec::new();
        while count > 0 {
            let len = self.room().ok_or(Full)?.min(count);
            runs.push(self.take(len));
            count -= len;
        }
        Ok(runs)
    }

    /// So many blocks in one run; what is too small for it in front of it stays free.
    pub(crate) fn contiguous(&mut self, count: u64) -> std::result::Result<u64, Full> {
        loop {
            let room = self.room().ok_or(Full)?;
            if room >= count {
                return Ok(self.take(count).start);
            }
            self.next += room;
        }
    }

    /// All blocks that are in use, in order.
    pub(crate) fn into_used(mut self) -> Vec<Run> {
        self.used.sort_unstable();
        let mut merged: Vec<Run> = Vec::new();
        for run in self.used {
            match merged.last_mut() {
                Some(last) if last.start + last.len == run.start => last.len += run.len,
                _ => merged.push(run),
            }
        }
        merged
    }

    fn take(&mut self, len: u64) -> Run {
        let run = Run { start: self.next, len };
        self.next += len;
        match self.used.last_mut() {
            Some(last) if last.start + last.len == run.start => last.len += len,
            _ => self.used.push(run),
        }
        run
    }

    /// Free blocks from here to the next backup or the end; none at the end.
    fn room(&mut self) -> Option<u64> {
        loop {
            let group = (self.next / BLOCKS_PER_GROUP) as u32;
            match self.geometry.backup(group).filter(|run| self.next < run.start + run.len) {
                Some(run) => self.next = run.start + run.len,
                None => break,
            }
        }
        let group = (self.next / BLOCKS_PER_GROUP) as u32;
        let mut after = (group + 1..self.geometry.groups).filter_map(|g| self.geometry.backup(g));
        let end = after.next().map_or(self.geometry.blocks, |run| run.start);
        end.checked_sub(self.next).filter(|room| *room > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(mib: u64) -> Geometry {
        Geometry::new(mib << 20, 0, true).unwrap()
    }

    #[test]
    fn backups_are_in_groups_of_powers() {
        let large = Geometry::new(1 << 40, 0, true).unwrap();
        let groups: Vec<u32> = (0..400).filter(|group| large.backup(*group).is_some()).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn blocks_are_handed_out_around_backups() {
        let geometry = geometry(300);
        let mut allocator = Allocator::new(geometry);
        assert_eq!(allocator.contiguous(10).unwrap(), 2);
        let runs = allocator.runs(40_000).unwrap();
        let expected = [Run { start: 12, len: 32_756 }, Run { start: 32_770, len: 7244 }];
        assert_eq!(runs, expected);
        assert_eq!(allocator.contiguous(30_000).unwrap(), 32_770 + 7244);
        assert!(allocator.runs(1 << 30).is_err());
        assert!(allocator.contiguous(1).is_err());
        let all: u64 = allocator.into_used().iter().map(|run| run.len).sum();
        assert_eq!(all, geometry.blocks);
    }

    #[test]
    fn a_last_group_that_is_too_small_is_left_out() {
        assert_eq!(Geometry::new((128 << 20) + 4096, 0, true).unwrap().groups, 1);
        assert_eq!(geometry(129).groups, 2);
    }

    #[test]
    fn what_fits_has_the_room() {
        for demand in [0, 1, 100, 30_000, 32_768, 100_000, 5_000_000] {
            for inodes in [11, 10_000, 100_000] {
                let geometry = Geometry::fit(demand, inodes, true).unwrap();
                assert!(geometry.inodes() >= inodes);
                assert!(geometry.blocks >= demand + geometry.overhead());
            }
        }
        assert!(Geometry::fit(1 << 40, 11, true).is_err());
    }
}
