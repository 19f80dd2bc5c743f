//! A disk whose contents are a file or a block device of the host.
//!
//! Requests go from guest RAM to the file and back without a copy, by preadv(2) and pwritev(2). An
//! advisory lock (flock(2)) keeps two machines off one writable disk: a writer excludes everybody,
//! readers exclude writers. A size that is no multiple of 512 is cut down to one, as Firecracker
//! does it; the caller learns of that, and should tell the user.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use devices::block::BlockBackend;
use devices::block::request::{ID_LEN, SECTOR_SIZE};
use thiserror::Error;
use virtio::GuestSlice;

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
    file: File,
    len: u64,
    excess: u64,
    id: [u8; ID_LEN as usize],
}

impl FileDisk {
    /// Opens and locks the file at `path`.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let access = if read_only { "reading" } else { "reading and writing" };
        let open_error = |source| DiskError::Open { path: path.to_owned(), access, source };
        // A directory opens for reading, and a fifo would wait for its other end.
        let metadata = std::fs::metadata(path).map_err(open_error)?;
        if let Some(kind) = wrong_kind(&metadata) {
            return Err(DiskError::Kind { path: path.to_owned(), kind });
        }
        let file =
            OpenOptions::new().read(true).write(!read_only).open(path).map_err(open_error)?;
        lock(&file, path, read_only)?;
        let bytes = length(&file).map_err(open_error)?;
        if bytes < SECTOR_SIZE {
            return Err(DiskError::Small { path: path.to_owned(), len: bytes });
        }
        let excess = bytes % SECTOR_SIZE;
        Ok(Self { file, len: bytes - excess, excess, id: identity(&metadata) })
    }

    /// Bytes at the file's end that the guest does not see, because they make no whole sector.
    pub fn excess(&self) -> u64 {
        self.excess
    }
}

/// What a file is that cannot hold a disk.
fn wrong_kind(metadata: &std::fs::Metadata) -> Option<&'static str> {
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
    let locked = if read_only { file.try_lock_shared() } else { file.try_lock() };
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
fn identity(metadata: &std::fs::Metadata) -> [u8; ID_LEN as usize] {
    let text = format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino());
    let mut id = [0; ID_LEN as usize];
    for (to, from) in id.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    id
}

/// Which way the bytes go.
#[derive(Clone, Copy)]
enum Way {
    ToGuest,
    FromGuest,
}

impl FileDisk {
    /// Transfers all of `slices`, however many calls that takes.
    fn transfer(&self, way: Way, offset: u64, slices: &[GuestSlice<'_>]) -> io::Result<()> {
        let mut at = offset;
        let guards: Vec<_> = slices.iter().map(|slice| slice.ptr_guard_mut()).collect();
        let mut pieces: Vec<libc::iovec> = guards
            .iter()
            .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
            .collect();
        let mut first = 0;
        while first < pieces.len() {
            if pieces[first].iov_len == 0 {
                first += 1;
                continue;
            }
            let end = pieces.len().min(first + IOV_MAX);
            let mut done = self.call(way, at, &pieces[first..end])?;
            at += done as u64;
            while done > 0 {
                let step = done.min(pieces[first].iov_len);
                pieces[first].iov_base = pieces[first].iov_base.wrapping_byte_add(step);
                pieces[first].iov_len -= step;
                done -= step;
                if pieces[first].iov_len == 0 {
                    first += 1;
                }
            }
        }
        Ok(())
    }

    /// One system call; at least one byte is transferred.
    fn call(&self, way: Way, offset: u64, pieces: &[libc::iovec]) -> io::Result<usize> {
        let fd = self.file.as_raw_fd();
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = pieces.len() as libc::c_int;
        loop {
            // SAFETY: each piece lies within a slice of guest RAM, which `transfer` keeps mapped
            // through its guards for as long as this call lasts. The guest may change RAM at the
            // same time: the kernel copies it as bytes, without assumptions.
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
}

/// Most pieces of one system call (`UIO_MAXIOV` in Linux).
const IOV_MAX: usize = 1024;

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
}
