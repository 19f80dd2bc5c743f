//! A layer's archive: found in the blob itself, or unpacked from it into a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::Blob;
use super::digest::{Digest, Digesting};
use super::manifest::Descriptor;
use crate::decompress::Method;
use crate::{Error, Result};

/// Most bytes that a layer may be unpacked to.
pub const LAYER_MAX: u64 = 1 << 40;
const BUFFER: usize = 256 << 10;

/// Checks a blob against its digest, and its archive against that of the configuration. `told` is
/// told how many bytes of the blob are done.
pub(super) fn unpack(
    blob: &Blob,
    descriptor: &Descriptor,
    diff_id: &Digest,
    work: &Path,
    name: &str,
    told: &dyn Fn(u64),
) -> Result<Blob> {
    let failed = |error: io::Error| Error::format(name, error.to_string());
    let mut magic = [0; 8];
    let len = (blob.range.end - blob.range.start).min(8) as usize;
    blob.file.read_exact_at(&mut magic[..len], blob.range.start).map_err(failed)?;
    let method = Method::of(&magic[..len]);
    let mut stream = Digesting::new(Section::new(blob, told));
    let Some(method) = method else {
        let found = stream.finish().map_err(failed)?;
        diff_id.expect(found, name)?;
        descriptor.digest.expect(found, name)?;
        return Ok(blob.clone());
    };
    let file = tempfile_in(work)?;
    let mut archive = Digesting::new(method.reader(&mut stream, name)?.take(LAYER_MAX));
    let copied = copy(&mut archive, &file);
    let content = copied.and_then(|len| archive.finish().map(|found| (len, found)));
    // What is wrong with the blob explains what is wrong with its content.
    let whole = stream.finish().map_err(failed)?;
    descriptor.digest.expect(whole, name)?;
    let (len, found) = content.map_err(|error| match error.raw_os_error() {
        Some(_) => {
            Error::File { action: "unpack a layer into", path: work.to_owned(), source: error }
        }
        None => failed(error),
    })?;
    diff_id.expect(found, name)?;
    Ok(Blob { file: Arc::new(file), range: 0..len })
}

fn copy(from: &mut impl Read, mut to: &File) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut len = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(len);
        }
        to.write_all(&buffer[..count])?;
        len += count as u64;
    }
}

/// A file without a name, which is gone when it is closed, however that comes; with one where the
/// file system has no such files, and the folder's owner removes it.
pub(crate) fn tempfile_in(folder: &Path) -> Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let failed = |error| Error::file("make a file in", folder)(error);
    match openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            let path = folder.join(format!("spool.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            File::options().read(true).write(true).create_new(true).open(path).map_err(failed)
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// Reads a blob from its beginning to its end.
pub(super) struct Section<'a> {
    blob: &'a Blob,
    at: u64,
    told: &'a dyn Fn(u64),
}

impl<'a> Section<'a> {
    pub(super) fn new(blob: &'a Blob, told: &'a dyn Fn(u64)) -> BufReader<Self> {
        BufReader::with_capacity(BUFFER, Section { blob, at: blob.range.start, told })
    }
}

impl Read for Section<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let room = (self.blob.range.end - self.at).min(to.len() as u64) as usize;
        let count = self.blob.file.read_at(&mut to[..room], self.at)?;
        self.at += count as u64;
        (self.told)(self.at - self.blob.range.start);
        Ok(count)
    }
}
