//! The address map: which device is where. The same as Firecracker's, where it has the device.

use boot::VirtioMmio;
use virtio::MMIO_WINDOW;

use crate::Error;

/// The boot timer's page: the first one of the window for devices.
pub const BOOT_TIMER: u64 = 0xC000_0000;
/// The first virtio device's registers; the others follow page by page.
pub const FIRST_VIRTIO: u32 = 0xC000_1000;
/// The first virtio device's interrupt; the others follow one by one.
pub const FIRST_VIRTIO_GSI: u32 = 5;
/// Virtio devices of one machine. Of the interrupts from 5 to 23, the last two stay free for the
/// devices that tell a guest that it was restored from a snapshot.
pub const VIRTIO_DEVICES_MAX: usize = 17;
/// The ACPI sleep registers: I/O ports that no PC uses for anything else.
pub const ACPI_POWER_PORT: u16 = 0x600;

/// Hands out places for virtio devices.
#[derive(Debug, Default)]
pub(crate) struct VirtioPlaces {
    taken: usize,
}

impl VirtioPlaces {
    /// The next place.
    pub(crate) fn next(&mut self) -> Result<VirtioMmio, Error> {
        if self.taken == VIRTIO_DEVICES_MAX {
            return Err(Error::TooManyDevices { max: VIRTIO_DEVICES_MAX });
        }
        let index = self.taken as u32;
        self.taken += 1;
        let len = MMIO_WINDOW as u32;
        Ok(VirtioMmio { address: FIRST_VIRTIO + index * len, len, gsi: FIRST_VIRTIO_GSI + index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_run_out() {
        let mut places = VirtioPlaces::default();
        let all: Vec<_> = std::iter::from_fn(|| places.next().ok()).collect();
        assert_eq!(all.len(), 17);
        assert_eq!(all[0], VirtioMmio { address: 0xC000_1000, len: 0x1000, gsi: 5 });
        assert_eq!(all[16], VirtioMmio { address: 0xC001_1000, len: 0x1000, gsi: 21 });
        assert!(places.next().is_err());
    }
}
