//! Everything that can fail in this crate.

use std::io;
use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, on what, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation on the host failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The verb, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// A disk over an image's cannot be made.
    #[error(transparent)]
    Overlay(#[from] host::OverlayError),
    /// No place for the cache.
    #[error(
        "no folder for the cache: set SPARKLER_CACHE to one, or HOME, so that ~/.cache/sparkler can be used"
    )]
    NoCacheFolder,
    /// No place for the store.
    #[error(
        "no folder for images: set SPARKLER_DATA to one, or HOME, so that ~/.local/share/sparkler can be used"
    )]
    NoDataFolder,
    /// A file has not the format that its name promises.
    #[error("{what} is not as expected: {why}")]
    Format {
        /// The file or package.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A compression that is not supported.
    #[error(
        "{what} is compressed with {method}, which sparkler cannot unpack; give it as an uncompressed ELF vmlinux"
    )]
    Compression {
        /// The file or package.
        what: String,
        /// The compression's name.
        method: &'static str,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}; install the Debian package {package}")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{program} failed ({status}) while sparkler wanted to {purpose}:\n{output}")]
    ProgramFailed {
        /// The program.
        program: &'static str,
        /// What it was run for.
        purpose: String,
        /// Its exit status in words.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// Debian's lists do not have a package.
    #[error(
        "the package sources of this host have no package {package}: sparkler takes it from Debian 12, \
         so /etc/apt must name a Debian archive (apt said: {detail})"
    )]
    NoPackage {
        /// The package.
        package: String,
        /// What apt said.
        detail: String,
    },
    /// Tools for compiling a kernel are missing.
    #[error(
        "compiling a kernel needs {missing}: run `apt-get install {packages}` as root, then try again"
    )]
    MissingTools {
        /// What was looked for and not found.
        missing: String,
        /// The packages to install.
        packages: String,
    },
    /// The kernel's configuration tool dropped a line of ours.
    #[error(
        "the kernel source does not accept {options} of the microVM configuration; \
         this sparkler expects Linux 6.12"
    )]
    KernelConfig {
        /// The lines that did not take effect.
        options: String,
    },
    /// A size that no disk can have.
    #[error("{size_mib} MiB is no size for a disk: choose between {min_mib} and {max_mib} MiB")]
    DiskSize {
        /// What was asked for.
        size_mib: u64,
        /// The smallest possible.
        min_mib: u64,
        /// The largest possible.
        max_mib: u64,
    },
    /// A file of an image cannot be in an image.
    #[error("/{}: {why}", path.trim_start_matches('/'))]
    Entry {
        /// Its path in the image.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file system cannot hold it.
    #[error("{}{source}", at(path))]
    Ext4 {
        /// The path in the image that it is about; empty if it is about all.
        path: String,
        /// What is wrong.
        source: ::ext4::Error,
    },
    /// A part of an image is not what its digest says.
    #[error(
        "{what} is damaged: its digest is {found}, not {expected}; get it again from where it came"
    )]
    Digest {
        /// The part.
        what: String,
        /// The digest that it goes by.
        expected: String,
        /// The digest that it has.
        found: String,
    },
    /// A name of an image in a registry is none.
    #[error("`{text}` is no name of an image in a registry: {why}")]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A registry refused, or did not answer as it should.
    #[error("the registry at {url}: {why}")]
    Registry {
        /// What was asked for.
        url: String,
        /// What came of it.
        why: String,
        /// The HTTP status, where that says it; else 0.
        status: u16,
    },
    /// A name of an image in the store is none.
    #[error(
        "`{0}` is no name of an image: it has letters, digits, and `.`, `_`, `-`, `/` or one `:` between them"
    )]
    ImageName(String),
    /// No image has this name.
    #[error("there is no image `{0}`; `sparkler image ls` lists those that there are")]
    NoImage(String),
    /// Several images begin with this.
    #[error("`{0}` is the beginning of several images' numbers; write more of it")]
    ManyImages(String),
    /// A Dockerfile cannot be built.
    #[error("{}{why}", place(file, *line))]
    Dockerfile {
        /// The file.
        file: String,
        /// The line, from 1 on; 0 if it is about all of them.
        line: u32,
        /// What is wrong, or what came of the step there.
        why: String,
    },
    /// The user wants a build to stop.
    #[error("the build was interrupted")]
    Interrupted,
    /// A distribution's release that is not known.
    #[error("`{text}` is no release that sparkler knows: {known}")]
    Suite {
        /// What was given.
        text: String,
        /// What there is.
        known: String,
    },
}

impl Error {
    pub(crate) fn format(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Format { what: what.into(), why: why.into() }
    }

    pub(crate) fn entry(path: &[u8], why: impl Into<String>) -> Self {
        Error::Entry { path: String::from_utf8_lossy(path).into_owned(), why: why.into() }
    }

    /// With the name of what it was found in, where the message does not have one.
    pub(crate) fn within(self, name: &str) -> Self {
        match self {
            Error::Format { what, why } => {
                Error::Format { what: name.to_owned(), why: format!("{what}: {why}") }
            }
            Error::Entry { path, why } => {
                Error::Format { what: name.to_owned(), why: format!("/{path}: {why}") }
            }
            other => other,
        }
    }

    /// For `map_err`: names the action and the path of a failed file operation.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::File { action, path, source }
    }
}

/// A path in front of a message, if there is one.
fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

/// A file and a line in it, in front of a message.
fn place(file: &str, line: u32) -> String {
    match line {
        0 => format!("{file}: "),
        line => format!("{file}:{line}: "),
    }
}
