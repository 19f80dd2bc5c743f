//! The entropy device through the eyes of a driver.

use std::io;
use std::sync::Arc;

use sparkler_devices::rng::{EntropySource, REQUEST_MAX, Rng};
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{MmioTransport, Status};

/// Counts upwards, and fails after `left` bytes.
struct Counter {
    next: u8,
    left: usize,
}

impl EntropySource for Counter {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        if bytes.len() > self.left {
            return Err(io::Error::other("dry"));
        }
        self.left -= bytes.len();
        for byte in bytes {
            *byte = self.next;
            self.next = self.next.wrapping_add(1);
        }
        Ok(())
    }
}

fn driver(left: usize) -> MockDriver {
    let memory = ram();
    let line = Arc::new(CountingLine::default());
    let rng = Rng::new(Counter { next: 0, left });
    let transport = MmioTransport::new(rng, memory.clone(), line).unwrap();
    MockDriver::start(Arc::new(transport), memory, !0)
}

/// Sends a request and says how many bytes came.
fn check(left: usize, buffers: &[Buffer], expected: u32) {
    let mut driver = driver(left);
    driver.add(0, buffers);
    driver.kick(0);
    assert_eq!(driver.take_used(0).map(|u| u.len), Some(expected), "{left} {buffers:x?}");
    assert_eq!(driver.status(), Status(15));
}

#[test]
fn requests_are_filled_as_far_as_allowed() {
    let plenty = 1 << 30;
    let at = 0x20_0000;
    check(plenty, &[Buffer::In(at, 1)], 1);
    check(plenty, &[Buffer::In(at, 5000), Buffer::In(at + 9000, 3)], 5003);
    check(plenty, &[Buffer::In(at, REQUEST_MAX as u32 + 1)], REQUEST_MAX as u32);
    check(plenty, &[Buffer::In(at, u32::MAX)], REQUEST_MAX as u32);
    check(plenty, &[Buffer::Out(at, 100)], 0);
    check(plenty, &[Buffer::In(at, 0)], 0);
    check(plenty, &[Buffer::In(0xC000_0000, 16)], 0);
    check(0, &[Buffer::In(at, 16)], 0);
    check(4096, &[Buffer::In(at, 5000)], 4096);
}

#[test]
fn the_bytes_are_those_of_the_source() {
    let mut driver = driver(1 << 20);
    let at = driver.allocate(600);
    driver.add(0, &[Buffer::In(at, 300), Buffer::In(at + 300, 300)]);
    driver.kick(0);
    let expected: Vec<u8> = (0..600).map(|i| i as u8).collect();
    assert_eq!(driver.peek(at, 600), expected);
}
