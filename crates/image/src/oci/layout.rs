//! Images in folders and archives: the OCI image layout, and what `docker save` writes.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::digest::Digest;
use super::manifest::{Config, Descriptor, Index, parse};
use super::{Blob, Blobs, DOCUMENT_MAX, Image};
use crate::progress::{Progress, Quiet};
use crate::tar::{self, Member};
use crate::{Error, Result};

/// What shows that a folder or archive is an OCI layout.
pub const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
/// What shows that an archive was written by `docker save`.
const DOCKER_FILE: &str = "manifest.json";
/// Links from one member of an archive to another.
const LINKS_MAX: usize = 8;

/// A folder or archive with images in it.
#[derive(Debug)]
pub struct Layout {
    name: String,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Folder(PathBuf),
    Archive { file: Arc<File>, members: HashMap<Vec<u8>, Member> },
}

/// An image that `docker save` wrote.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl Layout {
    /// A folder with an OCI layout.
    pub fn folder(path: &Path) -> Self {
        Layout { name: path.display().to_string(), files: Files::Folder(path.to_owned()) }
    }

    /// An archive, which is not compressed. None if it has no images in it but files.
    pub fn archive(name: &str, file: Arc<File>, range: Range<u64>) -> Result<Option<Self>> {
        let list = tar::members(&file, range).map_err(|error| error.within(name))?;
        let plain = |(path, member): (Vec<u8>, Member)| {
            (path.strip_prefix(b"./").map(<[u8]>::to_vec).unwrap_or(path), member)
        };
        let members: HashMap<Vec<u8>, Member> = list.into_iter().map(plain).collect();
        let layout = Layout { name: name.to_owned(), files: Files::Archive { file, members } };
        let is_layout = layout.has(LAYOUT_FILE) || layout.has(DOCKER_FILE);
        Ok(is_layout.then_some(layout))
    }

    /// The image of this name, or the only one.
    pub fn image(&self, name: Option<&str>) -> Result<Image> {
        let image = if self.has(DOCKER_FILE) { self.saved(name) } else { self.indexed(name) };
        image.map_err(|error| error.within(&self.name))
    }

    fn indexed(&self, name: Option<&str>) -> Result<Image> {
        let index = Index::parse(&self.text(INDEX_FILE)?, INDEX_FILE)?;
        Image::find(self, &index.named(name)?, &Quiet)
    }

    fn saved(&self, name: Option<&str>) -> Result<Image> {
        let text = self.text(DOCKER_FILE)?;
        let list: Vec<Saved> = parse(&text, DOCKER_FILE)?;
        let names = || {
            let tags = list.iter().flat_map(|saved| saved.repo_tags.iter().flatten());
            tags.map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        let wanted = |saved: &&Saved| {
            name.is_none_or(|name| saved.repo_tags.iter().flatten().any(|tag| tag == name))
        };
        let found: Vec<&Saved> = list.iter().filter(wanted).collect();
        let saved = match found.as_slice() {
            [one] => one,
            [] => {
                return Err(Error::format(DOCKER_FILE, format!("no such image, but: {}", names())));
            }
            [..] => {
                let why = format!("it has several images; name one of them: {}", names());
                return Err(Error::format(DOCKER_FILE, why));
            }
        };
        let bytes = self.text(&saved.config)?;
        let id = Digest::of(&bytes);
        // Its name is its digest, in the forms of all versions of Docker.
        let hex = saved.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if let Some(named) = Digest::from_hex(hex) {
            named.expect(id, &saved.config)?;
        }
        let config = Config::parse(&bytes, &saved.config)?;
        let layers = saved.layers.iter().zip(&config.diff_ids);
        let layers = layers.map(|(path, diff_id)| self.saved_layer(path, diff_id));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        if saved.layers.len() != config.diff_ids.len() {
            return Err(Error::format(
                DOCKER_FILE,
                "its layers are not those of the configuration",
            ));
        }
        Image::new(id, config, layers)
    }

    /// A layer that is named by its path: the descriptor's digest is that of the archive, and the
    /// path is found again by it.
    fn saved_layer(&self, path: &str, diff_id: &Digest) -> Result<Descriptor> {
        let blob = self.open(path)?;
        let hex = path.rsplit('/').next().unwrap_or_default();
        let digest =
            Digest::from_hex(hex).filter(|_| path.starts_with("blobs/")).unwrap_or(*diff_id);
        Ok(Descriptor::of(digest, blob.range.end - blob.range.start).at(path))
    }

    fn has(&self, path: &str) -> bool {
        match &self.files {
            Files::Folder(folder) => folder.join(path).is_file(),
            Files::Archive { members, .. } => members.contains_key(path.as_bytes()),
        }
    }

    fn text(&self, path: &str) -> Result<Vec<u8>> {
        let blob = self.open(path)?;
        let len = blob.range.end - blob.range.start;
        if len > DOCUMENT_MAX {
            return Err(Error::format(path, "it has more than 4 MiB"));
        }
        let mut bytes = vec![0; len as usize];
        let read = blob.file.read_exact_at(&mut bytes, blob.range.start);
        read.map_err(|error| Error::format(path, error.to_string())).map(|()| bytes)
    }

    fn open(&self, path: &str) -> Result<Blob> {
        match &self.files {
            Files::Folder(folder) => {
                let path = folder.join(path);
                let file = File::open(&path).map_err(Error::file("open", &path))?;
                let len = file.metadata().map_err(Error::file("read", &path))?.len();
                Ok(Blob { file: Arc::new(file), range: 0..len })
            }
            Files::Archive { file, members } => {
                let mut path = path.as_bytes().to_vec();
                for _ in 0..LINKS_MAX {
                    match members.get(&path) {
                        Some(Member::File(range)) => {
                            return Ok(Blob { file: Arc::clone(file), range: range.clone() });
                        }
                        // Docker once wrote a link to the same layer of another image.
                        Some(Member::Link(target)) => path = follow(&path, target),
                        None => break,
                    }
                }
                Err(Error::format(String::from_utf8_lossy(&path), "it is not in the archive"))
            }
        }
    }
}

impl Blobs for Layout {
    fn blob(&self, descriptor: &Descriptor, _progress: &dyn Progress) -> Result<Blob> {
        match descriptor.path() {
            Some(path) => self.open(path),
            None => self.open(&format!("blobs/sha256/{}", descriptor.digest.hex())),
        }
    }
}

/// The path that a link of this target at this path leads to.
fn follow(path: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_within_archives() {
        for (path, target, expected) in [
            ("a/layer.tar", "../b/layer.tar", "b/layer.tar"),
            ("a", "b", "b"),
            ("a", "../../../b", "b"),
        ] {
            assert_eq!(follow(path.as_bytes(), target.as_bytes()), expected.as_bytes());
        }
    }
}
