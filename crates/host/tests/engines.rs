//! Both I/O engines behind the block device, against a model, and on hosts that fail.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::block::{Begun, Block, BlockBackend, BlockOptions, Transfer};
use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};
use metrics::BlockMetrics;
use proptest::prelude::*;
use sparkler_host::{EventFd, FileDisk, Poller, UringDisk};
use virtio::mock::{BUFFERS, Buffer, CountingLine, MockDriver, ram};
use virtio::{MmioTransport, Notify, Status};

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const ZERO: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;

/// How long a transfer may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sync,
    Async,
}

/// The engines that this host has.
fn engines() -> Vec<Engine> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(512).unwrap();
    let disk = FileDisk::open(file.path(), true).unwrap();
    match UringDisk::new(disk, EventFd::new().unwrap()) {
        Ok(_) => vec![Engine::Sync, Engine::Async],
        Err(error) => {
            eprintln!("SKIPPED for the engine Async: {error}");
            vec![Engine::Sync]
        }
    }
}

struct Bench {
    transport: Arc<MmioTransport<Block<Box<dyn BlockBackend>>>>,
    driver: MockDriver,
    memory: Arc<GuestMemory>,
    metrics: Arc<BlockMetrics>,
    event: EventFd,
    poller: Poller,
    /// Where the next request's buffers go; taken back with each batch.
    next: u64,
}

/// A request on its way.
struct Sent {
    status: u64,
    data: u64,
}

impl Bench {
    fn new(engine: Engine, path: &Path) -> Self {
        let event = EventFd::new().unwrap();
        let disk = FileDisk::open(path, false).unwrap();
        let disk: Box<dyn BlockBackend> = match engine {
            Engine::Sync => Box::new(disk),
            Engine::Async => Box::new(UringDisk::new(disk, &event).unwrap()),
        };
        let poller = Poller::new().unwrap();
        poller.add_edge(&event, 0).unwrap();
        let (memory, metrics) = (ram(), Arc::new(BlockMetrics::default()));
        let options = BlockOptions { read_only: false, write_back: true };
        let block = Block::new(disk, options)
            .with_metrics(metrics.clone(), Box::new(sparkler_host::system::monotonic));
        let line = Arc::new(CountingLine::default());
        let transport = Arc::new(MmioTransport::new(block, memory.clone(), line).unwrap());
        let driver = MockDriver::start(transport.clone(), memory.clone(), !0);
        Self { transport, driver, memory, metrics, event, poller, next: BUFFERS }
    }

    fn place(&mut self, bytes: &[u8]) -> u64 {
        let at = self.next;
        self.next = (at + bytes.len() as u64).next_multiple_of(16);
        self.driver.poke(at, bytes);
        at
    }

    /// Puts a request into the queue, its data in pieces of `cut` bytes.
    fn send(&mut self, kind: u32, sector: u64, data: &[u8], cut: usize) -> Sent {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let header = self.place(&header);
        let (at, status) = (self.place(data), self.place(&[0xEE]));
        let mut chain = vec![Buffer::Out(header, 16)];
        for start in (0..data.len()).step_by(cut) {
            let len = cut.min(data.len() - start) as u32;
            let piece = at + start as u64;
            let into = kind == READ;
            chain.push(if into { Buffer::In(piece, len) } else { Buffer::Out(piece, len) });
        }
        chain.push(Buffer::In(status, 1));
        self.driver.add(0, &chain);
        Sent { status, data: at }
    }

    /// Waits until so many requests are answered.
    fn finish(&mut self, count: usize) {
        self.driver.kick(0);
        let (mut ready, start) = (Vec::new(), Instant::now());
        for _ in 0..count {
            while self.driver.take_used(0).is_none() {
                // The queue is served for the event alone; the kernel's work for the ring also
                // interrupts the wait.
                self.poller.wait(&mut ready, Some(PATIENCE)).unwrap();
                assert!(start.elapsed() < PATIENCE, "a transfer does not end");
                if !ready.is_empty() {
                    self.transport.notify(0);
                }
            }
        }
        assert_eq!(self.driver.status(), Status(15));
        self.next = BUFFERS;
    }

    fn status(&self, sent: &Sent) -> u8 {
        self.driver.peek(sent.status, 1)[0]
    }

    fn request(&mut self, kind: u32, sector: u64, data: &[u8]) -> u8 {
        let sent = self.send(kind, sector, data, usize::MAX);
        self.finish(1);
        self.status(&sent)
    }
}

