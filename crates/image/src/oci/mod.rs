//! Container images: from an OCI layout in a folder or an archive, from `docker save`, from a
//! registry; their layers become a [`Tree`], their configuration says what to run.
//!
//! ```text
//! layout | archive | registry --index, manifest--> Manifest --layers--> Tree
//!        a way to Blobs         linux/amd64           |
//!                                                     +--config--> Config
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`digest`] | digests, and readers that check them |
//! | [`manifest`] | indexes, manifests and configurations, as JSON |
//! | [`layout`] | images in folders and archives |
//! | [`mod@reference`] | names of images in registries |
//! | [`registry`] | the distribution protocol, with its ways to log in |
//! | `layer` | a layer's archive, unpacked if it is compressed, and checked |
//!
//! Everything is checked against its digest before it is used, so a source that answers nonsense
//! is an error and never a file of an image.
//!
//! Specifications: OCI image 1.1, OCI distribution 1.1, Docker image manifest 2.2.

pub mod digest;
pub(crate) mod layer;
pub mod layout;
pub mod manifest;
pub mod reference;
pub mod registry;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::progress::{Progress, Unit};
use crate::tar::{self, Meaning};
use crate::tree::Tree;
use crate::{Error, Result};
use digest::Digest;
use manifest::{Config, Descriptor, Document, Manifest};

/// Most bytes of an index, manifest or configuration (OCI distribution, "Pushing Manifests").
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// Most layers of an image.
pub const LAYERS_MAX: usize = 1000;
/// Most indexes that lead from one to the next.
const INDEXES_MAX: usize = 4;

/// A blob: a range of a file.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The file.
    pub file: Arc<File>,
    /// The range.
    pub range: Range<u64>,
}

/// Where an image's parts come from.
pub trait Blobs {
    /// The blob for a descriptor. Its digest need not have been checked.
    fn blob(&self, descriptor: &Descriptor, progress: &dyn Progress) -> Result<Blob>;

    /// A blob has turned out not to be what its digest says.
    fn damaged(&self, _descriptor: &Descriptor) {}

    /// A document of known digest.
    fn document(&self, descriptor: &Descriptor, progress: &dyn Progress) -> Result<Vec<u8>> {
        let name = descriptor.digest.to_string();
        let blob = self.blob(descriptor, progress)?;
        let len = blob.range.end - blob.range.start;
        if len > DOCUMENT_MAX {
            return Err(Error::format(name, "it has more than 4 MiB"));
        }
        let mut bytes = vec![0; len as usize];
        std::os::unix::fs::FileExt::read_exact_at(&*blob.file, &mut bytes, blob.range.start)
            .map_err(|error| Error::format(&name, error.to_string()))?;
        descriptor.digest.check(&bytes, &name)?;
        Ok(bytes)
    }
}

/// An image for linux/amd64.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration, which names all of its content.
    pub id: Digest,
    /// What to run.
    pub config: Config,
    layers: Vec<Descriptor>,
}

impl Image {
    /// Finds the image that a descriptor leads to, through indexes.
    pub fn find(
        blobs: &dyn Blobs,
        descriptor: &Descriptor,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut descriptor = descriptor.clone();
        for _ in 0..INDEXES_MAX {
            let bytes = blobs.document(&descriptor, progress)?;
            match Document::parse(&bytes, &descriptor.digest.to_string())? {
                Document::Index(index) => descriptor = index.for_linux_amd64()?,
                Document::Manifest(manifest) => return Self::of(blobs, manifest, progress),
            }
        }
        Err(Error::format(descriptor.digest.to_string(), "its indexes lead to indexes"))
    }

    fn of(blobs: &dyn Blobs, manifest: Manifest, progress: &dyn Progress) -> Result<Self> {
        let bytes = blobs.document(&manifest.config, progress)?;
        let config = Config::parse(&bytes, &manifest.config.digest.to_string())?;
        Self::new(manifest.config.digest, config, manifest.layers)
    }

    /// From its parts, which must go together.
    fn new(id: Digest, config: Config, layers: Vec<Descriptor>) -> Result<Self> {
        let (here, named) = (layers.len(), config.diff_ids.len());
        if here != named || here > LAYERS_MAX {
            let why = format!("it has {here} layers and its configuration names {named}");
            return Err(Error::format(id.to_string(), why));
        }
        Ok(Image { id, config, layers })
    }

    /// Puts all layers into a tree. What must be unpacked goes into the folder `work`, and has to
    /// stay there until the tree was written.
    pub fn tree(&self, blobs: &dyn Blobs, work: &Path, progress: &dyn Progress) -> Result<Tree> {
        let mut tree = Tree::new();
        let count = self.layers.len();
        for (number, (descriptor, diff_id)) in
            self.layers.iter().zip(&self.config.diff_ids).enumerate()
        {
            let blob = blobs.blob(descriptor, progress)?;
            progress.step(&format!("unpacking layer {} of {count}", number + 1));
            let name = format!("layer {}", descriptor.digest);
            let told = |done| progress.amount(done, Some(descriptor.size), Unit::Bytes);
            let unpacked = layer::unpack(&blob, descriptor, diff_id, work, &name, &told);
            let unpacked = unpacked.inspect_err(|error| {
                if matches!(error, Error::Digest { .. }) {
                    blobs.damaged(descriptor);
                }
            })?;
            tree.next_layer();
            tar::read_into(&mut tree, &unpacked.file, unpacked.range, Meaning::Layer, &mut |_| ())
                .map_err(|error| error.within(&name))?;
        }
        Ok(tree)
    }
}
