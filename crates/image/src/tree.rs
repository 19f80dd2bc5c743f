//! The files of an image, as they will be on its disk: inodes with names, put together from
//! layers in memory and never unpacked onto the host. So no root is needed for owners and
//! devices, and no path can leave the tree.
//!
//! ```text
//! Tree::new --put, link, remove, for each layer--> Tree --describe--> ext4::Builder
//! ```
//!
//! - Contents stay where they are: a file knows which ranges of which [`Source`] it has.
//! - A path's folders are found as the kernel would in a chroot of the tree: symbolic links are
//!   followed, and `..` in a link's target stops at the root. What is missing is made. The last
//!   part of a path is never followed.
//! - A layer can take away what layers before it have put there, not what it puts itself,
//!   whichever comes first in it (the OCI image specification, layer.md, "Whiteouts").
//!
//! What is refused: paths that are absolute, have `..` or a NUL in them, or go through something
//! that is no folder; more inodes or deeper folders than there is a limit for.

mod describe;
mod disk;
mod graft;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ::ext4::builder::Xattrs;
use ::ext4::{Attributes, Special, Time};

use crate::{Error, Result};
pub use describe::{Description, TreeContents};
pub use graft::{Look, Place};

/// Most inodes that layers may put into a tree, also those that are gone again.
pub const INODES_MAX: usize = 8 << 20;
/// Most folders in each other.
pub const DEPTH_MAX: usize = 1024;
/// Most symbolic links on the way to a file, as in the kernel.
pub const LINKS_FOLLOWED_MAX: usize = 40;
/// Most bytes of a path, as in the kernel.
pub const PATH_MAX: usize = 4096;

const ROOT: usize = 0;

/// Where contents come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// An open file: an archive, or what was unpacked from one.
    Blob(Arc<File>),
    /// A file of a folder on the host; opened when it is needed.
    Host(PathBuf),
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
}

/// A range of a file and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// In the file.
    pub range: Range<u64>,
    /// In the source.
    pub at: u64,
}

/// A file's content: segments in ascending order, holes between them.
#[derive(Debug, Clone)]
pub struct Content {
    /// Bytes of the file.
    pub size: u64,
    /// What is no hole.
    pub segments: Vec<Segment>,
    /// What the segments are ranges of.
    pub source: Source,
}

impl Content {
    /// A file of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        let segments =
            if bytes.is_empty() { vec![] } else { vec![Segment { range: 0..size, at: 0 }] };
        Content { size, segments, source: Source::Bytes(bytes.into()) }
    }
}

/// What is put into a tree.
#[derive(Debug, Clone)]
pub enum Item {
    /// A folder; one that is there keeps its content.
    Folder,
    /// A file.
    File(Content),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A device, pipe or socket.
    Special(Special),
}

/// All files of an image.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Which layer is being put; what lower ones have put can be taken away.
    layer: u32,
    /// When folders were made that no layer has an entry for.
    epoch: Time,
}

#[derive(Debug)]
struct Node {
    attributes: Attributes,
    xattrs: Xattrs,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Folder(Names),
    File(Content),
    Symlink(Vec<u8>),
    Special(Special),
}

/// Where a path leads.
enum Found<'p> {
    Root,
    /// A folder, and a name that may or may not be in it.
    Name(usize, &'p [u8]),
    /// A folder on the way is missing.
    Nothing,
}

/// The names in a folder, in order.
type Names = BTreeMap<Box<[u8]>, Entry>;

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
struct Entry {
    node: usize,
    layer: u32,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty root folder.
    pub fn new() -> Self {
        let epoch = Time::default();
        let body = Body::Folder(Names::new());
        let root = Node { attributes: implied(epoch), xattrs: Xattrs::new(), body };
        Tree { nodes: vec![root], layer: 0, epoch }
    }

