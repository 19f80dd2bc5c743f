//! An entry's manifest: its files with sizes and digests, and remarks.
//!
//! A text of lines, the last of which is the digest of all before it:
//!
//! ```text
//! sparkler cache entry 1
//! note version 6.1.0-56-cloud-amd64
//! file 53243444 SAMPLE vmlinux
//! end DIGEST
//! ```
//!
//! A file's digest is taken over all of it up to [`WHOLE_MAX`] bytes, and over
//! three samples (beginning, middle, end) of a longer one. That finds what
//! happens to caches: files cut short, emptied by a crash, or replaced. It is
//! no defence against somebody who may write to the cache.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The manifest's file name.
pub const FILE: &str = "manifest";
const HEADER: &str = "sparkler cache entry 1";
/// Files up to this size are read in full at every use.
const WHOLE_MAX: u64 = 1 << 20;
/// How much is read of each of the three places of a longer file.
const SAMPLE: usize = 64 * 1024;

/// What an entry holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    notes: Vec<(String, String)>,
    files: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    size: u64,
    digest: String,
    name: String,
}

impl Manifest {
    /// Describes the files of a folder and of the folders in it.
    pub(super) fn of(folder: &Path, notes: Vec<(&'static str, String)>) -> Result<Self> {
        let mut names = Vec::new();
        collect(folder, Path::new(""), &mut names)?;
        names.sort();
        let files = names.into_iter().map(|name| Record::of(folder, name));
        let notes = notes.into_iter().map(|(name, text)| (name.into(), text.replace('\n', " ")));
        Ok(Manifest { notes: notes.collect(), files: files.collect::<Result<_>>()? })
    }

    /// The remark of this name.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.iter().find(|(key, _)| key == name).map(|(_, text)| text.as_str())
    }

    pub(super) fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        fs::write(&path, self.text()).map_err(Error::file("write", &path))
    }

    /// The manifest of a folder, if there is one that is not damaged.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(folder.join(FILE)).ok()?)
    }

    /// Whether all files are there with their sizes and digests.
    pub(super) fn matches(&self, folder: &Path) -> bool {
        self.files
            .iter()
            .all(|file| Record::of(folder, file.name.clone()).is_ok_and(|present| present == *file))
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        // Writing to a string cannot fail.
        for (name, note) in &self.notes {
            let _ = writeln!(text, "note {name} {note}");
        }
        for file in &self.files {
            let _ = writeln!(text, "file {} {} {}", file.size, file.digest, file.name);
        }
        let digest = hex(text.as_bytes());
        let _ = writeln!(text, "end {digest}");
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let at = text.rfind("end ")?;
        let (body, end) = text.split_at(at);
        if end.strip_prefix("end ")?.strip_suffix('\n')? != hex(body.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != HEADER {
            return None;
        }
        let mut manifest = Manifest::default();
        for line in lines {
            let (word, rest) = line.split_once(' ')?;
            match word {
                "note" => {
                    let (name, note) = rest.split_once(' ')?;
                    manifest.notes.push((name.into(), note.into()));
                }
                "file" => manifest.files.push(Record::parse(rest)?),
                _ => return None,
            }
        }
        Some(manifest)
    }
}

impl Record {
    fn of(folder: &Path, name: String) -> Result<Self> {
        let path = folder.join(&name);
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        let size = file.metadata().map_err(Error::file("read", &path))?.len();
        let digest = digest(&file, size).map_err(Error::file("read", &path))?;
        Ok(Record { size, digest, name })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let (size, digest, name) = (words.next()?, words.next()?, words.next()?);
        Some(Record { size: size.parse().ok()?, digest: digest.into(), name: name.into() })
    }
}

fn digest(file: &File, size: u64) -> std::io::Result<String> {
    if size <= WHOLE_MAX {
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, 0)?;
        return Ok(hex(&bytes));
    }
    let mut bytes = vec![0; 3 * SAMPLE];
    let last = size - SAMPLE as u64;
    for (part, at) in bytes.chunks_mut(SAMPLE).zip([0, last / 2, last]) {
        file.read_exact_at(part, at)?;
    }
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_string()
}

/// Names of regular files below `folder`, relative to it.
fn collect(folder: &Path, below: &Path, names: &mut Vec<String>) -> Result<()> {
    let path = folder.join(below);
    for entry in fs::read_dir(&path).map_err(Error::file("read", &path))? {
        let entry = entry.map_err(Error::file("read", &path))?;
        let name: PathBuf = below.join(entry.file_name());
        let kind = entry.file_type().map_err(Error::file("read", &entry.path()))?;
        if kind.is_dir() {
            collect(folder, &name, names)?;
        } else if kind.is_file() {
            let text = name.to_str().filter(|text| !text.contains('\n'));
            let text = text.ok_or_else(|| {
                Error::format(name.display().to_string(), "its name is not plain text")
            })?;
            names.push(text.to_string());
        }
    }
    Ok(())
}
