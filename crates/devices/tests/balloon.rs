//! The balloon through the eyes of a driver, right and wrong.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memory::{Bytes, GuestAddress, GuestMemory};
use metrics::BalloonMetrics;
use proptest::prelude::*;
use sparkler_devices::Alarm;
use sparkler_devices::balloon::{Balloon, BalloonError, BalloonStats, HintingStatus, STATS_QUEUE};
use virtio::mock::{BUFFERS, Buffer, CountingLine, MockDriver, RAM_SIZE, ram};
use virtio::{MmioTransport, Notify, Status};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = STATS_QUEUE as usize;

/// A page of RAM that no ring and no buffer of the tests is in.
const FREE: u64 = 0x200;
const PAGES: u64 = RAM_SIZE / 4096;

/// A clock that is set by hand, and what was asked of it.
#[derive(Clone, Default)]
struct Clock {
    now_s: Arc<AtomicU64>,
    set: Arc<Mutex<Option<Duration>>>,
}

impl Alarm for Clock {
    fn now(&self) -> Duration {
        Duration::from_secs(self.now_s.load(Ordering::SeqCst))
    }
    fn set(&self, delay: Duration) {
        *self.set.lock().unwrap() = Some(delay);
    }
}

struct Bench {
    transport: Arc<MmioTransport<Balloon>>,
    driver: MockDriver,
    memory: Arc<GuestMemory>,
    metrics: Arc<BalloonMetrics>,
    clock: Clock,
}

fn everything() -> spec::Balloon {
    spec::Balloon {
        amount_mib: 1,
        deflate_on_oom: true,
        stats_interval_s: 5,
        free_page_hinting: true,
        free_page_reporting: true,
    }
}

/// A balloon and its driver, over RAM that is full of 0xAA above the buffers.
fn bench_with(settings: spec::Balloon, features: u64) -> Bench {
    let (memory, clock) = (ram(), Clock::default());
    let metrics = Arc::new(BalloonMetrics::default());
    let line = Arc::new(CountingLine::default());
    let balloon = Balloon::new(settings, Box::new(clock.clone()), metrics.clone());
    let transport = Arc::new(MmioTransport::new(balloon, memory.clone(), line).unwrap());
    let driver = MockDriver::start(transport.clone(), memory.clone(), features);
    fill(&memory);
    Bench { transport, driver, memory, metrics, clock }
}

fn bench() -> Bench {
    bench_with(everything(), !0)
}

fn fill(memory: &GuestMemory) {
    let len = (RAM_SIZE - FREE * 4096) as usize;
    memory.write_slice(&vec![0xAA; len], GuestAddress(FREE * 4096)).unwrap();
}

/// The pages from [`FREE`] on that hold zeroes; every other one is untouched.
fn zeroed(memory: &GuestMemory) -> Vec<u64> {
    let mut page = [0; 4096];
    let pages = (FREE..PAGES).filter(|number| {
        memory.read_slice(&mut page, GuestAddress(number * 4096)).unwrap();
        let zero = page == [0; 4096];
        assert!(zero || page == [0xAA; 4096], "page {number:#x} is torn");
        zero
    });
    pages.collect()
}

fn list(frames: &[u32]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.to_le_bytes()).collect()
}

impl Bench {
    /// Sends `buffers` and takes the answer.
    fn send(&mut self, queue: usize, buffers: &[Buffer]) {
        let head = self.driver.add(queue, buffers);
        self.driver.kick(queue);
        let used = self.driver.take_used(queue).expect("the balloon answers");
        assert_eq!((used.head, used.len), (head.into(), 0));
        assert_eq!(self.driver.status(), Status(15));
    }

    fn inflate(&mut self, frames: &[u32]) {
        let list = list(frames);
        let at = self.driver.allocate_with(&list);
        self.send(INFLATE, &[Buffer::Out(at, list.len() as u32)]);
    }

