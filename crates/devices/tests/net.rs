//! The network device through the eyes of a driver.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};
use metrics::NetMetrics;
use proptest::prelude::*;
use sparkler_devices::Alarm;
use sparkler_devices::net::{
    Detour, Detoured, FRAME_MAX, HEADER_LEN, Net, NetOptions, Offload, RX, TX, Tap,
};
use sparkler_devices::rate::{Change, RateLimiter};
use spec::MacAddress;
use virtio::bindings::virtio_net as wire;
use virtio::mock::{Buffer, CountingLine, MockDriver, RAM_SIZE, Used, ram};
use virtio::{GuestSlice, MmioTransport, Notify, Register, Status};

const MAC: [u8; 6] = [6, 0, 0xAC, 16, 0, 2];
const SERVICE: [u8; 4] = [169, 254, 169, 254];
const MS: Duration = Duration::from_millis(1);

/// All features but MRG_RXBUF.
const ONE_CHAIN: u64 = !(1 << wire::VIRTIO_NET_F_MRG_RXBUF);
/// MRG_RXBUF and what the transport needs, but no offloads.
const NO_OFFLOAD: u64 = !(1 << wire::VIRTIO_NET_F_GUEST_CSUM);

/// A tap whose other end is the test.
#[derive(Clone, Default)]
struct TestTap(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: Vec<Vec<u8>>,
    offload: Option<Offload>,
    broken: bool,
    reads: usize,
    memory: Option<Arc<GuestMemory>>,
}

impl Ends {
    fn check(&self) -> io::Result<()> {
        if self.broken { Err(io::Error::other("the tap is gone")) } else { Ok(()) }
    }
}

impl Tap for TestTap {
    fn read(&mut self, into: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.lock().unwrap();
        ends.check()?;
        ends.reads += 1;
        assert!((1..1024).contains(&into.len()));
        let frame = ends.to_guest.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let mut rest = &frame[..];
        for slice in into {
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice.write_slice(now, 0).unwrap();
            rest = later;
        }
        let beyond = rest.len().min(overflow.len());
        overflow[..beyond].copy_from_slice(&rest[..beyond]);
        // A system call writes past the log: so what the test's own writes left there goes.
        take_dirty(ends.memory.as_ref().unwrap());
        Ok(frame.len() - rest.len() + beyond)
    }

    fn write(&mut self, head: &[u8], rest: &[GuestSlice<'_>]) -> io::Result<()> {
        let mut ends = self.0.lock().unwrap();
        ends.check()?;
        let mut frame = head.to_vec();
        for slice in rest {
            let mut bytes = vec![0; slice.len()];
            slice.read_slice(&mut bytes, 0).unwrap();
            frame.extend(bytes);
        }
        ends.from_guest.push(frame);
        Ok(())
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        let mut ends = self.0.lock().unwrap();
        ends.check()?;
        ends.offload = Some(offload);
        Ok(())
    }
}

/// The pages written since the last call.
fn take_dirty(memory: &GuestMemory) -> Vec<usize> {
    memory.iter().flat_map(|region| (**region).bitmap().take_dirty()).collect()
}

/// A clock that the test moves, and the alarm that was set.
#[derive(Clone, Default)]
struct TestAlarm(Arc<Mutex<(Duration, Option<Duration>)>>);

impl TestAlarm {
    fn advance(&self, by: Duration) {
        self.0.lock().unwrap().0 += by;
    }

    fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap().1.take()
    }
}

impl Alarm for TestAlarm {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn set(&self, delay: Duration) {
        self.0.lock().unwrap().1 = Some(delay);
    }
}

/// A service that sends each frame back, some time later.
#[derive(Clone, Default)]
struct Echo(Arc<Mutex<EchoState>>);

#[derive(Default)]
struct EchoState {
    /// When each frame goes back.
    answers: VecDeque<(Duration, Vec<u8>)>,
    delay: Duration,
    refuses: bool,
}

impl Detour for Echo {
    fn address(&self) -> Ipv4Addr {
        SERVICE.into()
    }

    fn transmit(&mut self, frame: &[u8], now: Duration) -> bool {
        let mut state = self.0.lock().unwrap();
        let due = now + state.delay;
        if !state.refuses {
            state.answers.push_back((due, frame.to_vec()));
        }
        !state.refuses
    }

    fn receive(&mut self, into: &mut Vec<u8>, now: Duration) -> bool {
        let mut state = self.0.lock().unwrap();
        let due = state.answers.front().is_some_and(|(due, _)| *due <= now);
        if due {
            *into = state.answers.pop_front().unwrap().1;
        }
        due
    }

    fn next_poll(&mut self, now: Duration) -> Option<Duration> {
        let state = self.0.lock().unwrap();
        state.answers.front().map(|(due, _)| due.saturating_sub(now))
    }
}

