//! A disk whose contents are a file or a block device of the host.
//!
//! Requests go from guest RAM to the file and back without a copy, by preadv(2) and pwritev(2).
//! What the guest discards becomes a hole in the file. An advisory lock (flock(2)) keeps two machines off one writable disk: a writer excludes everybody,
//! readers exclude writers. A size that is no multiple of 512 is cut down to one, as Firecracker
//! does it; the caller learns of that, and should tell the user.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use devices::block::BlockBackend;
use devices::block::request::{ID_LEN, SECTOR_SIZE};
use memory::{GuestMemory, GuestMemoryBackend};
use rustix::fs::{FallocateFlags, fallocate};
use thiserror::Error;
use virtio::GuestSlice;

/// A lock is also held, for a moment, by a process that was just forked and has not yet become the
/// program that it starts: so a lock is tried again this often, with this pause.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Why a disk cannot be had.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The host refuses to open it.
    #[error("cannot open disk {path} for {access}: {source}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// What was wanted of it.
        access: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// Only files and block devices hold disks.
    #[error("disk {path} is {kind}; name a file or a block device")]
    Kind {
        /// The disk.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// Too small to be a disk.
    #[error("disk {path} has {len} bytes; the smallest disk has {SECTOR_SIZE}")]
    Small {
        /// The disk.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// The kernel has no io_uring for this process.
    #[error(
        "the I/O engine Async needs io_uring, which this host refuses: {source}; use the I/O engine \
         Sync, or allow io_uring (kernel 5.10 or later, sysctl kernel.io_uring_disabled=0, and no \
         seccomp filter against it)"
    )]
    NoUring {
        /// The host's reason.
        source: io::Error,
    },
    /// Another machine has it.
    #[error(
        "disk {path} is in use by another virtual machine; stop that one, make a copy of the \
         disk, or let both use it read-only"
    )]
    InUse {
        /// The disk.
        path: PathBuf,
    },
}

/// The disk.
#[derive(Debug)]
pub struct FileDisk {
    file: Arc<File>,
    device: bool,
    len: u64,
    excess: u64,
    id: [u8; ID_LEN as usize],
    /// Kept for its allocation.
    pieces: Pieces,
}

/// The right to a file that a disk has: its lock, and which file it is.
#[derive(Debug, Clone)]
pub struct DiskClaim(Arc<File>);

impl FileDisk {
    /// Opens and locks the file at `path`.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let (metadata, file) = open(path, read_only)?;
        lock(&file, path, read_only)?;
        Self::over(Arc::new(file), path, &metadata)
    }

    /// Opens the file at `path` to take the place of the disk that holds `old`, which may be the
    /// same file: then it is looked at anew, for a size that has changed.
    pub fn open_instead(path: &Path, read_only: bool, old: &DiskClaim) -> Result<Self, DiskError> {
        let (metadata, file) = open(path, read_only)?;
        let is_same = old.0.metadata().is_ok_and(|old| same_file(&old, &metadata));
        if is_same {
            return Self::over(old.0.clone(), path, &metadata);
        }
        lock(&file, path, read_only)?;
        Self::over(Arc::new(file), path, &metadata)
    }

    /// The right to the file. The lock is held for as long as the disk or a claim is there.
    pub fn claim(&self) -> DiskClaim {
        DiskClaim(self.file.clone())
    }

    /// Bytes at the file's end that the guest does not see, because they make no whole sector.
    pub fn excess(&self) -> u64 {
        self.excess
    }

    fn over(file: Arc<File>, path: &Path, metadata: &Metadata) -> Result<Self, DiskError> {
        let bytes = length(&file).map_err(|source| {
            let access = "finding its length";
            DiskError::Open { path: path.to_owned(), access, source }
        })?;
        if bytes < SECTOR_SIZE {
            return Err(DiskError::Small { path: path.to_owned(), len: bytes });
        }
        let excess = bytes % SECTOR_SIZE;
        let device = metadata.file_type().is_block_device();
        let (len, id) = (bytes - excess, identity(metadata));
        Ok(Self { file, device, len, excess, id, pieces: Pieces::default() })
    }
}

