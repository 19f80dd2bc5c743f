//! Register by register, as the data sheet has it, and in the sequences of Linux's driver.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::i8042::tests::CountingLine;

const THR: u64 = 0;
const RBR: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

/// Where the output goes: each call of `write` is an entry. Refuses when told to.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<String>>>, Arc<Mutex<bool>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if *self.1.lock().unwrap() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    serial: Serial,
    line: Arc<CountingLine>,
    sink: Sink,
    rooms: Arc<AtomicU32>,
}

fn bench() -> Bench {
    let (line, sink, rooms) = (Arc::new(CountingLine::default()), Sink::default(), Arc::default());
    let seen: Arc<AtomicU32> = Arc::clone(&rooms);
    let room = move || {
        seen.fetch_add(1, Ordering::SeqCst);
    };
    let serial = Serial::new(line.clone(), Box::new(sink.clone()), room);
    Bench { serial, line, sink, rooms }
}

impl Bench {
    fn read(&self, offset: u64) -> u8 {
        let mut data = [0x55];
        self.serial.read(offset, &mut data);
        data[0]
    }
    fn write(&self, offset: u64, value: u8) {
        self.serial.write(offset, &[value]);
    }
    fn send(&self, text: &str) {
        text.bytes().for_each(|byte| self.write(THR, byte));
    }
    /// What came out, call by call.
    fn output(&self) -> Vec<String> {
        std::mem::take(&mut self.sink.0.lock().unwrap())
    }
}

/// Writes (offset, value), then reads (offset, value) as expected.
fn check(writes: &[(u64, u8)], reads: &[(u64, u8)]) {
    let bench = bench();
    for (offset, value) in writes {
        bench.write(*offset, *value);
    }
    for (offset, expected) in reads {
        let value = bench.read(*offset);
        assert_eq!(value, *expected, "{writes:x?} then {offset}: {value:#x}");
    }
}

#[test]
fn registers_read_back() {
    check(&[], &[(RBR, 0), (IER, 0), (IIR, 1), (LCR, 3), (MCR, 8), (LSR, 0x60), (MSR, 0xB0)]);
    check(&[(IER, 0xFF)], &[(IER, 0x0F)]);
    check(&[(LCR, 0x1B)], &[(LCR, 0x1B)]);
    check(&[(MCR, 0xFF)], &[(MCR, 0x1F)]);
    check(&[(SCR, 0x5A)], &[(SCR, 0x5A)]);
    check(&[(LSR, 0), (MSR, 0)], &[(LSR, 0x60), (MSR, 0xB0)]);
    check(&[(FCR, 1)], &[(IIR, 0xC1)]);
    check(&[(FCR, 0x27)], &[(IIR, 0xC1)]);
    check(&[(FCR, 1), (FCR, 0)], &[(IIR, 1)]);
    check(&[(8, 1)], &[(8, 0), (u64::MAX, 0)]);
}

#[test]
fn the_latch_bit_swaps_the_divisor_in() {
    check(&[(LCR, 0x83)], &[(0, 12), (1, 0)]);
    check(&[(LCR, 0x83), (0, 1), (1, 2)], &[(0, 1), (1, 2), (LCR, 0x83)]);
    check(&[(LCR, 0x83), (1, 2), (LCR, 3)], &[(IER, 0)]);
}

#[test]
fn loopback_connects_outputs_to_inputs() {
    // What Linux looks for: OUT2 and RTS come back as DCD and CTS.
    check(&[(MCR, 0x1A)], &[(MSR, 0x92), (MSR, 0x90)]);
    check(&[(MCR, 0x10)], &[(MSR, 0x0B), (MSR, 0)]);
    check(&[(MCR, 0x14)], &[(MSR, 0x4B)]);
    check(&[(MCR, 0x14), (MSR, 0), (MCR, 0x10)], &[(MSR, 0x0F)]);
    check(&[(MCR, 0x10), (THR, b'x')], &[(LSR, 0x61), (RBR, b'x'), (LSR, 0x60)]);
    let bench = bench();
    bench.write(MCR, 0x10);
    bench.send("only for me\n");
    assert!(bench.output().is_empty());
    assert_eq!(bench.serial.input(b"cut off"), 0);
}

#[test]
fn output_comes_in_lines_and_bursts() {
    let bench = bench();
    bench.send("one\ntwo");
    assert_eq!(bench.output(), ["one\n"]);
    bench.serial.flush();
    assert_eq!(bench.output(), ["two"]);
    // A console that polls before each byte and restores IER after the last.
    for byte in b"poll" {
        bench.read(LSR);
        bench.write(THR, *byte);
    }
    assert!(bench.output().is_empty());
    bench.write(IER, 0);
    assert_eq!(bench.output(), ["poll"]);
    // A driver that goes on polling.
    bench.send("$ ");
    bench.read(LSR);
    assert!(bench.output().is_empty());
    bench.read(LSR);
    assert_eq!(bench.output(), ["$ "]);
    bench.send(&"x".repeat(OUTPUT_BUFFER + 1));
    assert_eq!(bench.output(), ["x".repeat(OUTPUT_BUFFER)]);
    bench.serial.input(b"y");
    assert_eq!(bench.output(), ["x"]);
    assert_eq!(bench.serial.dropped(), 0);
}

#[test]
fn what_the_sink_refuses_is_counted() {
    let bench = bench();
    *bench.sink.1.lock().unwrap() = true;
    bench.send("lost\n");
    assert_eq!(bench.serial.dropped(), 5);
    *bench.sink.1.lock().unwrap() = false;
    bench.send("found\n");
    assert_eq!(bench.output(), ["found\n"]);
}

