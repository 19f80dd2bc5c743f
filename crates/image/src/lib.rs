//! What a virtual machine starts from: kernels, initramfs files and disks, and
//! the cache that keeps them.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`cache`] | entries named by what they were made from; checked, locked, made again if broken |
//! | [`kernel`] | Debian's stock kernel from its package, or a microVM kernel compiled from source |
//! | [`starter`] | the starter image, busybox and sparkler's init: as an initramfs, as a disk |
//! | [`ext4`] | an ext4 disk from a folder, with neither root nor a mount |
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

mod apt;
pub mod bzimage;
pub mod cache;
pub mod cpio;
mod deb;
mod decompress;
mod elf;
mod error;
pub mod ext4;
pub mod kernel;
pub mod progress;
pub mod starter;

pub use cache::Cache;
pub use error::{Error, Result};
pub use progress::{Progress, Quiet};