/// What a test starts from.
#[derive(Default)]
struct Setup {
    features: Option<u64>,
    options: NetOptions,
    rx: spec::RateLimiter,
    tx: spec::RateLimiter,
    detour: bool,
}

struct Bench {
    memory: Arc<GuestMemory>,
    transport: Arc<MmioTransport<Net<TestTap>>>,
    driver: MockDriver,
    tap: TestTap,
    rx_alarm: TestAlarm,
    tx_alarm: TestAlarm,
    detour_alarm: TestAlarm,
    echo: Echo,
    metrics: Arc<NetMetrics>,
}

fn bench(setup: Setup) -> Bench {
    let memory = ram();
    let tap = TestTap::default();
    tap.0.lock().unwrap().memory = Some(memory.clone());
    let [rx_alarm, tx_alarm, detour_alarm]: [TestAlarm; 3] = Default::default();
    let (echo, metrics) = (Echo::default(), Arc::new(NetMetrics::default()));
    let limiter = |settings, alarm: &TestAlarm| RateLimiter::new(settings, Box::new(alarm.clone()));
    let (rx, tx) = (limiter(setup.rx, &rx_alarm), limiter(setup.tx, &tx_alarm));
    let detoured = setup.detour.then(|| Detoured {
        detour: Box::new(echo.clone()),
        alarm: Box::new(detour_alarm.clone()),
    });
    let net = Net::new(tap.clone(), setup.options, rx, tx, detoured, metrics.clone());
    let line = Arc::new(CountingLine::default());
    let transport = Arc::new(MmioTransport::new(net, memory.clone(), line).unwrap());
    let features = setup.features.unwrap_or(!0);
    let driver = MockDriver::start(transport.clone(), memory.clone(), features);
    Bench { memory, transport, driver, tap, rx_alarm, tx_alarm, detour_alarm, echo, metrics }
}

impl Bench {
    /// Gives the device `count` buffers of `len` bytes.
    fn give(&mut self, count: usize, len: u32) -> Vec<u64> {
        let addresses: Vec<u64> =
            (0..count).map(|_| self.driver.allocate(u64::from(len))).collect();
        for address in &addresses {
            self.driver.add(RX, &[Buffer::In(*address, len)]);
        }
        addresses
    }

    /// A frame arrives at the tap; the device is not told.
    fn arrive(&self, frame: &[u8]) {
        self.tap.0.lock().unwrap().to_guest.push_back(frame.to_vec());
    }

    /// The tap has become readable.
    fn edge(&self) {
        self.transport.notify(RX as u32);
    }

    /// Sends `frame` in buffers of at most `cut` bytes.
    fn send_cut(&mut self, frame: &[u8], cut: usize) {
        let address = self.driver.allocate_with(frame);
        let buffers: Vec<Buffer> = frame
            .chunks(cut)
            .enumerate()
            .map(|(i, piece)| Buffer::Out(address + (i * cut) as u64, piece.len() as u32))
            .collect();
        self.driver.add(TX, &buffers);
        self.driver.kick(TX);
    }

    fn send(&mut self, frame: &[u8]) {
        self.send_cut(frame, 1 << 20);
    }

    /// What left through the tap.
    fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.tap.0.lock().unwrap().from_guest)
    }

    fn used(&mut self, queue: usize) -> Vec<Used> {
        std::iter::from_fn(|| self.driver.take_used(queue)).collect()
    }
}

/// A frame of `len` bytes with its header, from `source`, that counts its bytes.
fn frame_from(source: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    frame[..HEADER_LEN].fill(0);
    if let Some(place) = frame.get_mut(HEADER_LEN + 6..HEADER_LEN + 12) {
        place.copy_from_slice(&source);
    }
    frame
}

fn frame(len: usize) -> Vec<u8> {
    frame_from(MAC, len)
}

/// A frame that the service takes.
fn to_service(len: usize) -> Vec<u8> {
    let mut frame = frame(len);
    frame[HEADER_LEN + 12..HEADER_LEN + 14].copy_from_slice(&[8, 0]);
    frame[HEADER_LEN + 30..HEADER_LEN + 34].copy_from_slice(&SERVICE);
    frame
}

/// `frame` as the guest finds it in `buffers` buffers.
fn received(frame: &[u8], buffers: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[10..12].copy_from_slice(&buffers.to_le_bytes());
    frame
}

fn ops(size: u64, refill_ms: u64) -> spec::RateLimiter {
    spec::RateLimiter { bandwidth: None, ops: spec::TokenBucket::new(size, 0, refill_ms) }
}

fn bandwidth(size: u64, refill_ms: u64) -> spec::RateLimiter {
    spec::RateLimiter { bandwidth: spec::TokenBucket::new(size, 0, refill_ms), ops: None }
}

