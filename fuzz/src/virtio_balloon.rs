//! A balloon whose driver says anything: lists of pages, statistics, commands and ranges, in any
//! queue, with alarms and the API in between. Pages outside of what it named keep their contents.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::Device;
use devices::Alarm;
use devices::balloon::Balloon;
use memory::{Bytes, GuestAddress};
use virtio::mock::{Buffer, CountingLine, MockDriver, RAM_SIZE, ram};
use virtio::{MmioTransport, Notify, Status};

use crate::source::Source;

/// Where the driver's lists are, behind its descriptors.
const LISTS: u64 = 0x18_0000;
/// Where the pages begin that may go.
const FREE: u64 = 0x20_0000;
/// Most events in one run.
const EVENTS_MAX: usize = 32;
/// Most buffers in a request.
const BUFFERS_MAX: usize = 4;

#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Alarm for Clock {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
    fn set(&self, _delay: Duration) {}
}

/// Feeds the events that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let options = source.u8();
    let settings = spec::Balloon {
        amount_mib: source.u32(),
        deflate_on_oom: options & 1 != 0,
        stats_interval_s: u16::from(options >> 1 & 1),
        free_page_hinting: options & 4 != 0,
        free_page_reporting: options & 8 != 0,
    };
    let (memory, clock) = (ram(), Clock::default());
    let balloon = Balloon::new(settings, Box::new(clock.clone()), Arc::default());
    let line = Arc::new(CountingLine::default());
    let transport = MmioTransport::new(balloon, memory.clone(), line).expect("its queues fit");
    let transport = Arc::new(transport);
    let features = !0 ^ u64::from(source.u8() & 0b10_1110);
    let mut driver = MockDriver::start(transport.clone(), memory.clone(), features);
    let queues = transport.state().queues.len();
    // A page that is not named: those lie above, and zeroes behind a list name the first.
    let kept = LISTS - 4096;
    memory.write_obj(0x5Au8, GuestAddress(kept)).expect("in memory");
    for _ in 0..EVENTS_MAX {
        if source.is_empty() {
            break;
        }
        match source.u8() % 8 {
            0 => {
                clock.0.fetch_add(1, Ordering::Relaxed);
                transport.notify(source.u8().into());
            }
            1 => api(&transport, &mut source),
            2 => transport.write(0x100 + u64::from(source.u8() % 16), &source.array::<4>()),
            _ => request(&mut driver, queues, &mut source),
        }
    }
    assert!(!driver.status().has(Status::NEEDS_RESET));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(kept)).expect("in memory"), 0x5A);
}

fn api(transport: &MmioTransport<Balloon>, source: &mut Source<'_>) {
    let value = source.u32();
    transport.update_config(|balloon| match value % 6 {
        0 => _ = balloon.set_amount(value >> 3),
        1 => _ = balloon.stats(),
        2 => _ = balloon.set_stats_interval((value >> 3) as u16),
        3 => _ = balloon.start_hinting(value & 8 != 0),
        4 => _ = balloon.stop_hinting(),
        _ => _ = balloon.hinting_status(),
    });
}

/// Sends one request. Its chain is sound, so the balloon goes on.
fn request(driver: &mut MockDriver, queues: usize, source: &mut Source<'_>) {
    let queue = usize::from(source.u8()) % queues;
    let mut list = Vec::new();
    for _ in 0..source.u8() % 16 {
        // Numbers of pages from FREE on, or anything beyond them.
        let frame = match source.u8() % 3 {
            0 => (FREE / 4096) as u32 + u32::from(source.u16()) % 0x210,
            1 => source.u32() | 0x400,
            _ => u32::from(source.u8() % 4).max(2) | 0x200,
        };
        list.extend(frame.to_le_bytes());
    }
    driver.poke(LISTS, &list);
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    for _ in 0..usize::from(source.u8()) % BUFFERS_MAX {
        let len = match source.u8() % 3 {
            0 => list.len() as u32,
            1 => u32::from(source.u8()),
            _ => source.u32() % 0x1_0000,
        };
        match source.u8() % 3 {
            0 => writable.push(Buffer::In(FREE + u64::from(source.u32()) % RAM_SIZE, len)),
            1 => writable.push(Buffer::In(source.u64() | 1 << 40, len)),
            // Whole numbers: half of one and half of the next could name the rings.
            _ => readable.push(Buffer::Out(LISTS, len & !3)),
        }
    }
    readable.append(&mut writable);
    if !readable.is_empty() {
        driver.add_indirect(queue, &readable);
    }
    driver.kick(queue);
    while driver.take_used(queue).is_some() {}
    driver.take_interrupt();
}
