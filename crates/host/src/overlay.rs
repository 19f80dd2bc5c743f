//! A disk over another one that is never written to: what the guest writes goes to a file of its
//! own, and the rest is read through to the base. Making one takes the same time whatever the
//! base's size.
//!
//! ```text
//! FILE: head | bitmap, durable | bitmap, live | blocks, each where it is on the base; else holes
//!
//! a block: in the base --first write: what is not overwritten is copied--> in FILE
//! ```
//!
//! A bit says that a block of 4 KiB is in the file. There are two bitmaps because data and bits
//! become durable in no order that is known. The live one follows every write, for a process that
//! is killed; the durable one follows a flush, after the data, for a host that stops. The head says
//! in which boot of the host the live one was written: in another, the durable one counts, and what
//! was not flushed reads as it did before.
//!
//! What is refused: a file that is no overlay, and a base whose size or time of change is not that
//! of when the overlay was made.

use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use devices::block::BlockBackend;
use devices::block::request::ID_LEN;
use thiserror::Error;
use virtio::GuestSlice;

use crate::disk::{DiskClaim, DiskError, FileDisk};

const BLOCK: u64 = 4096;
/// Bytes of the head; the base's path has the rest of it.
const HEAD_LEN: usize = 4096;
const MAGIC: &[u8; 8] = b"SPKOVER1";
/// Offsets in the head.
const BASE_LEN_AT: usize = 8;
const BASE_SECONDS_AT: usize = 16;
const BASE_NANOSECONDS_AT: usize = 24;
const BOOT_AT: usize = 32;
const PATH_LEN_AT: usize = 72;
const PATH_AT: usize = 80;
const BOOT_LEN: usize = 36;
/// The host's boot, as text.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why an overlay cannot be had.
#[derive(Debug, Error)]
pub enum OverlayError {
    /// One of its two disks cannot be had.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The host refuses a file operation.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// It is something else.
    #[error("{0} is no overlay of a disk; give it as a plain disk")]
    NoOverlay(PathBuf),
    /// The base is not what it was.
    #[error("{base} was changed since {path} was made over it; make a new overlay")]
    BaseChanged {
        /// The overlay.
        path: PathBuf,
        /// The base.
        base: PathBuf,
    },
}

/// The disk.
#[derive(Debug)]
pub struct OverlayDisk {
    base: FileDisk,
    base_file: File,
    top: FileDisk,
    top_file: File,
    len: u64,
    places: Places,
    /// A bit for each block that is in the file.
    bits: Vec<u8>,
    /// Whether bits were set since the last flush.
    unsynced: bool,
}

/// Where what is in the file.
#[derive(Debug, Clone, Copy)]
struct Places {
    durable: u64,
    live: u64,
    blocks: u64,
}

impl Places {
    fn of(len: u64) -> Self {
        let bitmap = len.div_ceil(BLOCK).div_ceil(8).next_multiple_of(BLOCK);
        let durable = HEAD_LEN as u64;
        Self { durable, live: durable + bitmap, blocks: durable + 2 * bitmap }
    }
}

impl OverlayDisk {
    /// Makes the file `path` an overlay of `base`, in which nothing is written yet.
    pub fn create(base: &Path, path: &Path) -> Result<(), OverlayError> {
        let base = std::fs::canonicalize(base).map_err(failed("find", base))?;
        let mut head = [0; HEAD_LEN];
        let len = describe(&base, &mut head)?;
        let name = base.as_os_str().as_bytes();
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        head[PATH_LEN_AT..][..8].copy_from_slice(&(name.len() as u64).to_le_bytes());
        let room = head[PATH_AT..].get_mut(..name.len());
        let too_long =
            || failed("name in an overlay", &base)(io::ErrorKind::InvalidFilename.into());
        room.ok_or_else(too_long)?.copy_from_slice(name);
        let file = File::create_new(path).map_err(failed("make", path))?;
        let end = Places::of(len).blocks + len.next_multiple_of(BLOCK);
        file.set_len(end).map_err(failed("make room in", path))?;
        file.write_all_at(&head, 0).map_err(failed("write", path))
    }

