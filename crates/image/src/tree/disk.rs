//! A tree from the file system of a disk: that of an image, or one that a machine has left.
//!
//! Contents stay on the disk. What is damaged is refused; nothing that a disk says leads to more
//! work than its size allows ([`::ext4::reader`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ::ext4::Error as Ext4Error;
use ::ext4::reader::{self, Body, Reader};

use super::{Content, INODES_MAX, Item, Segment, Source, Tree};
use crate::{Error, Result};

struct Disk<'a>(&'a File);

impl reader::Image for Disk<'_> {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(to, offset)
    }
}

impl Tree {
    /// The files on a disk.
    pub fn of_disk(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let size = file.metadata().map_err(Error::file("read", path))?.len();
        Self::of_file(Arc::new(file), size)
            .map_err(|error| error.within(&path.display().to_string()))
    }

    fn of_file(file: Arc<File>, size: u64) -> Result<Self> {
        let disk = Disk(&file);
        let failed = |path: &[u8]| {
            let path = String::from_utf8_lossy(path).into_owned();
            move |source: Ext4Error| Error::Ext4 { path, source }
        };
        let reader = Reader::open(&disk, size).map_err(failed(b""))?;
        let mut tree = Tree::new();
        let mut known: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut open: Vec<(Vec<u8>, u32)> = vec![(Vec::new(), reader::ROOT)];
        let mut names_left = INODES_MAX;
        while let Some((path, number)) = open.pop() {
            let inode = match known.entry(number) {
                Slot::Occupied(first) => {
                    // A folder with two names is refused here, and so nothing goes in circles.
                    tree.link(&path, first.get())?;
                    continue;
                }
                Slot::Vacant(slot) => {
                    slot.insert(path.clone());
                    reader.inode(number).map_err(failed(&path))?
                }
            };
            let item = match inode.body {
                Body::Folder(names) => {
                    names_left = names_left
                        .checked_sub(names.len())
                        .ok_or_else(|| Error::entry(&path, "the disk has too many names"))?;
                    // The last is taken first.
                    let below = names.into_iter().rev();
                    open.extend(below.map(|(name, number)| (join(&path, &name), number)));
                    Item::Folder
                }
                Body::File { size, places } => {
                    let segments = places.into_iter();
                    let segments = segments.map(|(range, at)| Segment { range, at }).collect();
                    Item::File(Content { size, segments, source: Source::Blob(file.clone()) })
                }
                Body::Symlink(target) => Item::Symlink(target),
                Body::Special(special) => Item::Special(special),
            };
            tree.put(&path, inode.attributes, inode.xattrs, item)?;
        }
        Ok(tree)
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        folder => [folder, b"/", name].concat(),
    }
}
