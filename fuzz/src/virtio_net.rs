//! A network driver that does anything: chains of any cut in both queues, broken rings, limits,
//! resets, while frames arrive at the tap and a detour answers.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use devices::Alarm;
use devices::net::{
    Detour, Detoured, FRAME_MAX, HEADER_LEN, Net, NetOptions, Offload, RX, TX, Tap,
};
use devices::rate::{Change, RateLimiter};
use virtio::mock::{Buffer, CountingLine, Descriptor, MockDriver, ram};
use virtio::{GuestSlice, MmioTransport, Notify, Register, Status};

use crate::source::Source;

/// Most steps of one run.
const STEPS_MAX: usize = 128;
/// Most buffers in a chain.
const BUFFERS_MAX: usize = 6;
/// Whom the detour stands for.
const SERVICE: [u8; 4] = [169, 254, 169, 254];

/// Feeds the steps that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let tap = CheckedTap::default();
    let clock = Clock::default();
    let net = device(&mut source, &tap, &clock);
    let (memory, line) = (ram(), Arc::new(CountingLine::default()));
    let transport = MmioTransport::new(net, memory.clone(), line).expect("its queues fit");
    let transport = Arc::new(transport);
    let mut driver = MockDriver::start(transport.clone(), memory, source.u64());
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        match source.u8() % 12 {
            0..=2 => offer(&mut driver, RX, &mut source),
            3 | 4 => offer(&mut driver, TX, &mut source),
            5 | 6 => {
                tap.waiting().push(usize::from(source.u16()));
                transport.notify(RX as u32);
            }
            7 => driver.kick(usize::from(source.u8() % 3)),
            8 => {
                clock.0.fetch_add(u64::from(source.u32()), Ordering::Relaxed);
                transport.notify(u32::from(source.u8() % 2));
            }
            9 => drop(driver.take_interrupt()),
            10 => confuse(&mut driver, &mut source),
            _ => {
                driver.negotiate(source.u64() | 1 << 32);
                driver.set_up_queues(1 << (source.u8() % 9));
                driver.write(Register::Status, 15);
                let limits = change(&mut source);
                transport.update(|net| net.update_tx(limits, Change::Keep));
            }
        }
    }
    // Whatever happened, after a reset a frame comes and goes.
    *tap.waiting() = vec![100];
    driver.negotiate(!0);
    driver.set_up_queues(256);
    driver.write(Register::Status, 15);
    transport.update(|net| {
        net.update_rx(Change::Remove, Change::Remove);
        net.update_tx(Change::Remove, Change::Remove);
    });
    driver.add(RX, &[Buffer::In(0x20_0000, FRAME_MAX as u32)]);
    driver.poke(0x30_0000, &[0; 100]);
    driver.add(TX, &[Buffer::Out(0x30_0000, 100)]);
    transport.notify(RX as u32);
    transport.notify(TX as u32);
    assert_eq!(driver.take_used(RX).map(|used| used.len > 0), Some(true));
    assert_eq!(driver.take_used(TX).map(|used| used.len), Some(0));
    assert_eq!(driver.status(), Status(15));
}

fn device(source: &mut Source<'_>, tap: &CheckedTap, clock: &Clock) -> Net<CheckedTap> {
    let options = source.u8();
    let options = NetOptions {
        mac: (options & 1 != 0).then_some(spec::MacAddress([6; 6])),
        mtu: (options & 2 != 0).then_some(9000),
        drop_spoofed: options & 4 != 0,
    };
    let mut limiter = || {
        let mut bucket = || spec::TokenBucket::new(source.u16().into(), source.u8().into(), 10);
        let limits = spec::RateLimiter { bandwidth: bucket(), ops: bucket() };
        RateLimiter::new(limits, Box::new(clock.clone()))
    };
    let (rx, tx) = (limiter(), limiter());
    let detoured = Detoured { detour: Box::new(Echo::default()), alarm: Box::new(clock.clone()) };
    Net::new(tap.clone(), options, rx, tx, Some(detoured), Arc::default())
}

fn change(source: &mut Source<'_>) -> Change {
    match spec::TokenBucket::new(source.u64(), source.u64(), source.u64()) {
        Some(bucket) => Change::Replace(bucket),
        None => Change::Remove,
    }
}