    /// Opens and locks the overlay at `path`, and its base for reading.
    pub fn open(path: &Path) -> Result<Self, OverlayError> {
        let top = FileDisk::open(path, false)?;
        let top_file = File::options().read(true).write(true).open(path);
        let top_file = top_file.map_err(failed("open", path))?;
        let mut head = [0; HEAD_LEN];
        top_file.read_exact_at(&mut head, 0).map_err(failed("read", path))?;
        let base_path = base_of(&head).ok_or_else(|| OverlayError::NoOverlay(path.to_owned()))?;
        let mut now = head;
        describe(&base_path, &mut now)?;
        if now != head {
            return Err(OverlayError::BaseChanged { path: path.to_owned(), base: base_path });
        }
        let base = FileDisk::open(&base_path, true)?;
        let len = base.len();
        let base_file = File::open(&base_path).map_err(failed("open", &base_path))?;
        let places = Places::of(word(&head, BASE_LEN_AT));
        let bits = vec![0; len.div_ceil(BLOCK).div_ceil(8) as usize];
        let mut disk = Self { base, base_file, top, top_file, len, places, bits, unsynced: false };
        disk.load(&head).map_err(failed("read", path))?;
        Ok(disk)
    }

    /// The right to the overlay's own file. The base is locked for as long as the disk is there.
    pub fn claim(&self) -> DiskClaim {
        self.top.claim()
    }

    /// Reads the bitmap that counts, and makes it the live one of this boot.
    fn load(&mut self, head: &[u8; HEAD_LEN]) -> io::Result<()> {
        let boot = boot_id()?;
        let same = head[BOOT_AT..][..BOOT_LEN] == boot;
        let from = if same { self.places.live } else { self.places.durable };
        self.top_file.read_exact_at(&mut self.bits, from)?;
        self.unsynced = same;
        self.top_file.write_all_at(&self.bits, self.places.live)?;
        self.top_file.write_all_at(&boot, BOOT_AT as u64)
    }

    fn has(&self, block: u64) -> bool {
        self.bits.get((block / 8) as usize).is_some_and(|byte| byte >> (block % 8) & 1 != 0)
    }

    /// Where the blocks from `offset` on stop to be all in the file, or all in the base.
    fn same_until(&self, offset: u64, end: u64) -> u64 {
        let first = offset / BLOCK;
        let inside = self.has(first);
        let other = (first..end.div_ceil(BLOCK)).find(|block| self.has(*block) != inside);
        other.map_or(end, |block| block * BLOCK).min(end)
    }

    /// Refuses what is not on the disk.
    fn check(&self, offset: u64, len: u64) -> io::Result<u64> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        end.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Brings the blocks into the file that a write from `offset` to `end` leaves a part of.
    fn copy_edges(&self, offset: u64, end: u64) -> io::Result<()> {
        let mut edges = [offset, end].map(|at| (at % BLOCK != 0).then_some(at / BLOCK));
        if edges[0] == edges[1] {
            edges[1] = None;
        }
        for block in edges.into_iter().flatten().filter(|block| !self.has(*block)) {
            let at = block * BLOCK;
            let mut buffer = [0; BLOCK as usize];
            let part = &mut buffer[..(self.len - at).min(BLOCK) as usize];
            self.base_file.read_exact_at(part, at)?;
            self.top_file.write_all_at(part, self.places.blocks + at)?;
        }
        Ok(())
    }

    /// The blocks are in the file from now on, and what is in them has been written.
    fn mark(&mut self, offset: u64, end: u64) -> io::Result<()> {
        let blocks = offset / BLOCK..end.div_ceil(BLOCK);
        let mut new = blocks.clone().filter(|block| !self.has(*block)).peekable();
        if new.peek().is_none() {
            return Ok(());
        }
        for block in new.collect::<Vec<_>>() {
            self.bits[(block / 8) as usize] |= 1 << (block % 8);
        }
        self.unsynced = true;
        let (from, to) = ((blocks.start / 8) as usize, blocks.end.div_ceil(8) as usize);
        self.top_file.write_all_at(&self.bits[from..to], self.places.live + from as u64)
    }
}

