//! What an image is made from, and making it.
//!
//! ```text
//! Source --tree--> Tree, what to run --ext4--> disk --> Store
//! ```
//!
//! A source names a folder, an archive or a release; which kind of folder or archive it is, is
//! seen from what is in it, unless a prefix says it: `dir:`, `tar:`, `oci:`, `docker-archive:`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::debian::{self, Suite};
use crate::decompress::Method;
use crate::ext4::{self, Recipe};
use crate::folder::{self, Owner};
use crate::oci::digest::Digest;
use crate::oci::layer::tempfile_in;
use crate::oci::layout::{LAYOUT_FILE, Layout};
use crate::oci::manifest::Run;
use crate::oci::reference::Reference;
use crate::oci::registry::{Options, Registry};
use crate::oci::{self, Blob, Blobs};
use crate::progress::{Progress, Unit};
use crate::store::{Image, Name, Record, Store};
use crate::tar::{self, Meaning};
use crate::tree::Tree;
use crate::{Error, Result};

/// What an image is made from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A release of a distribution, with further packages, from a mirror if one is given.
    Suite(Suite, Vec<String>, Option<String>),
    /// A folder.
    Folder(PathBuf, Owner),
    /// A folder with an OCI layout, and which image of it.
    Layout(PathBuf, Option<String>),
    /// An archive: a file system, or what `docker save` or others put images into.
    Archive(PathBuf, ArchiveKind, Option<String>),
    /// An image in a registry.
    Registry(Reference, Options),
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// Images if it looks so, else a file system.
    Any,
    /// A file system.
    Files,
    /// Images.
    Images,
}

/// What a user may say besides the source itself.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Who owns the files of a folder.
    pub owner: Option<Owner>,
    /// Further packages of a release.
    pub packages: Vec<String>,
    /// Where a release's packages come from.
    pub mirror: Option<String>,
}

impl Source {
    /// Finds out what a text names.
    pub fn parse(text: &str, hints: &Hints) -> Result<Self> {
        let (source, takes) = Self::guess(text, hints)?;
        let given = [
            ("an owner", hints.owner.is_some(), takes.owner),
            ("packages", !hints.packages.is_empty(), takes.packages),
            ("a mirror", hints.mirror.is_some(), takes.packages),
        ];
        match given.into_iter().find(|(_, given, taken)| *given && !*taken) {
            Some((what, ..)) => Err(Error::format(text, format!("{what} cannot be given for it"))),
            None => Ok(source),
        }
    }

    /// The name for an image from here where none is given.
    pub fn default_name(&self) -> Result<Name> {
        let of_path = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
            Name::parse(&name).map_err(|_| {
                Error::format(
                    path.display().to_string(),
                    "no name can be made of it; give one with --name",
                )
            })
        };
        match self {
            Source::Suite(suite, ..) => Name::parse(&suite.to_string()),
            Source::Folder(path, _) | Source::Layout(path, _) | Source::Archive(path, ..) => {
                of_path(&std::fs::canonicalize(path).map_err(Error::file("find", path))?)
            }
            Source::Registry(reference, _) => Name::parse(&reference.familiar()),
        }
    }

    /// Makes the image, and puts it into the store.
    pub fn make(
        &self,
        store: &Store,
        name: &Name,
        recipe: &Recipe,
        progress: &dyn Progress,
    ) -> Result<Image> {
        recipe.check()?;
        let work = store.work()?;
        // Blobs that are fetched are not to be pruned until the disk is written.
        let _blobs = store.hold_blobs()?;
        let made = self.open(store, work.path(), progress)?;
        let source_id = made.id();
        let known = match &source_id {
            Some(id) => store.made_from(id, recipe)?,
            None => None,
        };
        if let Some(image) = known {
            progress.done();
            return store.tag(&image.id, name);
        }
        let (tree, run) = made.tree(work.path(), progress)?;
        let folder = store.work()?;
        let written = ext4::write(tree, recipe, &Store::disk_in(&folder), progress)?;
        progress.done();
        let record = Record {
            source: self.to_string(),
            source_id: source_id.map(|id| id.to_string()),
            recipe: recipe.clone(),
            size: written.size,
            free: written.free,
            run,
        };
        store.add(folder, &written, &record, name)
    }

    fn guess(text: &str, hints: &Hints) -> Result<(Self, Takes)> {
        let none = Takes { owner: false, packages: false };
        let owner = Takes { owner: true, packages: false };
        let folder = |path: &str| Source::Folder(path.into(), hints.owner.unwrap_or(Owner::Same));
        if let Some((kind, rest)) = text.split_once(':') {
            // A path may have colons in it, and so may a name: the longest path that is there.
            let named = || {
                let colons = rest.match_indices(':').map(|(at, _)| at).chain([rest.len()]);
                let found = colons.rev().find(|at| Path::new(&rest[..*at]).exists());
                let (path, name) = rest.split_at(found.unwrap_or(rest.len()));
                (PathBuf::from(path), name.strip_prefix(':').map(str::to_owned))
            };
            match kind {
                "dir" => return Ok((folder(rest), owner)),
                "tar" => return Ok((Source::Archive(rest.into(), ArchiveKind::Files, None), none)),
                "oci" | "docker-archive" => {
                    let (path, name) = named();
                    let source = match path.is_dir() {
                        true => Source::Layout(path, name),
                        false => Source::Archive(path, ArchiveKind::Images, name),
                    };
                    return Ok((source, none));
                }
                _ => {}
            }
        }
        let path = Path::new(text);
        if !path.exists()
            && let Some(suite) = Suite::parse(text)
        {
            debian::check_packages(&hints.packages)?;
            let source = Source::Suite(suite?, hints.packages.clone(), hints.mirror.clone());
            return Ok((source, Takes { owner: false, packages: true }));
        }
        let metadata = std::fs::metadata(path).map_err(Error::file("find", path))?;
        Ok(match metadata.is_dir() {
            true if path.join(LAYOUT_FILE).is_file() => (Source::Layout(path.into(), None), none),
            true => (folder(text), owner),
            false => (Source::Archive(path.into(), ArchiveKind::Any, None), none),
        })
    }

    /// Finds what is to be put into a tree.
    fn open<'a>(
        &'a self,
        store: &'a Store,
        work: &Path,
        progress: &dyn Progress,
    ) -> Result<Opened<'a>> {
        Ok(match self {
            Source::Suite(..) | Source::Folder(..) => Opened::Files(self),
            Source::Layout(path, name) => {
                let layout = Layout::folder(path);
                Opened::image(layout.image(name.as_deref())?, layout)
            }
            Source::Archive(path, kind, name) => {
                let (blob, label) =
                    (open_archive(path, work, progress)?, path.display().to_string());
                let layout = match kind {
                    ArchiveKind::Files => None,
                    ArchiveKind::Any | ArchiveKind::Images => {
                        Layout::archive(&label, Arc::clone(&blob.file), blob.range.clone())?
                    }
                };
                match (layout, kind) {
                    (Some(layout), _) => Opened::image(layout.image(name.as_deref())?, layout),
                    (None, ArchiveKind::Images) => {
                        return Err(Error::format(
                            label,
                            "there are no images in it, as `docker save` puts them",
                        ));
                    }
                    (None, ArchiveKind::Any | ArchiveKind::Files) => Opened::Archive(blob, label),
                }
            }
            Source::Registry(reference, options) => {
                progress.step(&format!("asking {}", reference.registry()));
                let registry = Registry::new(store, reference, options)?;
                let image = registry.image(reference, progress)?;
                Opened::image(image, registry)
            }
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Suite(suite, packages, _) => {
                write!(f, "{suite}")?;
                if packages.is_empty() {
                    Ok(())
                } else {
                    write!(f, " with {}", packages.join(", "))
                }
            }
            Source::Folder(path, _) | Source::Layout(path, _) | Source::Archive(path, ..) => {
                write!(f, "{}", path.display())
            }
            Source::Registry(reference, _) => write!(f, "{reference}"),
        }
    }
}

