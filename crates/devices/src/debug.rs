//! The POST code port, 0x80: swallows what firmware and kernels write there, most often only to
//! let some time pass, and reads back the last code.

use std::sync::atomic::{AtomicU8, Ordering};

use bus::Device;

/// The port where PCs have it.
pub const PORT: u64 = 0x80;

/// The port; holds the last code.
#[derive(Debug, Default)]
pub struct PostCode {
    last: AtomicU8,
}

impl PostCode {
    /// The last code written, for whoever wonders how far a guest came.
    pub fn last(&self) -> u8 {
        self.last.load(Ordering::Relaxed)
    }
}

impl Device for PostCode {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.last());
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if let Some(&code) = data.first() {
            self.last.store(code, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_code() {
        let port = PostCode::default();
        port.write(0, &[0x12]);
        port.write(0, &[0x34, 0x56]);
        let mut data = [0; 2];
        port.read(0, &mut data);
        assert_eq!(data, [0x34, 0x34]);
    }
}
