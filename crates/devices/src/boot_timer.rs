//! Firecracker's boot timer: the guest's init says "I run" by writing one byte.
//!
//! The page reads as zero. The first write of [`BOOTED`] at offset 0 counts; all others are
//! ignored.

use std::sync::{Mutex, PoisonError};

use bus::Device;

/// Bytes of address space that the device takes.
pub const WINDOW: u64 = 0x1000;
/// The byte that init writes at offset 0.
pub const BOOTED: u8 = 123;

/// The page.
pub struct BootTimer {
    report: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl BootTimer {
    /// A page that calls `report` once, on the thread of the vCPU that writes.
    pub fn new(report: impl FnOnce() + Send + 'static) -> Self {
        Self { report: Mutex::new(Some(Box::new(report))) }
    }
}

impl Device for BootTimer {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset != 0 || data.first() != Some(&BOOTED) {
            return;
        }
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(report) = report {
            report();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn reports_the_first_boot_byte_only() {
        let count = Arc::new(AtomicU32::new(0));
        let seen = count.clone();
        let timer = BootTimer::new(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        for (offset, data, expected) in [
            (1, &[BOOTED][..], 0),
            (0, &[122], 0),
            (0, &[], 0),
            (0, &[BOOTED], 1),
            (0, &[BOOTED, 0, 0, 0], 1),
        ] {
            timer.write(offset, data);
            assert_eq!(count.load(Ordering::Relaxed), expected, "{offset} {data:?}");
        }
    }
}
