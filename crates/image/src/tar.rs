//! Tar archives, read into a [`Tree`]: ustar, GNU's and POSIX's extensions, sparse files in all
//! four forms, extended attributes and lists of access rights as GNU tar, BSD tar and container
//! tools write them.
//!
//! Contents are not read: the tree refers to ranges of the archive. A compressed archive is
//! unpacked to a file first, by the caller.
//!
//! The archive may be anybody's. What is refused: wrong checksums, archives that end in the
//! middle, sizes and numbers out of bounds, extension headers of more than a megabyte, kinds of
//! entries that are no files.
//!
//! Formats: POSIX.1-2017, pax, "Extended Description"; the GNU tar manual, "Basic Tar Format" and
//! "Storing Sparse Files"; OCI image specification, layer.md.

mod header;
mod pax;
mod sparse;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ::ext4::builder::Xattrs;
use ::ext4::{Attributes, Special};

use crate::acl;
use crate::tree::{Content, Item, Segment, Source, Tree};
use crate::{Error, Result};
use header::{BLOCK, Header};
use pax::Extensions;

/// Most bytes of an extension header: of a long name, or of all attributes of a file.
pub const EXTENSION_MAX: u64 = 1 << 20;
/// How much of an archive is read at a time where headers follow each other.
const WINDOW: usize = 64 << 10;
/// How much is read of the image's list of users.
const USERS_MAX: u64 = 1 << 20;
/// What the name of a file begins with that says that one below is gone.
const WHITEOUT: &[u8] = b".wh.";
/// What says that all below is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How an archive is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// A file system: every entry is what it says.
    Whole,
    /// A layer: some names say what is gone.
    Layer,
}

/// Puts everything from the archive in this range of the file into the tree; `entry` is told after
/// each how many bytes of the archive are done.
pub fn read_into(
    tree: &mut Tree,
    archive: &Arc<File>,
    range: Range<u64>,
    meaning: Meaning,
    entry: &mut dyn FnMut(u64),
) -> Result<()> {
    let start = range.start;
    let mut reader = Entries::new(archive, range);
    while let Some(found) = reader.next()? {
        found.put(tree, archive, meaning)?;
        entry(reader.at - start);
    }
    Ok(())
}

/// A file's name and content, for archives that hold other things than a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Member {
    /// A range of the archive.
    File(Range<u64>),
    /// Another name for a member.
    Link(Vec<u8>),
}

/// All files of an archive with their places.
pub(crate) fn members(archive: &File, range: Range<u64>) -> Result<Vec<(Vec<u8>, Member)>> {
    let mut reader = Entries::new(archive, range);
    let mut members = Vec::new();
    while let Some(entry) = reader.next()? {
        let member = match entry.kind {
            Kind::File { ref segments, .. } if segments.len() == 1 => {
                let (at, len) = (segments[0].at, segments[0].range.end);
                Member::File(at..at + len)
            }
            Kind::File { .. } => Member::File(0..0),
            Kind::HardLink(target) | Kind::Symlink(target) => Member::Link(target),
            Kind::Folder | Kind::Special(_) => continue,
        };
        if members.len() >= MEMBERS_MAX {
            return Err(Error::format("the archive", "it has too many members"));
        }
        members.push((entry.path, member));
    }
    Ok(members)
}

/// Most files of an archive that holds an image in pieces.
const MEMBERS_MAX: usize = 100_000;

