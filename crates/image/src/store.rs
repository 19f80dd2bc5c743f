//! The store: images by name, and the blobs of registries that they came from.
//!
//! ```text
//! FOLDER/image/ID/{disk.ext4, image.json, manifest}   complete, and never changed
//! FOLDER/names/NAME                                   the ID, one line
//! FOLDER/blobs/HEX                                    whole, since it got its name afterwards
//! FOLDER/build-step/KEY/disk.ext4                     what a step of a Dockerfile has made
//! FOLDER/tmp/, FOLDER/locks/                          as in the cache
//! ```
//!
//! - An ID is a hash of the disk and of what to run: the same image made twice is there once.
//! - Everything is made under `tmp` and renamed: what is killed at any moment leaves something in
//!   `tmp`, which a later process sweeps, and nothing in the lists.
//! - Who adds an image holds the lock `images` together with others, from before the image is in
//!   place until it has its name; who removes images holds it alone. So an image that has no name
//!   yet is never taken for one that nobody wants.
//! - Who uses blobs holds the lock `blobs` together with others; they are removed alone.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Entry, Temporary};
use crate::ext4::{Recipe, Written};
use crate::oci::digest::Digest;
use crate::oci::manifest::Run;
use crate::{Error, Result};

const KIND: &str = "image";
const NAMES: &str = "names";
const BLOBS: &str = "blobs";
const DISK: &str = "disk.ext4";
const RECORD: &str = "image.json";
const IMAGES_LOCK: &str = "images";
const BLOBS_LOCK: &str = "blobs";
const STEPS_LOCK: &str = "build-steps";
const DEFAULT_TAG: &str = "latest";
/// Most characters of a name.
pub const NAME_MAX: usize = 200;
/// Digits of an ID.
const ID_LEN: usize = 32;
/// Fewest digits of an ID that stand for it.
pub const ID_PREFIX_MIN: usize = 4;

/// The folder with all images.
#[derive(Debug, Clone)]
pub struct Store {
    /// Its machinery is the cache's: temporary folders, locks, checked entries.
    entries: Cache,
}

/// The name of an image, with its tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// What is written down about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it was made from, as the user named it.
    pub source: String,
    /// The digest of a container image's configuration.
    pub source_id: Option<String>,
    /// How the disk was made.
    pub recipe: Recipe,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of it that were free when it was made.
    pub free: u64,
    /// What to run.
    pub run: Run,
}

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its number.
    pub id: String,
    /// Its names, in order.
    pub names: Vec<Name>,
    /// When it was made.
    pub made: SystemTime,
    /// The disk. It is never to be written to.
    pub disk: PathBuf,
    /// Bytes that it takes on the host.
    pub stored: u64,
    /// What is written down about it.
    pub record: Record,
}

/// What a store holds, and what there is room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Images.
    pub images: u64,
    /// Bytes that they take.
    pub images_bytes: u64,
    /// Blobs of registries, kept for the next pull.
    pub blobs: u64,
    /// Bytes that they take.
    pub blobs_bytes: u64,
    /// Bytes that are free on the file system.
    pub free_bytes: u64,
}

/// What was removed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Removed {
    /// The numbers of images.
    pub images: Vec<String>,
    /// How many blobs.
    pub blobs: u64,
    /// How many disks of Dockerfiles' steps.
    pub steps: u64,
    /// Bytes that were given back.
    pub bytes: u64,
    /// Whether blobs were left because a pull was using them.
    pub blobs_in_use: bool,
    /// Whether disks of steps were left because a build was using them.
    pub steps_in_use: bool,
}

impl Name {
    /// Reads a name; `latest` is the tag where none is given.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::ImageName(text.to_owned());
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !begins || text.len() > NAME_MAX || !text.bytes().all(usual) || text.contains("//") {
            return Err(bad());
        }
        match text.rsplit_once(':') {
            // Else the colon is that of a registry's port.
            Some((_, tag)) if !tag.contains('/') => {
                if tag.is_empty() {
                    Err(bad())
                } else {
                    Ok(Name(text.to_owned()))
                }
            }
            _ => Ok(Name(format!("{text}:{DEFAULT_TAG}"))),
        }
    }

    /// As a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the name of a file: no other name has a percent sign.
    fn file_name(&self) -> String {
        self.0.replace('/', "%2F")
    }

    fn of_file(name: &str) -> Option<Self> {
        Self::parse(&name.replace("%2F", "/")).ok()
    }
}

