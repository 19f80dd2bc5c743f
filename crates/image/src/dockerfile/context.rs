//! The context: the files that a `COPY` can take, without those that `.dockerignore` names.
//!
//! Files are only named here; they are read when they are copied. They belong to root, whoever
//! owns them on the host, and have no extended attributes. Sockets, pipes and devices are left out:
//! what they stand for is the host's.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ::ext4::builder::Xattrs;
use ::ext4::{Attributes, Time};

use super::pattern::Ignore;
use crate::tree::{Content, Item, Segment, Source, Tree};
use crate::{Error, Result};

/// The file that says what is ignored.
const IGNORE_FILE: &str = ".dockerignore";

/// What is ignored in this context: the file next to the Dockerfile that has its name and
/// `.dockerignore` behind it, else that of the context, else nothing.
pub fn ignore(folder: &Path, dockerfile: &Path) -> Result<Ignore> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(IGNORE_FILE);
    for path in [PathBuf::from(own), folder.join(IGNORE_FILE)] {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        return Ignore::parse(&text).map_err(|(line, why)| Error::Dockerfile {
            file: path.display().to_string(),
            line,
            why,
        });
    }
    Ok(Ignore::default())
}

/// All files below a folder that are not ignored.
pub fn read(folder: &Path, ignore: &Ignore) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut open: Vec<(PathBuf, Vec<u8>)> = vec![(folder.to_owned(), Vec::new())];
    while let Some((folder, below)) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::file("read", &folder))? {
            let entry = entry.map_err(Error::file("read", &folder))?;
            let mut path = below.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(entry.file_name().as_bytes());
            let host = entry.path();
            let metadata = fs::symlink_metadata(&host).map_err(Error::file("read", &host))?;
            let ignored = ignore.matches(&String::from_utf8_lossy(&path));
            if !ignored && let Some(item) = item(&host, &metadata)? {
                tree.put(&path, attributes(&metadata), Xattrs::new(), item)?;
            }
            if metadata.is_dir() && (!ignored || ignore.has_exceptions()) {
                open.push((host, path));
            }
        }
    }
    Ok(tree)
}

fn item(host: &Path, metadata: &Metadata) -> Result<Option<Item>> {
    let kind = metadata.file_type();
    Ok(if kind.is_dir() {
        Some(Item::Folder)
    } else if kind.is_symlink() {
        let target = fs::read_link(host).map_err(Error::file("read", host))?;
        Some(Item::Symlink(target.as_os_str().as_bytes().to_vec()))
    } else if kind.is_file() {
        let size = metadata.len();
        let segments = Vec::from_iter((size > 0).then_some(Segment { range: 0..size, at: 0 }));
        Some(Item::File(Content { size, segments, source: Source::Host(host.to_owned()) }))
    } else {
        None
    })
}

fn attributes(metadata: &Metadata) -> Attributes {
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    let modified = Time { seconds: metadata.mtime(), nanoseconds };
    Attributes { mode: (metadata.mode() & 0o7777) as u16, uid: 0, gid: 0, modified }
}
