//! From one tree to another: looking at what is there, and copying it with all below.

use std::collections::HashMap;

use super::{
    Body, Content, DEPTH_MAX, Entry, Item, LINKS_FOLLOWED_MAX, Names, Node, ROOT, Tree, describe,
};
use crate::{Error, Result};

/// How much of a file is read at a time to hash it.
const PIECE: usize = 256 << 10;

/// An inode of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A symbolic link, a device, a pipe or a socket.
    Other,
}

impl Tree {
    /// What the path leads to, as the kernel would find it in a chroot of the tree: all symbolic
    /// links are followed, also the last one. Nothing if there is nothing.
    pub fn resolve(&self, path: &[u8]) -> Option<Place> {
        let mut stack = vec![ROOT];
        // What is still to be gone through, the next part last.
        let mut left: Vec<Vec<u8>> = parts_reversed(path);
        let mut followed = 0;
        while let Some(part) = left.pop() {
            let here = stack.last().copied().unwrap_or(ROOT);
            let names = self.names(here)?;
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let child = names.get(part.as_slice())?.node;
            match &self.nodes[child].body {
                Body::Symlink(target) => {
                    followed += 1;
                    if followed > LINKS_FOLLOWED_MAX {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    left.extend(parts_reversed(target));
                }
                Body::Folder(_) | Body::File(_) | Body::Special(_) => stack.push(child),
            }
        }
        stack.last().copied().map(Place)
    }

    /// What is there.
    pub fn look(&self, place: Place) -> Look {
        match &self.nodes[place.0].body {
            Body::Folder(_) => Look::Folder,
            Body::File(_) => Look::File,
            Body::Symlink(_) | Body::Special(_) => Look::Other,
        }
    }

    /// The names in a folder, in order.
    pub fn names_of(&self, place: Place) -> Vec<&[u8]> {
        self.names(place.0).into_iter().flatten().map(|(name, _)| &**name).collect()
    }

    /// The content of a file.
    pub fn content(&self, place: Place) -> Option<&Content> {
        match &self.nodes[place.0].body {
            Body::File(content) => Some(content),
            Body::Folder(_) | Body::Symlink(_) | Body::Special(_) => None,
        }
    }

    /// The beginning of a file, no more than `limit` bytes.
    pub fn read_at(&self, place: Place, limit: u64) -> Option<Vec<u8>> {
        let content = self.content(place)?;
        let mut bytes = vec![0; usize::try_from(content.size.min(limit)).ok()?];
        describe::read_content(content, &mut None, 0, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Copies what is at `place` of another tree to `path`, with all below it. A folder that is
    /// already there, or that a symbolic link there leads to, stays, and gets the content on top.
    /// Owner and mode are changed where they are given.
    pub fn graft(
        &mut self,
        path: &[u8],
        from: &Tree,
        place: Place,
        owner: Option<(u32, u32)>,
        mode: Option<u16>,
    ) -> Result<()> {
        // By inodes of the other tree: where they have come.
        let mut known: HashMap<usize, Vec<u8>> = HashMap::new();
        let mut open = vec![(path.to_vec(), place.0)];
        while let Some((path, node)) = open.pop() {
            let Node { attributes, xattrs, body } = &from.nodes[node];
            let present = self.resolve(&path).map(|place| self.look(place));
            let mut attributes = *attributes;
            (attributes.uid, attributes.gid) = owner.unwrap_or((attributes.uid, attributes.gid));
            if !matches!(body, Body::Symlink(_)) {
                attributes.mode = mode.unwrap_or(attributes.mode);
            }
            let item = match (body, present) {
                (Body::Folder(names), present) => {
                    let below = names.iter().map(|(name, entry)| (join(&path, name), entry.node));
                    open.extend(below);
                    match present {
                        Some(Look::Folder) => continue,
                        Some(Look::File | Look::Other) => {
                            return Err(Error::entry(&path, "it is no folder, but is to be one"));
                        }
                        None => Item::Folder,
                    }
                }
                (_, Some(Look::Folder)) if !self.is_link(&path) => {
                    return Err(Error::entry(&path, "it is a folder, but is to be a file"));
                }
                (Body::File(content), _) => Item::File(content.clone()),
                (Body::Symlink(target), _) => Item::Symlink(target.clone()),
                (Body::Special(special), _) => Item::Special(*special),
            };
            match known.get(&node) {
                Some(first) => self.link(&path, first)?,
                None => {
                    known.insert(node, path.clone());
                    self.put(&path, attributes, xattrs.clone(), item)?;
                }
            }
        }
        Ok(())
    }

    /// A copy of all of it.
    pub fn duplicate(&self) -> Result<Tree> {
        let mut tree = Tree::new();
        let root = &self.nodes[ROOT];
        tree.put(b"", root.attributes, root.xattrs.clone(), Item::Folder)?;
        tree.graft(b"", self, Place(ROOT), None, None)?;
        Ok(tree)
    }

    /// Adds what is at a place, with all below it, to a hash: names, modes, kinds and contents, but
    /// neither owners nor times.
    pub fn hash(&self, place: Place, hasher: &mut blake3::Hasher) -> Result<()> {
        let mut open: Vec<(Vec<u8>, usize)> = vec![(Vec::new(), place.0)];
        while let Some((path, node)) = open.pop() {
            if path.iter().filter(|byte| **byte == b'/').count() > DEPTH_MAX {
                return Err(Error::entry(&path, "its folders are too deep"));
            }
            let Node { attributes, body, .. } = &self.nodes[node];
            let mut add = |bytes: &[u8]| {
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            };
            add(&path);
            add(&attributes.mode.to_le_bytes());
            match body {
                Body::Folder(names) => {
                    add(b"folder");
                    let below = names.iter().rev();
                    open.extend(below.map(|(name, entry)| (join(&path, name), entry.node)));
                }
                Body::File(content) => {
                    add(&content.size.to_le_bytes());
                    hash_content(content, hasher)
                        .map_err(|error| Error::entry(&path, format!("cannot read it: {error}")))?;
                }
                Body::Symlink(target) => add(target),
                Body::Special(special) => add(format!("{special:?}").as_bytes()),
            }
        }
        Ok(())
    }

    /// Whether the last part of a path is a symbolic link.
    fn is_link(&self, path: &[u8]) -> bool {
        let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let names = self.resolve(folder).and_then(|folder| self.names(folder.0));
        let entry: Option<&Entry> = names.and_then(|names: &Names| names.get(name));
        entry.is_some_and(|entry| matches!(self.nodes[entry.node].body, Body::Symlink(_)))
    }
}

fn hash_content(content: &Content, hasher: &mut blake3::Hasher) -> std::io::Result<()> {
    let mut open = None;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < content.size {
        let len = (content.size - at).min(PIECE as u64) as usize;
        describe::read_content(content, &mut open, at, &mut piece[..len])?;
        hasher.update(&piece[..len]);
        at += len as u64;
    }
    Ok(())
}

fn parts_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        folder => [folder, b"/", name].concat(),
    }
}
