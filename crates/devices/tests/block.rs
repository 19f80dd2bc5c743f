//! The block device through the eyes of a driver, right and wrong.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memory::{GuestMemory, GuestMemoryBackend};
use metrics::BlockMetrics;
use proptest::prelude::*;
use sparkler_devices::Alarm;
use sparkler_devices::block::request::{
    Action, DISCARD_SECTORS_MAX, Disk, EXTENTS_MAX, Extent, Fault, Operation, Refusal, Request,
    Unanswerable, ZERO_SECTORS_MAX, extents,
};
use sparkler_devices::block::{
    Begun, Block, BlockBackend, BlockOptions, IN_FLIGHT_MAX, Tag, Transfer,
};
use sparkler_devices::rate::{Change, RateLimiter};
use virtio::mock::{Buffer, CountingLine, MockDriver, RAM_SIZE, Used, ram};
use virtio::{GuestSlice, MmioTransport, Notify, Register, Status};

use vm_memory::bitmap::Bitmap;

const SECTORS: usize = 64;

/// A disk of [`SECTORS`] sectors in memory, and what happened to it.
#[derive(Clone, Default)]
struct MemoryDisk(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    bytes: Vec<u8>,
    flushes: u32,
    broken: bool,
    /// Discards and writes of zeroes are not supported.
    plain: bool,
    discards: Vec<(u64, u64)>,
    unmaps: u32,
}

impl MemoryDisk {
    fn new() -> Self {
        let bytes = (0..SECTORS * 512 + 100).map(|i| (i / 512) as u8).collect();
        Self(Arc::new(Mutex::new(Contents { bytes, ..Contents::default() })))
    }
}

impl BlockBackend for MemoryDisk {
    fn len(&self) -> u64 {
        self.0.lock().unwrap().bytes.len() as u64
    }
    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        let contents = self.0.lock().unwrap();
        if contents.broken {
            return Err(io::Error::other("broken"));
        }
        let mut at = offset as usize;
        for slice in into {
            slice.copy_from(&contents.bytes[at..at + slice.len()]);
            at += slice.len();
        }
        Ok(())
    }
    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        if contents.broken {
            return Err(io::Error::other("broken"));
        }
        let mut at = offset as usize;
        for slice in from {
            slice.copy_to(&mut contents.bytes[at..at + slice.len()]);
            at += slice.len();
        }
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().flushes += 1;
        Ok(())
    }
    fn id(&self) -> [u8; 20] {
        match self.0.lock().unwrap().bytes.first() {
            Some(7) => *b"another disk\0\0\0\0\0\0\0\0",
            _ => *b"a disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        if contents.plain {
            return Err(io::ErrorKind::Unsupported.into());
        }
        contents.discards.push((offset, len));
        Ok(())
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        if contents.broken {
            return Err(io::Error::other("broken"));
        }
        contents.unmaps += u32::from(may_unmap);
        contents.bytes[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }
}

struct Bench<B = MemoryDisk> {
    disk: B,
    transport: Arc<MmioTransport<Block<B>>>,
    driver: MockDriver,
    memory: Arc<GuestMemory>,
    metrics: Arc<BlockMetrics>,
}

fn bench(options: BlockOptions) -> Bench {
    let disk = MemoryDisk::new();
    bench_over(disk.clone(), Block::new(disk, options))
}

fn bench_over<B: BlockBackend + 'static>(disk: B, block: Block<B>) -> Bench<B> {
    let memory = ram();
    let line = Arc::new(CountingLine::default());
    let metrics = Arc::new(BlockMetrics::default());
    let block = block.with_metrics(metrics.clone(), Box::new(|| Duration::ZERO));
    let transport = Arc::new(MmioTransport::new(block, memory.clone(), line).unwrap());
    let driver = MockDriver::start(transport.clone(), memory.clone(), !0);
    Bench { disk, transport, driver, memory, metrics }
}

fn writable() -> BlockOptions {
    BlockOptions { read_only: false, write_back: true }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u8,
    used: u32,
    data: Vec<u8>,
}

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// A status byte that the device did not write.
const UNTOUCHED: u8 = 0xEE;

/// Where a request's answer will be.
#[derive(Debug, Clone, Copy)]
struct Sent {
    into: u64,
    status: u64,
}