    /// Begins the next layer.
    pub fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Puts an inode at a path, in the place of what is there. An empty path is the root.
    pub fn put(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        xattrs: Xattrs,
        item: Item,
    ) -> Result<()> {
        let bad = |why: &str| Error::entry(path, why);
        let Found::Name(parent, name) = self.find(path, true)? else {
            let root = &mut self.nodes[ROOT];
            (root.attributes, root.xattrs) = (attributes, xattrs);
            return match item {
                Item::Folder => Ok(()),
                Item::File(_) | Item::Symlink(_) | Item::Special(_) => {
                    Err(bad("the root must be a folder"))
                }
            };
        };
        let layer = self.layer;
        let present = self.names(parent).and_then(|names| names.get(name)).map(|entry| entry.node);
        let body = match item {
            Item::Folder => {
                if let Some(node) = present.filter(|node| self.names(*node).is_some()) {
                    let folder = &mut self.nodes[node];
                    (folder.attributes, folder.xattrs) = (attributes, xattrs);
                    self.name(parent, name, Entry { node, layer });
                    return Ok(());
                }
                Body::Folder(Names::new())
            }
            Item::File(content) => Body::File(content),
            Item::Symlink(target) => Body::Symlink(target),
            Item::Special(special) => Body::Special(special),
        };
        let node = self.add(Node { attributes, xattrs, body }, path)?;
        self.name(parent, name, Entry { node, layer });
        Ok(())
    }

    /// Gives what is at `target` a further name.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let bad = |why: String| Error::entry(path, why);
        let missing = || {
            bad(format!(
                "it is a hard link to {}, which is no file",
                String::from_utf8_lossy(target)
            ))
        };
        let Found::Name(folder, name) = self.find(target, false)? else { return Err(missing()) };
        let names = self.names(folder);
        let node = names.and_then(|names| names.get(name)).ok_or_else(missing)?.node;
        if self.names(node).is_some() {
            return Err(missing());
        }
        let Found::Name(parent, name) = self.find(path, true)? else { return Err(missing()) };
        self.name(parent, name, Entry { node, layer: self.layer });
        Ok(())
    }

    /// Takes away what lower layers have put at a path; nothing if there is nothing.
    pub fn remove(&mut self, path: &[u8]) -> Result<()> {
        match self.find(path, false)? {
            Found::Name(parent, name) => self.purge(parent, Some(name)),
            Found::Root | Found::Nothing => {}
        }
        Ok(())
    }

    /// Takes away what lower layers have put into a folder.
    pub fn clear(&mut self, path: &[u8]) -> Result<()> {
        match self.find(path, false)? {
            Found::Root => self.purge(ROOT, None),
            Found::Name(parent, name) => {
                let folder = self.names(parent).and_then(|names| names.get(name));
                if let Some(folder) = folder.map(|entry| entry.node) {
                    self.purge(folder, None);
                }
            }
            Found::Nothing => {}
        }
        Ok(())
    }

    /// A file's content, if there is one of no more than `limit` bytes at the path.
    pub fn read(&self, path: &[u8], limit: u64) -> Option<Vec<u8>> {
        let mut node = ROOT;
        for part in path.split(|byte| *byte == b'/') {
            node = self.names(node)?.get(part)?.node;
        }
        let Body::File(content) = &self.nodes[node].body else { return None };
        let mut bytes = vec![0; usize::try_from(content.size.min(limit)).ok()?];
        describe::read_content(content, &mut None, 0, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The description for a file system.
    pub fn describe(self) -> Result<Description> {
        describe::Describer::new(self).run()
    }

    fn add(&mut self, node: Node, path: &[u8]) -> Result<usize> {
        if self.nodes.len() >= INODES_MAX {
            return Err(Error::entry(path, format!("the image has more than {INODES_MAX} inodes")));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn names(&self, node: usize) -> Option<&Names> {
        match &self.nodes[node].body {
            Body::Folder(names) => Some(names),
            Body::File(_) | Body::Symlink(_) | Body::Special(_) => None,
        }
    }

    fn name(&mut self, folder: usize, name: &[u8], entry: Entry) {
        if let Body::Folder(names) = &mut self.nodes[folder].body {
            names.insert(name.into(), entry);
        }
    }

    /// Where a path leads. Folders that are missing on the way are made if `make` says so.
    fn find<'p>(&mut self, path: &'p [u8], make: bool) -> Result<Found<'p>> {
        let mut parts = parts(path)?;
        let Some(name) = parts.pop() else { return Ok(Found::Root) };
        let mut way = Way { tree: self, stack: vec![ROOT], followed: 0, path, make };
        for part in parts {
            if !way.enter(part)? {
                return Ok(Found::Nothing);
            }
        }
        Ok(Found::Name(way.here(), name))
    }

    /// Removes what is older than this layer: one name of a folder, or all. A folder that this
    /// layer has put something into stays, for that.
    fn purge(&mut self, folder: usize, only: Option<&[u8]>) {
        // Folders to look at, and after their content, to drop if they are empty and old.
        enum Step {
            Into(usize),
            Drop(usize, Box<[u8]>),
        }
        let layer = self.layer;
        let mut steps = vec![Step::Into(folder)];
        let mut only = only;
        while let Some(step) = steps.pop() {
            match step {
                Step::Into(folder) => {
                    let wanted = only.take();
                    let Some(names) = self.names(folder) else { continue };
                    let names: Vec<Box<[u8]>> = match wanted {
                        Some(name) => {
                            names.contains_key(name).then(|| name.into()).into_iter().collect()
                        }
                        None => names.keys().cloned().collect(),
                    };
                    for name in names {
                        let child = self.names(folder).and_then(|names| names.get(&name));
                        let child = child.map(|entry| entry.node);
                        steps.push(Step::Drop(folder, name));
                        steps.extend(child.map(Step::Into));
                    }
                }
                Step::Drop(folder, name) => {
                    let Some(entry) = self.names(folder).and_then(|names| names.get(&name)) else {
                        continue;
                    };
                    let empty = self.names(entry.node).is_none_or(Names::is_empty);
                    if entry.layer < layer
                        && empty
                        && let Body::Folder(names) = &mut self.nodes[folder].body
                    {
                        names.remove(&name);
                    }
                }
            }
        }
    }
}

/// The way from the root to a folder.
struct Way<'a> {
    tree: &'a mut Tree,
    stack: Vec<usize>,
    followed: usize,
    path: &'a [u8],
    make: bool,
}

