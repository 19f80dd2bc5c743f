//! The transport and the queue through the eyes of a driver, right and wrong.

use std::sync::Arc;

use bus::Device;
use memory::{Bytes, GuestAddress, GuestMemory};
use proptest::prelude::*;
use sparkler_virtio::mock::{
    Buffer, CountingLine, Descriptor, INDIRECT, MockDriver, NEXT, RAM_SIZE, Used, WRITE, ram,
};
use sparkler_virtio::{
    Activated, Answer, Chain, Half, MmioTransport, Outcome, RING_FEATURES, Register, RingPart,
    Status, VirtioDevice, copy_config,
};

const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// Copies what it reads to where it may write, on both of its queues.
#[derive(Default)]
struct Echo {
    active: Option<Activated>,
    written_config: Vec<(u64, Vec<u8>)>,
}

impl VirtioDevice for Echo {
    fn device_type(&self) -> u32 {
        42
    }
    fn device_features(&self) -> u64 {
        0b101
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 16]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(b"echo!", offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.written_config.push((offset, data.to_vec()));
    }
    fn activate(&mut self, activated: Activated) {
        self.active = Some(activated);
    }
    fn process_queue(&mut self, index: usize) -> Outcome {
        let active = self.active.as_mut().expect("active");
        let memory = &active.memory;
        active.queues[index]
            .serve(memory, &active.interrupt, |chain| Answer::Used(echo(memory, chain)))
    }
    fn reset(&mut self) {
        self.active = None;
    }
    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

fn echo(memory: &GuestMemory, chain: &Chain) -> u32 {
    let len = chain.readable_len().min(chain.writable_len()).min(4096);
    let mut bytes = vec![0; len as usize];
    let copied =
        chain.read_at(memory, 0, &mut bytes).and_then(|()| chain.write_at(memory, 0, &bytes));
    if copied.is_ok() { len as u32 } else { 0 }
}

struct Bench {
    transport: Arc<MmioTransport<Echo>>,
    memory: Arc<GuestMemory>,
    line: Arc<CountingLine>,
}

fn bench() -> Bench {
    let (memory, line) = (ram(), Arc::new(CountingLine::default()));
    let transport = MmioTransport::new(Echo::default(), memory.clone(), line.clone()).unwrap();
    Bench { transport: Arc::new(transport), memory, line }
}

impl Bench {
    fn driver(&self) -> MockDriver {
        MockDriver::new(self.transport.clone(), self.memory.clone())
    }

    fn started(&self, features: u64) -> MockDriver {
        MockDriver::start(self.transport.clone(), self.memory.clone(), features)
    }
}

fn echo_once(driver: &mut MockDriver, text: &[u8]) -> Vec<u8> {
    let (from, to) = (driver.allocate_with(text), driver.allocate(64));
    driver.add(0, &[Buffer::Out(from, text.len() as u32), Buffer::In(to, 64)]);
    driver.kick(0);
    let used = driver.take_used(0).expect("one is done");
    driver.peek(to, used.len as usize)
}

#[test]
fn a_driver_finds_the_device() {
    let bench = bench();
    let driver = bench.driver();
    for (register, expected) in [
        (Register::MagicValue, 0x7472_6976),
        (Register::Version, 2),
        (Register::DeviceId, 42),
        (Register::VendorId, 0),
        (Register::QueueNumMax, 256),
        (Register::QueueReady, 0),
        (Register::SharedMemory, u32::MAX),
        (Register::Status, 0),
        (Register::QueueNotify, 0),
    ] {
        assert_eq!(driver.read(register), expected, "{register:?}");
    }
    assert_eq!(driver.offered(), RING_FEATURES | 0b101);
    driver.write(Register::DeviceFeaturesSel, 2);
    assert_eq!(driver.read(Register::DeviceFeatures), 0);
    driver.write(Register::QueueSel, 1);
    assert_eq!(driver.read(Register::QueueNumMax), 16);
    driver.write(Register::QueueSel, 2);
    assert_eq!(driver.read(Register::QueueNumMax), 0);
}

#[test]
fn only_aligned_words_are_registers() {
    let bench = bench();
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (0x18, 4), (0xF8, 4)] {
        let mut data = vec![0x55; len];
        bench.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset:#x}/{len}");
        bench.transport.write(offset, &data);
    }
    bench.transport.write(Register::Status.offset(), &[1]);
    assert_eq!(bench.driver().status(), Status(0));
}

