//! From a [`Tree`] to a file with an ext4 file system, with neither root nor a mount.
//!
//! The same tree and recipe give the same bytes: the file system's identity is a hash of both, and
//! it was made when the newest of its files was changed. Files keep their holes, and blocks of
//! zeros become holes of the host's file.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use ::ext4::{Error as Ext4Error, Options, Plan, Sink, Size};

use crate::progress::{Progress, Unit};
use crate::tree::{Description, Tree};
use crate::{Error, Quiet, Result, folder};

pub use crate::folder::Owner;

/// The smallest disk, in MiB.
pub const SIZE_MIN_MIB: u64 = 8;
/// The largest disk, in MiB.
pub const SIZE_MAX_MIB: u64 = ::ext4::SIZE_MAX >> 20;
/// What is left free at least where no size is asked for.
const FREE_MIN: u64 = 64 << 20;
/// And this part of the content, where that is more.
const FREE_PART: u64 = 5;

/// What a disk is made like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Its size in MiB; as its content needs, with a margin, if none is given.
    pub size_mib: Option<u64>,
    /// Whether it has no journal: faster, but a machine that is killed may leave it damaged.
    pub no_journal: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// A hash of all of them.
    pub digest: [u8; 32],
}

/// Takes the hash of what it writes, and where.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
}

impl Sink for Hashed {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(&offset.to_le_bytes()).update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
        self.file.write(offset, bytes)
    }
}

impl Recipe {
    /// Refuses sizes that no disk can have.
    pub fn check(&self) -> Result<()> {
        match self.size_mib {
            Some(size_mib) if !(SIZE_MIN_MIB..=SIZE_MAX_MIB).contains(&size_mib) => {
                Err(Error::DiskSize { size_mib, min_mib: SIZE_MIN_MIB, max_mib: SIZE_MAX_MIB })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Writes the tree to the file `out`, which is made. The file is sparse; it takes the room of what
/// is in it.
pub fn write(tree: Tree, recipe: &Recipe, out: &Path, progress: &dyn Progress) -> Result<Written> {
    recipe.check()?;
    progress.step("writing the disk");
    let Description { builder, mut contents, identity, newest } = tree.describe()?;
    let failed = |contents: &crate::tree::TreeContents, error| match error {
        Ext4Error::Write(source) => Error::File { action: "write", path: out.to_owned(), source },
        Ext4Error::Content { node, source } => {
            Error::entry(contents.path_of(node).as_bytes(), format!("cannot read it: {source}"))
        }
        Ext4Error::Xattr { node, .. } | Ext4Error::FolderSize { node, .. } => {
            Error::Ext4 { path: contents.path_of(node), source: error }
        }
        source => Error::Ext4 { path: String::new(), source },
    };
    let options = options(recipe, &identity, newest.seconds, builder.content());
    let plan = Plan::new(builder, options).map_err(|error| failed(&contents, error))?;
    let file = File::create(out).map_err(Error::file("make", out))?;
    file.set_len(plan.size()).map_err(Error::file("make room in", out))?;
    let total = plan.content();
    let mut told = |done| progress.amount(done, Some(total), Unit::Bytes);
    let mut file = Hashed { file, hasher: blake3::Hasher::new() };
    let written = plan.write(&mut file, &mut contents, &mut told);
    written.map_err(|error| failed(&contents, error))?;
    let digest = file.hasher.finalize().into();
    Ok(Written { size: plan.size(), free: plan.free(), digest })
}

fn options(recipe: &Recipe, identity: &[u8; 32], newest: i64, content: u64) -> Options {
    let size = match recipe.size_mib {
        Some(mib) => Size::Bytes(mib << 20),
        None => Size::Fit { free: FREE_MIN.max(content / FREE_PART) },
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(identity).update(format!("{recipe:?}").as_bytes());
    let mut uuid = [0; 16];
    hasher.finalize_xof().fill(&mut uuid);
    // Version 8, whose bits are the maker's own, of the usual variant (RFC 9562, section 5.8).
    uuid[6] = uuid[6] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    let epoch = newest.clamp(0, u32::MAX.into()) as u32;
    Options { size, journal: !recipe.no_journal, uuid, label: String::new(), epoch }
}

/// Makes the file `out` an ext4 disk of this size with the content of a folder.
pub fn ext4_from_folder(folder: &Path, size_mib: u64, owner: Owner, out: &Path) -> Result<()> {
    let recipe = Recipe { size_mib: Some(size_mib), no_journal: false };
    recipe.check()?;
    let mut tree = Tree::new();
    folder::read_into(&mut tree, folder, owner, &Quiet)?;
    write(tree, &recipe, out, &Quiet).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, SIZE_MIN_MIB - 1, SIZE_MAX_MIB + 1, u64::MAX] {
            let result = ext4_from_folder(folder.path(), size, Owner::Root, Path::new("/none"));
            assert!(matches!(result, Err(Error::DiskSize { .. })), "{size}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing =
            ext4_from_folder(&folder.path().join("no"), 8, Owner::Root, Path::new("/none"));
        assert!(missing.unwrap_err().to_string().contains("/no: No such file"));
        std::fs::write(folder.path().join("large"), vec![1; 20 << 20]).unwrap();
        let out = folder.path().join("out");
        let small = ext4_from_folder(folder.path(), 8, Owner::Root, &out).unwrap_err().to_string();
        assert!(small.starts_with("8 MiB do not suffice: the content needs at least"), "{small}");
        let full = ext4_from_folder(folder.path(), 64, Owner::Root, Path::new("/dev/full"));
        let full = full.unwrap_err().to_string();
        assert!(full.contains("/dev/full"), "{full}");
    }
}