impl Way<'_> {
    fn here(&self) -> usize {
        self.stack.last().copied().unwrap_or(ROOT)
    }

    /// Goes into the folder of this name, or to where the link of this name leads; false if there
    /// is nothing.
    fn enter(&mut self, name: &[u8]) -> Result<bool> {
        match name {
            b"" | b"." => return Ok(true),
            b".." => {
                if self.stack.len() > 1 {
                    self.stack.pop();
                }
                return Ok(true);
            }
            _ => {}
        }
        let here = self.here();
        let child = self.tree.names(here).and_then(|names| names.get(name)).map(|e| e.node);
        let child = match child {
            Some(child) => child,
            None if self.make => self.make(here, name)?,
            None => return Ok(false),
        };
        match &self.tree.nodes[child].body {
            Body::Folder(_) => {
                if self.stack.len() >= DEPTH_MAX {
                    return Err(self.bad("its folders are too deep"));
                }
                self.stack.push(child);
                Ok(true)
            }
            Body::Symlink(target) => {
                let target = target.clone();
                self.follow(&target)
            }
            Body::File(_) | Body::Special(_) => Err(self.bad("a part of it is no folder")),
        }
    }

    fn follow(&mut self, target: &[u8]) -> Result<bool> {
        self.followed += 1;
        if self.followed > LINKS_FOLLOWED_MAX {
            return Err(self.bad("it leads through too many symbolic links"));
        }
        if target.starts_with(b"/") {
            self.stack.truncate(1);
        }
        for part in target.split(|byte| *byte == b'/') {
            if !self.enter(part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn make(&mut self, parent: usize, name: &[u8]) -> Result<usize> {
        if name.len() > ::ext4::NAME_MAX {
            return Err(self.bad("a part of it is longer than 255 bytes"));
        }
        let attributes = implied(self.tree.epoch);
        let body = Body::Folder(Names::new());
        let node = self.tree.add(Node { attributes, xattrs: Xattrs::new(), body }, self.path)?;
        self.tree.name(parent, name, Entry { node, layer: self.tree.layer });
        Ok(node)
    }

    fn bad(&self, why: &str) -> Error {
        Error::entry(self.path, why)
    }
}

/// The parts of a path; none for the root.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>> {
    let bad = |why: &str| Err(Error::entry(path, why));
    if path.len() > PATH_MAX {
        return bad("the path is longer than 4096 bytes");
    }
    if path.starts_with(b"/") {
        return bad("the path is absolute; make the archive with paths relative to the root");
    }
    if path.contains(&0) {
        return bad("there is a NUL in the path");
    }
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return bad("`..` in the path leads out of the image");
    }
    if parts.iter().any(|part| part.len() > ::ext4::NAME_MAX) {
        return bad("a part of the path is longer than 255 bytes");
    }
    Ok(parts)
}