/// Which hints a source takes.
struct Takes {
    owner: bool,
    packages: bool,
}

/// A source that was looked into.
enum Opened<'a> {
    /// Files that are read when they are wanted.
    Files(&'a Source),
    /// An archive of files.
    Archive(Blob, String),
    /// A container image.
    Image(Box<oci::Image>, Box<dyn Blobs + 'a>),
}

impl<'a> Opened<'a> {
    fn image(image: oci::Image, blobs: impl Blobs + 'a) -> Self {
        Opened::Image(Box::new(image), Box::new(blobs))
    }

    /// What names all of the content.
    fn id(&self) -> Option<Digest> {
        match self {
            Opened::Files(_) | Opened::Archive(..) => None,
            Opened::Image(image, _) => Some(image.id),
        }
    }

    fn tree(self, work: &Path, progress: &dyn Progress) -> Result<(Tree, Run)> {
        match self {
            Opened::Files(Source::Suite(suite, packages, mirror)) => {
                let tree = suite.tree(packages, mirror.as_deref(), work, progress)?;
                Ok((tree, Run::default()))
            }
            Opened::Files(Source::Folder(path, owner)) => {
                progress.step("reading the folder");
                let mut tree = Tree::new();
                folder::read_into(&mut tree, path, *owner, progress)?;
                Ok((tree, Run::default()))
            }
            Opened::Files(Source::Layout(..) | Source::Archive(..) | Source::Registry(..)) => {
                Err(Error::format("the source", "it was not looked into"))
            }
            Opened::Archive(blob, name) => {
                progress.step("reading the archive");
                let mut tree = Tree::new();
                let total = blob.range.end - blob.range.start;
                let mut told = |done| progress.amount(done, Some(total), Unit::Bytes);
                tar::read_into(&mut tree, &blob.file, blob.range, Meaning::Whole, &mut told)
                    .map_err(|error| error.within(&name))?;
                Ok((tree, Run::default()))
            }
            Opened::Image(image, blobs) => {
                let tree = image.tree(&*blobs, work, progress)?;
                Ok((tree, image.config.run))
            }
        }
    }
}

/// An archive, unpacked if it is compressed.
fn open_archive(path: &Path, work: &Path, progress: &dyn Progress) -> Result<Blob> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let len = file.metadata().map_err(Error::file("read", path))?.len();
    let mut magic = [0; 8];
    let count = file.read_at(&mut magic, 0).map_err(Error::file("read", path))?;
    let Some(method) = Method::of(&magic[..count]) else {
        return Ok(Blob { file: Arc::new(file), range: 0..len });
    };
    progress.step("unpacking the archive");
    let name = path.display().to_string();
    let mut unpacked = tempfile_in(work)?;
    let copied = std::io::copy(&mut method.reader(file, &name)?, &mut unpacked);
    let len = copied.map_err(|error| match error.raw_os_error() {
        Some(_) => Error::file("unpack into", work)(error),
        None => Error::format(&name, error.to_string()),
    })?;
    Ok(Blob { file: Arc::new(unpacked), range: 0..len })
}