impl Store {
    /// Opens the user's store: `images` in `$SPARKLER_DATA`, or in `sparkler` in `$XDG_DATA_HOME`
    /// or `~/.local/share`.
    pub fn open() -> Result<Self> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let folder = set("SPARKLER_DATA")
            .map(PathBuf::from)
            .or_else(|| set("XDG_DATA_HOME").map(|base| Path::new(&base).join("sparkler")))
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/share/sparkler")));
        Self::at(folder.ok_or(Error::NoDataFolder)?.join("images"))
    }

    /// Opens a store in this folder, which is made if needed, and sweeps what killed processes
    /// left in it.
    pub fn at(folder: impl Into<PathBuf>) -> Result<Self> {
        let store = Store { entries: Cache::at(folder)? };
        for folder in [NAMES, BLOBS] {
            let folder = store.root().join(folder);
            fs::create_dir_all(&folder).map_err(Error::file("make the folder", &folder))?;
        }
        Ok(store)
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        self.entries.root()
    }

    /// All images, by name and then by age.
    pub fn images(&self) -> Result<Vec<Image>> {
        let mut names = self.names()?;
        let entries = self.entries.list(KIND);
        let mut images: Vec<Image> = entries
            .iter()
            .filter_map(|entry| image(entry, names.remove(entry.name()).unwrap_or_default()))
            .collect();
        let key = |image: &Image| (image.names.is_empty(), image.names.first().cloned());
        images.sort_by(|a, b| key(a).cmp(&key(b)).then(b.made.cmp(&a.made)));
        Ok(images)
    }

    /// The image of this name, or whose number begins so.
    pub fn find(&self, text: &str) -> Result<Image> {
        let images = self.images()?;
        if let Ok(name) = Name::parse(text)
            && let Some(image) = images.iter().find(|image| image.names.contains(&name))
        {
            return Ok(image.clone());
        }
        let begins = |image: &&Image| text.len() >= ID_PREFIX_MIN && image.id.starts_with(text);
        let found: Vec<&Image> = images.iter().filter(begins).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Error::NoImage(text.to_owned())),
            [..] => Err(Error::ManyImages(text.to_owned())),
        }
    }

    /// An image that was made from this container image in this way.
    pub fn made_from(&self, source_id: &Digest, recipe: &Recipe) -> Result<Option<Image>> {
        let id = source_id.to_string();
        let mut images = self.images()?.into_iter();
        Ok(images.find(|image| {
            image.record.source_id.as_ref() == Some(&id) && image.record.recipe == *recipe
        }))
    }

    /// Gives an image a name, which another may lose by it.
    pub fn tag(&self, id: &str, name: &Name) -> Result<Image> {
        let _lock = self.entries.lock_shared(IMAGES_LOCK)?;
        // Somebody may have removed it since it was found.
        self.find(id)?;
        self.write_name(id, name)?;
        self.find(id)
    }

    /// Removes a name, and the image with its last; by number, with all its names.
    pub fn remove(&self, text: &str) -> Result<Removed> {
        let _lock = self.entries.lock(IMAGES_LOCK)?;
        let image = self.find(text)?;
        let named = Name::parse(text).ok().filter(|name| image.names.contains(name));
        let going: Vec<&Name> = match &named {
            Some(name) => vec![name],
            None => image.names.iter().collect(),
        };
        for name in &going {
            let path = self.root().join(NAMES).join(name.file_name());
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
        let mut removed = Removed::default();
        if going.len() == image.names.len() {
            self.remove_entry(&image, &mut removed)?;
        }
        Ok(removed)
    }

    /// Removes images without a name, blobs, and disks of steps.
    pub fn prune(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        {
            let _lock = self.entries.lock(IMAGES_LOCK)?;
            for image in self.images()?.iter().filter(|image| image.names.is_empty()) {
                self.remove_entry(image, &mut removed)?;
            }
        }
        match self.entries.try_lock(STEPS_LOCK)? {
            Some(_lock) => {
                let pruned = crate::dockerfile::build::shrink(&self.entries, 0)?;
                removed.steps = pruned.steps;
                removed.bytes += pruned.bytes;
            }
            None => removed.steps_in_use = true,
        }
        let Some(_lock) = self.entries.try_lock(BLOBS_LOCK)? else {
            removed.blobs_in_use = true;
            return Ok(removed);
        };
        for path in files(&self.root().join(BLOBS))? {
            removed.bytes += stored(&path);
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            removed.blobs += 1;
        }
        Ok(removed)
    }

    /// What is stored, and what there is room for.
    pub fn totals(&self) -> Result<Totals> {
        let images = self.images()?;
        let blobs = files(&self.root().join(BLOBS))?;
        let room = rustix::fs::statvfs(self.root())
            .map_err(|error| Error::file("look at", self.root())(error.into()))?;
        Ok(Totals {
            images: images.len() as u64,
            images_bytes: images.iter().map(|image| image.stored).sum(),
            blobs: blobs.len() as u64,
            blobs_bytes: blobs.iter().map(|path| stored(path)).sum(),
            free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        })
    }

    /// A folder for work, in the store's file system.
    pub(crate) fn work(&self) -> Result<Temporary> {
        self.entries.temporary()
    }

    /// Where disks of steps are kept.
    pub(crate) fn steps(&self) -> &Cache {
        &self.entries
    }

    /// To be held while disks of steps are used.
    pub(crate) fn hold_steps(&self) -> Result<File> {
        self.entries.lock_shared(STEPS_LOCK)
    }

    /// To be held while blobs are used.
    pub(crate) fn hold_blobs(&self) -> Result<File> {
        self.entries.lock_shared(BLOBS_LOCK)
    }

    /// The file with a blob; `fetch` fills one if there is none.
    pub(crate) fn blob(
        &self,
        digest: &Digest,
        fetch: impl FnOnce(&File) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.root().join(BLOBS).join(digest.hex());
        let _lock = self.entries.lock(&format!("blob-{}", digest.hex()))?;
        if !path.is_file() {
            let work = self.work()?;
            let part = work.path().join("blob");
            let file = File::options().read(true).write(true).create_new(true).open(&part);
            fetch(&file.map_err(Error::file("make", &part))?)?;
            fs::rename(&part, &path).map_err(Error::file("put in place", &path))?;
        }
        Ok(path)
    }

    /// Takes a blob away that has turned out to be damaged.
    pub(crate) fn forget_blob(&self, digest: &Digest) {
        // What cannot be removed now is found damaged again.
        let _ = fs::remove_file(self.root().join(BLOBS).join(digest.hex()));
    }

    /// Takes in a folder with a disk, under a name.
    pub(crate) fn add(
        &self,
        work: Temporary,
        written: &Written,
        record: &Record,
        name: &Name,
    ) -> Result<Image> {
        let text = serde_json::to_string_pretty(record)
            .map_err(|error| Error::format(RECORD, error.to_string()))?;
        let path = work.path().join(RECORD);
        fs::write(&path, &text).map_err(Error::file("write", &path))?;
        let disk = work.path().join(DISK);
        let mut permissions =
            fs::metadata(&disk).map_err(Error::file("read", &disk))?.permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&disk, permissions).map_err(Error::file("protect", &disk))?;
        let run = serde_json::to_vec(&record.run)
            .map_err(|error| Error::format(RECORD, error.to_string()))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&written.digest).update(&run);
        let id = hasher.finalize().to_hex()[..ID_LEN].to_owned();
        let _lock = self.entries.lock_shared(IMAGES_LOCK)?;
        let entry = self.entries.adopt(KIND, &id, work, Vec::new())?;
        self.write_name(&id, name)?;
        let names = self.names()?.remove(&id).unwrap_or_default();
        image(&entry, names).ok_or_else(|| Error::format(id, "it was damaged while it was made"))
    }

    /// Where the disk goes in a folder for [`Store::add`].
    pub(crate) fn disk_in(work: &Temporary) -> PathBuf {
        work.path().join(DISK)
    }

    fn write_name(&self, id: &str, name: &Name) -> Result<()> {
        let work = self.work()?;
        let part = work.path().join("name");
        fs::write(&part, format!("{id}\n")).map_err(Error::file("write", &part))?;
        let path = self.root().join(NAMES).join(name.file_name());
        fs::rename(&part, &path).map_err(Error::file("put in place", &path))
    }

    /// All names, by the number that they stand for.
    fn names(&self) -> Result<BTreeMap<String, Vec<Name>>> {
        let mut names: BTreeMap<String, Vec<Name>> = BTreeMap::new();
        for path in files(&self.root().join(NAMES))? {
            let name = path.file_name().and_then(|name| Name::of_file(name.to_str()?));
            // A name that goes while we look is no error.
            let id = fs::read_to_string(&path).ok();
            if let (Some(name), Some(id)) = (name, id) {
                names.entry(id.trim().to_owned()).or_default().push(name);
            }
        }
        names.values_mut().for_each(|names| names.sort());
        Ok(names)
    }

    fn remove_entry(&self, image: &Image, removed: &mut Removed) -> Result<()> {
        // Out of the list at once, and then in its own time.
        let work = self.work()?;
        let folder = self.root().join(KIND).join(&image.id);
        let gone = work.path().join("gone");
        fs::rename(&folder, &gone).map_err(Error::file("remove", &folder))?;
        removed.bytes += image.stored;
        removed.images.push(image.id.clone());
        Ok(())
    }
}

/// An entry as an image; none if its record cannot be read.
fn image(entry: &Entry, names: Vec<Name>) -> Option<Image> {
    let record = serde_json::from_slice(&fs::read(entry.file(RECORD)).ok()?).ok()?;
    let disk = entry.file(DISK);
    let stored = stored(&disk);
    Some(Image { id: entry.name().to_owned(), names, made: entry.made(), disk, stored, record })
}

/// Bytes that a file takes on the host.
fn stored(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = entries.map_err(Error::file("read", folder))?;
    Ok(entries.into_iter().map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_tags() {
        for (text, name) in [
            ("a", Some("a:latest")),
            ("a:b", Some("a:b")),
            ("h:5000/a", Some("h:5000/a:latest")),
            ("h:5000/a:1", Some("h:5000/a:1")),
            ("", None),
            ("a:", None),
            ("../a", None),
            ("a b", None),
            ("a%2Fb", None),
            ("-a", None),
        ] {
            assert_eq!(Name::parse(text).ok().as_ref().map(Name::as_str), name, "{text}");
        }
        let name = Name::parse("h:5000/a/b:1").unwrap();
        assert_eq!(Name::of_file(&name.file_name()), Some(name));
    }
}
