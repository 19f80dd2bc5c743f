//! Disks for machines: copies of images, which are themselves never written to.
//!
//! Where the file system shares blocks between files (btrfs, XFS, bcachefs), a copy is a reflink,
//! and takes neither time nor room. Elsewhere it is a copy of what is no hole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::cache::Temporary;
use crate::store::{Image, Store};
use crate::{Error, Result};

/// A machine's own copy of an image's disk, which is gone when this is dropped. What a killed
/// process leaves is swept with the store's other temporary folders.
pub struct OwnDisk {
    path: PathBuf,
    _work: Temporary,
}

impl OwnDisk {
    /// Copies the image's disk, next to it.
    pub fn new(store: &Store, image: &Image) -> Result<Self> {
        let from = File::open(&image.disk).map_err(Error::file("open", &image.disk))?;
        let work = store.work()?;
        let path = work.path().join("own.ext4");
        let to = File::create_new(&path).map_err(Error::file("make", &path))?;
        copy(&from, &to).map_err(Error::file("write", &path))?;
        Ok(OwnDisk { path, _work: work })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
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