    fn command(&mut self, id: u32) {
        let at = self.driver.allocate_with(&id.to_le_bytes());
        self.send(3, &[Buffer::Out(at, 4)]);
    }

    fn hint(&mut self, page: u64) {
        self.send(3, &[Buffer::In(page * 4096, 4096)]);
    }

    fn balloon<R>(&self, change: impl FnOnce(&mut Balloon) -> R) -> R {
        self.transport.update_config(change)
    }

    fn config(&self) -> [u32; 3] {
        let bytes = self.driver.config(0, 12);
        std::array::from_fn(|i| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()))
    }
}

/// Which features and how many queues there are.
fn check_offer(settings: spec::Balloon, features: u64, queues: usize) {
    let bench = bench_with(settings, !0);
    assert_eq!(bench.driver.offered() & 0xFFF, features, "{settings:?}");
    let transport = bench.transport.state();
    assert_eq!((transport.device_type, transport.queues.len()), (5, queues), "{settings:?}");
}

#[test]
fn what_is_asked_for_is_offered() {
    let none = spec::Balloon::default();
    check_offer(none, 0, 2);
    check_offer(spec::Balloon { deflate_on_oom: true, ..none }, 0b100, 2);
    check_offer(spec::Balloon { stats_interval_s: 1, ..none }, 0b10, 3);
    check_offer(spec::Balloon { free_page_hinting: true, ..none }, 0b1000, 3);
    check_offer(spec::Balloon { free_page_reporting: true, ..none }, 0b10_0000, 3);
    check_offer(everything(), 0b10_1110, 5);
}

fn check_inflate(frames: &[u32], expected: &[u64]) {
    let mut bench = bench();
    bench.inflate(frames);
    assert_eq!(zeroed(&bench.memory), expected, "{frames:x?}");
}

#[test]
fn inflated_pages_are_discarded() {
    check_inflate(&[0x210], &[0x210]);
    check_inflate(&[0x212, 0x210, 0x211], &[0x210, 0x211, 0x212]);
    check_inflate(&[0x210, 0x210, 0x3FF], &[0x210, 0x3FF]);
    check_inflate(&[], &[]);
    // Beyond the RAM's end, and far beyond; its last page is given back nevertheless.
    check_inflate(&[0x3FF, 0x400, 0x401, u32::MAX, 0xC_0000], &[0x3FF]);
    let all: Vec<u32> = (0x200..0x300).rev().collect();
    check_inflate(&all, &(0x200..0x300).collect::<Vec<_>>());
}

#[test]
fn lists_that_make_no_sense_are_ignored() {
    let mut bench = bench();
    let frames: Vec<u32> = (0x200..0x301).collect();
    bench.inflate(&frames);
    assert_eq!(bench.metrics.event_fails.count(), 1);
    let at = bench.driver.allocate_with(&list(&[0x210, 0x211]));
    bench.send(INFLATE, &[Buffer::In(at, 8)]);
    bench.send(INFLATE, &[Buffer::Out(0xC000_0000, 8)]);
    assert_eq!(bench.metrics.event_fails.count(), 2);
    assert_eq!(zeroed(&bench.memory), [0u64; 0]);
    // Half a number at the end; and a list in pieces.
    bench.send(INFLATE, &[Buffer::Out(at, 3), Buffer::Out(at + 3, 4)]);
    assert_eq!(zeroed(&bench.memory), [0x210]);
}

#[test]
fn deflating_is_free() {
    let mut bench = bench();
    bench.inflate(&[0x210]);
    bench.memory.write_slice(&[0xAA; 4096], GuestAddress(0x21_0000)).unwrap();
    let at = bench.driver.allocate_with(&list(&[0x210]));
    bench.send(DEFLATE, &[Buffer::Out(at, 4)]);
    assert_eq!(zeroed(&bench.memory), [0u64; 0]);
    assert_eq!((bench.metrics.inflate_count.count(), bench.metrics.deflate_count.count()), (1, 1));
}

