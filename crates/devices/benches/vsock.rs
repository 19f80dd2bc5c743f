//! What a packet costs between a driver and a Unix socket, with the program's own reading and
//! writing of the socket, which is on the same thread.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use host::UnixHost;
use sparkler_devices::Alarm;
use sparkler_devices::vsock::Vsock;
use sparkler_devices::vsock::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM};
use tempfile::TempDir;
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{MmioTransport, Status};

const GUEST_CID: u64 = 3;
const PORT: u32 = 7;
const REQUEST: u16 = 1;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;

/// A clock that stands still.
struct Never;

impl Alarm for Never {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn set(&self, _delay: Duration) {}
}

/// A guest with a connection to a program.
struct Guest {
    driver: MockDriver,
    program: UnixStream,
    out: u64,
    received: u32,
    _folder: TempDir,
}

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let host = UnixHost::bind(&folder.path().join("v.sock")).expect("a socket");
        let listener = UnixListener::bind(folder.path().join("v.sock_7")).expect("a socket");
        let device = Vsock::new(GUEST_CID, Box::new(host), Box::new(Never), Arc::default());
        let memory = ram();
        let line = Arc::new(CountingLine::default());
        let transport = MmioTransport::new(device, memory.clone(), line).expect("its queues fit");
        let mut driver = MockDriver::start(Arc::new(transport), memory, !0);
        let out = driver.allocate(HEADER_LEN + (64 << 10));
        for _ in 0..128 {
            let at = driver.allocate(4096);
            driver.add(0, &[Buffer::In(at, 4096)]);
        }
        driver.kick(0);
        packet(&mut driver, out, REQUEST, 0, 0);
        let (program, _) = listener.accept().expect("the guest calls");
        let mut guest = Self { driver, program, out, received: 0, _folder: folder };
        guest.receive();
        guest
    }

    fn send(&mut self, op: u16, len: u32) {
        packet(&mut self.driver, self.out, op, len, self.received);
    }

    /// Takes what has come, and gives the buffers back.
    fn receive(&mut self) -> u32 {
        let mut bytes = 0;
        while let Some(used) = self.driver.take_used(0) {
            bytes += used.len - HEADER_LEN as u32;
            self.driver.offer(0, used.head as u16);
        }
        self.received = self.received.wrapping_add(bytes);
        self.driver.take_interrupt();
        bytes
    }
}

fn packet(driver: &mut MockDriver, out: u64, op: u16, len: u32, fwd_cnt: u32) {
    let header = Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: 1024,
        dst_port: PORT,
        len,
        kind: TYPE_STREAM,
        op,
        flags: 0,
        buf_alloc: 256 << 10,
        fwd_cnt,
    };
    driver.poke(out, &header.to_bytes());
    let chain = [Buffer::Out(out, HEADER_LEN as u32), Buffer::Out(out + HEADER_LEN, len)];
    driver.add(1, if len == 0 { &chain[..1] } else { &chain[..] });
    driver.kick(1);
    driver.take_used(1).expect("what the guest sends is taken");
}

fn to_host(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vsock/to_host");
    for len in [64, 4096, 64 << 10] {
        let mut guest = Guest::new();
        let mut bytes = vec![0; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len}"), |bencher| {
            bencher.iter(|| {
                guest.send(RW, len as u32);
                guest.program.read_exact(&mut bytes).expect("what was sent");
                guest.receive();
            });
        });
        assert!(!guest.driver.status().has(Status::NEEDS_RESET));
    }
    group.finish();
}

fn to_guest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vsock/to_guest");
    for len in [64, 4052, 64 << 10] {
        let mut guest = Guest::new();
        let bytes = vec![0; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len}"), |bencher| {
            bencher.iter(|| {
                guest.program.write_all(&bytes).expect("there is room");
                let mut left = len as u32;
                while left > 0 {
                    guest.driver.kick(0);
                    left -= guest.receive();
                }
                guest.send(CREDIT_UPDATE, 0);
            });
        });
        assert!(!guest.driver.status().has(Status::NEEDS_RESET));
    }
    group.finish();
}

criterion_group!(vsock, to_host, to_guest);
criterion_main!(vsock);
