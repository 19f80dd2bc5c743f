//! The cache: entries that are made once and found again by what they were
//! made from.
//!
//! An entry is a folder `KIND/KEY` with its files and a manifest. The key is a
//! hash of the recipe's version and of all its inputs, so an entry is never
//! changed, and a new recipe makes a new entry.
//!
//! ```text
//! absent --lock--> tmp/KEY.N being made --manifest, rename--> complete
//!    ^                  | killed                                 | damaged
//!    |                  v                                        v
//!    +---------- swept at a later open                 moved to tmp, swept
//! ```
//!
//! - Two processes that want the same entry take turns by a file lock; the
//!   second finds what the first has made.
//! - An entry counts only with a manifest whose own digest is right and whose
//!   files have the sizes and digests it says (`manifest`); all else is removed
//!   and made again.
//! - A temporary folder is locked while its process lives, so what a killed
//!   process left behind is told from work in progress.

mod manifest;

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::{Error, Result};
pub use manifest::Manifest;

/// A temporary folder younger than this is never swept: its maker may be
/// between making and locking it.
const SWEEP_AGE: Duration = Duration::from_secs(60);
const TEMPORARY: &str = "tmp";
const LOCKS: &str = "locks";

/// The folder that holds all entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What an entry is made from, as a hash.
#[derive(Debug, Clone)]
pub struct Key {
    kind: &'static str,
    hasher: blake3::Hasher,
}

/// A complete entry.
#[derive(Debug, Clone)]
pub struct Entry {
    folder: PathBuf,
    manifest: Manifest,
}

impl Key {
    /// A key for entries of one kind, which is also the folder's name, made by
    /// this version of its recipe.
    pub fn new(kind: &'static str, recipe: u32) -> Self {
        let key = Key { kind, hasher: blake3::Hasher::new() };
        key.with("recipe", recipe.to_le_bytes())
    }

    /// Adds an input. Lengths are hashed too, so inputs cannot run together.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
        self
    }

    fn name(&self) -> String {
        self.hasher.finalize().to_hex()[..32].to_string()
    }
}

impl Entry {
    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A remark that was made when the entry was.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.manifest.note(name)
    }

    /// The entry's own name: the hash of what it was made from.
    pub fn name(&self) -> &str {
        self.folder.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// When it was made.
    pub fn made(&self) -> SystemTime {
        let manifest = fs::metadata(self.folder.join(manifest::FILE));
        manifest.and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The sizes of its files together.
    pub fn size(&self) -> u64 {
        self.manifest.size()
    }

    /// Removes it. Machines that have its files open keep them.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(Error::file("remove", &self.folder))
    }
}