fn check_features(options: NetOptions, own: u64, config: [u8; 12]) {
    let bench = bench(Setup { options, ..Setup::default() });
    assert_eq!(bench.driver.offered() & 0xFF_FFFF, own, "{options:?}");
    assert_eq!(bench.driver.config(0, 12), config, "{options:?}");
    assert_eq!(bench.driver.config(12, 4), [0; 4]);
    assert_eq!(bench.driver.read(Register::DeviceId), 1);
}

#[test]
fn features_and_configuration() {
    // CSUM, GUEST_CSUM, GUEST_TSO4/6, GUEST_UFO, HOST_TSO4/6, HOST_UFO, MRG_RXBUF.
    let always = 0b1101_1101_1000_0011;
    check_features(NetOptions::default(), always, [0; 12]);
    let options = NetOptions { mac: Some(MacAddress(MAC)), mtu: Some(9000), drop_spoofed: false };
    let config = [6, 0, 0xAC, 16, 0, 2, 0, 0, 0, 0, 0x28, 0x23];
    check_features(options, always | 1 << 5 | 1 << 3, config);
}

#[test]
fn the_address_is_not_the_guests_to_set() {
    let bench = bench(Setup::default());
    bus::Device::write(&*bench.transport, 0x100, &[1]);
    assert_eq!(bench.driver.config(0, 6), [0; 6]);
    assert_eq!(bench.metrics.cfg_fails.count(), 1);
}

fn check_offload(features: u64, expected: Offload) {
    let bench = bench(Setup { features: Some(features | 1 << 32), ..Setup::default() });
    assert_eq!(bench.tap.0.lock().unwrap().offload, Some(expected), "{features:#x}");
}

#[test]
fn the_drivers_choice_goes_to_the_tap() {
    let all = Offload { checksum: true, tso4: true, tso6: true, ufo: true };
    let none = Offload::default();
    check_offload(!0, all);
    check_offload(0, none);
    check_offload(1 << 1, Offload { checksum: true, ..none });
    check_offload(1 << 1 | 1 << 7, Offload { checksum: true, tso4: true, ..none });
    check_offload(1 << 1 | 1 << 8, Offload { checksum: true, tso6: true, ..none });
    check_offload(1 << 1 | 1 << 10, Offload { checksum: true, ufo: true, ..none });
    // Without checksums there is nothing else.
    check_offload(NO_OFFLOAD, none);
}

#[test]
fn a_tap_that_refuses_the_drivers_choice_leaves_no_network() {
    let mut bench = bench(Setup::default());
    bench.tap.0.lock().unwrap().broken = true;
    bench.driver.negotiate(!0);
    bench.driver.set_up_queues(256);
    bench.driver.write(Register::Status, 15);
    assert_eq!(bench.metrics.activate_fails.count(), 1);
    bench.send(&frame(100));
    assert_eq!(bench.used(TX), []);
}

fn check_sent(len: usize, cut: usize) {
    let mut bench = bench(Setup::default());
    let frame = frame(len);
    bench.send_cut(&frame, cut);
    assert_eq!(bench.sent(), [frame], "{len} {cut}");
    assert_eq!(bench.used(TX).iter().map(|used| used.len).collect::<Vec<_>>(), [0]);
    assert_eq!(bench.driver.take_interrupt(), 1);
    let metrics = &bench.metrics;
    let counts = [&metrics.tx_count, &metrics.tx_packets_count, &metrics.tx_bytes_count];
    assert_eq!(counts.map(|c| c.count()), [1, 1, len as u64]);
}

#[test]
fn frames_are_sent_however_they_are_cut() {
    for (len, cut) in [(26, 100), (26, 1), (54, 54), (55, 54), (1526, 1526), (1526, 12), (9000, 41)]
    {
        check_sent(len, cut);
    }
    check_sent(FRAME_MAX, FRAME_MAX);
    check_sent(FRAME_MAX, 4096);
}

