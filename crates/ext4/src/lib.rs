//! Writes ext4 file systems, and reads them again: no mount, no root, and the same bytes for the
//! same input.
//!
//! A file system is described, planned, and written, in this order and once:
//!
//! ```text
//! Builder --plan--> Plan --write--> bytes of the image
//! names, owners,    every block     metadata from the plan,
//! sizes             has its place   contents from the caller
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`builder`] | the description: inodes, their names, attributes and extended attributes |
//! | [`plan`] | inode numbers, blocks, and all metadata |
//! | `write` | the plan and the contents, to bytes |
//! | [`reader`] | the way back: inodes, names and the places of contents from a disk |
//! | `geometry` | block groups, their backups, and the allocator, which only goes forward |
//! | `folder`, `extent`, `xattr`, `inode`, `superblock` | the structures, each a function to bytes |
//! | `checksum`, `hash` | CRC32C in ext4's way, and the half-MD4 of indexed folders |
//!
//! The features are those that every kernel since Linux 3.18 mounts for writing: extents, indexed
//! folders, flexible block groups, checksums of metadata, and a journal if it is asked for. Blocks
//! have 4096 bytes and inodes 256. Free room is never written: where the image is a file, it stays
//! a hole.
//!
//! What is refused: names that a folder cannot have, extended attributes that do not fit in a
//! block or are of a namespace that ext4 does not know, more than 65 000 hard links, and a size
//! that is too small for what is described.
//!
//! The structures are those of the kernel's Documentation/filesystems/ext4.
#![forbid(unsafe_code)]

pub mod builder;
mod checksum;
mod extent;
mod folder;
mod geometry;
mod hash;
mod inode;
pub mod plan;
mod put;
pub mod reader;
mod superblock;
mod write;
mod xattr;

use std::io;

pub use builder::{Attributes, Builder, Kind, NodeId, Special, Time};
pub use plan::{Options, Plan, Size};
pub use write::{Contents, Sink};
pub use xattr::is_xattr;

/// Bytes of a block.
pub const BLOCK_SIZE: u64 = 4096;
/// The smallest file system, in bytes.
pub const SIZE_MIN: u64 = 2 << 20;
/// The largest file system, in bytes; block numbers have 32 bits.
pub const SIZE_MAX: u64 = 8 << 40;
/// Bytes of the longest name.
pub const NAME_MAX: usize = 255;
/// Bytes of the longest target of a symbolic link.
pub const SYMLINK_MAX: usize = 4095;
/// Names of an inode that is no folder.
pub const LINKS_MAX: u32 = 65_000;
/// Bytes of the longest file: logical blocks have 32 bits.
pub const FILE_SIZE_MAX: u64 = (1 << 44) - BLOCK_SIZE;

/// What cannot be written, and why. Inodes are named by what [`Builder`] called them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name is empty, too long, `.` or `..`, or has a slash or a NUL in it.
    #[error("a folder cannot have the name {0:?}")]
    Name(String),
    /// A folder has this name already.
    #[error("the name {0:?} is there twice")]
    NameTwice(String),
    /// The parent is no folder.
    #[error("the parent of {0:?} is no folder")]
    ParentNotFolder(String),
    /// A symbolic link's target is empty, too long, or has a NUL in it.
    #[error("a symbolic link cannot have this target of {0} bytes")]
    Symlink(usize),
    /// A file is longer than the file system allows, or its data is not in order within it.
    #[error("a file of {0} bytes cannot be stored")]
    FileSize(u64),
    /// A folder would get a second name, or an inode too many names.
    #[error("{0:?} cannot be a further name of this inode")]
    Link(String),
    /// Too many inodes.
    #[error("more inodes than an ext4 file system can have")]
    Inodes,
    /// A folder has too many names for its index.
    #[error("a folder has too many names ({names})")]
    FolderSize {
        /// The folder.
        node: NodeId,
        /// Its names.
        names: usize,
    },
    /// An extended attribute that ext4 has no place for.
    #[error("the extended attribute {name} cannot be stored: {why}")]
    Xattr {
        /// The inode.
        node: NodeId,
        /// The attribute.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// A size out of bounds.
    #[error("{0} bytes is no size for a file system: choose between 2 MiB and 8 TiB")]
    Size(u64),
    /// The size does not suffice.
    #[error(
        "{} MiB do not suffice: the content needs at least {} MiB",
        size >> 20,
        needed.div_ceil(1 << 20)
    )]
    TooSmall {
        /// What was asked for, in bytes.
        size: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// A file's content could not be read.
    #[error("cannot read the content of a file: {source}")]
    Content {
        /// The file.
        node: NodeId,
        /// The reason.
        source: io::Error,
    },
    /// A disk has no file system that can be read.
    #[error("the disk cannot be read: {0}")]
    Damaged(&'static str),
    /// The disk could not be read.
    #[error("cannot read the disk: {0}")]
    Read(#[source] io::Error),
    /// The image could not be written.
    #[error("cannot write the image: {0}")]
    Write(#[source] io::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
