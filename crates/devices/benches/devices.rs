//! What the guest's most frequent accesses cost, without the host's part of them.

use std::hint::black_box;
use std::io;
use std::sync::Arc;

use bus::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sparkler_devices::block::{Block, BlockBackend, BlockOptions};
use sparkler_devices::serial::Serial;
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{GuestSlice, MmioTransport, Register, Status};

/// A disk that does nothing at once.
struct NoDisk;

impl BlockBackend for NoDisk {
    fn len(&self) -> u64 {
        1 << 30
    }
    fn read_at(&mut self, _offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        black_box(into);
        Ok(())
    }
    fn write_at(&mut self, _offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        black_box(from);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn id(&self) -> [u8; 20] {
        [0; 20]
    }
}

fn serial(criterion: &mut Criterion) {
    let line = Arc::new(CountingLine::default());
    let port = Serial::new(line, Box::new(io::sink()), || ());
    let mut group = criterion.benchmark_group("serial");
    group.bench_function("send_byte", |b| b.iter(|| port.write(0, black_box(b"x"))));
    group.bench_function("poll_and_send_byte", |b| {
        b.iter(|| {
            let mut status = [0];
            port.read(5, &mut status);
            port.write(0, black_box(&status));
        });
    });
    group.finish();
}

fn block(criterion: &mut Criterion) {
    /// Requests per notification.
    const BATCH: u64 = 64;
    let memory = ram();
    let line = Arc::new(CountingLine::default());
    let block = Block::new(NoDisk, BlockOptions::default());
    let transport = MmioTransport::new(block, memory.clone(), line).expect("its queues fit");
    let mut driver = MockDriver::start(Arc::new(transport), memory, !0);
    let mut group = criterion.benchmark_group("block");
    group.throughput(Throughput::Elements(BATCH));
    let header = driver.allocate(16);
    let status = driver.allocate(1);
    for segments in [1, 14] {
        let mut chain = vec![Buffer::Out(header, 16)];
        chain.extend((0..segments).map(|i| Buffer::In(0x20_0000 + i * 4096, 4096)));
        chain.push(Buffer::In(status, 1));
        driver.negotiate(!0);
        driver.set_up_queues(256);
        driver.write(Register::Status, 15);
        for _ in 0..256 {
            driver.add_indirect(0, &chain);
        }
        driver.kick(0);
        let mut available = 256u16;
        group.bench_function(format!("read_4k_x{segments}"), |bencher| {
            bencher.iter(|| {
                available = available.wrapping_add(BATCH as u16);
                driver.set_available(0, available);
                driver.kick(0);
            });
        });
        assert!(!driver.status().has(Status::NEEDS_RESET));
    }
    group.finish();
}

criterion_group!(devices, serial, block);
criterion_main!(devices);
