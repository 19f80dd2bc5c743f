//! The limits of a machine, by name.

/// Virtual CPUs of one machine: Firecracker's limit, and the width of the page log's writer mask.
pub const VCPUS_MAX: u8 = 32;

/// MiB of RAM of one machine: up to the 64-bit device window at 256 GiB, less the 1 GiB of the
/// 32-bit one.
pub const MEMORY_MIB_MAX: u64 = 255 << 10;

/// Bytes of the kernel's command line with its final NUL (`COMMAND_LINE_SIZE` of Linux on x86).
pub const COMMAND_LINE_BYTES_MAX: usize = 2048;

/// Characters of an instance's id.
pub const INSTANCE_ID_MAX: usize = 64;

/// Characters of a device's id.
pub const DEVICE_ID_MAX: usize = 64;

/// Characters of a partition UUID: a GPT one has 36, an MBR one (`xxxxxxxx-pp`) has 11.
pub const PARTUUID_MAX: usize = 36;

/// Bytes of a host path: Linux's `PATH_MAX`, with the final NUL.
pub const PATH_BYTES_MAX: usize = 4096;

/// Characters of a host network device's name: Linux's `IFNAMSIZ` less the final NUL.
pub const HOST_DEVICE_NAME_MAX: usize = 15;

/// The smallest MTU: what IPv4 demands of every link (RFC 791).
pub const MTU_MIN: u16 = 68;

/// Files that together make an initial RAM disk.
pub const INITRD_PARTS_MAX: usize = 16;

/// The smallest context id of a guest: 0 to 2 are the hypervisor, the guest itself and the host
/// (virtio 1.2, 5.10.4).
pub const GUEST_CID_MIN: u32 = 3;