fn open(path: &Path, read_only: bool) -> Result<(Metadata, File), DiskError> {
    let access = if read_only { "reading" } else { "reading and writing" };
    let open_error = |source| DiskError::Open { path: path.to_owned(), access, source };
    // A directory opens for reading, and a fifo would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(open_error)?;
    if let Some(kind) = wrong_kind(&metadata) {
        return Err(DiskError::Kind { path: path.to_owned(), kind });
    }
    let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(open_error)?;
    Ok((metadata, file))
}

fn same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino(), one.rdev()) == (other.dev(), other.ino(), other.rdev())
}

/// What a file is that cannot hold a disk.
fn wrong_kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    let kinds = [
        (kind.is_dir(), "a directory"),
        (kind.is_fifo(), "a named pipe"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device(), "a character device"),
    ];
    kinds.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
}

fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), DiskError> {
    let lock = || if read_only { file.try_lock_shared() } else { file.try_lock() };
    let mut locked = lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        locked = lock();
    }
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(DiskError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => {
            // Some network file systems have no locks; the disk itself works there.
            log::warn!("disk {} cannot be locked: {error}", path.display());
            Ok(())
        }
    }
}

/// The length of a file or of a block device, whose metadata says 0.
fn length(file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

/// What the guest reads as the disk's serial number: where the file is on the host.
fn identity(metadata: &Metadata) -> [u8; ID_LEN as usize] {
    let text = format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino());
    let mut id = [0; ID_LEN as usize];
    for (to, from) in id.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    id
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    ToGuest,
    FromGuest,
}

/// Most pieces of one system call (`UIO_MAXIOV` in Linux).
const IOV_MAX: usize = 1024;

/// What is left of a transfer: where on the disk, and pieces of guest RAM.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    offset: u64,
    list: Vec<libc::iovec>,
    /// The first of `list` that is not done.
    first: usize,
}

// SAFETY: the pointers are not used here; whoever gives them to the kernel vouches for them.
unsafe impl Send for Pieces {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for Pieces {}

impl Pieces {
    /// Begins a transfer of `slices`, from or to `offset` on.
    pub fn set(&mut self, offset: u64, slices: &[GuestSlice<'_>]) {
        self.offset = offset;
        self.first = 0;
        self.list.clear();
        self.list.extend(slices.iter().filter(|slice| !slice.is_empty()).map(|slice| {
            let guard = slice.ptr_guard_mut();
            libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() }
        }));
    }

    /// What one system call takes: nothing when all is done.
    pub fn next(&self) -> (u64, &[libc::iovec]) {
        let rest = self.list.get(self.first..).unwrap_or(&[]);
        (self.offset, &rest[..rest.len().min(IOV_MAX)])
    }

    /// Whether all that is left lies in `memory`.
    pub fn lie_in(&self, memory: &GuestMemory) -> bool {
        self.list.iter().all(|piece| {
            let (first, len) = (piece.iov_base as usize, piece.iov_len);
            memory.iter().any(|region| {
                let base = region.as_ptr() as usize;
                let room = region.size().checked_sub(len);
                first >= base && room.is_some_and(|room| first - base <= room)
            })
        })
    }