fn extent(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Sectors that belong to one request of a batch, so that the order in a batch does not matter.
const STRIPE: u64 = 16;
const STRIPES: u64 = 8;

/// One request of a batch, in its own stripe.
#[derive(Debug, Clone)]
struct Request {
    kind: u32,
    sector: u64,
    sectors: u64,
    byte: u8,
    cut: usize,
}

fn request() -> impl Strategy<Value = Request> {
    let kind = prop_oneof![4 => Just(READ), 4 => Just(WRITE), 1 => Just(FLUSH), 1 => Just(ZERO),
        1 => Just(DISCARD)];
    let sectors = (0..STRIPE).prop_flat_map(|first| (Just(first), 0..=STRIPE - first));
    let cut = prop_oneof![Just(usize::MAX), 1usize..5000, Just(512)];
    (kind, sectors, any::<u8>(), cut).prop_map(|(kind, (sector, sectors), byte, cut)| {
        // No more pieces than the queue has room for.
        let cut = cut.max(sectors as usize * 512 / 16).max(1);
        Request { kind, sector, sectors, byte, cut }
    })
}

/// Sends `batches` to a disk with `engine`, and compares with what a disk should do.
fn check(engine: Engine, batches: &[Vec<Request>]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut model = vec![0x11u8; (STRIPES * STRIPE * 512) as usize];
    file.as_file().write_all_at(&model, 0).unwrap();
    let mut bench = Bench::new(engine, file.path());
    for batch in batches {
        let mut expected = Vec::new();
        for (stripe, request) in (0..).zip(batch) {
            let sector = stripe * STRIPE + request.sector;
            let range = (sector * 512) as usize..((sector + request.sectors) * 512) as usize;
            let count = request.sectors as u32;
            let data = match request.kind {
                READ => vec![0xEE; range.len()],
                WRITE => (0..range.len()).map(|i| request.byte.wrapping_add(i as u8)).collect(),
                ZERO => extent(sector, count, u32::from(request.byte & 1)),
                // A file's holes read as zero, on every file system.
                DISCARD => extent(sector, count, 0),
                _ => Vec::new(),
            };
            match request.kind {
                WRITE => model[range.clone()].copy_from_slice(&data),
                ZERO | DISCARD => model[range.clone()].fill(0),
                _ => {}
            }
            let sent = bench.send(request.kind, sector, &data, request.cut);
            expected.push((sent, (request.kind == READ).then_some(range)));
        }
        bench.finish(batch.len());
        for (sent, read) in expected {
            assert_eq!(bench.status(&sent), OK, "{engine:?} {batch:?}");
            let Some(range) = read else { continue };
            let data = bench.driver.peek(sent.data, range.len());
            assert!(data == model[range], "{engine:?} {batch:?}");
        }
    }
    drop(bench);
    let contents = std::fs::read(file.path()).unwrap();
    assert!(contents == model, "{engine:?} leaves other contents");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_engines_do_what_a_disk_does(
        batches in prop::collection::vec(prop::collection::vec(request(), 1..=STRIPES as usize), 1..6),
    ) {
        for engine in engines() {
            check(engine, &batches);
        }
    }
}

#[test]
fn many_requests_at_once() {
    for engine in engines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sector = |i: u64| vec![i as u8; 512];
        let contents: Vec<u8> = (0..200).flat_map(sector).collect();
        std::fs::write(file.path(), contents).unwrap();
        let mut bench = Bench::new(engine, file.path());
        // Three descriptors each: as many as the queue holds.
        let sent: Vec<Sent> =
            (0..85).map(|i| bench.send(READ, 199 - i, &[0; 512], usize::MAX)).collect();
        bench.finish(85);
        for (i, sent) in (0..).zip(&sent) {
            assert_eq!(
                (bench.status(sent), bench.driver.peek(sent.data, 512)),
                (OK, sector(199 - i))
            );
        }
        assert_eq!(bench.metrics.read_count.count(), 85);
    }
}

#[test]
fn a_file_that_shrank_is_an_io_error() {
    for engine in engines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut bench = Bench::new(engine, file.path());
        file.as_file().set_len(4096).unwrap();
        assert_eq!(bench.request(READ, 0, &[1; 4096]), OK);
        assert_eq!(bench.request(READ, 4, &[1; 4096]), IOERR, "{engine:?}");
        assert_eq!(bench.request(READ, 1000, &[1; 512]), IOERR, "{engine:?}");
        assert_eq!(bench.metrics.execute_fails.count(), 2);
    }
}

#[test]
fn discarded_room_goes_back_to_the_host() {
    for engine in engines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&vec![7; 1 << 20], 0).unwrap();
        file.as_file().sync_all().unwrap();
        let blocks = || file.as_file().metadata().unwrap().blocks();
        let full = blocks();
        let mut bench = Bench::new(engine, file.path());
        assert_eq!(bench.request(DISCARD, 0, &extent(0, 1024, 0)), OK);
        assert!(blocks() <= full - 1000, "{full} blocks before, {} after", blocks());
        assert_eq!(bench.request(ZERO, 0, &extent(1024, 512, 1)), OK);
        assert!(blocks() <= full - 1500, "{full} blocks before, {} after", blocks());
        let mut end = [0; 512];
        file.as_file().read_exact_at(&mut end, (1 << 20) - 512).unwrap();
        assert_eq!((end, file.as_file().metadata().unwrap().len()), ([7; 512], 1 << 20));
    }
}