/// Makes a sound chain available, of buffers anywhere.
fn offer(driver: &mut MockDriver, queue: usize, source: &mut Source<'_>) {
    let mut buffers = Vec::new();
    for _ in 0..usize::from(source.u8()) % BUFFERS_MAX {
        let address = match source.u8() % 8 {
            0 => 0x3F_F000 + u64::from(source.u16()),
            1 => source.u64(),
            _ => 0x10_0000 + u64::from(source.u32() % 0x20_0000),
        };
        let len = match source.u8() % 4 {
            0 => u32::from(source.u8()),
            1 => u32::from(source.u16()) * 2,
            2 => 1526,
            _ => source.u32() % 0x1000_0000,
        };
        let as_usual = source.u8() % 16 != 0;
        buffers.push(if as_usual == (queue == RX) {
            Buffer::In(address, len)
        } else {
            Buffer::Out(address, len)
        });
    }
    // What the device reads comes first in a chain.
    buffers.sort_by_key(|buffer| matches!(buffer, Buffer::In(..)));
    if queue == TX && source.u8() & 1 == 0 {
        driver.poke(0x10_0000 + 24, &[8, source.u8() % 8]);
        driver.poke(0x10_0000 + 42, &SERVICE);
        buffers.insert(0, Buffer::Out(0x10_0000, 60));
    }
    if !buffers.is_empty() {
        driver.add(queue, &buffers);
    }
}

/// Breaks a ring.
fn confuse(driver: &mut MockDriver, source: &mut Source<'_>) {
    let queue = usize::from(source.u8() % 2);
    match source.u8() % 3 {
        0 => driver.set_available(queue, source.u16()),
        1 => driver.offer(queue, source.u16() % 300),
        _ => {
            let descriptor = Descriptor {
                address: u64::from(source.u32()),
                len: source.u32(),
                flags: source.u16(),
                next: source.u16() % 300,
            };
            driver.describe(queue, u16::from(source.u8()), descriptor);
        }
    }
}

/// A tap that watches what it is asked for, with the lengths of the frames that wait.
#[derive(Clone, Default)]
struct CheckedTap(Arc<Mutex<Vec<usize>>>);

impl CheckedTap {
    fn waiting(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().expect("no panic before")
    }
}

impl Tap for CheckedTap {
    fn read(&mut self, into: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<usize> {
        assert!((1..1024).contains(&into.len()));
        let room: usize = into.iter().map(|slice| slice.len()).sum();
        assert!(room >= HEADER_LEN && overflow.len() == FRAME_MAX);
        let len = self.waiting().pop().ok_or(io::ErrorKind::WouldBlock)?;
        let mut rest = len.min(room);
        for slice in into {
            let part = rest.min(slice.len());
            slice.subslice(0, part).expect("it is a part").copy_from(&vec![0xA5u8; part]);
            rest -= part;
        }
        Ok(len)
    }

    fn write(&mut self, head: &[u8], rest: &[GuestSlice<'_>]) -> io::Result<()> {
        let len = head.len() + rest.iter().map(|slice| slice.len()).sum::<usize>();
        assert!(head.len() >= 26 && len <= FRAME_MAX && rest.len() < 1023);
        Ok(())
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        assert!(offload.checksum || !(offload.tso4 || offload.tso6 || offload.ufo));
        Ok(())
    }
}

/// A clock in nanoseconds that nobody waits for.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Alarm for Clock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, _delay: Duration) {}
}

/// Sends every second frame back.
#[derive(Default)]
struct Echo {
    answer: Option<Vec<u8>>,
    even: bool,
}

impl Detour for Echo {
    fn address(&self) -> Ipv4Addr {
        SERVICE.into()
    }

    fn transmit(&mut self, frame: &[u8], _now: Duration) -> bool {
        assert!((14..=FRAME_MAX - HEADER_LEN).contains(&frame.len()));
        self.even = !self.even;
        if self.even {
            self.answer = Some(frame.to_vec());
        }
        self.even
    }

    fn receive(&mut self, into: &mut Vec<u8>, _now: Duration) -> bool {
        let answer = self.answer.take();
        let any = answer.is_some();
        into.clear();
        into.extend(answer.unwrap_or_default());
        any
    }

    fn next_poll(&mut self, _now: Duration) -> Option<Duration> {
        self.answer.as_ref().map(|_| Duration::ZERO)
    }
}