impl<B> Bench<B> {
    /// Puts a request into the queue, with data to write, or room of `room` bytes to read.
    fn send(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> Sent {
        let head = self.driver.allocate_with(&header(kind, sector));
        let out = self.driver.allocate_with(data);
        let into = self.driver.allocate(room.into());
        let status = self.driver.allocate_with(&[UNTOUCHED]);
        self.driver.add_indirect(
            0,
            &[
                Buffer::Out(head, 16),
                Buffer::Out(out, data.len() as u32),
                Buffer::In(into, room),
                Buffer::In(status, 1),
            ],
        );
        Sent { into, status }
    }

    /// Sends a request and waits for its answer.
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> Answer {
        let Sent { into, status } = self.send(kind, sector, data, room);
        let used = self.complete();
        let data = self.driver.peek(into, room as usize);
        Answer { status: self.driver.peek(status, 1)[0], used: used.len, data }
    }

    fn complete(&mut self) -> Used {
        self.driver.kick(0);
        self.driver.take_used(0).expect("the device answers")
    }
}

fn check(options: BlockOptions, kind: u32, sector: u64, data: &[u8], room: u32, expected: u8) {
    let answer = bench(options).request(kind, sector, data, room);
    let what = format!("{options:?} type {kind} sector {sector} {} {room}", data.len());
    assert_eq!(answer.status, expected, "{what}");
}

#[test]
fn the_disk_presents_itself() {
    for (options, features) in [
        (BlockOptions::default(), 0b110_0000_0100_0100),
        (BlockOptions { read_only: true, write_back: false }, 0b110_0100),
        (writable(), 0b110_0010_0100_0100),
    ] {
        let bench = bench(options);
        assert_eq!(bench.driver.offered() & 0xFFF_FFFF, features, "{options:?}");
        assert_eq!(bench.driver.config(0, 8), (SECTORS as u64).to_le_bytes());
        assert_eq!(bench.driver.config(12, 4), 254u32.to_le_bytes());
        assert_eq!(bench.driver.config(20, 4), 512u32.to_le_bytes());
        assert_eq!(bench.driver.config(24, 12), [0; 12]);
        let discards = match options.read_only {
            true => [0; 6],
            false => [DISCARD_SECTORS_MAX, 16, 8, ZERO_SECTORS_MAX, 16, 1],
        };
        let discards: Vec<u8> = discards.iter().flat_map(|field| field.to_le_bytes()).collect();
        assert_eq!(bench.driver.config(36, 24), discards);
        assert_eq!(bench.driver.config(60, 4), [0; 4]);
    }
}

#[test]
fn reads_and_writes_arrive() {
    let mut bench = bench(writable());
    let answer = bench.request(0, 3, &[], 1024);
    assert_eq!((answer.status, answer.used), (OK, 1025));
    assert_eq!(answer.data, [[3; 512], [4; 512]].concat());
    let answer = bench.request(1, 63, &[0xAB; 512], 0);
    assert_eq!((answer.status, answer.used), (OK, 1));
    assert_eq!(bench.disk.0.lock().unwrap().bytes[63 * 512..64 * 512], [0xAB; 512]);
    assert_eq!(bench.request(0, 63, &[], 512).data, [0xAB; 512]);
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let end = SECTORS as u64;
    let read_only = BlockOptions { read_only: true, write_back: false };
    check(writable(), 0, end - 1, &[], 512, OK);
    check(writable(), 0, end, &[], 512, IOERR);
    check(writable(), 0, end - 1, &[], 1024, IOERR);
    check(writable(), 0, u64::MAX, &[], 512, IOERR);
    check(writable(), 0, u64::MAX / 512, &[], 512, IOERR);
    check(writable(), 0, 1 << 55, &[], 512, IOERR);
    check(writable(), 0, 0, &[], 511, IOERR);
    check(writable(), 0, 0, &[], 0, OK);
    check(writable(), 1, end, &[0; 512], 0, IOERR);
    check(writable(), 1, 0, &[0; 100], 0, IOERR);
    check(read_only, 1, 0, &[0; 512], 0, IOERR);
    check(read_only, 0, 0, &[], 512, OK);
    check(read_only, 11, 0, &extent(0, 1, 0), 0, IOERR);
    check(read_only, 13, 0, &extent(0, 1, 0), 0, IOERR);
    for kind in [2, 3, 12, 14, 0x8000_0000, u32::MAX] {
        check(writable(), kind, 0, &[], 512, UNSUPP);
    }
}

fn extent(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn extents_are_discarded_and_zeroed() {
    let mut bench = bench(writable());
    let list = [extent(1, 2, 0), extent(63, 1, 0), extent(64, 0, 0)].concat();
    let answer = bench.request(11, u64::MAX, &list, 0);
    assert_eq!((answer.status, answer.used), (OK, 1));
    let end = SECTORS as u64 * 512;
    assert_eq!(bench.disk.0.lock().unwrap().discards, [(512, 1024), (63 * 512, 512), (end, 0)]);
    let list = [extent(5, 1, 0), extent(9, 2, 1)].concat();
    assert_eq!(bench.request(13, 0, &list, 0).status, OK);
    let contents = bench.disk.0.lock().unwrap();
    for sector in 0..SECTORS {
        let zero = contents.bytes[sector * 512..][..512] == [0; 512];
        assert_eq!(zero, [0, 5, 9, 10].contains(&sector), "sector {sector}");
    }
    assert_eq!(contents.unmaps, 1);
}

#[test]
fn a_list_of_extents_is_taken_whole_or_not_at_all() {
    let end = SECTORS as u64;
    let good = extent(1, 1, 0);
    for (bad, status) in [
        (extent(end, 1, 0), IOERR),
        (extent(end - 1, 2, 0), IOERR),
        (extent(u64::MAX, 1, 0), IOERR),
        (extent(u64::MAX / 512, u32::MAX, 0), IOERR),
        (extent(0, 1, 2), UNSUPP),
        (extent(0, 1, u32::MAX), UNSUPP),
        (extent(0, 1, 0)[..15].to_vec(), IOERR),
        (good.repeat(EXTENTS_MAX), IOERR),
    ] {
        for kind in [11, 13] {
            let mut bench = bench(writable());
            let list = [&good[..], &bad].concat();
            assert_eq!(bench.request(kind, 0, &list, 0).status, status, "{kind} {bad:x?}");
            let contents = bench.disk.0.lock().unwrap();
            assert!(contents.discards.is_empty() && contents.bytes[512] == 1, "{kind} {bad:x?}");
        }
    }
    // To unmap is for writes of zeroes only.
    check(writable(), 11, 0, &extent(0, 1, 1), 0, UNSUPP);
    check(writable(), 13, 0, &extent(0, 1, 1), 0, OK);
    check(writable(), 11, 0, &[], 0, OK);
}

#[test]
fn what_the_host_cannot_discard_is_unsupported() {
    let mut bench = bench(writable());
    bench.disk.0.lock().unwrap().plain = true;
    bench.disk.0.lock().unwrap().broken = true;
    assert_eq!(bench.request(11, 0, &extent(0, 1, 0), 0).status, UNSUPP);
    assert_eq!(bench.request(13, 0, &extent(0, 1, 0), 0).status, IOERR);
    assert_eq!(bench.metrics.execute_fails.count(), 2);
}

#[test]
fn extents_have_limits() {
    let disk = Disk { len: 1 << 40, read_only: false };
    for (action, sectors_max) in
        [(Action::Discard, DISCARD_SECTORS_MAX), (Action::WriteZeroes, ZERO_SECTORS_MAX)]
    {
        let len = u64::from(sectors_max) * 512;
        let expected = Extent { offset: 512, len, may_unmap: false };
        assert_eq!(extents(action, &extent(1, sectors_max, 0), disk), Ok(vec![expected]));
        let refused = Err(Refusal::Failed(Fault::TooMuch));
        assert_eq!(extents(action, &extent(1, sectors_max + 1, 0), disk), refused);
        let many = extent(1, 1, 0).repeat(EXTENTS_MAX + 1);
        assert_eq!(extents(action, &many, disk), refused);
    }
}

#[test]
fn flushes_reach_the_disk_if_it_writes_back() {
    for (options, expected) in [(writable(), 1), (BlockOptions::default(), 0)] {
        let mut bench = bench(options);
        assert_eq!(bench.request(4, 0, &[], 0).status, OK);
        assert_eq!(bench.disk.0.lock().unwrap().flushes, expected);
    }
}

#[test]
fn the_identity_is_twenty_bytes() {
    let mut bench = bench(writable());
    let answer = bench.request(8, 0, &[], 20);
    assert_eq!((answer.status, answer.used), (OK, 21));
    assert!(answer.data.starts_with(b"a disk\0"));
    assert_eq!(bench.request(8, 0, &[], 19).status, IOERR);
    assert_eq!(bench.request(8, 0, &[], 64).used, 21);
}

#[test]
fn host_failures_are_io_errors_and_are_logged_as_written() {
    let mut bench = bench(writable());
    bench.disk.0.lock().unwrap().broken = true;
    for region in bench.memory.iter() {
        (**region).bitmap().take_dirty();
    }
    let answer = bench.request(0, 0, &[], 8192);
    assert_eq!((answer.status, answer.used), (IOERR, 1));
    // What a failed read left in the guest's memory is not known, so it counts as written.
    let region = bench.memory.iter().next().unwrap();
    let dirty = (**region).bitmap().take_dirty();
    assert!([0x101, 0x102].iter().all(|page| dirty.contains(page)), "{dirty:x?}");
    assert_eq!(bench.request(1, 0, &[0; 512], 0).status, IOERR);
}

#[test]
fn data_go_to_the_log_of_written_pages() {
    let mut bench = bench(writable());
    let region = bench.memory.iter().next().unwrap();
    assert!(!(**region).bitmap().dirty_at(0x10_1000));
    bench.request(0, 0, &[], 8192);
    let region = bench.memory.iter().next().unwrap();
    assert!((**region).bitmap().dirty_at(0x10_1000));
}

#[test]
fn any_cut_of_a_request_will_do() {
    let mut bench = bench(writable());
    let head = bench.driver.allocate_with(&header(0, 5));
    let into = bench.driver.allocate(513);
    let cut = [
        Buffer::Out(head, 1),
        Buffer::Out(head + 1, 15),
        Buffer::In(into, 200),
        Buffer::In(into + 200, 313),
    ];
    bench.driver.add_indirect(0, &cut);
    assert_eq!(bench.complete().len, 513);
    assert_eq!(bench.driver.peek(into, 513), [vec![5; 512], vec![OK]].concat());
}

/// Sends `buffers` as they are; the device returns them with `used` bytes written.
fn check_odd(buffers: &[Buffer], used: u32) {
    let mut bench = bench(writable());
    bench.driver.poke(0x8000, &header(0, 0));
    let head = bench.driver.add(0, buffers);
    assert_eq!(bench.complete(), Used { head: head.into(), len: used }, "{buffers:x?}");
    assert_eq!(bench.driver.status(), Status(15), "{buffers:x?}");
    // And goes on.
    assert_eq!(bench.request(0, 1, &[], 512).status, OK, "{buffers:x?}");
}

#[test]
fn odd_requests_come_back() {
    let hole = 0xC000_0000;
    // No header, no status, neither.
    check_odd(&[Buffer::In(0x9000, 513)], 0);
    check_odd(&[Buffer::Out(0x8000, 15), Buffer::In(0x9000, 513)], 0);
    check_odd(&[Buffer::Out(0x8000, 16)], 0);
    check_odd(&[Buffer::Out(0x8000, 16), Buffer::In(0x9000, 0)], 0);
    check_odd(&[Buffer::Out(0x8000, 0)], 0);
    // Not RAM: header, data, status.
    check_odd(&[Buffer::Out(hole, 16), Buffer::In(0x9000, 513)], 0);
    check_odd(&[Buffer::Out(0x8000, 16), Buffer::In(hole, 512), Buffer::In(0x9000, 1)], 1);
    check_odd(&[Buffer::Out(0x8000, 16), Buffer::In(0x9000, 512), Buffer::In(hole, 1)], 0);
    check_odd(&[Buffer::Out(0x8000, 16), Buffer::In(RAM_SIZE - 512, 513)], 0);
    check_odd(
        &[Buffer::Out(0x8000, 16), Buffer::In(u64::MAX - 511, 512), Buffer::In(0x9000, 1)],
        1,
    );
    // More than a request may be.
    check_odd(&[Buffer::Out(0x8000, 16), Buffer::In(0x9000, 1 << 31), Buffer::In(0x9000, 1)], 1);
    // Header and status in the same place.
    check_odd(&[Buffer::Out(0x8000, 16), Buffer::In(0x8000, 1)], 1);
}

#[test]
fn new_contents_show_a_new_capacity() {
    let bench = bench(writable());
    let bigger = MemoryDisk::default();
    bigger.0.lock().unwrap().bytes = vec![7; 1 << 20];
    bench.transport.update_config(|block| block.replace(bigger));
    assert_eq!(bench.driver.take_interrupt(), 2);
    assert_eq!(bench.driver.config(0, 8), 2048u64.to_le_bytes());
}

#[test]
fn a_root_keeps_its_identity() {
    for (fixed, expected) in [(false, &b"another disk"[..]), (true, b"a disk")] {
        let disk = MemoryDisk::new();
        let block = Block::new(disk.clone(), writable());
        let block = if fixed { block.with_fixed_id() } else { block };
        let mut bench = bench_over(disk, block);
        let other = MemoryDisk::default();
        other.0.lock().unwrap().bytes = vec![7; 1 << 20];
        bench.transport.update_config(|block| block.replace(other));
        assert!(bench.request(8, 0, &[], 20).data.starts_with(expected));
        assert_eq!(bench.metrics.update_count.count(), 1);
    }
}

/// A clock that is set by hand, and what was asked of it.
#[derive(Clone, Default)]
struct Clock(Arc<Mutex<(Duration, Option<Duration>)>>);

impl Alarm for Clock {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().0
    }
    fn set(&self, delay: Duration) {
        self.0.lock().unwrap().1 = Some(delay);
    }
}

#[test]
fn a_limit_keeps_requests_in_the_queue() {
    let clock = Clock::default();
    let bucket = |size| spec::TokenBucket::new(size, 0, 1000);
    let limits = spec::RateLimiter { bandwidth: bucket(4096), ops: bucket(100) };
    let limiter = RateLimiter::new(limits, Box::new(clock.clone()));
    let disk = MemoryDisk::new();
    let mut bench = bench_over(disk.clone(), Block::new(disk, writable()).with_limiter(limiter));
    assert_eq!(bench.request(0, 0, &[], 4096).status, OK);
    let sent = [bench.send(0, 1, &[], 2048), bench.send(1, 2, &[9; 512], 0)];
    bench.driver.kick(0);
    assert_eq!(bench.driver.take_used(0), None);
    assert_eq!(bench.driver.peek(sent[0].status, 1), [UNTOUCHED]);
    let alarm = clock.0.lock().unwrap().1.take().unwrap();
    assert_eq!(alarm, Duration::from_millis(500));
    clock.0.lock().unwrap().0 = alarm;
    bench.transport.notify(0);
    // The second has to wait for its own tokens.
    assert_eq!(bench.driver.take_used(0).map(|used| used.len), Some(2049));
    assert_eq!(bench.driver.take_used(0), None);
    assert_eq!(bench.metrics.rate_limiter_throttled_events.count(), 2);
    assert_eq!(bench.metrics.rate_limiter_event_count.count(), 1);
    // The limit goes, and with it the waiting.
    bench.transport.update(|block| {
        block.limiter().unwrap().update(Change::Remove, Change::Keep);
    });
    bench.transport.notify(0);
    assert_eq!(bench.driver.take_used(0).map(|used| used.len), Some(1));
    assert_eq!(bench.driver.peek(sent[1].status, 1), [OK]);
    let metrics = &bench.metrics;
    assert_eq!((metrics.read_count.count(), metrics.read_bytes.count()), (2, 6144));
    assert_eq!((metrics.write_count.count(), metrics.write_bytes.count()), (1, 512));
}

/// A disk whose transfers end when the test wants, in any order.
#[derive(Clone, Default)]
struct SlowDisk(Arc<Mutex<Slow>>);

#[derive(Default)]
struct Slow {
    disk: MemoryDisk,
    begun: Vec<Held>,
    submitted: usize,
    ended: Vec<(Tag, io::Result<()>)>,
    waits: u32,
}

/// A transfer, with its slices as guest addresses.
struct Held {
    tag: Tag,
    memory: Arc<GuestMemory>,
    kind: u32,
    offset: u64,
    at: Vec<(u64, usize)>,
}

impl SlowDisk {
    /// How often it was waited for, and how much is on its way.
    fn counts(&self) -> (u32, usize) {
        let slow = self.0.lock().unwrap();
        (slow.waits, slow.begun.len())
    }