/// An entry with what its extension headers said.
#[derive(Debug)]
struct Entry {
    path: Vec<u8>,
    attributes: Attributes,
    xattrs: Xattrs,
    /// Lists of access rights as text, by the names of the attributes.
    acls: Vec<(&'static [u8], Vec<u8>)>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File { size: u64, segments: Vec<Segment> },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Folder,
    Special(Special),
}

impl Entry {
    fn put(mut self, tree: &mut Tree, archive: &Arc<File>, meaning: Meaning) -> Result<()> {
        if meaning == Meaning::Layer {
            let at = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let (folder, name) = self.path.split_at(at);
            if name == OPAQUE {
                return tree.clear(folder);
            }
            if let Some(name) = name.strip_prefix(WHITEOUT) {
                // Other names of this kind are for the tools that made the layer.
                let ours = !name.is_empty() && !name.starts_with(WHITEOUT);
                return if ours { tree.remove(&[folder, name].concat()) } else { Ok(()) };
            }
        }
        self.resolve_acls(tree)?;
        let item = match self.kind {
            Kind::File { size, segments } => {
                Item::File(Content { size, segments, source: Source::Blob(Arc::clone(archive)) })
            }
            Kind::HardLink(target) => return tree.link(&self.path, &target),
            Kind::Symlink(target) if target.is_empty() || target.contains(&0) => {
                return Err(Error::entry(&self.path, "it is a symbolic link to nothing"));
            }
            Kind::Symlink(target) => Item::Symlink(target),
            Kind::Folder => Item::Folder,
            Kind::Special(special) => Item::Special(special),
        };
        tree.put(&self.path, self.attributes, self.xattrs, item)
    }

    fn resolve_acls(&mut self, tree: &Tree) -> Result<()> {
        let lookup = |file: &[u8], name: &str| {
            let own = tree.read(file, USERS_MAX);
            own.and_then(|own| acl::number_of(&own, name)).or_else(|| {
                let host = std::path::Path::new("/").join(std::ffi::OsStr::from_bytes(file));
                acl::number_of(&std::fs::read(host).ok()?, name)
            })
        };
        for (name, text) in &self.acls {
            let value = acl::from_text(text, &lookup).ok_or_else(|| {
                let text = String::from_utf8_lossy(text);
                Error::entry(
                    &self.path,
                    format!(
                        "its list of access rights, `{text}`, is damaged or names somebody unknown"
                    ),
                )
            })?;
            if !acl::is_mode(name, &value) {
                self.xattrs.insert(name.to_vec(), value);
            }
        }
        Ok(())
    }
}

/// Reads entries one after another.
struct Entries<'a> {
    window: Window<'a>,
    /// Where the next header is.
    at: u64,
    end: u64,
    global: Extensions,
}

impl<'a> Entries<'a> {
    fn new(file: &'a File, range: Range<u64>) -> Self {
        let window = Window { file, start: 0, bytes: Vec::new(), end: range.end };
        Entries { window, at: range.start, end: range.end, global: Extensions::default() }
    }

    /// The next entry; none at the end of the archive.
    fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = self.global.clone();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let data = self.at;
            match header.flag {
                b'x' => extensions.add(&self.extension(&header)?)?,
                b'g' => {
                    let bytes = self.extension(&header)?;
                    self.global.add(&bytes)?;
                    extensions.add(&bytes)?;
                }
                b'L' => extensions.set_path(self.extension(&header)?),
                b'K' => extensions.set_link(self.extension(&header)?),
                _ => return self.entry(&header, &extensions, data).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, extensions: &Extensions, data: u64) -> Result<Entry> {
        let mut path = extensions.path(header);
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        let bad = |why: &str| Error::entry(&path, why);
        // Links and the like may have a size that means nothing.
        let has_data = matches!(header.flag, 0 | b'0' | b'7' | b'S');
        let stored = if has_data { extensions.size.unwrap_or(header.size) } else { 0 };
        let mut data = data;
        let old_map = if header.flag == b'S' { Some(self.old_sparse(header)?) } else { None };
        if old_map.is_some() {
            data = self.at;
        }
        let padded = stored.checked_next_multiple_of(BLOCK as u64);
        self.at = padded
            .and_then(|len| data.checked_add(len))
            .filter(|_| data.saturating_add(stored) <= self.end)
            .ok_or_else(|| bad("the archive ends in the middle of its content"))?
            .min(self.end);
        let device = || header.device().ok_or_else(|| bad("it has no valid device number"));
        let kind = match header.flag {
            b'1' => Kind::HardLink(extensions.link(header)),
            b'2' => Kind::Symlink(extensions.link(header)),
            b'3' => device()
                .map(|(major, minor)| Special::Character(major, minor))
                .map(Kind::Special)?,
            b'4' => {
                device().map(|(major, minor)| Special::Block(major, minor)).map(Kind::Special)?
            }
            b'5' => Kind::Folder,
            b'6' => Kind::Special(Special::Pipe),
            // Before POSIX, a folder was a file whose name ends with a slash.
            0 | b'0' if header.path.ends_with(b"/") => Kind::Folder,
            0 | b'0' | b'7' | b'S' => {
                let (size, segments) = match old_map {
                    Some((size, map)) => sparse::segments(size, &map, data, stored),
                    None => self.sparse(extensions, data, stored)?,
                }
                .ok_or_else(|| bad("its list of holes is damaged"))?;
                Kind::File { size, segments }
            }
            flag => {
                let flag = char::from(flag).escape_default();
                return Err(bad(&format!("it is of kind `{flag}`, which is no file")));
            }
        };
        let attributes = extensions.attributes(header).map_err(bad)?;
        let (xattrs, acls) = (extensions.xattrs(), extensions.acls());
        Ok(Entry { path, attributes, xattrs, acls, kind })
    }

