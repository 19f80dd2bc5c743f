//! `COPY` and `ADD`, from one tree to another.
//!
//! As in the Dockerfile reference: of a folder, its content is copied; a file goes into the
//! destination if that is a folder or ends with a slash, else it becomes the destination; folders
//! that are missing are made. Symbolic links in the path of a source are followed, also the last,
//! and stay within where the source is from; those below a copied folder are copied as links.

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ::ext4::builder::Xattrs;
use ::ext4::{Attributes, Time};

use super::pattern;
use super::plan::{Put, Source};
use crate::decompress::Method;
use crate::oci::layer::tempfile_in;
use crate::tar::{self, Meaning};
use crate::tree::{self, Content, Item, Look, Place, Tree};
use crate::{Error, Result};

/// Most that is read of the image's lists of users and groups.
const USERS_MAX: u64 = 1 << 20;
/// Where a tar header says what it is.
const TAR_MAGIC_AT: usize = 257;
const TAR_MAGIC: &[u8] = b"ustar";

/// What a pattern has found: the path in the source, and what is there.
pub(super) type Found = (Vec<u8>, Place);

/// What the pattern, given as its parts, fits in a tree, in order of the names.
pub(super) fn find(tree: &Tree, parts: &[String]) -> Vec<Found> {
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    for part in parts {
        let mut next = Vec::new();
        for folder in found {
            if !pattern::is_pattern(part) {
                next.push(join(&folder, part.as_bytes()));
                continue;
            }
            let names = tree.resolve(&folder).map(|folder| tree.names_of(folder));
            for name in names.unwrap_or_default() {
                if pattern::matches(part, &String::from_utf8_lossy(name)) {
                    next.push(join(&folder, name));
                }
            }
        }
        found = next;
    }
    let place = |path: Vec<u8>| tree.resolve(&path).map(|place| (path, place));
    found.into_iter().filter_map(place).collect()
}

/// Copies what `put` says from `from` to `tree`; archives are unpacked to `work` on the way.
pub(super) fn put(tree: &mut Tree, put: &Put, from: &Tree, work: &Path) -> Result<()> {
    let owner = match &put.owner {
        Some(text) => Some(owner(tree, text)?),
        None => None,
    };
    let to = put.to.trim_matches('/').as_bytes();
    let is_folder = put.to.ends_with('/') || is_folder(tree, to);
    for source in &put.sources {
        match source {
            Source::Path(parts) => {
                let found = find(from, parts);
                if found.is_empty() {
                    let why = "there is no such file where it is to be copied from";
                    return Err(Error::entry(parts.join("/").as_bytes(), why));
                }
                if found.len() > 1 && !is_folder {
                    let why =
                        format!("it fits {} files, so {} must end with /", found.len(), put.to);
                    return Err(Error::entry(parts.join("/").as_bytes(), why));
                }
                let mut way = Way { tree, from, to, is_folder, owner, mode: put.mode, work };
                for found in &found {
                    way.one(found, put.unpack)?;
                }
            }
            Source::Text(name, text) => {
                let path = if is_folder { join(to, name.as_bytes()) } else { to.to_vec() };
                folders(tree, parent(&path), owner)?;
                let mut attributes = plain(0o644, owner);
                attributes.mode = put.mode.unwrap_or(attributes.mode);
                let item = Item::File(Content::of(text.as_bytes()));
                tree.put(&path, attributes, Xattrs::new(), item)?;
            }
        }
    }
    Ok(())
}

/// Makes a folder, and those above it, where they are missing.
pub(super) fn folders(tree: &mut Tree, path: &[u8], owner: Option<(u32, u32)>) -> Result<()> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    for len in 1..=parts.len() {
        let path = parts[..len].join(&b'/');
        match tree.resolve(&path).map(|place| tree.look(place)) {
            Some(Look::Folder) => {}
            Some(Look::File | Look::Other) => {
                return Err(Error::entry(&path, "it is no folder, but is to be one"));
            }
            None => tree.put(&path, plain(0o755, owner), Xattrs::new(), Item::Folder)?,
        }
    }
    Ok(())
}

/// Copies from one tree to a place in another.
struct Way<'a> {
    tree: &'a mut Tree,
    from: &'a Tree,
    to: &'a [u8],
    is_folder: bool,
    owner: Option<(u32, u32)>,
    mode: Option<u16>,
    work: &'a Path,
}

