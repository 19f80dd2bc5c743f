//! The two address spaces through which a guest reaches devices, and the contract of a device.
//!
//! A [`Device`] answers reads and writes at offsets from its base, on any vCPU's thread and on
//! several at once; it keeps its state behind its own lock. Addresses that no device claims read
//! as all ones and swallow writes, as on a PC.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

/// What a device is to the guest: registers at offsets from a base.
///
/// `data` is 1, 2, 4 or 8 bytes long, little-endian. Neither call may panic, whatever the guest
/// sends; an access that the device does not know reads as zero or is ignored.
pub trait Device: Send + Sync {
    /// The guest reads `data.len()` bytes at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// An interrupt line from a device towards the interrupt controllers.
///
/// All of the machine's lines are edge-triggered (as Firecracker's are), so that a device only
/// ever says "now". May be called from any thread.
pub trait IrqLine: Send + Sync {
    /// Signals one edge.
    fn trigger(&self);
}

/// Two devices claim the same addresses.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("device range {base:#x}+{len:#x} is empty, wraps around, or overlaps another device")]
pub struct RangeError {
    /// First address asked for.
    pub base: u64,
    /// Length in bytes asked for.
    pub len: u64,
}

/// One address space: which device answers at which address.
#[derive(Default, Clone)]
pub struct Bus {
    /// First address -> (last address, device).
    ranges: BTreeMap<u64, (u64, Arc<dyn Device>)>,
}

impl Bus {
    /// Gives `device` the `len` addresses from `base` on.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<dyn Device>,
    ) -> Result<(), RangeError> {
        let error = RangeError { base, len };
        let last = len.checked_sub(1).and_then(|l| base.checked_add(l)).ok_or(error)?;
        let below = self.ranges.range(..=last).next_back();
        if below.is_some_and(|(_, (other_last, _))| *other_last >= base) {
            return Err(RangeError { base, len });
        }
        self.ranges.insert(base, (last, device));
        Ok(())
    }

    /// Reads at `address`; all ones where there is no device.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xFF),
        }
    }

    /// Writes at `address`; dropped where there is no device.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(u64, &dyn Device)> {
        let (base, (last, device)) = self.ranges.range(..=address).next_back()?;
        (address <= *last).then(|| (address - base, device.as_ref()))
    }
}

/// Both address spaces of a machine. Built once, then shared by all vCPUs without a lock.
#[derive(Default, Clone)]
pub struct IoSpace {
    /// The 64 Ki I/O ports.
    pub ports: Bus,
    /// Memory-mapped I/O: every physical address that is not RAM.
    pub mmio: Bus,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Device for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn finds_the_device_and_its_offset() {
        let probe = Arc::new(Probe::default());
        let mut bus = Bus::default();
        bus.insert(0x100, 0x10, probe.clone()).unwrap();
        for (address, expected) in [(0xFF, 0xFF), (0x100, 0), (0x10F, 0xF), (0x110, 0xFF)] {
            let mut data = [0x55];
            bus.read(address, &mut data);
            assert_eq!(data[0], expected, "{address:#x}");
        }
        bus.write(0x102, &[1, 2]);
        bus.write(0x110, &[3]);
        assert_eq!(*probe.0.lock().unwrap(), [(2, vec![1, 2])]);
    }

    #[test]
    fn refuses_overlaps() {
        let mut bus = Bus::default();
        bus.insert(0x100, 0x10, Arc::new(Probe::default())).unwrap();
        for (base, len) in
            [(0xF8, 9), (0x10F, 1), (0x100, 0x10), (0x80, 0x200), (5, 0), (u64::MAX, 2)]
        {
            let refused = bus.insert(base, len, Arc::new(Probe::default()));
            assert_eq!(refused, Err(RangeError { base, len }));
        }
        bus.insert(0x110, 1, Arc::new(Probe::default())).unwrap();
        bus.insert(u64::MAX, 1, Arc::new(Probe::default())).unwrap();
    }
}