    /// Takes off `done` bytes that were transferred.
    pub fn advance(&mut self, mut done: usize) {
        self.offset += done as u64;
        while let Some(piece) = self.list.get_mut(self.first).filter(|_| done > 0) {
            let step = done.min(piece.iov_len);
            piece.iov_base = piece.iov_base.wrapping_byte_add(step);
            piece.iov_len -= step;
            done -= step;
            if piece.iov_len == 0 {
                self.first += 1;
            }
        }
    }
}

impl FileDisk {
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Transfers all of `slices`, however many calls that takes.
    fn transfer(&mut self, way: Way, offset: u64, slices: &[GuestSlice<'_>]) -> io::Result<()> {
        self.pieces.set(offset, slices);
        loop {
            let (offset, pieces) = self.pieces.next();
            if pieces.is_empty() {
                return Ok(());
            }
            let done = self.call(way, offset, pieces)?;
            self.pieces.advance(done);
        }
    }

    /// One system call on `pieces`, which are those of `transfer`; at least one byte is
    /// transferred.
    fn call(&self, way: Way, offset: u64, pieces: &[libc::iovec]) -> io::Result<usize> {
        let fd = self.raw_fd();
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = pieces.len() as libc::c_int;
        loop {
            // SAFETY: each piece lies within a slice of guest RAM, which the caller of `transfer`
            // keeps mapped by borrowing it for as long as this call lasts. The guest may change
            // RAM at the same time: the kernel copies it as bytes, without assumptions.
            let done = unsafe {
                match way {
                    Way::ToGuest => libc::preadv(fd, pieces.as_ptr(), count, offset),
                    Way::FromGuest => libc::pwritev(fd, pieces.as_ptr(), count, offset),
                }
            };
            match usize::try_from(done) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(done) => return Ok(done),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Asks a block device to do `request` to some of its bytes.
    fn ask_device(&self, request: libc::c_ulong, offset: u64, len: u64) -> io::Result<()> {
        let range = [offset, len];
        // SAFETY: both requests read two 64-bit numbers at the pointer, which is to a live local.
        match unsafe { libc::ioctl(self.raw_fd(), request, range.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, offset, len)?)
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, offset, len)?)
    }

    /// For file systems that know neither holes nor ranges of zeroes.
    fn write_zero_bytes(&self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let step = (end - at).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }
}

/// Requests of block devices (`linux/fs.h`): forget a range, make it zero.
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127F;

impl BlockBackend for FileDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        self.transfer(Way::ToGuest, offset, into)
    }

    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        self.transfer(Way::FromGuest, offset, from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn id(&self) -> [u8; ID_LEN as usize] {
        self.id
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match len {
            // fallocate(2) refuses to do nothing.
            0 => Ok(()),
            _ if self.device => self.ask_device(BLKDISCARD, offset, len),
            _ => self.punch_hole(offset, len),
        }
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let zeroed = match (self.device, may_unmap) {
            (true, _) => self.ask_device(BLKZEROOUT, offset, len),
            (false, true) => self.punch_hole(offset, len),
            (false, false) => self.zero_range(offset, len),
        };
        match zeroed {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.write_zero_bytes(offset, len)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};
    use std::os::unix::fs::PermissionsExt;

    fn ram() -> GuestMemory {
        memory::allocate(&memory::ranges(1 << 20)).unwrap()
    }

    fn disk_file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, bytes).unwrap();
        file
    }

