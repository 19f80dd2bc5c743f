//! Kernels: where they come from and what is known of them.
//!
//! | source | how | what for |
//! | --- | --- | --- |
//! | [`pull()`] | Debian's package `linux-image-cloud-amd64`, unpacked | the default: needs no compiler |
//! | [`build()`] | Debian's package `linux-source-6.12`, compiled with [`CONFIG`] | starts several times faster |
//!
//! Both give a [`Kernel`] from the cache. Its command line is in `cmdline`,
//! the modules it needs in `modules`.

mod build;
pub mod cmdline;
mod modules;
mod pull;

use std::path::PathBuf;
use std::time::SystemTime;

use crate::cache::Entry;
use crate::progress::Progress;
use crate::{Cache, Error, Result};
pub use build::{CONFIG, build};
pub use modules::{Module, Stage, Trigger};
pub use pull::{pull, pull_busybox};

/// Where a kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Debian's stock kernel.
    Debian,
    /// Compiled for microVMs.
    Built,
}

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Where it comes from.
    pub source: Source,
    /// Its release, as `uname -r` shows it.
    pub version: String,
    /// The package that it was made from, with its version.
    pub package: String,
    /// The uncompressed ELF file, which a machine starts.
    pub vmlinux: PathBuf,
    /// The distribution's bzImage, if it came as one.
    pub vmlinuz: Option<PathBuf>,
    /// The configuration that it was compiled with, if it was.
    pub config: Option<PathBuf>,
    /// The modules that a microVM needs, in the order to insert them.
    pub modules: Vec<Module>,
    /// When it came into the cache.
    pub made: SystemTime,
    /// The size of its files together, in bytes.
    pub size: u64,
    /// The name of its entry in the cache.
    pub id: String,
}

impl Source {
    /// The kind of cache entry.
    fn kind(self) -> &'static str {
        match self {
            Source::Debian => "kernel-debian",
            Source::Built => "kernel-built",
        }
    }
}

/// The kernels of one source in the cache, newest first. Nothing is fetched.
pub fn list(cache: &Cache, source: Source) -> Result<Vec<Kernel>> {
    cache.list(source.kind()).into_iter().map(|entry| Kernel::from_entry(source, &entry)).collect()
}

/// Removes the kernels of one source from the cache, or only those of a version; what was removed.
/// Machines that run keep theirs.
pub fn remove(cache: &Cache, source: Source, version: Option<&str>) -> Result<Vec<Kernel>> {
    let mut removed = Vec::new();
    for entry in cache.list(source.kind()) {
        let kernel = Kernel::from_entry(source, &entry)?;
        if version.is_none_or(|version| kernel.version == version) {
            entry.remove()?;
            removed.push(kernel);
        }
    }
    Ok(removed)
}

/// The kernel to use where none was named: a compiled one if there is one,
/// else Debian's, which is fetched if it is not in the cache.
pub fn default(cache: &Cache, progress: &dyn Progress) -> Result<Kernel> {
    for source in [Source::Built, Source::Debian] {
        if let Some(kernel) = list(cache, source)?.into_iter().next() {
            return Ok(kernel);
        }
    }
    pull(cache, progress)
}

impl Kernel {
    fn from_entry(source: Source, entry: &Entry) -> Result<Self> {
        let note = |name: &str| {
            let text = entry.note(name).map(String::from);
            text.ok_or_else(|| Error::format(entry.name(), format!("it does not say its {name}")))
        };
        let optional = |name: &str| Some(entry.file(name)).filter(|path| path.exists());
        Ok(Kernel {
            source,
            version: note("version")?,
            package: note("package")?,
            vmlinux: entry.file("vmlinux"),
            vmlinuz: optional("vmlinuz"),
            config: optional("config"),
            modules: modules::load(entry)?,
            made: entry.made(),
            size: entry.size(),
            id: entry.name().to_string(),
        })
    }
}
