//! Disks for machines: images are themselves never written to.
//!
//! A machine's own disk takes neither time nor room, whatever the image's size. Where the file
//! system shares blocks between files (btrfs, XFS, bcachefs), it is a reflink; elsewhere it is an
//! overlay ([`host::OverlayDisk`]), which only `sparkler` itself can read. A disk that leaves the
//! store is a file of its own: a reflink, or a copy of what is no hole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use host::OverlayDisk;
use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;
use spec::DriveBackend;

use crate::cache::Temporary;
use crate::store::{Image, Store};
use crate::{Error, Result};

/// A machine's own disk, which begins as an image's and is gone when this is dropped. What a killed
/// process leaves is swept with the store's other temporary folders.
pub struct OwnDisk {
    backend: DriveBackend,
    _work: Temporary,
}

impl OwnDisk {
    /// Makes it, in the store's file system.
    pub fn new(store: &Store, image: &Image) -> Result<Self> {
        let work = store.work()?;
        let backend = match own_copy(&image.disk, &work)? {
            Some(copy) => DriveBackend::File(copy),
            None => {
                let overlay = work.path().join("own.overlay");
                OverlayDisk::create(&image.disk, &overlay)?;
                DriveBackend::Overlay(overlay)
            }
        };
        Ok(OwnDisk { backend, _work: work })
    }

    /// What a machine is given. It cannot be opened any more when the image was removed meanwhile;
    /// an open one stays.
    pub fn backend(&self) -> &DriveBackend {
        &self.backend
    }
}

/// A reflink of the disk, if the file system has such.
fn own_copy(disk: &Path, work: &Temporary) -> Result<Option<PathBuf>> {
    let path = work.path().join("own.ext4");
    let from = File::open(disk).map_err(Error::file("open", disk))?;
    let to = File::create_new(&path).map_err(Error::file("make", &path))?;
    let shared = reflink(&from, &to).map_err(Error::file("write", &path))?;
    Ok(shared.then_some(path))
}

/// How much is copied at a time where the kernel cannot do it.
const PIECE: usize = 1 << 20;

/// Makes `to`, an empty file, the same as `from`: by a reflink if that can be, else by copying,
/// with holes where there are holes.
pub fn copy(from: &File, to: &File) -> io::Result<()> {
    if reflink(from, to)? {
        return Ok(());
    }
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut at = 0;
    while at < len {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(from, SeekFrom::Hole(start))?.min(len);
        copy_range(from, to, start, at)?;
    }
    Ok(())
}

/// Makes `to` share all blocks of `from`; false if the file system cannot, or they are on two.
pub fn reflink(from: &File, to: &File) -> io::Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let wanted = usize::try_from(end - read).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_bytes(from, to, read, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_bytes(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    while at < end {
        let len = (end - at).min(PIECE as u64) as usize;
        from.read_exact_at(&mut buffer[..len], at)?;
        to.write_all_at(&buffer[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_is_the_same_and_has_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let from = File::create_new(path("from")).unwrap();
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"middle", 32 << 20).unwrap();
        let from = File::open(path("from")).unwrap();
        let to = File::create_new(path("to")).unwrap();
        copy(&from, &to).unwrap();
        assert!(std::fs::read(path("from")).unwrap() == std::fs::read(path("to")).unwrap());
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks() + 8);
    }
}