    #[test]
    fn bytes_go_both_ways_in_pieces() {
        let file = disk_file(&[7; 4096]);
        let mut disk = FileDisk::open(file.path(), false).unwrap();
        let ram = ram();
        ram.write_slice(b"hello, disk!", GuestAddress(0x1000)).unwrap();
        let from = |at, len| ram.get_slice(GuestAddress(at), len).unwrap();
        disk.write_at(512, &[from(0x1000, 5), from(0x1005, 0), from(0x1005, 7)]).unwrap();
        disk.flush().unwrap();
        disk.read_at(511, &[from(0x2000, 1), from(0x3000, 13)]).unwrap();
        let mut read = [0; 13];
        ram.read_slice(&mut read, GuestAddress(0x3000)).unwrap();
        assert_eq!(&read, b"hello, disk!\x07");
        assert_eq!(ram.read_obj::<u8>(GuestAddress(0x2000)).unwrap(), 7);
        let beyond = disk.read_at(4096, &[from(0x2000, 1)]).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_broken_sector_at_the_end_is_cut_off() {
        let file = disk_file(&[0; 1025]);
        let disk = FileDisk::open(file.path(), true).unwrap();
        assert_eq!((disk.len(), disk.excess()), (1024, 1));
    }

    #[test]
    fn what_cannot_be_a_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let small = folder.path().join("small");
        std::fs::write(&small, [0; 511]).unwrap();
        let cases = [
            (folder.path().to_owned(), "is a directory; name a file"),
            (folder.path().join("none"), "for reading and writing: No such file"),
            (small, "has 511 bytes"),
            ("/dev/null".into(), "is a character device"),
        ];
        for (path, expected) in cases {
            let error = FileDisk::open(&path, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn an_unreadable_disk_is_refused() {
        let file = disk_file(&[0; 512]);
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o000)).unwrap();
        match FileDisk::open(file.path(), true) {
            Err(error) => assert!(error.to_string().contains("Permission denied"), "{error}"),
            Ok(_) => assert!(crate::probe::is_root(), "only root may read it"),
        }
    }

    #[test]
    fn a_writer_excludes_everybody_and_readers_exclude_writers() {
        let file = disk_file(&[0; 512]);
        let path = file.path();
        let writer = FileDisk::open(path, false).unwrap();
        assert!(matches!(FileDisk::open(path, false), Err(DiskError::InUse { .. })));
        assert!(matches!(FileDisk::open(path, true), Err(DiskError::InUse { .. })));
        drop(writer);
        let _readers = [FileDisk::open(path, true).unwrap(), FileDisk::open(path, true).unwrap()];
        assert!(matches!(FileDisk::open(path, false), Err(DiskError::InUse { .. })));
    }
    #[test]
    fn a_disk_can_take_its_own_place() {
        let file = disk_file(&[0; 512]);
        let disk = FileDisk::open(file.path(), false).unwrap();
        let claim = disk.claim();
        file.as_file().set_len(4096).unwrap();
        let grown = FileDisk::open_instead(file.path(), false, &claim).unwrap();
        assert_eq!((disk.len(), grown.len()), (512, 4096));
        drop(disk);
        // The lock is still held, by the disk that took its place.
        drop(claim);
        assert!(matches!(FileDisk::open(file.path(), false), Err(DiskError::InUse { .. })));
        let other = disk_file(&[0; 1024]);
        let replaced = FileDisk::open_instead(other.path(), false, &grown.claim()).unwrap();
        assert!(matches!(FileDisk::open(other.path(), false), Err(DiskError::InUse { .. })));
        let taken = FileDisk::open_instead(file.path(), false, &replaced.claim());
        assert!(matches!(taken, Err(DiskError::InUse { .. })));
        drop(grown);
        assert!(FileDisk::open_instead(file.path(), false, &replaced.claim()).is_ok());
    }

    #[test]
    fn pieces_are_taken_off_in_any_step() {
        let ram = ram();
        let lens = [5, 0, 7, 1, 3000];
        let slices = lens.map(|len| ram.get_slice(GuestAddress(0x1000), len).unwrap());
        for step in [1, 2, 5, 6, 12, 13, 3000, 3013] {
            let mut pieces = Pieces::default();
            pieces.set(100, &slices);
            assert!(pieces.lie_in(&ram));
            let mut done = 0;
            while !pieces.next().1.is_empty() {
                let left: usize = pieces.next().1.iter().map(|piece| piece.iov_len).sum();
                assert_eq!((left, pieces.next().0), (3013 - done, 100 + done as u64), "{step}");
                pieces.advance(step.min(left));
                done += step.min(left);
            }
            assert_eq!(done, 3013, "{step}");
        }
    }

    #[test]
    fn pieces_outside_of_the_memory_are_seen() {
        let (here, other) = (ram(), ram());
        for (memory, inside) in [(&here, true), (&other, false)] {
            let mut pieces = Pieces::default();
            pieces.set(0, &[memory.get_slice(GuestAddress((1 << 20) - 16), 16).unwrap()]);
            assert_eq!(pieces.lie_in(&here), inside);
        }
    }

    #[test]
    fn a_block_device_discards_and_zeroes() {
        let backing = disk_file(&vec![9; 1 << 20]);
        let losetup = |args: &[&std::ffi::OsStr]| {
            let output = std::process::Command::new("/sbin/losetup").args(args).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            output.status.success().then_some(text)
        };
        let args = ["--find".as_ref(), "--show".as_ref(), backing.path().as_os_str()];
        let Some(device) = losetup(&args) else {
            return eprintln!("SKIPPED: it takes root and loop devices");
        };
        let mut disk = FileDisk::open(Path::new(&device), false).unwrap();
        let zeroed = disk.write_zeroes(4096, 8192, false);
        let discarded = disk.discard(1 << 19, 1 << 18);
        disk.flush().unwrap();
        let len = disk.len();
        drop(disk);
        losetup(&["--detach".as_ref(), device.as_ref()]);
        zeroed.unwrap();
        discarded.unwrap();
        assert_eq!(len, 1 << 20);
        let bytes = std::fs::read(backing.path()).unwrap();
        let zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|byte| *byte == 0);
        assert!(zero(4096..12288) && zero(1 << 19..3 << 18));
        assert_eq!((bytes[4095], bytes[12288], bytes[3 << 18]), (9, 9, 9));
    }
}
