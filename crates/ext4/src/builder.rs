//! The description of a file system: inodes and their names.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{BLOCK_SIZE, Error, FILE_SIZE_MAX, LINKS_MAX, NAME_MAX, Result, SYMLINK_MAX};

/// Where e2fsck puts what it finds without a name; every file system has it.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// Inode numbers have 32 bits, and some are taken.
const NODES_MAX: usize = u32::MAX as usize - 64;

/// An inode, as [`Builder`] names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The root folder.
    pub const ROOT: NodeId = NodeId(0);

    /// Inodes count up from the root, which is 0, in the order in which they were added.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A point in time since 1970; years 1901 to 2446 can be stored, others become the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanoseconds: u32,
}

/// What every inode has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The lower twelve bits of the mode: permissions, set-uid, set-gid, sticky.
    pub mode: u16,
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When it was last changed; the inode's other times are set to the same.
    pub modified: Time,
}

/// What an inode is, besides a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file of `size` bytes. Outside of `data`, which is in ascending order, it is a hole.
    File {
        /// Bytes.
        size: u64,
        /// Ranges with content.
        data: Vec<Range<u64>>,
    },
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A device, a pipe or a socket.
    Special(Special),
}

/// An inode without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A character device with its major and minor number.
    Character(u32, u32),
    /// A block device with its major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// Extended attributes: the full names, such as `security.capability`, and the values as
/// getxattr(2) gives them.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug)]
pub(crate) enum Body {
    Folder { names: BTreeMap<Box<[u8]>, NodeId>, parent: NodeId },
    Other(Kind),
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) xattrs: Xattrs,
    pub(crate) body: Body,
    /// Names that it has; a folder has one.
    pub(crate) names: u32,
}

/// Collects the description.
#[derive(Debug)]
pub struct Builder {
    pub(crate) nodes: Vec<Node>,
}

impl Builder {
    /// A file system with a root folder.
    pub fn new(root: Attributes, xattrs: Xattrs) -> Self {
        let body = Body::Folder { names: BTreeMap::new(), parent: NodeId::ROOT };
        Builder { nodes: vec![Node { attributes: root, xattrs, body, names: 1 }] }
    }

    /// Adds a folder.
    pub fn folder(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        xattrs: Xattrs,
    ) -> Result<NodeId> {
        let body = Body::Folder { names: BTreeMap::new(), parent };
        self.add(parent, name, Node { attributes, xattrs, body, names: 1 })
    }

    /// Adds an inode that is no folder.
    pub fn inode(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        xattrs: Xattrs,
        kind: Kind,
    ) -> Result<NodeId> {
        check_kind(&kind)?;
        self.add(parent, name, Node { attributes, xattrs, body: Body::Other(kind), names: 1 })
    }

    /// Gives an inode that is no folder a further name.
    pub fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<()> {
        let refused = || Error::Link(text(name));
        let target = self.nodes.get(node.index()).ok_or_else(refused)?;
        if matches!(target.body, Body::Folder { .. }) || target.names >= LINKS_MAX {
            return Err(refused());
        }
        self.name(parent, name, node)?;
        self.nodes[node.index()].names += 1;
        Ok(())
    }

    /// Bytes of all files' data, in whole blocks.
    pub fn content(&self) -> u64 {
        let files = self.nodes.iter().map(|node| match &node.body {
            Body::Other(Kind::File { data, .. }) => {
                data_blocks(data).iter().map(|(_, count)| count * BLOCK_SIZE).sum::<u64>()
            }
            Body::Other(_) | Body::Folder { .. } => 0,
        });
        files.fold(0, u64::saturating_add)
    }

    /// Sees to it that there is a `lost+found`.
    pub(crate) fn complete(&mut self) -> Result<()> {
        let root = &self.nodes[NodeId::ROOT.index()];
        let modified = root.attributes.modified;
        let Body::Folder { names, .. } = &root.body else { return Ok(()) };
        let present = names.get(LOST_AND_FOUND).map(|node| &self.nodes[node.index()].body);
        match present {
            Some(Body::Folder { .. }) => Ok(()),
            // e2fsck would put a folder in its place.
            Some(Body::Other(_)) => Err(Error::Name("lost+found, except for a folder".into())),
            None => {
                let attributes = Attributes { mode: 0o700, uid: 0, gid: 0, modified };
                self.folder(NodeId::ROOT, LOST_AND_FOUND, attributes, Xattrs::new()).map(drop)
            }
        }
    }

    fn add(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<NodeId> {
        if self.nodes.len() >= NODES_MAX {
            return Err(Error::Inodes);
        }
        let id = NodeId(self.nodes.len() as u32);
        self.name(parent, name, id)?;
        self.nodes.push(node);
        Ok(id)
    }

    fn name(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<()> {
        let usual = !name.is_empty() && name.len() <= NAME_MAX && name != b"." && name != b"..";
        if !usual || name.contains(&b'/') || name.contains(&0) {
            return Err(Error::Name(text(name)));
        }
        match self.nodes.get_mut(parent.index()).map(|node| &mut node.body) {
            Some(Body::Folder { names, .. }) => match names.insert(name.into(), node) {
                None => Ok(()),
                Some(_) => Err(Error::NameTwice(text(name))),
            },
            Some(Body::Other(_)) | None => Err(Error::ParentNotFolder(text(name))),
        }
    }
}

/// Ranges of blocks that hold the data: first and count, not overlapping.
pub(crate) fn data_blocks(data: &[Range<u64>]) -> Vec<(u64, u64)> {
    let mut blocks: Vec<(u64, u64)> = Vec::new();
    for range in data {
        let (start, end) = (range.start / BLOCK_SIZE, range.end.div_ceil(BLOCK_SIZE));
        match blocks.last_mut() {
            Some((first, count)) if *first + *count >= start => *count = end - *first,
            _ => blocks.push((start, end - start)),
        }
    }
    blocks
}

fn check_kind(kind: &Kind) -> Result<()> {
    match kind {
        Kind::File { size, data } => {
            let mut end = 0;
            let ordered = data.iter().all(|range| {
                let fits = end <= range.start && range.start < range.end && range.end <= *size;
                end = range.end;
                fits
            });
            if *size > FILE_SIZE_MAX || !ordered { Err(Error::FileSize(*size)) } else { Ok(()) }
        }
        Kind::Symlink(target) => {
            let fits = !target.is_empty() && target.len() <= SYMLINK_MAX && !target.contains(&0);
            if fits { Ok(()) } else { Err(Error::Symlink(target.len())) }
        }
        Kind::Special(_) => Ok(()),
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
