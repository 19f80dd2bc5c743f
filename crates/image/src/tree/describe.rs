//! A tree as a file system takes it: names in order, each inode at its first name, and a way back
//! from inodes to contents.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ::ext4::{Attributes, Builder, Contents, NodeId, Time};

use super::{Body, Content, Names, Node, ROOT, Source, Tree};
use crate::{Error, Result};

/// A tree as a file system takes it.
#[derive(Debug)]
pub struct Description {
    /// Inodes and names.
    pub builder: Builder,
    /// What the files hold.
    pub contents: TreeContents,
    /// A hash of everything but the contents.
    pub identity: [u8; 32],
    /// When the newest inode was changed.
    pub newest: Time,
}

/// Walks the tree, names in order, and describes each inode at its first name.
pub(super) struct Describer {
    nodes: Vec<Option<Node>>,
    known: Vec<Option<NodeId>>,
    contents: TreeContents,
    hasher: blake3::Hasher,
    newest: Time,
}

impl Describer {
    pub(super) fn new(tree: Tree) -> Self {
        let known = vec![None; tree.nodes.len()];
        let nodes = tree.nodes.into_iter().map(Some).collect();
        let contents = TreeContents { files: Vec::new(), names: Vec::new(), open: None };
        let hasher = blake3::Hasher::new();
        Describer { nodes, known, contents, hasher, newest: Time::default() }
    }

    pub(super) fn run(mut self) -> Result<Description> {
        let Some(root) = self.nodes[ROOT].take() else { return Err(Error::entry(b"", "no root")) };
        self.note(b"", &root);
        let mut builder = Builder::new(root.attributes, root.xattrs);
        self.contents.names.push((NodeId::ROOT, b"".as_slice().into()));
        self.contents.files.push(None);
        let mut open = Vec::new();
        if let Body::Folder(names) = root.body {
            open.push((NodeId::ROOT, names.into_iter()));
        }
        while let Some((parent, names)) = open.last_mut() {
            let parent = *parent;
            let Some((name, entry)) = names.next() else {
                open.pop();
                continue;
            };
            if let Some((id, names)) = self.child(&mut builder, parent, &name, entry.node)? {
                open.push((id, names.into_iter()));
            }
        }
        let identity = self.hasher.finalize().into();
        Ok(Description { builder, contents: self.contents, identity, newest: self.newest })
    }

    /// Adds an inode to the hash. Lengths are hashed too, so that nothing can run together.
    fn note(&mut self, name: &[u8], node: &Node) {
        self.newest = self.newest.max(node.attributes.modified);
        let mut add = |bytes: &[u8]| {
            self.hasher.update(&(bytes.len() as u64).to_le_bytes());
            self.hasher.update(bytes);
        };
        add(name);
        let Attributes { mode, uid, gid, modified: Time { seconds, nanoseconds } } =
            node.attributes;
        add(format!("{mode} {uid} {gid} {seconds} {nanoseconds}").as_bytes());
        for (name, value) in &node.xattrs {
            add(name);
            add(value);
        }
        match &node.body {
            Body::Folder(names) => add(format!("folder {}", names.len()).as_bytes()),
            Body::File(content) => add(format!("file {}", content.size).as_bytes()),
            Body::Symlink(target) => add(target),
            Body::Special(special) => add(format!("{special:?}").as_bytes()),
        }
    }

    /// Describes an inode; gives a folder's names back, which come next.
    fn child(
        &mut self,
        builder: &mut Builder,
        parent: NodeId,
        name: &[u8],
        node: usize,
    ) -> Result<Option<(NodeId, Names)>> {
        let body = self.nodes[node].take();
        if let Some(body) = &body {
            self.note(name, body);
        }
        let (known, contents) = (&mut self.known, &mut self.contents);
        let failed = |error| Error::Ext4 { path: contents.path(parent, name), source: error };
        if let Some(id) = known[node] {
            return builder.link(parent, name, id).map(|()| None).map_err(failed);
        }
        let Some(Node { attributes, xattrs, body }) = body else { return Ok(None) };
        let (kind, content) = match body {
            Body::Folder(names) => {
                let id = builder.folder(parent, name, attributes, xattrs).map_err(failed)?;
                contents.files.push(None);
                contents.names.push((parent, name.into()));
                return Ok(Some((id, names)));
            }
            Body::File(content) => {
                let data = content.segments.iter().map(|segment| segment.range.clone()).collect();
                (::ext4::Kind::File { size: content.size, data }, Some(content))
            }
            Body::Symlink(target) => (::ext4::Kind::Symlink(target), None),
            Body::Special(special) => (::ext4::Kind::Special(special), None),
        };
        let id = builder.inode(parent, name, attributes, xattrs, kind).map_err(failed)?;
        known[node] = Some(id);
        contents.files.push(content);
        contents.names.push((parent, name.into()));
        Ok(None)
    }
}

/// The contents of the files that [`Tree::describe`] has described.
#[derive(Debug)]
pub struct TreeContents {
    /// By [`NodeId::index`].
    files: Vec<Option<Content>>,
    names: Vec<(NodeId, Box<[u8]>)>,
    /// The file of the host that was read last.
    open: Option<(PathBuf, File)>,
}

impl TreeContents {
    /// The path of an inode, for messages.
    pub fn path_of(&self, node: NodeId) -> String {
        match self.names.get(node.index()) {
            Some((parent, name)) if node != NodeId::ROOT => self.path(*parent, name),
            _ => "/".to_owned(),
        }
    }

    fn path(&self, parent: NodeId, name: &[u8]) -> String {
        let mut parts = vec![String::from_utf8_lossy(name).into_owned()];
        let mut at = parent;
        while at != NodeId::ROOT {
            let Some((above, name)) = self.names.get(at.index()) else { break };
            parts.push(String::from_utf8_lossy(name).into_owned());
            at = *above;
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }
}

impl Contents for TreeContents {
    fn read(&mut self, node: NodeId, offset: u64, to: &mut [u8]) -> io::Result<()> {
        match self.files.get(node.index()) {
            Some(Some(content)) => read_content(content, &mut self.open, offset, to),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

pub(super) fn read_content(
    content: &Content,
    open: &mut Option<(PathBuf, File)>,
    offset: u64,
    to: &mut [u8],
) -> io::Result<()> {
    let end = offset + to.len() as u64;
    let first = content.segments.partition_point(|segment| segment.range.end <= offset);
    let mut done = offset;
    for segment in &content.segments[first..] {
        let (start, stop) = (segment.range.start.clamp(done, end), segment.range.end.min(end));
        if start >= stop {
            break;
        }
        let part = |at: u64| (at - offset) as usize;
        to[part(done)..part(start)].fill(0);
        let at = segment.at + (start - segment.range.start);
        read_source(&content.source, open, at, &mut to[part(start)..part(stop)])?;
        done = stop;
    }
    to[(done - offset) as usize..].fill(0);
    Ok(())
}

fn read_source(
    source: &Source,
    open: &mut Option<(PathBuf, File)>,
    at: u64,
    to: &mut [u8],
) -> io::Result<()> {
    match source {
        Source::Blob(file) => file.read_exact_at(to, at),
        Source::Host(path) => match open {
            Some((known, file)) if known == path => file.read_exact_at(to, at),
            Some(_) | None => {
                let (_, file) = open.insert((path.clone(), File::open(path)?));
                file.read_exact_at(to, at)
            }
        },
        Source::Bytes(bytes) => {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let part = bytes.get(at..).and_then(|rest| rest.get(..to.len()));
            to.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }
}
