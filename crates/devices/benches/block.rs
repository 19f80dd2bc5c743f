//! What a disk's requests cost through the device, with both I/O engines, on a file that the
//! host has in memory: so nearly all of it is overhead.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use host::{EventFd, FileDisk, Poller, UringDisk};
use sparkler_devices::block::{Block, BlockBackend, BlockOptions};
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{MmioTransport, Notify};

/// Bytes on the disk.
const DISK_LEN: u64 = 64 << 20;
/// Where the data go.
const DATA: u64 = 0x20_0000;

/// A driver with a disk.
struct Bench {
    transport: Arc<MmioTransport<Block<Box<dyn BlockBackend>>>>,
    driver: MockDriver,
    poller: Poller,
    /// A descriptor that is closed is not watched.
    _event: EventFd,
    available: u16,
}

impl Bench {
    fn new(path: &Path, engine: &str) -> Option<Self> {
        let event = EventFd::new().ok()?;
        let poller = Poller::new().ok()?;
        poller.add_edge(&event, 0).ok()?;
        let disk = FileDisk::open(path, false).ok()?;
        let disk: Box<dyn BlockBackend> = match engine {
            "async" => Box::new(UringDisk::new(disk, &event).ok()?),
            _ => Box::new(disk),
        };
        let memory = ram();
        let block = Block::new(disk, BlockOptions::default());
        let line = Arc::new(CountingLine::default());
        let transport = Arc::new(MmioTransport::new(block, memory.clone(), line).ok()?);
        let driver = MockDriver::start(transport.clone(), memory, !0);
        Some(Self { transport, driver, poller, _event: event, available: 0 })
    }

    /// Fills the whole ring with requests of `len` bytes, which are then offered again and again.
    fn prepare(&mut self, kind: u32, len: u32, sectors: impl Iterator<Item = u64>) {
        let status = self.driver.allocate(1);
        for sector in sectors.take(256) {
            let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
            let mut chain = vec![Buffer::Out(self.driver.allocate_with(&header), 16)];
            chain.extend((0..len).step_by(4096).map(|at| match kind {
                0 => Buffer::In(DATA + u64::from(at), 4096),
                _ => Buffer::Out(DATA + u64::from(at), 4096),
            }));
            chain.push(Buffer::In(status, 1));
            self.driver.add_indirect(0, &chain);
        }
        self.available = 256;
        self.wait();
    }

    /// Offers the next `batch` requests and waits for their ends.
    fn run(&mut self, batch: u16) {
        self.available = self.available.wrapping_add(batch);
        self.driver.set_available(0, self.available);
        self.wait();
    }

    /// Waits as a driver does, whose acknowledgement goes on with a turn that reached its bound.
    fn wait(&mut self) {
        self.driver.kick(0);
        let mut ready = Vec::new();
        while self.used() != self.available {
            if self.driver.take_interrupt() == 0 {
                self.poller.wait(&mut ready, None).expect("it can be waited for");
                self.transport.notify(0);
            }
        }
        black_box(self.driver.take_interrupt());
    }

    fn used(&self) -> u16 {
        let index = self.driver.peek(self.driver.rings(0)[2] + 2, 2);
        u16::from_le_bytes([index[0], index[1]])
    }
}

/// Sectors of 4 KiB blocks all over the disk.
fn random() -> impl Iterator<Item = u64> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Some((state >> 33) % (DISK_LEN / 4096) * 8)
    })
}

fn engines(criterion: &mut Criterion) {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), vec![0x5A; DISK_LEN as usize]).expect("64 MiB can be written");
    for engine in ["sync", "async"] {
        let mut group = criterion.benchmark_group(engine);
        for (name, kind, len, batch) in [
            ("random_read_4k_one", 0, 4096, 1),
            ("random_read_4k_x32", 0, 4096, 32),
            ("random_write_4k_x32", 1, 4096, 32),
            ("sequential_read_128k_x8", 0, 128 << 10, 8),
        ] {
            let Some(mut bench) = Bench::new(file.path(), engine) else {
                eprintln!("SKIPPED: this host has no engine {engine}");
                continue;
            };
            match len {
                4096 => bench.prepare(kind, len, random()),
                _ => bench.prepare(kind, len, (0..).map(|i| i * u64::from(len) / 512)),
            }
            group.throughput(Throughput::Bytes(u64::from(len) * u64::from(batch)));
            group.bench_function(name, |bencher| bencher.iter(|| bench.run(batch)));
        }
        group.finish();
    }
}

criterion_group!(block, engines);
criterion_main!(block);