/// Offers `buffers` as a frame to send; says how often each of (tx_malformed_frames, tx_fails) was
/// counted.
fn check_refused(buffers: &[Buffer], counts: [u64; 2]) {
    let mut bench = bench(Setup::default());
    bench.driver.add_indirect(TX, buffers);
    bench.driver.kick(TX);
    assert_eq!(bench.used(TX).len(), 1, "{buffers:x?}");
    assert_eq!(bench.sent(), [] as [Vec<u8>; 0], "{buffers:x?}");
    let metrics = &bench.metrics;
    let counted = [&metrics.tx_malformed_frames, &metrics.tx_fails].map(|c| c.count());
    assert_eq!(counted, counts, "{buffers:x?}");
    assert_eq!(bench.driver.status(), Status(15));
    // And goes on.
    bench.send(&frame(60));
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn senseless_frames_are_dropped() {
    let at = 0x20_0000;
    check_refused(&[Buffer::Out(at, 25)], [1, 0]);
    check_refused(&[Buffer::Out(at, 0)], [1, 0]);
    check_refused(&[Buffer::Out(at, FRAME_MAX as u32 + 1)], [1, 0]);
    check_refused(&[Buffer::Out(at, 60), Buffer::Out(at, u32::MAX - 60)], [1, 0]);
    check_refused(&[Buffer::Out(at, 60), Buffer::In(at, 60)], [0, 1]);
    check_refused(&[Buffer::In(at, 60)], [0, 1]);
    check_refused(&[Buffer::Out(0xC000_0000, 60)], [0, 1]);
    check_refused(&[Buffer::Out(at, 54), Buffer::Out(RAM_SIZE - 1, 2)], [0, 1]);
    check_refused(&[Buffer::Out(at, 20), Buffer::Out(u64::MAX - 10, 20)], [0, 1]);
}

fn check_spoofed(drop_spoofed: bool, mac: Option<[u8; 6]>, passes: bool, counted: u64) {
    let mac = mac.map(MacAddress);
    let options = NetOptions { mac, mtu: None, drop_spoofed };
    let mut bench = bench(Setup { options, ..Setup::default() });
    bench.send(&frame_from([6, 0, 0xAC, 16, 0, 3], 60));
    assert_eq!(bench.sent().len(), usize::from(passes), "{options:?}");
    assert_eq!(bench.metrics.tx_spoofed_mac_count.count(), counted, "{options:?}");
    bench.send(&frame(60));
    assert_eq!(bench.sent().len(), 1, "{options:?}");
}

#[test]
fn foreign_senders_are_counted_or_dropped() {
    check_spoofed(false, None, true, 0);
    check_spoofed(true, None, true, 0);
    check_spoofed(false, Some(MAC), true, 1);
    check_spoofed(true, Some(MAC), false, 1);
}

#[test]
fn a_broken_tap_does_not_stop_the_guest() {
    let mut bench = bench(Setup::default());
    bench.give(50, 1526);
    bench.tap.0.lock().unwrap().broken = true;
    bench.send(&frame(60));
    bench.edge();
    assert_eq!((bench.used(TX).len(), bench.used(RX).len()), (1, 0));
    assert_eq!(bench.metrics.tap_write_fails.count(), 1);
    assert_eq!(bench.metrics.tap_read_fails.count(), 1);
    bench.tap.0.lock().unwrap().broken = false;
    bench.arrive(&frame(60));
    bench.edge();
    bench.send(&frame(60));
    assert_eq!((bench.used(TX).len(), bench.used(RX).len()), (1, 1));
}

#[test]
fn a_frame_takes_as_many_buffers_as_it_needs() {
    let mut bench = bench(Setup::default());
    let buffers = bench.give(60, 1526);
    let (small, large) = (frame(1526), frame(5000));
    bench.arrive(&small);
    bench.arrive(&large);
    bench.arrive(&small);
    bench.edge();
    let lens: Vec<u32> = bench.used(RX).iter().map(|used| used.len).collect();
    assert_eq!(lens, [1526, 1526, 1526, 1526, 422, 1526]);
    assert_eq!(bench.driver.peek(buffers[0], 1526), received(&small, 1));
    let got: Vec<u8> =
        buffers[1..5].iter().flat_map(|address| bench.driver.peek(*address, 1526)).collect();
    assert_eq!(got[..5000], received(&large, 4));
    assert_eq!(bench.driver.peek(buffers[5], 1526), received(&small, 1));
    assert_eq!(bench.driver.take_interrupt(), 1);
    let metrics = &bench.metrics;
    assert_eq!(metrics.rx_packets_count.count(), 3);
    assert_eq!(metrics.rx_bytes_count.count(), 1526 * 2 + 5000);
    assert_eq!(metrics.rx_fails.count(), 0);
}

/// A driver that sees the first buffer of a frame looks for the others at once.
#[test]
fn the_buffers_of_a_frame_appear_together() {
    const FRAMES: u16 = 3000;
    let mut bench = bench(Setup { features: Some(NO_OFFLOAD), ..Setup::default() });
    let index = GuestAddress(bench.driver.rings(RX)[2] + 2);
    let memory = bench.memory.clone();
    let watcher = std::thread::spawn(move || {
        let mut in_part = 0;
        loop {
            let now: u16 = memory.load(index, Ordering::Acquire).unwrap();
            in_part += u32::from(!now.is_multiple_of(4));
            if now == 4 * FRAMES {
                return in_part;
            }
        }
    });
    for _ in 0..FRAMES {
        for _ in 0..4 {
            bench.driver.add(RX, &[Buffer::In(0x20_0000, 1000)]);
        }
        bench.arrive(&frame(3500));
        bench.edge();
    }
    assert_eq!(watcher.join().unwrap(), 0, "a frame was seen in part");
}

#[test]
fn longer_frames_than_expected_find_room() {
    let mut bench = bench(Setup { features: Some(NO_OFFLOAD), ..Setup::default() });
    bench.give(2, 1526);
    bench.arrive(&frame(1527));
    bench.edge();
    assert_eq!(bench.used(RX).iter().map(|used| used.len).collect::<Vec<_>>(), [1526, 1]);
}

#[test]
fn what_is_received_goes_to_the_log_of_written_pages() {
    let mut bench = bench(Setup::default());
    bench.driver.add(RX, &[Buffer::In(0x20_0FF0, 16), Buffer::In(0x20_5000, 70_000)]);
    bench.arrive(&frame(5000));
    bench.edge();
    let dirty = take_dirty(&bench.memory);
    // The header, two pages of data, and the used ring; not the rest of the buffer.
    assert_eq!(dirty, [0x3, 0x200, 0x205, 0x206]);
}

#[test]
fn a_guest_without_buffers_gets_its_frames_later() {
    let mut bench = bench(Setup::default());
    for len in [1000, 1001, 20_000, 1002, 1003] {
        bench.arrive(&frame(len));
    }
    let lens = |bench: &mut Bench| bench.used(RX).iter().map(|used| used.len).collect::<Vec<_>>();
    let none: [u32; 0] = [];
    bench.edge();
    assert_eq!(bench.tap.0.lock().unwrap().to_guest.len(), 5);
    assert_eq!(bench.metrics.no_rx_avail_buffer.count(), 1);
    // No other edge comes, but the guest notifies. The large frame does not fit: it is held.
    bench.give(10, 1526);
    bench.driver.kick(RX);
    assert_eq!(lens(&mut bench), [1000, 1001]);
    assert_eq!(bench.tap.0.lock().unwrap().to_guest.len(), 2);
    bench.give(4, 1526);
    bench.driver.kick(RX);
    assert_eq!(lens(&mut bench), none);
    let buffers = bench.give(4, 1526);
    bench.driver.kick(RX);
    assert_eq!(lens(&mut bench), [vec![1526; 13], vec![162, 1002, 1003]].concat());
    assert_eq!(bench.driver.peek(buffers[2], 1002), received(&frame(1002), 1));
    // The buffers that were not needed are still there, and nobody is lost.
    assert_eq!(bench.metrics.rx_queue_event_count.count(), 3);
    assert_eq!(bench.metrics.rx_bytes_count.count(), 24_006);
    bench.arrive(&frame(99));
    bench.edge();
    assert_eq!(lens(&mut bench), none);
    bench.give(1, 1526);
    bench.driver.kick(RX);
    assert_eq!(lens(&mut bench), [99]);
}

#[test]
fn a_held_frame_is_whole_and_a_reset_forgets_it() {
    for reset in [false, true] {
        let mut bench = bench(Setup::default());
        let first = bench.give(2, 1526);
        bench.arrive(&frame(5000));
        bench.edge();
        assert_eq!(bench.used(RX), []);
        // The tap has written to the buffers, although they go back to the queue.
        assert!(take_dirty(&bench.memory).contains(&((first[0] >> 12) as usize)));
        if reset {
            bench.driver.negotiate(!0);
            bench.driver.set_up_queues(256);
            bench.driver.write(Register::Status, 15);
            bench.give(4, 1526);
            bench.driver.kick(RX);
            assert_eq!(bench.used(RX), []);
            continue;
        }
        let all = [first, bench.give(2, 1526)].concat();
        bench.driver.kick(RX);
        assert_eq!(bench.used(RX).len(), 4);
        let got: Vec<u8> = all.iter().flat_map(|at| bench.driver.peek(*at, 1526)).collect();
        assert_eq!(got[..5000], received(&frame(5000), 4));
    }
}

#[test]
fn an_empty_tap_does_not_make_the_guest_notify() {
    let mut bench = bench(Setup { features: Some(!(1 << 29)), ..Setup::default() });
    bench.give(18, 1526);
    let flags = |bench: &Bench| bench.driver.peek(bench.driver.rings(RX)[2], 2);
    assert_eq!(flags(&bench), [0, 0]);
    bench.edge();
    assert_eq!(flags(&bench), [1, 0]);
    let reads = bench.tap.0.lock().unwrap().reads;
    assert_eq!(reads, 1);
    for _ in 0..18 {
        bench.arrive(&frame(1526));
    }
    bench.edge();
    assert_eq!(flags(&bench), [0, 0]);
    assert_eq!(bench.used(RX).len(), 18);
}

#[test]
fn only_a_driver_that_knows_the_mtu_has_to_make_room_for_it() {
    for (features, fails) in [(!0, 1), (!(1 << wire::VIRTIO_NET_F_MTU), 0)] {
        let options = NetOptions { mtu: Some(9000), ..NetOptions::default() };
        let features = Some(ONE_CHAIN & NO_OFFLOAD & features);
        let mut bench = bench(Setup { features, options, ..Setup::default() });
        bench.give(1, 1526);
        bench.arrive(&frame(100));
        bench.edge();
        assert_eq!(bench.used(RX).len(), 1);
        assert_eq!(bench.metrics.rx_fails.count(), fails);
    }
}

/// A frame for one chain: how much of it is used, if it is, and whether something failed.
fn check_one_chain(features: u64, chain: u32, frame_len: usize, used: Option<u32>, fails: u64) {
    let mut bench = bench(Setup { features: Some(features), ..Setup::default() });
    bench.driver.add(RX, &[Buffer::In(0x20_0000, chain)]);
    bench.arrive(&frame(frame_len));
    bench.edge();
    let got: Vec<u32> = bench.used(RX).iter().map(|used| used.len).collect();
    assert_eq!(got, used.into_iter().collect::<Vec<_>>(), "{features:#x} {chain} {frame_len}");
    if used.is_some_and(|len| len > 0) {
        assert_eq!(bench.driver.peek(0x20_0000, frame_len), received(&frame(frame_len), 1));
    }
    assert_eq!(bench.metrics.rx_fails.count(), fails, "{features:#x} {chain} {frame_len}");
}

#[test]
fn drivers_that_take_a_frame_in_one_chain() {
    check_one_chain(ONE_CHAIN, 65562, 1526, Some(1526), 0);
    check_one_chain(ONE_CHAIN, 65562, 65562, Some(65562), 0);
    check_one_chain(ONE_CHAIN, 1 << 20, 65562, Some(65562), 0);
    check_one_chain(ONE_CHAIN & NO_OFFLOAD, 1526, 1526, Some(1526), 0);
    // Longer than it should be: it is dropped, and the chain waits for the next.
    check_one_chain(ONE_CHAIN & NO_OFFLOAD, 1526, 1527, None, 1);
    // Too small for what may come: the chain goes back.
    check_one_chain(ONE_CHAIN, 65561, 1526, Some(0), 1);
    check_one_chain(ONE_CHAIN & NO_OFFLOAD, 1525, 100, Some(0), 1);
}

#[test]
fn unfit_buffers_go_back_and_the_frame_takes_others() {
    let mut bench = bench(Setup { features: Some(NO_OFFLOAD), ..Setup::default() });
    let good = bench.give(1, 1000)[0];
    for unfit in [
        vec![Buffer::In(0xC000_0000, 1000)],
        vec![Buffer::In(0x20_0000, 11)],
        vec![Buffer::Out(0x20_0000, 1000)],
        vec![Buffer::Out(0x20_0000, 10), Buffer::In(0x20_0000, 1000)],
        vec![Buffer::In(0x20_0000, 500), Buffer::In(RAM_SIZE - 1, 500)],
    ] {
        bench.driver.add_indirect(RX, &unfit);
    }
    let more = bench.give(1, 1000)[0];
    // All of them go back to the queue first.
    bench.edge();
    assert_eq!(bench.used(RX), []);
    bench.arrive(&frame(1200));
    bench.edge();
    let lens: Vec<u32> = bench.used(RX).iter().map(|used| used.len).collect();
    assert_eq!(lens, [0, 0, 0, 0, 0, 1000, 200]);
    let got = [bench.driver.peek(good, 1000), bench.driver.peek(more, 200)].concat();
    assert_eq!(got, received(&frame(1200), 2));
    assert_eq!(bench.metrics.rx_fails.count(), 5);
    // Nothing but unfit ones.
    for _ in 0..4 {
        bench.driver.add(RX, &[Buffer::Out(0x20_0000, 10)]);
    }
    bench.driver.kick(RX);
    assert_eq!(bench.used(RX).len(), 4);
}

#[test]
fn a_turn_is_bounded_and_the_acknowledgement_goes_on() {
    let mut bench = bench(Setup::default());
    let give = |bench: &mut Bench, count| {
        for _ in 0..count {
            bench.driver.add(RX, &[Buffer::In(0x20_0000, FRAME_MAX as u32)]);
        }
    };
    for _ in 0..300 {
        bench.arrive(&frame(FRAME_MAX));
    }
    // 256 frames are 16 MiB.
    give(&mut bench, 256);
    bench.edge();
    assert_eq!(bench.used(RX).len(), 256);
    give(&mut bench, 44);
    assert_eq!(bench.driver.take_interrupt(), 1);
    assert_eq!(bench.used(RX).len(), 44);
}

#[test]
fn a_turn_of_sending_is_bounded_and_so_are_the_answers() {
    let mut bench = bench(Setup { detour: true, ..Setup::default() });
    let large = Buffer::Out(0x20_0000, FRAME_MAX as u32);
    for _ in 0..256 {
        bench.driver.add(TX, &[large]);
    }
    bench.driver.kick(TX);
    assert_eq!(bench.used(TX).len(), 256);
    bench.driver.add(TX, &[large]);
    assert_eq!(bench.driver.take_interrupt(), 1);
    assert_eq!(bench.used(TX).len(), 1);
    // An answer and 255 other frames are a turn; the rest comes with the acknowledgement.
    for _ in 0..256 {
        bench.driver.add(RX, &[Buffer::In(0x20_0000, FRAME_MAX as u32)]);
        bench.arrive(&frame(FRAME_MAX));
    }
    bench.send(&to_service(FRAME_MAX));
    assert_eq!(bench.used(RX).len(), 256);
    bench.driver.add(RX, &[Buffer::In(0x20_0000, FRAME_MAX as u32)]);
    bench.driver.take_interrupt();
    assert_eq!(bench.used(RX).len(), 1);
}

#[test]
fn many_frames_in_pieces_in_one_turn() {
    let mut bench = bench(Setup { features: Some(NO_OFFLOAD), ..Setup::default() });
    let buffers: Vec<u64> = (0..250).map(|_| bench.driver.allocate(1600)).collect();
    for address in &buffers {
        let pieces: Vec<Buffer> = (0..4).map(|i| Buffer::In(address + 400 * i, 400)).collect();
        bench.driver.add_indirect(RX, &pieces);
    }
    for i in 0..249 {
        bench.arrive(&frame(1100 + i));
    }
    bench.edge();
    let lens: Vec<u32> = bench.used(RX).iter().map(|used| used.len).collect();
    assert_eq!(lens, (1100..1349).collect::<Vec<_>>());
    for (address, len) in buffers.iter().zip(1100..1349) {
        assert_eq!(bench.driver.peek(*address, len), received(&frame(len), 1));
    }
}

#[test]
fn what_the_guest_receives_is_limited() {
    let mut bench = bench(Setup { rx: bandwidth(3000, 30), ..Setup::default() });
    bench.give(100, 1526);
    for _ in 0..5 {
        bench.arrive(&frame(1000));
    }
    bench.edge();
    assert_eq!(bench.used(RX).len(), 3);
    assert_eq!(bench.rx_alarm.take(), Some(MS));
    // A millisecond is worth 100 bytes: one frame passes, and the rest of it is owed.
    bench.rx_alarm.advance(MS);
    bench.edge();
    assert_eq!(bench.used(RX).len(), 1);
    assert_eq!(bench.rx_alarm.take(), Some(9 * MS + Duration::from_micros(10)));
    bench.rx_alarm.advance(10 * MS);
    bench.edge();
    assert_eq!(bench.used(RX).len(), 1);
    let metrics = &bench.metrics;
    assert_eq!(metrics.rx_rate_limiter_throttled.count(), 3);
    assert_eq!(metrics.rx_event_rate_limiter_count.count(), 2);
    assert_eq!(metrics.rx_tap_event_count.count(), 1);
}

#[test]
fn what_the_guest_sends_is_limited() {
    let mut bench = bench(Setup { tx: ops(2, 1000), ..Setup::default() });
    for _ in 0..5 {
        bench.send(&frame(100));
    }
    assert_eq!((bench.sent().len(), bench.used(TX).len()), (2, 2));
    assert_eq!(bench.tx_alarm.take(), Some(500 * MS));
    assert_eq!(bench.metrics.tx_remaining_reqs_count.count(), 1 + 2 + 3);
    bench.tx_alarm.advance(500 * MS);
    bench.transport.notify(TX as u32);
    assert_eq!((bench.sent().len(), bench.used(TX).len()), (1, 1));
    // Without the limit the rest goes, with the alarm that is set.
    bench.transport.update(|net| net.update_tx(Change::Keep, Change::Remove));
    assert!(bench.tx_alarm.take().is_some());
    bench.transport.notify(TX as u32);
    assert_eq!((bench.sent().len(), bench.used(TX).len()), (2, 2));
    assert_eq!(bench.metrics.tx_rate_limiter_event_count.count(), 2);
}

#[test]
fn the_detour_answers_at_once_and_past_the_limits() {
    let mut bench =
        bench(Setup { tx: ops(1, 1000), rx: ops(1, 1000), detour: true, ..Setup::default() });
    let buffers = bench.give(100, 1526);
    bench.send(&frame(100));
    bench.arrive(&frame(200));
    bench.edge();
    assert_eq!((bench.sent().len(), bench.used(RX).len()), (1, 1));
    // Both limiters are closed now; a frame at the tap waits.
    bench.arrive(&frame(200));
    for _ in 0..3 {
        bench.send(&to_service(300));
    }
    assert_eq!((bench.sent().len(), bench.used(TX).len()), (0, 4));
    assert_eq!(bench.used(RX).iter().map(|used| used.len).collect::<Vec<_>>(), [300; 3]);
    let mut answer = received(&to_service(300), 1);
    answer[..HEADER_LEN - 2].fill(0);
    assert_eq!(bench.driver.peek(buffers[1], 300), answer);
    // What the service does not want is for the network, and has to wait.
    bench.echo.0.lock().unwrap().refuses = true;
    bench.send(&to_service(300));
    assert_eq!((bench.sent().len(), bench.used(TX).len()), (0, 0));
    bench.tx_alarm.advance(1000 * MS);
    bench.transport.notify(TX as u32);
    assert_eq!(bench.sent(), [to_service(300)]);
}

#[test]
fn an_answer_without_room_is_dropped() {
    let features = Some(ONE_CHAIN & NO_OFFLOAD);
    let mut bench = bench(Setup { features, detour: true, ..Setup::default() });
    bench.give(2, 1526);
    bench.send(&to_service(1527));
    bench.send(&to_service(1526));
    assert_eq!(bench.used(RX).iter().map(|used| used.len).collect::<Vec<_>>(), [1526]);
    assert_eq!(bench.metrics.rx_fails.count(), 1);
}

#[test]
fn the_detour_is_woken_when_it_wants() {
    let mut bench = bench(Setup { detour: true, ..Setup::default() });
    bench.give(100, 1526);
    bench.echo.0.lock().unwrap().delay = 7 * MS;
    bench.send(&to_service(300));
    assert_eq!(bench.detour_alarm.take(), Some(7 * MS));
    bench.detour_alarm.advance(7 * MS);
    bench.arrive(&frame(100));
    bench.edge();
    let lens: Vec<u32> = bench.used(RX).iter().map(|used| used.len).collect();
    assert_eq!(lens, [300, 100]);
    assert_eq!(bench.detour_alarm.take(), None);
}

#[test]
fn a_reset_starts_again() {
    let mut bench = bench(Setup { tx: ops(1, 1000), ..Setup::default() });
    bench.give(3, 1526);
    bench.edge();
    bench.driver.write(Register::Status, 0);
    bench.edge();
    bench.driver.negotiate(!0);
    bench.driver.set_up_queues(64);
    bench.driver.write(Register::Status, 15);
    let buffer = bench.driver.allocate(70_000);
    bench.driver.add(RX, &[Buffer::In(buffer, 70_000)]);
    bench.arrive(&frame(100));
    bench.edge();
    assert_eq!(bench.used(RX), [Used { head: 0, len: 100 }]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Frames of any size into buffers of any size: each arrives whole and in order, over buffers
    /// in their order, and the driver is interrupted if it wants to hear of one of the buffers.
    #[test]
    fn received_frames_are_what_was_sent(
        sizes in prop::collection::vec(prop_oneof![12u32..200, 1000u32..5000], 1..250),
        frames in prop::collection::vec(prop_oneof![60usize..2000, 60usize..20_000], 1..12),
        event_idx in any::<bool>(),
        wanted in -1i32..6,
    ) {
        let features = if event_idx { NO_OFFLOAD } else { NO_OFFLOAD & !(1 << 29) };
        let mut bench = bench(Setup { features: Some(features), ..Setup::default() });
        let mut buffers = VecDeque::new();
        for size in sizes {
            buffers.push_back((bench.give(1, size)[0], size));
        }
        let mut used_before = 0u16;
        for len in &frames {
            bench.driver.set_used_event(RX, used_before.wrapping_add(wanted as u16));
            bench.arrive(&frame(*len));
            bench.edge();
            let interrupt = bench.driver.take_interrupt();
            let used = bench.used(RX);
            let room: u32 = buffers.iter().map(|(_, size)| size).sum();
            if (room as usize) < *len {
                prop_assert!(used.is_empty());
                break;
            }
            let passed = wanted >= 0 && used.len() as i32 > wanted;
            prop_assert_eq!(interrupt == 1, !event_idx || passed);
            used_before += used.len() as u16;
            let mut got = Vec::new();
            for used in &used {
                let (address, size) = buffers.pop_front().unwrap();
                prop_assert!(used.len <= size);
                got.extend(bench.driver.peek(address, used.len as usize));
            }
            prop_assert!(got == received(&frame(*len), used.len() as u16));
        }
        prop_assert_eq!(bench.driver.status(), Status(15));
    }
}
