//! The register map of virtio over MMIO, version 2 (virtio 1.2, 4.2.2).

use virtio_bindings::virtio_config as status;
use virtio_bindings::virtio_mmio as map;

/// "virt", the first register's value.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The version of the register map.
pub(super) const VERSION: u32 = 2;
/// No vendor of its own, as Firecracker.
pub(super) const VENDOR: u32 = 0;

/// Where configuration space begins.
pub(super) const CONFIG_START: u64 = map::VIRTIO_MMIO_CONFIG as u64;

/// One register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// "virt".
    MagicValue,
    /// 2.
    Version,
    /// The device type.
    DeviceId,
    /// 0.
    VendorId,
    /// The selected half of the offered features.
    DeviceFeatures,
    /// Selects the half of the offered features.
    DeviceFeaturesSel,
    /// The selected half of the accepted features.
    DriverFeatures,
    /// Selects the half of the accepted features.
    DriverFeaturesSel,
    /// Selects the queue that the registers below describe.
    QueueSel,
    /// The selected queue's largest size, 0 where there is no such queue.
    QueueNumMax,
    /// The selected queue's size.
    QueueNum,
    /// Whether the selected queue is set up.
    QueueReady,
    /// The number of a queue that has something new.
    QueueNotify,
    /// Why the device interrupts.
    InterruptStatus,
    /// The reasons seen.
    InterruptAck,
    /// The status byte.
    Status,
    /// A part of an address of the selected queue.
    QueueAddress(RingPart, Half),
    /// Selects a shared memory region, of which there are none.
    SharedMemorySel,
    /// A part of the selected region's length or base.
    SharedMemory,
    /// Changes whenever configuration space does.
    ConfigGeneration,
}

/// Which part of a queue an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingPart {
    /// The descriptor table.
    DescTable,
    /// The available ring, the driver's area.
    Available,
    /// The used ring, the device's area.
    Used,
}

/// Which half of a 64-bit address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

impl Half {
    /// `whole` with this half replaced by `value`.
    pub(super) fn replace(self, whole: u64, value: u32) -> u64 {
        match self {
            Half::Low => whole & !0xFFFF_FFFF | u64::from(value),
            Half::High => whole & 0xFFFF_FFFF | u64::from(value) << 32,
        }
    }

    /// The half that a features selector of `select` means; there are only two.
    pub(super) fn selected(select: u32) -> Option<Self> {
        match select {
            0 => Some(Half::Low),
            1 => Some(Half::High),
            _ => None,
        }
    }

    /// This half of `whole`.
    pub(super) fn of(self, whole: u64) -> u32 {
        match self {
            Half::Low => whole as u32,
            Half::High => (whole >> 32) as u32,
        }
    }
}

