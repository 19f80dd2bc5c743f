//! What a virtual machine starts from: kernels, initramfs files and disks, and
//! the cache that keeps them.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`cache`] | entries named by what they were made from; checked, locked, made again if broken |
//! | [`kernel`] | Debian's stock kernel from its package, or a microVM kernel compiled from source |
//! | [`starter`] | the starter image, busybox and sparkler's init: as an initramfs, as a disk |
//! | [`source`] | what an image is made from, and making it |
//! | [`store`] | images by name, safe with several processes and against being killed |
//! | [`disk`] | copies of an image's disk |
//! | [`oci`] | container images: folders, archives, registries |
//! | [`dockerfile`] | images from Dockerfiles; their steps run in machines of the caller's |
//! | [`debian`] | Debian and Ubuntu by release, from their packages |
//! | [`tree`] | the files of an image, put together from layers in memory |
//! | [`tar`], [`folder`] | archives and folders of the host, read into a tree |
//! | [`ext4`] | a tree as an ext4 disk, with neither root nor a mount |
//! | [`cpio`] | the initramfs format |
//! | [`bzimage`] | the kernel inside a bzImage |
//! | [`progress`] | how long work reports how far it is |
//!
//! ```no_run
//! use sparkler_image::{Cache, Quiet, kernel, starter};
//!
//! let cache = Cache::open()?;
//! let kernel = kernel::pull(&cache, &Quiet)?;
//! let initrd = starter::initramfs(&cache, &kernel, &Quiet)?;
//! println!("{} with {}", kernel.vmlinux.display(), initrd.display());
//! # Ok::<(), sparkler_image::Error>(())
//! ```
//!
//! Nothing here needs root, changes the host outside the cache's folder, or
//! mounts anything. The one exception is [`kernel::build()`], which as root
//! installs the compiler and the tools that it lacks.

mod acl;
mod apt;
pub mod bzimage;
pub mod cache;
pub mod cpio;
mod credentials;
mod deb;
pub mod debian;
mod decompress;
pub mod disk;
pub mod dockerfile;
mod elf;
mod error;
pub mod ext4;
pub mod folder;
pub mod kernel;
pub mod oci;
pub mod progress;
pub mod source;
pub mod starter;
pub mod store;
pub mod tar;
pub mod tree;

pub use cache::Cache;
pub use error::{Error, Result};
pub use progress::{Progress, Quiet};
pub use store::Store;