impl BlockBackend for OverlayDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        let end = self.check(offset, total(into))?;
        let mut at = offset;
        while at < end {
            let until = self.same_until(at, end);
            let part = cut(into, at - offset, until - offset)?;
            if self.has(at / BLOCK) {
                self.top.read_at(self.places.blocks + at, &part)?;
            } else {
                self.base.read_at(at, &part)?;
            }
            at = until;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        let end = self.check(offset, total(from))?;
        if offset == end {
            return Ok(());
        }
        self.copy_edges(offset, end)?;
        self.top.write_at(self.places.blocks + offset, from)?;
        self.mark(offset, end)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.top_file.sync_data()?;
        if std::mem::take(&mut self.unsynced) {
            let durable = self.top_file.write_all_at(&self.bits, self.places.durable);
            let durable = durable.and_then(|()| self.top_file.sync_data());
            self.unsynced = durable.is_err();
            return durable;
        }
        Ok(())
    }

    fn id(&self) -> [u8; ID_LEN as usize] {
        self.top.id()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len)?;
        // Blocks of the base stay as they are: any content will do.
        self.top.discard(self.places.blocks + offset, len)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        let end = self.check(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.copy_edges(offset, end)?;
        self.top.write_zeroes(self.places.blocks + offset, len, may_unmap)?;
        self.mark(offset, end)
    }
}

fn total(slices: &[GuestSlice<'_>]) -> u64 {
    slices.iter().map(|slice| slice.len() as u64).sum()
}

/// The bytes `from..to` of all slices together.
fn cut<'a>(slices: &[GuestSlice<'a>], from: u64, to: u64) -> io::Result<Vec<GuestSlice<'a>>> {
    let mut part = Vec::with_capacity(slices.len());
    let mut at = 0;
    for slice in slices {
        let len = slice.len() as u64;
        let (first, last) = (from.clamp(at, at + len) - at, to.clamp(at, at + len) - at);
        if first < last {
            let piece = slice.subslice(first as usize, (last - first) as usize);
            part.push(piece.map_err(io::Error::other)?);
        }
        at += len;
    }
    Ok(part)
}