/// Offset -> register. Each is 32 bits wide.
const REGISTERS: [(u32, Register); 28] = [
    (map::VIRTIO_MMIO_MAGIC_VALUE, Register::MagicValue),
    (map::VIRTIO_MMIO_VERSION, Register::Version),
    (map::VIRTIO_MMIO_DEVICE_ID, Register::DeviceId),
    (map::VIRTIO_MMIO_VENDOR_ID, Register::VendorId),
    (map::VIRTIO_MMIO_DEVICE_FEATURES, Register::DeviceFeatures),
    (map::VIRTIO_MMIO_DEVICE_FEATURES_SEL, Register::DeviceFeaturesSel),
    (map::VIRTIO_MMIO_DRIVER_FEATURES, Register::DriverFeatures),
    (map::VIRTIO_MMIO_DRIVER_FEATURES_SEL, Register::DriverFeaturesSel),
    (map::VIRTIO_MMIO_QUEUE_SEL, Register::QueueSel),
    (map::VIRTIO_MMIO_QUEUE_NUM_MAX, Register::QueueNumMax),
    (map::VIRTIO_MMIO_QUEUE_NUM, Register::QueueNum),
    (map::VIRTIO_MMIO_QUEUE_READY, Register::QueueReady),
    (map::VIRTIO_MMIO_QUEUE_NOTIFY, Register::QueueNotify),
    (map::VIRTIO_MMIO_INTERRUPT_STATUS, Register::InterruptStatus),
    (map::VIRTIO_MMIO_INTERRUPT_ACK, Register::InterruptAck),
    (map::VIRTIO_MMIO_STATUS, Register::Status),
    (map::VIRTIO_MMIO_QUEUE_DESC_LOW, Register::QueueAddress(RingPart::DescTable, Half::Low)),
    (map::VIRTIO_MMIO_QUEUE_DESC_HIGH, Register::QueueAddress(RingPart::DescTable, Half::High)),
    (map::VIRTIO_MMIO_QUEUE_AVAIL_LOW, Register::QueueAddress(RingPart::Available, Half::Low)),
    (map::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, Register::QueueAddress(RingPart::Available, Half::High)),
    (map::VIRTIO_MMIO_QUEUE_USED_LOW, Register::QueueAddress(RingPart::Used, Half::Low)),
    (map::VIRTIO_MMIO_QUEUE_USED_HIGH, Register::QueueAddress(RingPart::Used, Half::High)),
    (map::VIRTIO_MMIO_SHM_SEL, Register::SharedMemorySel),
    (map::VIRTIO_MMIO_SHM_LEN_LOW, Register::SharedMemory),
    (map::VIRTIO_MMIO_SHM_LEN_HIGH, Register::SharedMemory),
    (map::VIRTIO_MMIO_SHM_BASE_LOW, Register::SharedMemory),
    (map::VIRTIO_MMIO_SHM_BASE_HIGH, Register::SharedMemory),
    (map::VIRTIO_MMIO_CONFIG_GENERATION, Register::ConfigGeneration),
];

impl Register {
    /// The register at `offset`, for an access of `len` bytes: only whole aligned words count
    /// (virtio 1.2, 4.2.2.2).
    pub fn at(offset: u64, len: usize) -> Option<Self> {
        if len != 4 {
            return None;
        }
        LOOKUP.get(usize::try_from(offset).ok()?).copied().flatten()
    }

    /// The register's offset; of several that read alike, the first.
    pub fn offset(self) -> u64 {
        let found = REGISTERS.iter().find(|(_, register)| *register == self);
        found.map_or(u64::MAX, |(offset, _)| u64::from(*offset))
    }
}

/// [`REGISTERS`] by offset.
static LOOKUP: [Option<Register>; CONFIG_START as usize] = {
    let mut table = [None; CONFIG_START as usize];
    let mut i = 0;
    while i < REGISTERS.len() {
        let (offset, register) = REGISTERS[i];
        table[offset as usize] = Some(register);
        i += 1;
    }
    table
};

/// The device status byte (virtio 1.2, 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status(pub u8);

impl Status {
    /// The driver has found the device.
    pub const ACKNOWLEDGE: Self = Self(status::VIRTIO_CONFIG_S_ACKNOWLEDGE as u8);
    /// The driver knows how to drive it.
    pub const DRIVER: Self = Self(status::VIRTIO_CONFIG_S_DRIVER as u8);
    /// The driver is set up.
    pub const DRIVER_OK: Self = Self(status::VIRTIO_CONFIG_S_DRIVER_OK as u8);
    /// Both agree on the features.
    pub const FEATURES_OK: Self = Self(status::VIRTIO_CONFIG_S_FEATURES_OK as u8);
    /// The device cannot go on without a reset.
    pub const NEEDS_RESET: Self = Self(status::VIRTIO_CONFIG_S_NEEDS_RESET as u8);
    /// The driver has given up.
    pub const FAILED: Self = Self(status::VIRTIO_CONFIG_S_FAILED as u8);

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    pub fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// This status with the bits of `other` set.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