#[test]
fn bytes_over_the_rate_are_dropped() {
    let now: Arc<Mutex<Duration>> = Arc::default();
    let time = Arc::clone(&now);
    let Bench { serial, line, sink, rooms } = bench();
    let metrics = Arc::new(UartMetrics::default());
    let bucket = spec::TokenBucket::new(4, 2, 1000).unwrap();
    let clock = move || *time.lock().unwrap();
    let serial = serial.limited(bucket, clock).counted(metrics.clone());
    let bench = Bench { serial, line, sink, rooms };
    bench.send("0123456789");
    bench.serial.flush();
    *now.lock().unwrap() = Duration::from_millis(500);
    bench.send("abcd\n");
    bench.serial.flush();
    assert_eq!(bench.output(), ["012345", "ab"]);
    assert_eq!(metrics.rate_limiter_dropped_bytes.count(), 4 + 3);
    assert_eq!(bench.serial.dropped(), 0);
}

#[test]
fn what_happens_is_counted() {
    let Bench { serial, line, sink, rooms } = bench();
    let metrics = Arc::new(UartMetrics::default());
    let bench = Bench { serial: serial.counted(metrics.clone()), line, sink, rooms };
    bench.send("out\n");
    bench.serial.input(b"in");
    for _ in 0..3 {
        bench.read(RBR);
    }
    bench.serial.read(0, &mut [0; 2]);
    bench.serial.write(9, &[1]);
    *bench.sink.1.lock().unwrap() = true;
    bench.send("lost\n");
    let counts = [
        (&metrics.write_count, 9),
        (&metrics.read_count, 2),
        (&metrics.flush_count, 2),
        (&metrics.error_count, 1),
        (&metrics.missed_read_count, 1),
        (&metrics.missed_write_count, 1 + 5),
        (&metrics.rate_limiter_dropped_bytes, 0),
    ];
    for (i, (counter, expected)) in counts.iter().enumerate() {
        assert_eq!(counter.count(), *expected, "{i}");
    }
}

#[test]
fn the_transmitters_interrupt_follows_linux() {
    let bench = bench();
    // The test at start-up: enabled twice, it must come twice, each until IIR is read.
    for _ in 0..2 {
        bench.write(IER, 2);
        assert_eq!(bench.line.take(), 1);
        assert_eq!((bench.read(IIR), bench.read(IIR)), (2, 1));
        bench.write(IER, 0);
    }
    // Sending: one edge for a burst, then one more for the next.
    bench.write(IER, 2);
    bench.read(IIR);
    bench.line.take();
    bench.send("burst");
    assert_eq!(bench.line.take(), 1);
    assert_eq!(bench.read(IIR), 2);
    bench.send("more");
    assert_eq!(bench.line.take(), 1);
    // Nothing comes while it is disabled.
    bench.write(IER, 0);
    bench.send("quiet");
    assert_eq!((bench.line.take(), bench.read(IIR)), (0, 1));
}

#[test]
fn input_interrupts_and_waits() {
    let bench = bench();
    assert_eq!(bench.serial.input(b"early"), 5);
    assert_eq!(bench.line.take(), 0);
    bench.write(IER, 1);
    assert_eq!((bench.line.take(), bench.read(IIR)), (1, 4));
    let text: String =
        std::iter::from_fn(|| (bench.read(LSR) & 1 != 0).then(|| char::from(bench.read(RBR))))
            .collect();
    assert_eq!((text.as_str(), bench.read(IIR)), ("early", 1));
    bench.serial.input(b"a");
    bench.serial.input(b"b");
    assert_eq!(bench.line.take(), 2);
    bench.write(FCR, 3);
    assert_eq!((bench.read(LSR), bench.read(IIR)), (0x60, 0xC1));
}

#[test]
fn room_is_announced_when_it_was_missed() {
    let bench = bench();
    assert_eq!(bench.serial.input(&[7; INPUT_FIFO - 1]), INPUT_FIFO - 1);
    assert_eq!(bench.serial.input(&[8; 3]), 1);
    for _ in 0..INPUT_FIFO {
        assert_eq!(bench.rooms.load(Ordering::SeqCst), 0);
        bench.read(RBR);
    }
    assert_eq!(bench.rooms.load(Ordering::SeqCst), 1);
    bench.serial.input(b"fits");
    assert_eq!([(); 4].map(|()| bench.read(RBR)), *b"fits");
    assert_eq!(bench.rooms.load(Ordering::SeqCst), 1);
}

#[test]
fn a_saved_port_goes_on() {
    let bench = bench();
    bench.write(LCR, 0x1B);
    bench.write(IER, 1);
    bench.serial.input(b"abc");
    bench.send("tail");
    let state = bench.serial.state();
    assert_eq!(bench.output(), ["tail"]);
    let line = Arc::new(CountingLine::default());
    let sink = Box::new(Sink::default());
    let restored = Serial::with_state(line, sink, || (), state.clone());
    assert_eq!(restored.state(), state);
    let mut data = [0];
    restored.read(RBR, &mut data);
    assert_eq!(data, *b"a");
}

proptest! {
    #[test]
    fn arbitrary_accesses_do_no_harm(
        accesses in prop::collection::vec((0u64..10, any::<u8>(), 0u8..4), 0..300),
    ) {
        let bench = bench();
        let mut sent = 0;
        for (offset, value, what) in accesses {
            match what {
                0 => _ = bench.read(offset),
                1 => bench.write(offset, value),
                2 => _ = bench.serial.input(&vec![value; value as usize]),
                _ => {
                    bench.write(LCR, 3);
                    bench.write(MCR, 0);
                    bench.write(THR, b'\n');
                    sent += 1;
                }
            }
            let state = bench.serial.state();
            prop_assert!(state.received.len() <= INPUT_FIFO);
        }
        prop_assert!(bench.output().concat().len() >= sent);
    }
}