#[test]
fn the_amount_is_in_the_configuration() {
    let bench = bench();
    assert_eq!(bench.config(), [256, 0, 0]);
    assert_eq!(bench.balloon(|b| b.set_amount(4)), Ok(()));
    assert_eq!(bench.driver.take_interrupt(), 2);
    assert_eq!((bench.config()[0], bench.balloon(|b| b.settings().amount_mib)), (1024, 4));
    assert_eq!(bench.balloon(|b| b.set_amount(5)), Err(BalloonError::TooMuch(5)));
    assert_eq!(bench.config()[0], 1024);
    // The driver writes how much there is, and nothing else.
    use bus::Device;
    bench.transport.write(0x104, &77u32.to_le_bytes());
    bench.transport.write(0x100, &88u32.to_le_bytes());
    bench.transport.write(0x108, &99u32.to_le_bytes());
    bench.transport.write(0x104, &[1; 8]);
    bench.transport.write(0x105, &[1]);
    bench.transport.write(0x1_0000_0000, &[1; 4]);
    assert_eq!(bench.config(), [1024, 77, 0]);
}

#[test]
fn nothing_works_before_the_driver_is_there() {
    let metrics = Arc::new(BalloonMetrics::default());
    let mut balloon = Balloon::new(everything(), Box::new(Clock::default()), metrics.clone());
    assert_eq!(balloon.set_amount(1), Err(BalloonError::NotActive));
    assert_eq!(balloon.start_hinting(true), Err(BalloonError::NotActive));
    assert_eq!(balloon.stop_hinting(), Err(BalloonError::NotActive));
    let mut bare = Balloon::new(spec::Balloon::default(), Box::new(Clock::default()), metrics);
    assert_eq!(bare.stats(), Err(BalloonError::StatsDisabled));
    assert_eq!(bare.set_stats_interval(0), Ok(()));
    assert_eq!(bare.set_stats_interval(1), Err(BalloonError::StatsFixed));
    assert_eq!(bare.start_hinting(true), Err(BalloonError::HintingNotEnabled));
    assert_eq!(bare.stop_hinting(), Err(BalloonError::HintingNotEnabled));
    assert_eq!(bare.hinting_status(), Err(BalloonError::HintingNotEnabled));
}