/// Writes into a head how long the base is and when it was changed; its length.
fn describe(base: &Path, head: &mut [u8; HEAD_LEN]) -> Result<u64, OverlayError> {
    let metadata = std::fs::metadata(base).map_err(failed("find", base))?;
    let words = [
        (BASE_LEN_AT, metadata.len()),
        (BASE_SECONDS_AT, metadata.mtime() as u64),
        (BASE_NANOSECONDS_AT, metadata.mtime_nsec() as u64),
    ];
    for (at, word) in words {
        head[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    Ok(metadata.len())
}

/// The base's path, if this is the head of an overlay.
fn base_of(head: &[u8; HEAD_LEN]) -> Option<PathBuf> {
    let len = usize::try_from(word(head, PATH_LEN_AT)).ok()?;
    let path = head[PATH_AT..].get(..len)?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
    head.starts_with(MAGIC).then_some(path)
}

fn word(head: &[u8; HEAD_LEN], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn boot_id() -> io::Result<[u8; BOOT_LEN]> {
    let text = std::fs::read(BOOT_ID)?;
    let id = text.get(..BOOT_LEN).and_then(|id| id.try_into().ok());
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OverlayError {
    let path = path.to_owned();
    move |source| OverlayError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};
    use proptest::prelude::*;

    /// No whole number of blocks.
    const LEN: usize = 10 * 4096 + 1024;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        /// A base with a pattern, and an overlay of it.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let place = Self { folder };
            std::fs::write(place.base(), pattern()).unwrap();
            OverlayDisk::create(&place.base(), &place.top()).unwrap();
            place
        }

        fn base(&self) -> PathBuf {
            self.folder.path().join("base")
        }

        fn top(&self) -> PathBuf {
            self.folder.path().join("top")
        }
    }

    fn pattern() -> Vec<u8> {
        (0..LEN).map(|at| (at / 7) as u8).collect()
    }

    fn ram() -> GuestMemory {
        memory::allocate(&memory::ranges(1 << 20)).unwrap()
    }

    fn read(disk: &mut OverlayDisk, ram: &GuestMemory, offset: u64, len: usize) -> Vec<u8> {
        // In two pieces, of which the first is odd.
        let slice = |at: u64, len| ram.get_slice(GuestAddress(at), len).unwrap();
        let first = len.min(777);
        disk.read_at(offset, &[slice(0, first), slice(first as u64, len - first)]).unwrap();
        let mut bytes = vec![0; len];
        ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    fn write(disk: &mut OverlayDisk, ram: &GuestMemory, offset: u64, bytes: &[u8]) {
        ram.write_slice(bytes, GuestAddress(0)).unwrap();
        disk.write_at(offset, &[ram.get_slice(GuestAddress(0), bytes.len()).unwrap()]).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_reads_as_one_disk(
            steps in proptest::collection::vec((0usize..LEN, 1usize..9000, any::<u8>()), 1..20),
        ) {
            let place = Place::new();
            let (ram, mut model) = (ram(), pattern());
            let mut disk = OverlayDisk::open(&place.top()).unwrap();
            for (offset, len, kind) in steps {
                let end = (offset + len).min(LEN);
                match kind % 4 {
                    0 => {
                        disk.write_zeroes(offset as u64, (end - offset) as u64, true).unwrap();
                        model[offset..end].fill(0);
                    }
                    1 => {
                        disk.flush().unwrap();
                        drop(disk);
                        disk = OverlayDisk::open(&place.top()).unwrap();
                    }
                    _ => {
                        write(&mut disk, &ram, offset as u64, &vec![kind; end - offset]);
                        model[offset..end].fill(kind);
                    }
                }
                prop_assert!(read(&mut disk, &ram, 0, LEN) == model);
                let part = read(&mut disk, &ram, offset as u64, end - offset);
                prop_assert!(part == model[offset..end]);
            }
            prop_assert!(std::fs::read(place.base()).unwrap() == pattern());
        }
    }

    #[test]
    fn what_was_not_flushed_survives_the_process_but_not_the_host() {
        let place = Place::new();
        let ram = ram();
        let mut disk = OverlayDisk::open(&place.top()).unwrap();
        write(&mut disk, &ram, 0, &[1; 4096]);
        disk.flush().unwrap();
        write(&mut disk, &ram, 4096, &[2; 4096]);
        drop(disk);
        let mut disk = OverlayDisk::open(&place.top()).unwrap();
        assert_eq!(read(&mut disk, &ram, 4096, 2), [2, 2]);
        // As if the host had been started anew.
        disk.top_file.write_all_at(&[b'0'; BOOT_LEN], BOOT_AT as u64).unwrap();
        drop(disk);
        let mut disk = OverlayDisk::open(&place.top()).unwrap();
        assert_eq!(read(&mut disk, &ram, 0, 2), [1, 1]);
        assert_eq!(read(&mut disk, &ram, 4096, 2), pattern()[4096..4098]);
    }

    #[test]
    fn what_is_refused() {
        let place = Place::new();
        let ram = ram();
        let mut disk = OverlayDisk::open(&place.top()).unwrap();
        let slice = ram.get_slice(GuestAddress(0), 1024).unwrap();
        for offset in [LEN as u64 - 512, u64::MAX - 512] {
            assert!(disk.read_at(offset, &[slice]).is_err());
            assert!(disk.write_at(offset, &[slice]).is_err());
            assert!(disk.write_zeroes(offset, 1024, true).is_err());
            assert!(disk.discard(offset, 1024).is_err());
        }
        let in_use = OverlayDisk::open(&place.top()).unwrap_err();
        assert!(matches!(in_use, OverlayError::Disk(DiskError::InUse { .. })), "{in_use}");
        // The base serves many readers, and no writer.
        let second = place.folder.path().join("second");
        OverlayDisk::create(&place.base(), &second).unwrap();
        OverlayDisk::open(&second).unwrap();
        let writer = FileDisk::open(&place.base(), false).unwrap_err();
        assert!(matches!(writer, DiskError::InUse { .. }), "{writer}");
        drop(disk);
        let writer = FileDisk::open(&place.base(), false).unwrap();
        let in_use = OverlayDisk::open(&place.top()).unwrap_err();
        assert!(matches!(in_use, OverlayError::Disk(DiskError::InUse { .. })), "{in_use}");
        drop(writer);
        assert!(OverlayDisk::create(&place.base(), &place.top()).is_err());
        assert!(matches!(OverlayDisk::open(&place.base()), Err(OverlayError::NoOverlay(_))));
        std::fs::write(place.base(), vec![0; LEN]).unwrap();
        let changed = OverlayDisk::open(&place.top()).unwrap_err();
        assert!(matches!(changed, OverlayError::BaseChanged { .. }), "{changed}");
    }

    #[test]
    fn a_large_base_takes_no_time_and_no_room() {
        let place = Place::new();
        let large = place.folder.path().join("large");
        File::create(&large).unwrap().set_len(2 << 30).unwrap();
        let own = place.folder.path().join("own");
        OverlayDisk::create(&large, &own).unwrap();
        let disk = OverlayDisk::open(&own).unwrap();
        assert_eq!(disk.len(), 2 << 30);
        let taken = std::fs::metadata(own).unwrap().blocks() * 512;
        assert!(taken < 256 << 10, "{taken}");
    }
}
