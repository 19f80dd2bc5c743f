//! `boot-source`: the kernel, its initial RAM disk, and its command line.

use serde::{Deserialize, Serialize};

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// The kernel: an ELF `vmlinux` or a `bzImage`.
    pub kernel_image_path: String,
    /// An initial RAM disk.
    pub initrd_path: Option<String>,
    /// The kernel's command line, instead of the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}