#[test]
fn configuration_space_takes_any_width() {
    let bench = bench();
    let driver = bench.driver();
    assert_eq!(driver.config(0, 4), b"echo");
    assert_eq!(driver.config(3, 1), b"o");
    assert_eq!(driver.config(4, 8), b"!\0\0\0\0\0\0\0");
    assert_eq!(driver.config(0xEFF, 1), [0]);
    bench.transport.write(0x102, &[9]);
    driver.write(Register::Status, 3);
    bench.transport.write(0x102, &[7, 8]);
    assert_eq!(bench.transport.update(|d| d.written_config.clone()), [(2, vec![7, 8])]);
}

/// Writes status bytes in order and says what the register reads in the end.
fn check_status(features: u64, writes: &[u8], expected: u8) {
    let bench = bench();
    let driver = bench.driver();
    for &status in writes {
        driver.write(Register::Status, u32::from(status));
        if status == 3 {
            for half in [0, 1] {
                driver.write(Register::DriverFeaturesSel, half);
                driver.write(Register::DriverFeatures, (features >> (32 * half)) as u32);
            }
        }
    }
    assert_eq!(driver.status(), Status(expected), "{features:#x} {writes:?}");
    let active = bench.transport.update(|d| d.active.is_some());
    assert_eq!(active, expected & 4 != 0, "{features:#x} {writes:?}");
}

#[test]
fn status_bits_come_in_order() {
    check_status(VERSION_1, &[1, 3, 11, 15], 15);
    check_status(VERSION_1 | 0b101, &[1, 3, 11, 15], 15);
    check_status(VERSION_1, &[1, 3, 11, 15, 0], 0);
    check_status(VERSION_1, &[2], 0);
    check_status(VERSION_1, &[8], 0);
    check_status(VERSION_1, &[1, 3, 7], 3);
    check_status(VERSION_1, &[1, 3, 11, 3], 11);
    check_status(VERSION_1, &[1, 3, 131], 131);
    check_status(VERSION_1, &[1, 3, 139, 143], 139);
    check_status(VERSION_1, &[1, 0x41], 1);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    check_status(0, &[1, 3, 11], 3);
    check_status(0b101, &[1, 3, 11, 15], 3);
    check_status(VERSION_1 | 0b10, &[1, 3, 11], 3);
    check_status(VERSION_1 | 1 << 34, &[1, 3, 11], 3);
    check_status(VERSION_1 | 1 << 63, &[1, 3, 11], 3);
}

/// Sets up queue 0 with these values and says whether the device takes it.
fn check_queue(size: u32, table: u64, available: u64, used: u64, expected: bool) {
    let bench = bench();
    let mut driver = bench.driver();
    driver.negotiate(VERSION_1);
    driver.write(Register::QueueNum, size);
    driver.place(RingPart::DescTable, table);
    driver.place(RingPart::Available, available);
    driver.place(RingPart::Used, used);
    driver.write(Register::QueueReady, 1);
    let ready = driver.read(Register::QueueReady) == 1;
    let needs_reset = driver.status().has(Status::NEEDS_RESET);
    let what = format!("{size} {table:#x} {available:#x} {used:#x}");
    assert_eq!((ready, needs_reset), (expected, !expected), "{what}");
    driver.write(Register::Status, 15);
    assert_eq!(driver.status().has(Status::DRIVER_OK), expected, "{what}");
}

