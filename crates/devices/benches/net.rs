//! What a frame costs on its way through the network device, without the host's part of it.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sparkler_devices::Alarm;
use sparkler_devices::net::{FRAME_MAX, Net, NetOptions, Offload, RX, TX, Tap};
use sparkler_devices::rate::RateLimiter;
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{GuestSlice, MmioTransport, Notify, Status};

/// A full Ethernet frame with its header, which is also what Linux's driver makes room for.
const FRAME: usize = 1526;
/// Where the guest's buffers are.
const BUFFER: u64 = 0x20_0000;

/// A tap that has a number of frames ready, and does nothing with those it gets.
struct InstantTap {
    frame: usize,
    batch: usize,
    left: usize,
}

impl Tap for InstantTap {
    fn read(&mut self, into: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<usize> {
        black_box((into, overflow));
        if self.left == 0 {
            self.left = self.batch;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.left -= 1;
        Ok(self.frame)
    }
    fn write(&mut self, head: &[u8], rest: &[GuestSlice<'_>]) -> io::Result<()> {
        black_box((head, rest));
        Ok(())
    }
    fn set_offload(&mut self, _offload: Offload) -> io::Result<()> {
        Ok(())
    }
}

/// An alarm for those who never wait.
struct NoAlarm;

impl Alarm for NoAlarm {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn set(&self, _delay: Duration) {}
}

fn device(frame: usize, batch: usize) -> (Arc<MmioTransport<Net<InstantTap>>>, MockDriver) {
    let limiter = || RateLimiter::new(spec::RateLimiter::default(), Box::new(NoAlarm));
    let tap = InstantTap { frame, batch, left: batch };
    let options = NetOptions::default();
    let net = Net::new(tap, options, limiter(), limiter(), None, Arc::default());
    let (memory, line) = (ram(), Arc::new(CountingLine::default()));
    let transport = MmioTransport::new(net, memory.clone(), line).expect("its queues fit");
    let transport = Arc::new(transport);
    let driver = MockDriver::start(transport.clone(), memory, !0);
    (transport, driver)
}

/// `batch` frames for each edge of the tap, into buffers of [`FRAME`] bytes.
fn receive(criterion: &mut Criterion, name: &str, frame: usize, batch: usize) {
    let (transport, mut driver) = device(frame, batch);
    for _ in 0..256 {
        driver.add(RX, &[Buffer::In(BUFFER, FRAME as u32)]);
    }
    let used = frame.div_ceil(FRAME) * batch;
    let mut available = 256u16;
    let mut group = criterion.benchmark_group("net");
    group.throughput(Throughput::Elements(batch as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            transport.notify(RX as u32);
            available = available.wrapping_add(used as u16);
            driver.set_available(RX, available);
        });
    });
    group.finish();
    assert!(!driver.status().has(Status::NEEDS_RESET));
}

/// `batch` frames for each notification, in pieces of `piece` bytes.
fn send(criterion: &mut Criterion, name: &str, frame: usize, piece: usize, batch: usize) {
    let (_transport, mut driver) = device(frame, batch);
    let pieces: Vec<Buffer> = (0..frame)
        .step_by(piece)
        .map(|at| Buffer::Out(BUFFER + at as u64, piece.min(frame - at) as u32))
        .collect();
    for _ in 0..256 {
        driver.add_indirect(TX, &pieces);
    }
    driver.kick(TX);
    let mut available = 256u16;
    let mut group = criterion.benchmark_group("net");
    group.throughput(Throughput::Elements(batch as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            available = available.wrapping_add(batch as u16);
            driver.set_available(TX, available);
            driver.kick(TX);
        });
    });
    group.finish();
    assert!(!driver.status().has(Status::NEEDS_RESET));
}

fn net(criterion: &mut Criterion) {
    receive(criterion, "receive_1500_x1", FRAME, 1);
    receive(criterion, "receive_1500_x64", FRAME, 64);
    receive(criterion, "receive_64k_x4", FRAME_MAX, 4);
    send(criterion, "send_1500_x64", FRAME, FRAME, 64);
    send(criterion, "send_64k_x4", FRAME_MAX, 4096, 4);
}

criterion_group!(frames, net);
criterion_main!(frames);
