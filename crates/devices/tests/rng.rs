//! The entropy device through the eyes of a driver.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::EntropyMetrics;
use sparkler_devices::Alarm;
use sparkler_devices::rate::RateLimiter;
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

/// A clock that the test moves, and what was set.
#[derive(Clone, Default)]
struct TestAlarm(Arc<Mutex<(Duration, Option<Duration>)>>);

impl Alarm for TestAlarm {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn set(&self, delay: Duration) {
        self.0.lock().unwrap().1 = Some(delay);
    }
}

fn driver(left: usize) -> MockDriver {
    driver_of(Rng::new(Counter { next: 0, left }))
}

fn driver_of(rng: Rng<Counter>) -> MockDriver {
    let memory = ram();
    let line = Arc::new(CountingLine::default());
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

#[test]
fn requests_over_the_rate_wait() {
    let alarm = TestAlarm::default();
    let metrics = Arc::new(EntropyMetrics::default());
    let bandwidth = spec::TokenBucket::new(1000, 0, 1000);
    let limits = spec::RateLimiter { bandwidth, ops: None };
    let limiter = RateLimiter::new(limits, Box::new(alarm.clone()));
    let rng = Rng::new(Counter { next: 0, left: 1 << 20 }).limited(limiter);
    let mut driver = driver_of(rng.counted(metrics.clone()));
    for _ in 0..3 {
        driver.add(0, &[Buffer::In(0x20_0000, 600)]);
    }
    driver.kick(0);
    assert_eq!(std::iter::from_fn(|| driver.take_used(0)).count(), 1);
    assert_eq!(alarm.0.lock().unwrap().1.take(), Some(Duration::from_millis(200)));
    alarm.0.lock().unwrap().0 = Duration::from_millis(200);
    driver.kick(0);
    assert_eq!(std::iter::from_fn(|| driver.take_used(0)).count(), 1);
    assert_eq!(metrics.entropy_rate_limiter_throttled.count(), 2);
    assert_eq!(metrics.rate_limiter_event_count.count(), 1);
}

#[test]
fn requests_are_counted() {
    let metrics = Arc::new(EntropyMetrics::default());
    let mut driver = driver_of(Rng::new(Counter { next: 0, left: 100 }).counted(metrics.clone()));
    for buffer in [Buffer::In(0x20_0000, 60), Buffer::In(0x20_0000, 60), Buffer::Out(0x20_0000, 1)]
    {
        driver.add(0, &[buffer]);
    }
    driver.kick(0);
    let counts = [
        &metrics.entropy_event_count,
        &metrics.entropy_bytes,
        &metrics.host_rng_fails,
        &metrics.entropy_event_fails,
    ];
    assert_eq!(counts.map(|counter| counter.count()), [3, 60, 1, 2]);
}
