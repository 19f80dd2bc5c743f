//! A folder of the host, read into a [`Tree`]: everything below it with modes, times, hard links,
//! holes and extended attributes. Files are opened when the image is written.
//!
//! What the user may not read is an error, which names it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ::ext4::builder::Xattrs;
use ::ext4::{Attributes, Special, Time, is_xattr};
use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};
use rustix::io::Errno;

use crate::progress::{Progress, Unit};
use crate::tree::{Content, Item, Segment, Source, Tree};
use crate::{Error, Result};

/// Most bytes of an attribute's value, and of all names, as in the kernel.
const XATTR_MAX: usize = 64 << 10;
/// How often progress is told, in files.
const TOLD_EVERY: u64 = 256;

/// Who owns the files of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Root, whoever owns them on the host.
    Root,
    /// The same user and group numbers as on the host.
    Same,
    /// This user and group.
    Is(u32, u32),
}

/// Puts everything below `folder` into the tree; the folder itself becomes the root.
pub fn read_into(
    tree: &mut Tree,
    folder: &Path,
    owner: Owner,
    progress: &dyn Progress,
) -> Result<()> {
    let mut reader = Reader { tree, owner, linked: HashMap::new(), files: 0, progress };
    reader.put(folder, b"")?;
    let mut open: Vec<(PathBuf, Vec<u8>)> = vec![(folder.to_owned(), Vec::new())];
    while let Some((folder, below)) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::file("read", &folder))? {
            let entry = entry.map_err(Error::file("read", &folder))?;
            let mut path = below.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(entry.file_name().as_bytes());
            if reader.put(&entry.path(), &path)? {
                open.push((entry.path(), path));
            }
        }
    }
    Ok(())
}

struct Reader<'a> {
    tree: &'a mut Tree,
    owner: Owner,
    /// Files that have more names, by device and inode, with the first name.
    linked: HashMap<(u64, u64), Vec<u8>>,
    files: u64,
    progress: &'a dyn Progress,
}

impl Reader<'_> {
    /// Puts one inode into the tree; whether it is a folder.
    fn put(&mut self, host: &Path, path: &[u8]) -> Result<bool> {
        self.files += 1;
        if self.files.is_multiple_of(TOLD_EVERY) {
            self.progress.amount(self.files, None, Unit::Files);
        }
        // What the user named may be a link to the folder.
        let metadata =
            if path.is_empty() { fs::metadata(host) } else { fs::symlink_metadata(host) };
        let metadata = metadata.map_err(Error::file("read", host))?;
        let is_folder = metadata.is_dir();
        if metadata.nlink() > 1 && !is_folder {
            let identity = (metadata.dev(), metadata.ino());
            match self.linked.get(&identity) {
                Some(first) => {
                    self.tree.link(path, first)?;
                    return Ok(false);
                }
                None => self.linked.insert(identity, path.to_vec()),
            };
        }
        let item = item(host, &metadata)?;
        let xattrs = xattrs(host)?;
        self.tree.put(path, attributes(&metadata, self.owner), xattrs, item)?;
        Ok(is_folder)
    }
}

fn attributes(metadata: &Metadata, owner: Owner) -> Attributes {
    let (uid, gid) = match owner {
        Owner::Root => (0, 0),
        Owner::Same => (metadata.uid(), metadata.gid()),
        Owner::Is(uid, gid) => (uid, gid),
    };
    Attributes {
        mode: (metadata.mode() & 0o7777) as u16,
        uid,
        gid,
        modified: Time {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
    }
}

fn item(host: &Path, metadata: &Metadata) -> Result<Item> {
    let kind = metadata.file_type();
    let device = || {
        let number = metadata.rdev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    };
    Ok(if kind.is_dir() {
        Item::Folder
    } else if kind.is_symlink() {
        let target = fs::read_link(host).map_err(Error::file("read", host))?;
        Item::Symlink(target.as_os_str().as_bytes().to_vec())
    } else if kind.is_file() {
        Item::File(content(host, metadata)?)
    } else if kind.is_char_device() {
        let (major, minor) = device();
        Item::Special(Special::Character(major, minor))
    } else if kind.is_block_device() {
        let (major, minor) = device();
        Item::Special(Special::Block(major, minor))
    } else if kind.is_fifo() {
        Item::Special(Special::Pipe)
    } else {
        Item::Special(Special::Socket)
    })
}

fn content(host: &Path, metadata: &Metadata) -> Result<Content> {
    let size = metadata.len();
    // A file with fewer blocks than its size asks for has holes, or a file system that packs.
    let ranges = if metadata.blocks() * 512 < size {
        let file = File::open(host).map_err(Error::file("read", host))?;
        data_ranges(&file, size).map_err(Error::file("find the holes of", host))?
    } else {
        Vec::from_iter((size > 0).then_some(0..size))
    };
    let segments = ranges.into_iter().map(|range| Segment { at: range.start, range }).collect();
    Ok(Content { size, segments, source: Source::Host(host.to_owned()) })
}

fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // There is only a hole left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

/// The extended attributes that ext4 has a place for.
fn xattrs(host: &Path) -> Result<Xattrs> {
    let failed = |error: Errno| Error::file("read the attributes of", host)(error.into());
    let mut names = vec![0; 1024];
    let len = match llistxattr(host, &mut names) {
        Ok(len) => len,
        Err(Errno::RANGE) => {
            names.resize(XATTR_MAX, 0);
            llistxattr(host, &mut names).map_err(failed)?
        }
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(failed(error)),
    };
    let mut all = Xattrs::new();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| is_xattr(name)) {
        let mut value = vec![0; XATTR_MAX];
        match lgetxattr(host, OsStr::from_bytes(name), &mut value) {
            Ok(len) => {
                value.truncate(len);
                all.insert(name.to_vec(), value);
            }
            // Gone since, or of a security module that keeps it to itself.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(all)
}