#[test]
fn queues_must_fit() {
    check_queue(256, 0x1000, 0x2000, 0x3000, true);
    check_queue(1, 0x1010, 0x2002, 0x3004, true);
    check_queue(0, 0x1000, 0x2000, 0x3000, false);
    check_queue(3, 0x1000, 0x2000, 0x3000, false);
    check_queue(512, 0x1000, 0x2000, 0x3000, false);
    check_queue(0x1_0100, 0x1000, 0x2000, 0x3000, false);
    check_queue(256, 0x1008, 0x2000, 0x3000, false);
    check_queue(256, 0x1000, 0x2001, 0x3000, false);
    check_queue(256, 0x1000, 0x2000, 0x3002, false);
    check_queue(256, 0, 0x2000, 0x3000, false);
    check_queue(256, 0x1000, 0, 0x3000, false);
    check_queue(256, 0x1000, 0x2000, 0, false);
    check_queue(256, RAM_SIZE - 0x800, 0x2000, 0x3000, false);
    check_queue(256, 0x1000, RAM_SIZE, 0x3000, false);
    check_queue(256, 0x1000, 0x2000, 0xC000_1000, false);
    check_queue(256, u64::MAX - 15, 0x2000, 0x3000, false);
}

#[test]
fn a_ready_queue_does_not_change() {
    let bench = bench();
    let mut driver = bench.started(VERSION_1);
    driver.write(Register::QueueSel, 0);
    driver.place(RingPart::Used, 0x9000);
    driver.write(Register::QueueNum, 2);
    driver.write(Register::QueueReady, 0);
    assert_eq!(driver.read(Register::QueueReady), 1);
    assert_eq!(echo_once(&mut driver, b"still here"), b"still here");
    assert_eq!(driver.read(Register::QueueAddress(RingPart::Used, Half::Low)), 0);
}

#[test]
fn requests_are_served_and_signalled() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX, !0] {
        let bench = bench();
        let mut driver = bench.started(features);
        assert_eq!(echo_once(&mut driver, b"hello"), b"hello");
        assert_eq!(bench.line.take(), 1);
        assert_eq!(driver.take_interrupt(), 1);
        assert_eq!(driver.take_interrupt(), 0);
        driver.kick(0);
        driver.kick(1);
        driver.kick(7);
        assert_eq!(driver.take_used(0), None);
        assert_eq!(driver.status(), Status(15));
    }
}

#[test]
fn any_cut_of_the_buffers_will_do() {
    let bench = bench();
    let mut driver = bench.started(!0);
    let (a, b) = (driver.allocate_with(b"ab"), driver.allocate_with(b"cdefg"));
    let (c, d) = (driver.allocate(3), driver.allocate(9));
    let buffers = [
        Buffer::Out(a, 2),
        Buffer::Out(a, 0),
        Buffer::Out(b, 5),
        Buffer::In(c, 3),
        Buffer::In(d, 9),
    ];
    for indirect in [false, true] {
        let head =
            if indirect { driver.add_indirect(0, &buffers) } else { driver.add(0, &buffers) };
        driver.kick(0);
        assert_eq!(driver.take_used(0), Some(Used { head: head.into(), len: 7 }));
        assert_eq!(driver.peek(c, 3), b"abc");
        assert_eq!(driver.peek(d, 4), b"defg");
        driver.poke(c, &[0; 3]);
    }
}

#[test]
fn interrupts_can_be_suppressed() {
    let bench = bench();
    let mut driver = bench.started(VERSION_1);
    driver.set_available_flags(0, 1);
    echo_once(&mut driver, b"x");
    assert_eq!((bench.line.take(), driver.take_interrupt()), (0, 0));

    let mut driver = bench.started(VERSION_1 | EVENT_IDX);
    driver.set_used_event(0, 2);
    let signals: Vec<u32> = (0..4)
        .map(|_| {
            echo_once(&mut driver, b"x");
            bench.line.take()
        })
        .collect();
    assert_eq!(signals, [0, 0, 1, 0]);
}

#[test]
fn a_long_queue_is_served_in_turns() {
    let bench = bench();
    let mut driver = bench.started(VERSION_1);
    // A chain that counts for 8 MiB: two of them end a turn.
    let huge: Vec<_> = (0..2).map(|_| Buffer::Out(0, 4 << 20)).collect();
    for _ in 0..6 {
        driver.add(0, &huge);
    }
    driver.kick(0);
    let mut done = Vec::new();
    loop {
        done.push(std::iter::from_fn(|| driver.take_used(0)).count());
        if driver.take_interrupt() == 0 {
            break;
        }
    }
    assert_eq!(done, [2, 2, 2, 0]);
}