fn stat(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn statistics_are_asked_for_in_time() {
    let mut bench = bench();
    let alarm = |bench: &Bench| bench.clock.set.lock().unwrap().take();
    assert_eq!(alarm(&bench), Some(Duration::from_secs(5)));
    let stats = [stat(4, 1000), stat(15, 7), stat(99, 1), vec![5, 0, 1]].concat();
    let at = bench.driver.allocate_with(&stats);
    let head = bench.driver.add(STATS, &[Buffer::Out(at, stats.len() as u32)]);
    bench.driver.kick(STATS);
    let expected = BalloonStats {
        target_pages: 256,
        target_mib: 1,
        free_memory: Some(1000),
        direct_reclaim: Some(7),
        ..BalloonStats::default()
    };
    assert_eq!(bench.balloon(|b| b.stats()), Ok(expected.clone()));
    assert_eq!(bench.metrics.stats_update_fails.count(), 1);
    // The buffer comes back after five seconds, not before.
    bench.clock.now_s.store(4, Ordering::SeqCst);
    bench.transport.notify(STATS_QUEUE);
    assert_eq!((bench.driver.take_used(STATS), alarm(&bench)), (None, None));
    bench.driver.take_interrupt();
    bench.clock.now_s.store(5, Ordering::SeqCst);
    bench.transport.notify(STATS_QUEUE);
    assert_eq!(bench.driver.take_used(STATS).map(|used| used.head), Some(head.into()));
    assert_eq!(bench.driver.take_interrupt(), 1);
    assert_eq!(alarm(&bench), Some(Duration::from_secs(5)));
    // The driver does not answer: nothing to return, and the next time comes.
    bench.clock.now_s.store(10, Ordering::SeqCst);
    bench.transport.notify(STATS_QUEUE);
    assert_eq!(
        (bench.driver.take_used(STATS), alarm(&bench)),
        (None, Some(Duration::from_secs(5)))
    );
    // What it does not mention stays.
    bench.driver.poke(at, &stat(5, 2000));
    bench.driver.add(STATS, &[Buffer::Out(at, 10)]);
    bench.driver.kick(STATS);
    let expected = BalloonStats { total_memory: Some(2000), ..expected };
    assert_eq!(bench.balloon(|b| b.stats()), Ok(expected));
    // A new interval asks at once.
    assert_eq!(bench.balloon(|b| b.set_stats_interval(5)), Ok(()));
    assert_eq!(alarm(&bench), None);
    assert_eq!(bench.balloon(|b| b.set_stats_interval(60)), Ok(()));
    assert_eq!(alarm(&bench), Some(Duration::ZERO));
    bench.transport.notify(STATS_QUEUE);
    assert!(bench.driver.take_used(STATS).is_some());
    assert_eq!(alarm(&bench), Some(Duration::from_secs(60)));
    assert_eq!(bench.balloon(|b| b.set_stats_interval(0)), Err(BalloonError::StatsFixed));
}

#[test]
fn odd_statistics_come_back() {
    let mut bench = bench();
    let heads: Vec<u16> = [
        Buffer::Out(0xC000_0000, 10),
        Buffer::Out(BUFFERS, 0x10_0000),
        Buffer::In(BUFFERS, 10),
        Buffer::Out(BUFFERS, 0),
    ]
    .map(|buffer| bench.driver.add(STATS, &[buffer]))
    .to_vec();
    bench.driver.kick(STATS);
    // All but the last, which is kept for the next time.
    for head in &heads[..3] {
        assert_eq!(bench.driver.take_used(STATS).map(|used| used.head), Some((*head).into()));
    }
    assert_eq!(bench.driver.take_used(STATS), None);
    assert_eq!(bench.metrics.stats_update_fails.count(), 1);
    assert_eq!(bench.driver.status(), Status(15));
    // A reset forgets the buffer.
    bench.driver.negotiate(!0);
    bench.driver.set_up_queues(256);
    bench.driver.write(virtio::Register::Status, 15);
    bench.clock.now_s.store(100, Ordering::SeqCst);
    bench.transport.notify(STATS_QUEUE);
    assert_eq!(bench.driver.take_used(STATS), None);
}

#[test]
fn hints_count_while_the_commands_agree() {
    let mut bench = bench();
    bench.hint(0x210);
    assert_eq!(zeroed(&bench.memory), [0u64; 0]);
    bench.driver.take_interrupt();
    assert_eq!(bench.balloon(|b| b.start_hinting(true)), Ok(()));
    assert_eq!((bench.driver.take_interrupt(), bench.config()[2]), (2, 2));
    bench.hint(0x211);
    bench.command(2);
    bench.hint(0x212);
    bench.send(3, &[Buffer::In(0x21_4000, 8192), Buffer::In(0xC000_0000, 4096)]);
    bench.driver.take_interrupt();
    bench.command(0);
    assert_eq!((bench.driver.take_interrupt(), bench.config()[2]), (2, 1));
    bench.hint(0x213);
    assert_eq!(zeroed(&bench.memory), [0x212, 0x214, 0x215]);
    let status = HintingStatus { host_cmd: 1, guest_cmd: Some(0) };
    assert_eq!(bench.balloon(|b| b.hinting_status()), Ok(status));
    let metrics = &bench.metrics;
    assert_eq!(
        (metrics.free_page_hint_count.count(), metrics.free_page_hint_fails.count()),
        (3, 1)
    );
    assert_eq!(metrics.free_page_hint_freed.count(), 3 * 4096);
    // Without acknowledgement, and stopped by hand.
    bench.balloon(|b| b.start_hinting(false)).unwrap();
    bench.command(3);
    bench.command(0);
    assert_eq!(bench.config()[2], 3);
    bench.balloon(|b| b.stop_hinting()).unwrap();
    assert_eq!(bench.config()[2], 1);
}

#[test]
fn reported_pages_are_discarded() {
    let mut bench = bench();
    bench
        .send(4, &[Buffer::In(0x21_0000, 0x3000), Buffer::In(0x22_0001, 0x2000), Buffer::In(5, 1)]);
    bench.send(4, &[Buffer::In(RAM_SIZE - 4096, 8192), Buffer::In(u64::MAX - 4095, 4096)]);
    bench.send(4, &[Buffer::Out(0x23_0000, 4096)]);
    assert_eq!(zeroed(&bench.memory), [0x210, 0x211, 0x212, 0x221]);
    let metrics = &bench.metrics;
    assert_eq!(metrics.free_page_report_count.count(), 5);
    assert_eq!(metrics.free_page_report_freed.count(), 4 * 4096);
    assert_eq!(metrics.free_page_report_fails.count(), 2);
}

#[test]
fn queues_move_up_for_what_the_driver_does_not_want() {
    // Reporting alone, of everything that is offered.
    let mut bench = bench_with(everything(), !0b1110);
    bench.send(2, &[Buffer::In(0x21_0000, 4096)]);
    assert_eq!(zeroed(&bench.memory), [0x210]);
    assert_eq!(bench.clock.set.lock().unwrap().take(), None);
    bench.driver.kick(3);
    bench.driver.kick(4);
    assert_eq!(bench.driver.status(), Status(15));
}

#[test]
fn the_host_gets_its_memory_back() {
    let resident_kib = || {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let memory = Arc::new(memory::allocate(&memory::ranges(256 << 20)).unwrap());
    let balloon = Balloon::new(everything(), Box::new(Clock::default()), Arc::default());
    let line = Arc::new(CountingLine::default());
    let transport = Arc::new(MmioTransport::new(balloon, memory.clone(), line).unwrap());
    let mut driver = MockDriver::start(transport, memory.clone(), !0);
    memory.write_slice(&vec![1; 128 << 20], GuestAddress(64 << 20)).unwrap();
    let full = resident_kib();
    let at = driver.allocate(1024);
    for first in (64 << 8..192 << 8).step_by(256) {
        let frames: Vec<u32> = (first..first + 256).collect();
        driver.poke(at, &list(&frames));
        driver.add(INFLATE, &[Buffer::Out(at, 1024)]);
        driver.kick(INFLATE);
        assert!(driver.take_used(INFLATE).is_some());
    }
    let left = resident_kib();
    // Other tests of this process may take some at the same time.
    assert!(left + (100 << 10) < full, "{full} KiB before, {left} KiB after");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn exactly_the_named_pages_become_zero(
        lists in prop::collection::vec(prop::collection::vec(
            prop_oneof![0x200u32..0x440, 0x3F0u32..0x410, 0x200u32..0x210, 0xF_0000u32..=u32::MAX],
            0..257,
        ), 0..4),
        ranges in prop::collection::vec((0x1F_F000u64..0x40_2000, 0u32..0x9000), 0..4),
    ) {
        let mut bench = bench();
        let mut expected = std::collections::BTreeSet::new();
        for frames in &lists {
            bench.inflate(frames);
            expected.extend(frames.iter().map(|f| u64::from(*f)).filter(|f| *f < PAGES));
        }
        for (start, len) in ranges {
            bench.send(4, &[Buffer::In(start, len)]);
            let end = start + u64::from(len);
            if end <= RAM_SIZE {
                expected.extend((start.div_ceil(4096)..end / 4096).filter(|page| *page >= FREE));
            }
        }
        prop_assert_eq!(zeroed(&bench.memory), expected.into_iter().collect::<Vec<_>>());
    }
}
