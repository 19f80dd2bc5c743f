//! Counting what vCPUs ask of devices, and devices of vCPUs: around both address spaces and each
//! interrupt line, so that neither devices nor CPU back ends have to.
//!
//! An access is counted whether or not a device is there, as one that leaves the guest is on KVM.
//! What does not come by the address spaces is not: doorbells that the back end takes, and the
//! interrupt controllers. A latency costs two looks at the clock; they are taken for each access,
//! because they are a few per cent of the cheapest on KVM, and a sample would miss the longest.

use std::sync::Arc;
use std::time::Instant;

use bus::{Bus, Device, IoSpace, IrqLine, RangeError};
use metrics::{Counter, InterruptMetrics, Latency, VcpuMetrics};

/// `io`, with its accesses counted.
pub(crate) fn counted_io(io: IoSpace, metrics: &Arc<VcpuMetrics>) -> Result<IoSpace, RangeError> {
    let mut counted = IoSpace::default();
    let ports = Counted { bus: io.ports, space: Space::Ports, metrics: metrics.clone() };
    let mmio = Counted { bus: io.mmio, space: Space::Mmio, metrics: metrics.clone() };
    counted.ports.insert(0, u64::MAX, Arc::new(ports))?;
    counted.mmio.insert(0, u64::MAX, Arc::new(mmio))?;
    Ok(counted)
}

/// `line`, with its edges counted.
pub(crate) fn counted_line(
    line: Arc<dyn IrqLine>,
    metrics: &Arc<InterruptMetrics>,
) -> Arc<dyn IrqLine> {
    Arc::new(CountedLine { line, metrics: metrics.clone() })
}

/// All of an address space.
struct Counted {
    bus: Bus,
    space: Space,
    metrics: Arc<VcpuMetrics>,
}

#[derive(Debug, Clone, Copy)]
enum Space {
    Ports,
    Mmio,
}

impl Device for Counted {
    fn read(&self, address: u64, data: &mut [u8]) {
        let metrics = &self.metrics;
        let (count, latency) = match self.space {
            Space::Ports => (&metrics.exit_io_in, &metrics.exit_io_in_agg),
            Space::Mmio => (&metrics.exit_mmio_read, &metrics.exit_mmio_read_agg),
        };
        timed(count, latency, || self.bus.read(address, data));
    }

    fn write(&self, address: u64, data: &[u8]) {
        let metrics = &self.metrics;
        let (count, latency) = match self.space {
            Space::Ports => (&metrics.exit_io_out, &metrics.exit_io_out_agg),
            Space::Mmio => (&metrics.exit_mmio_write, &metrics.exit_mmio_write_agg),
        };
        timed(count, latency, || self.bus.write(address, data));
    }
}

fn timed(count: &Counter, latency: &Latency, access: impl FnOnce()) {
    let start = Instant::now();
    access();
    latency.record(start.elapsed());
    count.inc();
}

struct CountedLine {
    line: Arc<dyn IrqLine>,
    metrics: Arc<InterruptMetrics>,
}

impl IrqLine for CountedLine {
    fn trigger(&self) {
        self.metrics.triggers.inc();
        self.line.trigger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    /// Takes its time to read, and none to write.
    struct Slow;

    impl Device for Slow {
        fn read(&self, offset: u64, data: &mut [u8]) {
            thread::sleep(Duration::from_millis(2));
            data.fill(offset as u8);
        }
        fn write(&self, _offset: u64, _data: &[u8]) {}
    }

    #[test]
    fn accesses_are_counted_and_timed_by_their_kind() {
        let metrics = Arc::<VcpuMetrics>::default();
        let mut io = IoSpace::default();
        io.ports.insert(0x60, 5, Arc::new(Slow)).unwrap();
        io.mmio.insert(0xC000_0000, 0x1000, Arc::new(Slow)).unwrap();
        let io = counted_io(io, &metrics).unwrap();
        let read = |bus: &Bus, address| {
            let mut data = [0x55];
            bus.read(address, &mut data);
            data[0]
        };
        assert_eq!([0x62, 0x70, 0xFFFF].map(|port| read(&io.ports, port)), [2, 0xFF, 0xFF]);
        assert_eq!([0xC000_0003, 1 << 51].map(|at| read(&io.mmio, at)), [3, 0xFF]);
        io.ports.write(0x60, &[0]);
        for _ in 0..4 {
            io.mmio.write(0xC000_0000, &[0; 4]);
        }
        let counts = [
            &metrics.exit_io_in,
            &metrics.exit_io_out,
            &metrics.exit_mmio_read,
            &metrics.exit_mmio_write,
        ];
        assert_eq!(counts.map(Counter::count), [3, 1, 2, 4]);
        for latency in [&metrics.exit_io_in_agg, &metrics.exit_mmio_read_agg] {
            assert!(latency.max_us.get() >= 2000 && latency.sum_us.count() >= 2000);
        }
        for latency in [&metrics.exit_io_out_agg, &metrics.exit_mmio_write_agg] {
            assert!(latency.max_us.get() < 2000);
        }
    }
}