/// Offers descriptors as they are, from the first one on. The device must give up the queue.
fn check_broken(descriptors: &[Descriptor]) {
    let bench = bench();
    let mut driver = bench.started(!0);
    assert_eq!(echo_once(&mut driver, b"sane"), b"sane");
    driver.take_interrupt();
    for (at, descriptor) in descriptors.iter().enumerate() {
        driver.describe(0, at as u16, *descriptor);
    }
    driver.offer(0, 0);
    driver.kick(0);
    assert!(driver.status().has(Status::NEEDS_RESET), "{descriptors:?}");
    assert_eq!(driver.take_interrupt() & 2, 2, "{descriptors:?}");
    assert_eq!(driver.take_used(0), None);
    driver.kick(0);
    // A reset mends it.
    let mut driver = bench.started(!0);
    assert_eq!(echo_once(&mut driver, b"again"), b"again");
}

const fn to(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

#[test]
fn broken_chains_need_a_reset() {
    // A loop, and a loop of one.
    check_broken(&[to(0x8000, 1, NEXT, 1), to(0x8000, 1, NEXT, 0)]);
    check_broken(&[to(0x8000, 1, NEXT, 0)]);
    // A loop of descriptors without length.
    check_broken(&[to(0x8000, 0, NEXT, 0)]);
    // Out of the table.
    check_broken(&[to(0x8000, 1, NEXT, 256)]);
    check_broken(&[to(0x8000, 1, NEXT, 0xFFFF)]);
    // Readable after writable.
    check_broken(&[to(0x8000, 1, WRITE | NEXT, 1), to(0x8000, 1, 0, 0)]);
    // More than 4 GiB.
    check_broken(&[to(0, u32::MAX, NEXT, 1), to(0, u32::MAX, 0, 0)]);
    // Indirect tables: not in RAM, of odd length, empty, nested, endless.
    check_broken(&[to(0xC000_1000, 32, INDIRECT, 0)]);
    check_broken(&[to(u64::MAX - 7, 32, INDIRECT, 0)]);
    check_broken(&[to(0x8000, 33, INDIRECT, 0)]);
    check_broken(&[to(0x8000, 0, INDIRECT, 0)]);
    check_broken(&[to(0x8000, 1 << 24, INDIRECT, 0)]);
    check_broken(&[to(0x1000, 16, INDIRECT, 0)]);
    check_broken(&[to(0x1000, 32, INDIRECT | NEXT, 1), to(0x8000, 1, NEXT, 1)]);
}

#[test]
fn a_chain_may_have_256_descriptors_and_no_more() {
    let bench = bench();
    let mut driver = bench.started(!0);
    let buffer = driver.allocate(1);
    driver.add_indirect(0, &vec![Buffer::Out(buffer, 1); 256]);
    driver.kick(0);
    assert!(driver.take_used(0).is_some());
    driver.add_indirect(0, &vec![Buffer::Out(buffer, 1); 257]);
    driver.kick(0);
    assert!(driver.status().has(Status::NEEDS_RESET));
}

#[test]
fn an_available_index_that_runs_ahead_needs_a_reset() {
    let bench = bench();
    let driver = bench.started(VERSION_1);
    driver.set_available(0, 257);
    driver.kick(0);
    assert!(driver.status().has(Status::NEEDS_RESET));
}

#[test]
fn a_head_outside_the_table_needs_a_reset() {
    let bench = bench();
    let mut driver = bench.started(VERSION_1);
    driver.offer(1, 16);
    driver.kick(1);
    assert!(driver.status().has(Status::NEEDS_RESET));
}

#[test]
fn buffers_outside_of_ram_reach_nobody() {
    let bench = bench();
    let mut driver = bench.started(VERSION_1);
    for buffer in [0xC000_0000, RAM_SIZE - 1, u64::MAX - 1] {
        driver.add(0, &[Buffer::Out(0x8000, 4), Buffer::In(buffer, 4)]);
        driver.kick(0);
        assert_eq!(driver.take_used(0).map(|u| u.len), Some(0), "{buffer:#x}");
    }
}

#[test]
fn configuration_changes_are_announced() {
    let bench = bench();
    let driver = bench.driver();
    bench.transport.update_config(|_| ());
    assert_eq!((bench.line.take(), driver.read(Register::ConfigGeneration)), (0, 1));
    let driver = bench.started(VERSION_1);
    bench.transport.update_config(|_| ());
    assert_eq!((bench.line.take(), driver.read(Register::ConfigGeneration)), (1, 2));
    assert_eq!(driver.take_interrupt(), 2);
}

#[test]
fn a_saved_device_goes_on_where_it_was() {
    let first = bench();
    let mut driver = first.started(!0);
    assert_eq!(echo_once(&mut driver, b"one"), b"one");
    let saved = first.transport.state();
    // A request that nobody was told of.
    let (from, to) = (driver.allocate_with(b"two"), driver.allocate(3));
    driver.add(0, &[Buffer::Out(from, 3), Buffer::In(to, 3)]);

    let line = Arc::new(CountingLine::default());
    let second = MmioTransport::new(Echo::default(), first.memory.clone(), line.clone()).unwrap();
    second.restore(&saved).unwrap();
    assert_eq!(second.state().queues, saved.queues);
    assert_eq!(second.state().status, saved.status);
    assert!(line.take() > 0);
    second.write(Register::InterruptAck.offset(), &1u32.to_le_bytes());
    assert_eq!(driver.take_used(0).map(|u| u.len), Some(3));
    assert_eq!(driver.peek(to, 3), b"two");
}

#[test]
fn foreign_states_are_refused() {
    let bench = bench();
    bench.started(!0);
    let good = bench.transport.state();
    let mut wrong = vec![good.clone(); 5];
    wrong[0].device_type = 1;
    wrong[1].queues.pop();
    wrong[2].driver_features |= 1 << 50;
    wrong[3].queues[0].used_ring = 0xC000_0000;
    wrong[4].queues[0].size = 7;
    for state in wrong {
        let fresh = MmioTransport::new(
            Echo::default(),
            bench.memory.clone(),
            Arc::new(CountingLine::default()),
        )
        .unwrap();
        assert!(fresh.restore(&state).is_err(), "{state:?}");
        assert!(fresh.update(|d| d.active.is_none()));
    }
}

/// A register access that is more likely than not to mean something.
fn accesses() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let offset = prop_oneof![
        4 => (0u64..0x40).prop_map(|word| word * 4),
        1 => 0u64..0x1000,
        1 => any::<u64>(),
    ];
    let value = prop_oneof![
        2 => (0u32..16).prop_map(|v| v.to_le_bytes().to_vec()),
        2 => (0u32..0x400).prop_map(|v| (v * 0x1000).to_le_bytes().to_vec()),
        1 => any::<u32>().prop_map(|v| v.to_le_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..9),
    ];
    prop::collection::vec((offset, value), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_register_accesses_do_no_harm(accesses in accesses(), start in any::<bool>()) {
        let bench = bench();
        if start {
            bench.started(!0);
        }
        for (offset, value) in accesses {
            let mut data = vec![0; value.len()];
            bench.transport.read(offset, &mut data);
            bench.transport.write(offset, &value);
        }
    }

    #[test]
    fn arbitrary_rings_write_only_into_their_buffers(
        table in prop::collection::vec((0u64..8, 0u32..0x3000, 0u16..8, 0u16..17), 16),
        heads in prop::collection::vec(0u16..17, 1..16),
    ) {
        let bench = bench();
        let mut driver = bench.started(!0);
        // Queue 1 is served; buffers lie in 0x100000 to 0x10A000, the rest is a canary.
        let guarded = 0x11_0000u64..0x12_0000;
        bench.memory.write_slice(&[0xA5; 0x1_0000], GuestAddress(guarded.start)).unwrap();
        for (at, &(page, len, flags, next)) in table.iter().enumerate() {
            let address = 0x10_0000 + page * 0x1000;
            driver.describe(1, at as u16, Descriptor { address, len, flags, next });
        }
        for head in heads {
            driver.offer(1, head);
        }
        driver.kick(1);
        prop_assert!(driver.peek(guarded.start, 0x1_0000).iter().all(|b| *b == 0xA5));
    }
}
