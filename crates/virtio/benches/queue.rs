//! What one request costs in the queue and the transport, without any device's work.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memory::GuestMemory;
use sparkler_virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use sparkler_virtio::{Activated, Answer, MmioTransport, Outcome, Register, Status, VirtioDevice};

/// Requests per notification.
const BATCH: u64 = 64;

/// Takes requests and does nothing with them.
#[derive(Default)]
struct Sink {
    active: Option<Activated>,
}

impl VirtioDevice for Sink {
    fn device_type(&self) -> u32 {
        42
    }
    fn device_features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn activate(&mut self, activated: Activated) {
        self.active = Some(activated);
    }
    fn process_queue(&mut self, index: usize) -> Outcome {
        let Some(active) = self.active.as_mut() else { return Outcome::Done };
        active.queues[index].serve(&active.memory, &active.interrupt, |chain| {
            Answer::Used(black_box(chain.writable_len()) as u32)
        })
    }
    fn reset(&mut self) {
        self.active = None;
    }
    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

fn started() -> (MockDriver, Arc<GuestMemory>) {
    let memory = ram();
    let line = Arc::new(CountingLine::default());
    let transport =
        MmioTransport::new(Sink::default(), memory.clone(), line).expect("its queues fit");
    (MockDriver::start(Arc::new(transport), memory.clone(), !0), memory)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(BATCH));
    // Chains of powers of two, so that the table holds whole ones.
    for (name, buffers, indirect) in
        [("direct_4", 4, false), ("indirect_4", 4, true), ("indirect_32", 32, true)]
    {
        let (mut driver, _memory) = started();
        let chain: Vec<_> = (0..buffers).map(|i| Buffer::In(0x20_0000 + i * 64, 64)).collect();
        // The rings are filled once; after that the available index alone is moved on.
        for _ in 0..256 {
            if indirect {
                driver.add_indirect(0, &chain);
            } else {
                driver.add(0, &chain);
            }
        }
        driver.kick(0);
        let mut available = 256u16;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                available = available.wrapping_add(BATCH as u16);
                driver.set_available(0, available);
                driver.kick(0);
            });
        });
        assert!(!driver.status().has(Status::NEEDS_RESET), "{name}: the chains are sound");
    }
    group.finish();

    let (driver, _memory) = started();
    criterion.bench_function("register/interrupt_status", |bencher| {
        bencher.iter(|| black_box(driver.read(Register::InterruptStatus)));
    });
    criterion.bench_function("register/status", |bencher| {
        bencher.iter(|| black_box(driver.read(Register::Status)));
    });
}

criterion_group!(queue, benches);
criterion_main!(queue);