/// What a folder has that no layer has an entry for.
fn implied(modified: Time) -> Attributes {
    Attributes { mode: 0o755, uid: 0, gid: 0, modified }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Attributes {
        implied(Time::default())
    }

    /// Does what each line says: `dir P`, `file P`, `sym P T`, `link P T`, `rm P`, `clear P`,
    /// `layer`; `!` in front expects an error.
    fn build(script: &str) -> Tree {
        let mut tree = Tree::new();
        for line in script.split(';').map(str::trim) {
            let (line, fails) = line.strip_prefix('!').map_or((line, false), |line| (line, true));
            let words: Vec<&str> = line.split(' ').collect();
            let path = words.get(1).copied().unwrap_or_default().as_bytes();
            let target = words.get(2).copied().unwrap_or_default().as_bytes();
            let mut put = |item| tree.put(path, attributes(), Xattrs::new(), item);
            let done = match words[0] {
                "dir" => put(Item::Folder),
                "file" => put(Item::Special(Special::Pipe)),
                "sym" => put(Item::Symlink(target.to_vec())),
                "link" => tree.link(path, target),
                "rm" => tree.remove(path),
                "clear" => tree.clear(path),
                "layer" => {
                    tree.next_layer();
                    Ok(())
                }
                other => panic!("{other}"),
            };
            assert_eq!(done.is_err(), fails, "{line}: {done:?}");
        }
        tree
    }

    fn list(tree: &Tree) -> String {
        fn walk(tree: &Tree, node: usize, at: &str, all: &mut Vec<String>) {
            for (name, entry) in tree.names(node).into_iter().flatten() {
                let path = format!("{at}{}", String::from_utf8_lossy(name));
                if tree.names(entry.node).is_some() {
                    walk(tree, entry.node, &format!("{path}/"), all);
                }
                all.push(path);
            }
        }
        let mut all = Vec::new();
        walk(tree, ROOT, "", &mut all);
        all.sort();
        all.join(" ")
    }

    fn check(script: &str, expected: &str) {
        assert_eq!(list(&build(script)), expected, "{script}");
    }

    #[test]
    fn later_layers_win() {
        check("file a/b; layer; file a", "a");
        check("file a; layer; !file a/b; dir a; file a/b", "a a/b");
        check("dir a; file a/b; layer; dir a", "a a/b");
        check("file a; link b a; layer; file a; rm b", "a");
    }

    #[test]
    fn whiteouts_take_what_is_below() {
        check("file a/b; file a/c; layer; rm a/b", "a a/c");
        check("file a/b; layer; file a/b; rm a/b", "a a/b");
        check("file a/b; layer; rm a/b; file a/b", "a a/b");
        check("file a/b; file a/c/d; layer; file a/c/e; clear a", "a a/c a/c/e");
        check("file a/b; file a/c/d; layer; clear a; file a/c/e", "a a/c a/c/e");
        check("file a/b/c; layer; rm a", "");
        check("file a; layer; clear .", "");
        check("layer; rm no/such; clear no", "");
    }

    #[test]
    fn paths_stay_inside() {
        check("!file ../a; !file /a; !file a/../b; !link a ../b; !sym a/../.. x", "");
        check("sym out ../../..; file out/a", "a out");
        check("sym lib usr/lib; file lib/a", "lib usr usr/lib usr/lib/a");
        check("dir usr; sym usr/lib /lib64; file usr/lib/a", "lib64 lib64/a usr usr/lib");
        check("sym a b; sym b a; !file a/c", "a b");
        check("file a; !dir a/b/c", "a");
        check("!link a b; dir c; !link d c", "c");
    }

    #[test]
    fn too_deep_is_refused() {
        let mut tree = Tree::new();
        let path = "d/".repeat(DEPTH_MAX - 1);
        tree.put(path.as_bytes(), attributes(), Xattrs::new(), Item::Folder).unwrap();
        let path = "d/".repeat(DEPTH_MAX + 2);
        assert!(tree.put(path.as_bytes(), attributes(), Xattrs::new(), Item::Folder).is_err());
        assert!(tree.describe().is_ok());
    }
}