impl Cache {
    /// Opens the user's cache: `$SPARKLER_CACHE`, or `sparkler` in
    /// `$XDG_CACHE_HOME`, or `~/.cache/sparkler`.
    pub fn open() -> Result<Self> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let folder = set("SPARKLER_CACHE")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|base| Path::new(&base).join("sparkler")))
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache/sparkler")));
        Self::at(folder.ok_or(Error::NoCacheFolder)?)
    }

    /// Opens a cache in this folder, which is made if needed, and sweeps what
    /// killed processes left in it.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root: PathBuf = root.into();
        let root = std::path::absolute(&root).map_err(Error::file("find", &root))?;
        for folder in [root.clone(), root.join(TEMPORARY), root.join(LOCKS)] {
            fs::create_dir_all(&folder).map_err(Error::file("make the folder", &folder))?;
        }
        let cache = Cache { root };
        cache.sweep();
        Ok(cache)
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The entry for `key`; `make` makes its files in the folder it is given,
    /// and returns remarks about them, if the entry is not there or broken.
    pub fn entry(
        &self,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<Vec<(&'static str, String)>>,
    ) -> Result<Entry> {
        let folder = self.root.join(key.kind).join(key.name());
        if let Some(entry) = load(&folder) {
            return Ok(entry);
        }
        let _lock = self.lock(&format!("{}-{}", key.kind, key.name()))?;
        // Another process may have made it while this one waited.
        if let Some(entry) = load(&folder) {
            return Ok(entry);
        }
        let work = self.temporary()?;
        let notes = make(work.path())?;
        let manifest = Manifest::of(work.path(), notes)?;
        manifest.write(work.path())?;
        self.replace(&work, &folder)?;
        Ok(Entry { folder, manifest })
    }

    /// The entry for `key`, if there is one.
    pub fn find(&self, key: &Key) -> Option<Entry> {
        load(&self.root.join(key.kind).join(key.name()))
    }

    /// Makes a finished folder the entry of this name, unless there is one.
    pub(crate) fn adopt(
        &self,
        kind: &'static str,
        name: &str,
        work: Temporary,
        notes: Vec<(&'static str, String)>,
    ) -> Result<Entry> {
        let folder = self.root.join(kind).join(name);
        let _lock = self.lock(&format!("{kind}-{name}"))?;
        if let Some(entry) = load(&folder) {
            return Ok(entry);
        }
        let manifest = Manifest::of(work.path(), notes)?;
        manifest.write(work.path())?;
        self.replace(&work, &folder)?;
        Ok(Entry { folder, manifest })
    }

    /// The complete entries of one kind, newest first.
    pub fn list(&self, kind: &str) -> Vec<Entry> {
        let folders = fs::read_dir(self.root.join(kind)).into_iter().flatten().flatten();
        let mut entries: Vec<Entry> = folders.filter_map(|folder| load(&folder.path())).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.made()));
        entries
    }

    /// Waits for the lock of this name and holds it until the result is dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<File> {
        let (file, path) = self.lock_file(name)?;
        file.lock().map_err(Error::file("lock", &path))?;
        Ok(file)
    }

    /// The same, together with others that do not need it for themselves.
    pub(crate) fn lock_shared(&self, name: &str) -> Result<File> {
        let (file, path) = self.lock_file(name)?;
        file.lock_shared().map_err(Error::file("lock", &path))?;
        Ok(file)
    }

    /// The same, if nobody has it now.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<File>> {
        let (file, path) = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::file("lock", &path)(error)),
        }
    }

    fn lock_file(&self, name: &str) -> Result<(File, PathBuf)> {
        let path = self.root.join(LOCKS).join(name);
        let file = File::options().create(true).append(true).open(&path);
        Ok((file.map_err(Error::file("open", &path))?, path))
    }

    /// A folder for work, removed when the result is dropped.
    pub(crate) fn temporary(&self) -> Result<Temporary> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}", std::process::id());
        let path = self.root.join(TEMPORARY).join(name);
        // A killed process of the same number may have left this name behind.
        remove(&path);
        fs::create_dir(&path).map_err(Error::file("make the folder", &path))?;
        let lock = File::open(&path).map_err(Error::file("open", &path))?;
        lock.lock().map_err(Error::file("lock", &path))?;
        Ok(Temporary { path, _lock: lock })
    }

    /// Puts a finished folder in the place of what is there, if anything.
    fn replace(&self, work: &Temporary, folder: &Path) -> Result<()> {
        let parent = folder.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
        if folder.exists() {
            let broken = work.path().with_extension("broken");
            fs::rename(folder, &broken).map_err(Error::file("move away", folder))?;
            remove(&broken);
        }
        fs::rename(work.path(), folder).map_err(Error::file("put in place", folder))
    }

    /// Removes temporary folders whose makers are gone. Best effort: what
    /// cannot be removed now is tried again at the next open.
    fn sweep(&self) {
        let folders = fs::read_dir(self.root.join(TEMPORARY)).into_iter().flatten().flatten();
        for path in folders.map(|entry| entry.path()) {
            let modified = fs::metadata(&path).and_then(|meta| meta.modified());
            let old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > SWEEP_AGE));
            let Ok(folder) = File::open(&path) else { continue };
            match folder.try_lock() {
                Ok(()) if old => remove(&path),
                Ok(()) | Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
            }
        }
    }
}

/// A folder for work in progress; see [`Cache::temporary`].
pub(crate) struct Temporary {
    path: PathBuf,
    _lock: File,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a folder if it is there; what stays is swept later.
fn remove(path: &Path) {
    let _ = fs::remove_dir_all(path);
}

/// The entry in a folder, if it is complete and undamaged.
fn load(folder: &Path) -> Option<Entry> {
    let manifest = Manifest::read(folder)?;
    manifest.matches(folder).then(|| Entry { folder: folder.to_path_buf(), manifest })
}

#[cfg(test)]
mod tests;