    /// A file's segments, which extensions may give.
    fn sparse(
        &mut self,
        extensions: &Extensions,
        data: u64,
        stored: u64,
    ) -> Result<Option<(u64, Vec<Segment>)>> {
        if let Some(map) = &extensions.sparse_map {
            let size = extensions.real_size.unwrap_or(stored);
            return Ok(sparse::segments(size, map, data, stored));
        }
        if extensions.sparse_in_data {
            let Some(size) = extensions.real_size else { return Ok(None) };
            let limit = stored.min(EXTENSION_MAX) as usize;
            let head = self.window.read(data, limit)?;
            return Ok(sparse::map_in_data(head).and_then(|(map, len)| {
                sparse::segments(size, &map, data + len, stored.checked_sub(len)?)
            }));
        }
        Ok(sparse::segments(stored, std::slice::from_ref(&(0..stored)), data, stored))
    }

    /// The map of GNU's old form: in the header, and in blocks behind it.
    fn old_sparse(&mut self, header: &Header) -> Result<(u64, Vec<Range<u64>>)> {
        let damaged = || Error::entry(&header.path, "its list of holes is damaged");
        let mut map = Vec::new();
        let mut more = sparse::old_map(&header.bytes, &sparse::IN_HEADER, &mut map);
        while more.ok_or_else(damaged)? {
            if map.len() > sparse::SEGMENTS_MAX {
                return Err(damaged());
            }
            let block = self.window.read(self.at, BLOCK)?;
            more = sparse::old_map(block, &sparse::IN_BLOCK, &mut map);
            self.at += BLOCK as u64;
        }
        let size = header.real_size().ok_or_else(damaged)?;
        Ok((size, map))
    }

    /// The content of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        if header.size > EXTENSION_MAX {
            return Err(Error::entry(&header.path, "an extension header has more than 1 MiB"));
        }
        let bytes = self.window.read(self.at, header.size as usize)?.to_vec();
        self.at += header.size.next_multiple_of(BLOCK as u64);
        Ok(bytes)
    }

    /// The next header; none at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        // GNU tar ends with two blocks of zeros, others with nothing.
        if self.at >= self.end {
            return Ok(None);
        }
        let block = self.window.read(self.at, BLOCK)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::parse(block).ok_or_else(|| {
            let at = self.at;
            Error::format("the archive", format!("there is no tar header at byte {at}"))
        })?;
        self.at += BLOCK as u64;
        Ok(Some(header))
    }
}

/// A part of the archive in memory.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
    end: u64,
}

impl Window<'_> {
    fn read(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if at < held.start || at + len as u64 > held.end {
            let room = self.end.saturating_sub(at);
            if room < len as u64 {
                return Err(Error::format("the archive", "it ends in the middle"));
            }
            let wanted = room.min(WINDOW.max(len) as u64) as usize;
            self.bytes.resize(wanted, 0);
            self.start = at;
            if let Err(error) = self.file.read_exact_at(&mut self.bytes, at) {
                self.bytes.clear();
                return Err(match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        Error::format("the archive", "it ends in the middle")
                    }
                    _ => Error::format("the archive", error.to_string()),
                });
            }
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + len])
    }
}

#[cfg(test)]
mod tests;