impl Way<'_> {
    fn one(&mut self, (path, place): &Found, unpack: bool) -> Result<()> {
        if unpack && let Some(archive) = self.archive(path, *place)? {
            folders(self.tree, self.to, self.owner)?;
            let Some(root) = archive.resolve(b"") else { return Ok(()) };
            return self.tree.graft(self.to, &archive, root, self.owner, self.mode);
        }
        let to = match (self.from.look(*place), self.is_folder) {
            (Look::Folder, _) | (Look::File | Look::Other, false) => self.to.to_vec(),
            (Look::File | Look::Other, true) => join(self.to, name(path)),
        };
        folders(self.tree, parent(&to), self.owner)?;
        self.tree.graft(&to, self.from, *place, self.owner, self.mode)
    }

    /// The files of an archive, if it is one.
    fn archive(&self, path: &[u8], place: Place) -> Result<Option<Tree>> {
        let Some(content) = self.from.content(place) else { return Ok(None) };
        let label = String::from_utf8_lossy(path).into_owned();
        let failed = |error| Error::entry(path, format!("cannot read it: {error}"));
        let Some((file, size)) = open(content).map_err(failed)? else { return Ok(None) };
        let mut magic = [0; 8];
        let count = file.read_at(&mut magic, 0).map_err(failed)?;
        let (file, size) = match Method::of(&magic[..count]) {
            None => (file, size),
            Some(method) => {
                let mut unpacked = tempfile_in(self.work)?;
                let copied = std::io::copy(&mut method.reader(file, &label)?, &mut unpacked);
                let size = copied.map_err(failed)?;
                unpacked.rewind().map_err(failed)?;
                (unpacked, size)
            }
        };
        let mut head = [0; TAR_MAGIC_AT + TAR_MAGIC.len()];
        let is_tar = file.read_exact_at(&mut head, 0).is_ok() && head.ends_with(TAR_MAGIC);
        if !is_tar {
            // Compressed, perhaps, but no archive: it is copied as it is.
            return Ok(None);
        }
        let mut tree = Tree::new();
        tar::read_into(&mut tree, &Arc::new(file), 0..size, Meaning::Whole, &mut |_| {})
            .map_err(|error| error.within(&label))?;
        Ok(Some(tree))
    }
}

/// A file of the host with this content, if the content is all of one.
fn open(content: &Content) -> std::io::Result<Option<(File, u64)>> {
    match &content.source {
        tree::Source::Host(path) => Ok(Some((File::open(path)?, content.size))),
        tree::Source::Blob(_) | tree::Source::Bytes(_) => Ok(None),
    }
}

/// The numbers for `user`, `user:group`, or their numbers. Names are the image's.
fn owner(tree: &Tree, text: &str) -> Result<(u32, u32)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let unknown = |what: &str, name: &str, file: &str| {
        Error::entry(file.as_bytes(), format!("the image has no {what} `{name}`"))
    };
    let (uid, own_gid) = match user.parse() {
        Ok(number) => (number, number),
        Err(_) => {
            let fields = fields(tree, "etc/passwd", user);
            fields.ok_or_else(|| unknown("user", user, "etc/passwd"))?
        }
    };
    let gid = match group {
        None => own_gid,
        Some(group) => match group.parse() {
            Ok(number) => number,
            Err(_) => {
                let fields = fields(tree, "etc/group", group);
                fields.ok_or_else(|| unknown("group", group, "etc/group"))?.0
            }
        },
    };
    Ok((uid, gid))
}

/// The third and the fourth field of a name's line (passwd(5), group(5)); a group has no fourth.
fn fields(tree: &Tree, path: &str, name: &str) -> Option<(u32, u32)> {
    let place = tree.resolve(path.as_bytes())?;
    let text = tree.read_at(place, USERS_MAX)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.first() == Some(&name))?;
    let number = |at: usize| line.get(at).and_then(|field| field.parse().ok());
    Some((number(2)?, number(3).unwrap_or(0)))
}

fn is_folder(tree: &Tree, path: &[u8]) -> bool {
    tree.resolve(path).is_some_and(|place| tree.look(place) == Look::Folder)
}

fn plain(mode: u16, owner: Option<(u32, u32)>) -> Attributes {
    let (uid, gid) = owner.unwrap_or((0, 0));
    Attributes { mode, uid, gid, modified: Time::default() }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        folder => [folder, b"/", name].concat(),
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |at| &path[..at])
}

fn name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(path, |at| &path[at + 1..])
}