/// Runs `test` on a thread with a file system of 1 MiB in a folder that nobody else sees.
fn with_small_disk(test: impl FnOnce(&Path) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let folder = tempfile::tempdir().unwrap();
        if let Err(error) = mount_tmpfs(folder.path()) {
            eprintln!("SKIPPED: no small file system can be mounted here: {error}");
            return;
        }
        test(folder.path());
    });
    thread.join().unwrap();
}

fn mount_tmpfs(folder: &Path) -> std::io::Result<()> {
    let target = std::ffi::CString::new(folder.to_str().unwrap()).unwrap();
    let done = |result| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: the strings are NUL-terminated and live; only this thread's mounts change.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        done(libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            std::ptr::null(),
            private,
            std::ptr::null(),
        ))?;
        let options = c"size=1m".as_ptr().cast();
        done(libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, options))
    }
}

#[test]
fn a_full_disk_is_an_io_error_and_the_guest_goes_on() {
    for engine in engines() {
        with_small_disk(move |folder| {
            let path = folder.join("disk");
            File::create(&path).unwrap().set_len(4 << 20).unwrap();
            let mut bench = Bench::new(engine, &path);
            let data = vec![5; 256 << 10];
            let statuses: Vec<u8> = (0..6).map(|i| bench.request(WRITE, i * 512, &data)).collect();
            assert_eq!((statuses[0], statuses[5]), (OK, IOERR), "{engine:?} {statuses:?}");
            let failed = statuses.iter().filter(|status| **status == IOERR).count();
            assert_eq!(bench.metrics.execute_fails.count(), failed as u64);
            // What is there can be read, and what is given back can be written.
            assert_eq!(bench.request(READ, 0, &data), OK);
            assert_eq!(bench.request(DISCARD, 0, &extent(0, 1024, 0)), OK);
            assert_eq!(bench.request(WRITE, 5 * 512, &data), OK);
            // This file system has holes, but no ranges of zeroes: they are written.
            assert_eq!(bench.request(ZERO, 0, &extent(5 * 512, 512, 0)), OK);
            let sent = bench.send(READ, 5 * 512, &data, usize::MAX);
            bench.finish(1);
            assert!(bench.driver.peek(sent.data, data.len()).iter().all(|byte| *byte == 0));
            assert_eq!(bench.request(FLUSH, 0, &[]), OK);
        });
    }
}

#[test]
fn a_dropped_disk_lets_go_of_the_memory() {
    if !engines().contains(&Engine::Async) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&vec![3; 1 << 20], 0).unwrap();
    let disk = FileDisk::open(file.path(), false).unwrap();
    let mut disk = UringDisk::new(disk, EventFd::new().unwrap()).unwrap();
    let memory = ram();
    for tag in 0..4 {
        let slice = memory.get_slice(GuestAddress(u64::from(tag) << 18), 1 << 18).unwrap();
        let transfer = Transfer::Read { offset: u64::from(tag) << 18, into: &[slice] };
        assert!(matches!(disk.begin(tag, &memory, transfer), Begun::OnItsWay));
    }
    assert_eq!(Arc::strong_count(&memory), 5);
    drop(disk);
    assert_eq!(Arc::strong_count(&memory), 1);
    assert_eq!(memory.read_obj::<[u8; 16]>(GuestAddress((1 << 20) - 16)).unwrap(), [3; 16]);
}

#[test]
fn transfers_outside_of_the_memory_are_refused() {
    if !engines().contains(&Engine::Async) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let disk = FileDisk::open(file.path(), false).unwrap();
    let mut disk = UringDisk::new(disk, EventFd::new().unwrap()).unwrap();
    let (memory, other) = (ram(), ram());
    let slice = other.get_slice(GuestAddress(0), 512).unwrap();
    let begun = disk.begin(0, &memory, Transfer::Read { offset: 0, into: &[slice] });
    assert!(matches!(begun, Begun::Ended(Err(_))), "{begun:?}");
    assert_eq!(disk.ended().map(|(tag, _)| tag), None);
}

#[test]
fn the_event_is_raised() {
    for engine in engines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let mut bench = Bench::new(engine, file.path());
        assert_eq!(bench.request(WRITE, 0, &[1; 512]), OK);
        assert_eq!(bench.event.clear(), engine == Engine::Async);
        assert!(bench.memory.num_regions() > 0);
    }
}
