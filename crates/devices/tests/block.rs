//! The block device through the eyes of a driver, right and wrong.

use std::io;
use std::sync::{Arc, Mutex};

use memory::{GuestMemory, GuestMemoryBackend};
use proptest::prelude::*;
use sparkler_devices::block::request::{Disk, Fault, Operation, Refusal, Request, Unanswerable};
use sparkler_devices::block::{Block, BlockBackend, BlockOptions};
use virtio::mock::{Buffer, CountingLine, MockDriver, RAM_SIZE, Used, ram};
use virtio::{GuestSlice, MmioTransport, Status};

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
        *b"a disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    }
}

struct Bench {
    disk: MemoryDisk,
    transport: Arc<MmioTransport<Block<MemoryDisk>>>,
    driver: MockDriver,
    memory: Arc<GuestMemory>,
}

fn bench(options: BlockOptions) -> Bench {
    let (disk, memory) = (MemoryDisk::new(), ram());
    let line = Arc::new(CountingLine::default());
    let block = Block::new(disk.clone(), options);
    let transport = Arc::new(MmioTransport::new(block, memory.clone(), line).unwrap());
    let driver = MockDriver::start(transport.clone(), memory.clone(), !0);
    Bench { disk, transport, driver, memory }
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

impl Bench {
    /// Sends a request with data to write, or room of `room` bytes to read.
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> Answer {
        let head = self.driver.allocate_with(&header(kind, sector));
        let out = self.driver.allocate_with(data);
        let into = self.driver.allocate(room.into());
        let status = self.driver.allocate_with(&[UNTOUCHED]);
        self.driver.add(
            0,
            &[
                Buffer::Out(head, 16),
                Buffer::Out(out, data.len() as u32),
                Buffer::In(into, room),
                Buffer::In(status, 1),
            ],
        );
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
        (BlockOptions::default(), 0b100_0100),
        (BlockOptions { read_only: true, write_back: false }, 0b110_0100),
        (writable(), 0b10_0100_0100),
    ] {
        let bench = bench(options);
        assert_eq!(bench.driver.offered() & 0xFFF_FFFF, features, "{options:?}");
        assert_eq!(bench.driver.config(0, 8), (SECTORS as u64).to_le_bytes());
        assert_eq!(bench.driver.config(12, 4), 254u32.to_le_bytes());
        assert_eq!(bench.driver.config(20, 4), 512u32.to_le_bytes());
        assert_eq!(bench.driver.config(24, 4), [0; 4]);
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
    for kind in [2, 3, 11, 13, 14, 0x8000_0000, u32::MAX] {
        check(writable(), kind, 0, &[], 512, UNSUPP);
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
            Ok(Operation::Flush) | Err(_) => return Ok(()),
        };
        prop_assert!(data.start <= data.end && data.end <= room);
        if kind != 8 {
            prop_assert!(offset + (data.end - data.start) <= disk.len);
        }
    }

    #[test]
    fn arbitrary_requests_stay_in_their_buffers(
        head in prop::collection::vec(any::<u8>(), 16),
        kind in prop_oneof![Just(0u8), Just(1), Just(4), Just(8), any::<u8>()],
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