    /// Ends the transfer that was begun as number `index` of those that are on their way.
    fn end(&self, index: usize) {
        let mut slow = self.0.lock().unwrap();
        let Slow { disk, begun, ended, .. } = &mut *slow;
        let Held { tag, memory, kind, offset, at } = begun.remove(index);
        let slices: Vec<_> = at
            .into_iter()
            .map(|(at, len)| memory.get_slice(memory::GuestAddress(at), len).unwrap())
            .collect();
        let result = match kind {
            0 => disk.read_at(offset, &slices),
            1 => disk.write_at(offset, &slices),
            _ => disk.flush(),
        };
        // As the kernel does it: past the log.
        memory.iter().for_each(|region| _ = (**region).bitmap().take_dirty());
        ended.push((tag, result));
    }
}

impl BlockBackend for SlowDisk {
    fn len(&self) -> u64 {
        SECTORS as u64 * 512
    }
    fn read_at(&mut self, _: u64, _: &[GuestSlice<'_>]) -> io::Result<()> {
        panic!("the device begins transfers")
    }
    fn write_at(&mut self, _: u64, _: &[GuestSlice<'_>]) -> io::Result<()> {
        panic!("the device begins transfers")
    }
    fn flush(&mut self) -> io::Result<()> {
        panic!("the device begins transfers")
    }
    fn id(&self) -> [u8; 20] {
        [b's'; 20]
    }
    fn begin(&mut self, tag: Tag, memory: &Arc<GuestMemory>, transfer: Transfer<'_>) -> Begun {
        let mut slow = self.0.lock().unwrap();
        assert!(tag < IN_FLIGHT_MAX && slow.begun.iter().all(|held| held.tag != tag));
        let (kind, offset, slices) = match transfer {
            Transfer::Read { offset, into } => (0, offset, into),
            Transfer::Write { offset, from } => (1, offset, from),
            Transfer::Flush => (4, 0, &[][..]),
        };
        let base = memory.get_host_address(memory::GuestAddress(0)).unwrap() as u64;
        let at = slices.iter().map(|s| (s.ptr_guard().as_ptr() as u64 - base, s.len())).collect();
        slow.begun.push(Held { tag, memory: memory.clone(), kind, offset, at });
        Begun::OnItsWay
    }
    fn submit(&mut self) {
        let mut slow = self.0.lock().unwrap();
        slow.submitted = slow.begun.len();
    }
    fn ended(&mut self) -> Option<(Tag, io::Result<()>)> {
        self.0.lock().unwrap().ended.pop()
    }
    fn wait(&mut self) {
        self.0.lock().unwrap().waits += 1;
        while !self.0.lock().unwrap().begun.is_empty() {
            self.end(0);
        }
    }
}

fn slow_bench() -> Bench<SlowDisk> {
    let disk = SlowDisk::default();
    disk.0.lock().unwrap().disk = MemoryDisk::new();
    bench_over(disk.clone(), Block::new(disk, writable()))
}

#[test]
fn transfers_end_in_any_order() {
    let mut bench = slow_bench();
    let sent =
        [bench.send(0, 3, &[], 512), bench.send(1, 3, &[8; 512], 0), bench.send(4, 0, &[], 0)];
    bench.driver.kick(0);
    assert_eq!(bench.disk.0.lock().unwrap().submitted, 3);
    assert_eq!(bench.driver.take_used(0), None);
    bench.disk.end(1);
    bench.disk.end(1);
    bench.transport.notify(0);
    assert_eq!(bench.driver.take_interrupt(), 1);
    let heads = [bench.driver.take_used(0), bench.driver.take_used(0), bench.driver.take_used(0)];
    assert_eq!(heads.map(|used| used.map(|used| used.len)), [Some(1), Some(1), None]);
    let status = |bench: &Bench<SlowDisk>| sent.map(|sent| bench.driver.peek(sent.status, 1)[0]);
    assert_eq!(status(&bench), [UNTOUCHED, OK, OK]);
    bench.disk.end(0);
    bench.transport.notify(0);
    assert_eq!(bench.driver.take_used(0), Some(Used { head: 0, len: 513 }));
    assert_eq!((status(&bench), bench.driver.peek(sent[0].into, 512)), ([OK; 3], vec![8; 512]));
    let region = bench.memory.iter().next().unwrap();
    assert!((**region).bitmap().dirty_at(sent[0].into as usize), "the log was told at the end");
}

#[test]
fn so_many_are_on_their_way_and_no_more() {
    let mut bench = slow_bench();
    let total = usize::from(IN_FLIGHT_MAX) + 20;
    for _ in 0..total {
        bench.send(0, 0, &[], 512);
    }
    bench.driver.kick(0);
    let on_their_way = |bench: &Bench<SlowDisk>| bench.disk.counts().1;
    assert_eq!(on_their_way(&bench), usize::from(IN_FLIGHT_MAX));
    assert_eq!(bench.metrics.io_engine_throttled_events.count(), 1);
    for _ in 0..15 {
        bench.disk.end(7);
    }
    bench.transport.notify(0);
    assert_eq!(on_their_way(&bench), usize::from(IN_FLIGHT_MAX));
    let mut used = 0;
    while on_their_way(&bench) > 0 {
        bench.disk.end(0);
        bench.transport.notify(0);
    }
    while bench.driver.take_used(0).is_some() {
        used += 1;
    }
    assert_eq!((used, bench.metrics.read_count.count()), (total, total as u64));
}

#[test]
fn a_reset_waits_and_leaves_nothing() {
    let mut bench = slow_bench();
    let sent = bench.send(0, 3, &[], 512);
    bench.driver.kick(0);
    bench.driver.write(Register::Status, 0);
    assert_eq!(bench.disk.counts(), (1, 0));
    // Nobody is told of it, but the log.
    assert_eq!(bench.driver.peek(sent.status, 1), [UNTOUCHED]);
    let region = bench.memory.iter().next().unwrap();
    assert!((**region).bitmap().dirty_at(sent.into as usize));
    // And the device starts anew.
    bench.driver.negotiate(!0);
    bench.driver.set_up_queues(256);
    bench.driver.write(Register::Status, 15);
    bench.send(0, 3, &[], 512);
    bench.driver.kick(0);
    bench.disk.end(0);
    bench.transport.notify(0);
    assert_eq!(bench.driver.take_used(0).map(|used| used.len), Some(513));
    assert_eq!(bench.driver.take_used(0), None);
}

#[test]
fn new_contents_wait_for_the_old() {
    let mut bench = slow_bench();
    let sent = bench.send(1, 3, &[8; 512], 0);
    bench.driver.kick(0);
    let other = SlowDisk::default();
    other.0.lock().unwrap().disk = MemoryDisk::new();
    let old = bench.transport.update_config(|block| block.replace(other));
    assert_eq!(bench.driver.take_used(0).map(|used| used.len), Some(1));
    assert_eq!((bench.driver.peek(sent.status, 1)[0], bench.driver.take_interrupt()), (OK, 3));
    let slow = old.0.lock().unwrap();
    assert_eq!(slow.disk.0.lock().unwrap().bytes[3 * 512], 8);
}

fn check_decode(
    kind: u32,
    sector: u64,
    lens: (u64, u64),
    expected: Result<Result<Operation, Refusal>, Unanswerable>,
) {
    let header: [u8; 16] = header(kind, sector).try_into().unwrap();
    let disk = Disk { len: 1 << 30, read_only: false };
    let request = Request::decode(header, lens.0, lens.1, disk).map(|r| r.operation);
    assert_eq!(request, expected, "{kind} {sector} {lens:?}");
}

#[test]
fn decoding_is_pure() {
    let refused = |fault| Ok(Err(Refusal::Failed(fault)));
    check_decode(0, 2, (16, 513), Ok(Ok(Operation::Read { offset: 1024, data: 0..512 })));
    check_decode(0, 2, (99, 513), Ok(Ok(Operation::Read { offset: 1024, data: 0..512 })));
    check_decode(1, 2, (528, 1), Ok(Ok(Operation::Write { offset: 1024, data: 16..528 })));
    check_decode(4, 9, (16, 1), Ok(Ok(Operation::Flush)));
    check_decode(8, 9, (16, 21), Ok(Ok(Operation::GetId { data: 0..20 })));
    check_decode(8, 9, (16, 20), refused(Fault::NoRoom));
    check_decode(0, 0, (16, (64 << 20) + 513), refused(Fault::TooMuch));
    check_decode(0, 0, (16, 2), refused(Fault::Length));
    check_decode(0, u64::MAX, (16, 513), refused(Fault::OutOfRange));
    check_decode(77, 0, (16, 1), Ok(Err(Refusal::Unsupported { kind: 77 })));
    let list = |action, end| Ok(Ok(Operation::Extents { action, list: 16..end }));
    check_decode(11, 0, (32, 1), list(Action::Discard, 32));
    check_decode(13, 0, (16, 1), list(Action::WriteZeroes, 16));
    check_decode(13, 0, (16 + 257, 1), refused(Fault::TooMuch));
    check_decode(0, 0, (15, 1), Err(Unanswerable::NoHeader));
    check_decode(0, 0, (16, 0), Err(Unanswerable::NoStatus));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_decoded_is_on_the_disk(
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0u64..5000, any::<u64>()],
        readable in 0u64..1 << 33,
        writable in prop_oneof![(0u64..300_000).prop_map(|s| s * 512 + 1), 0u64..1 << 33],
        sectors in 0u64..4096,
    ) {
        let header: [u8; 16] = header(kind, sector).try_into().unwrap();
        let disk = Disk { len: sectors * 512, read_only: false };
        let Ok(request) = Request::decode(header, readable, writable, disk) else { return Ok(()) };
        prop_assert_eq!(request.status_at, writable - 1);
        let (offset, data, room) = match request.operation {
            Ok(Operation::Read { offset, data }) => (offset, data, writable - 1),
            Ok(Operation::Write { offset, data }) => (offset, data, readable),
            Ok(Operation::GetId { data }) => (0, data, writable - 1),
            Ok(Operation::Extents { list, .. }) => (0, list, readable),
            Ok(Operation::Flush) | Err(_) => return Ok(()),
        };
        prop_assert!(data.start <= data.end && data.end <= room);
        if kind < 2 {
            prop_assert!(offset + (data.end - data.start) <= disk.len);
        }
    }

    #[test]
    fn extents_are_on_the_disk(
        list in prop::collection::vec((0u64..300, 0u32..300, 0u32..3), 0..EXTENTS_MAX + 2),
        odd in prop::collection::vec(any::<u8>(), 0..20),
        zeroes in any::<bool>(),
        sectors in 0u64..300,
    ) {
        let mut bytes: Vec<u8> = list.iter().flat_map(|e| extent(e.0, e.1, e.2)).collect();
        bytes.extend(odd);
        let action = if zeroes { Action::WriteZeroes } else { Action::Discard };
        let disk = Disk { len: sectors * 512, read_only: false };
        for extent in extents(action, &bytes, disk).unwrap_or_default() {
            prop_assert!(extent.offset + extent.len <= disk.len);
            prop_assert!(zeroes || !extent.may_unmap);
        }
    }

    #[test]
    fn arbitrary_requests_stay_in_their_buffers(
        head in prop::collection::vec(any::<u8>(), 16),
        kind in prop_oneof![Just(0u8), Just(1), Just(4), Just(8), Just(11), Just(13), any::<u8>()],
        sector in 0u64..70,
        cuts in prop::collection::vec((any::<bool>(), 0u64..0x8000, 0u32..3000), 0..6),
    ) {
        let mut bench = bench(writable());
        let mut head = head;
        head[..4].copy_from_slice(&[kind, 0, 0, 0]);
        head[8..].copy_from_slice(&sector.to_le_bytes());
        bench.driver.poke(0x10_0000, &head);
        let mut buffers = vec![Buffer::Out(0x10_0000, 16)];
        buffers.extend(cuts.iter().filter(|c| !c.0).map(|c| Buffer::Out(0x11_0000 + c.1, c.2)));
        buffers.extend(cuts.iter().filter(|c| c.0).map(|c| Buffer::In(0x20_0000 + c.1, c.2)));
        bench.driver.add(0, &buffers);
        let before = bench.driver.peek(0, RAM_SIZE as usize);
        bench.complete();
        let after = bench.driver.peek(0, RAM_SIZE as usize);
        let inside = |at: u64| buffers.iter().any(|b| match b {
            Buffer::In(start, len) => (*start..start + u64::from(*len)).contains(&at),
            Buffer::Out(..) => false,
        });
        // The rings: all but the used ring, from 0x3000 on, are the driver's.
        prop_assert_eq!(&after[..0x3000], &before[..0x3000]);
        for page in (0x4000..before.len()).step_by(4096) {
            let (old, new) = (&before[page..page + 4096], &after[page..page + 4096]);
            for at in if old == new { 0..0 } else { 0..4096 } {
                prop_assert!(old[at] == new[at] || inside((page + at) as u64), "{:#x}", page + at);
            }
        }
    }
}
