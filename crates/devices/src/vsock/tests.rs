//! Two connections back to back: what goes into one host's stream comes out of the other's,
//! however the bytes are cut on the way.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown as Direction;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};
use metrics::VsockMetrics;
use proptest::prelude::*;
use virtio::GuestSlice;
use virtio::mock::ram;

use super::connection::{CLOSE_TIMEOUT, CONNECT_TIMEOUT, Connection, TX_BUFFER_MAX};
use super::host::Stream;
use super::packet::{Credit, Op, Packet, Ports, Shutdown};

const PORTS: Ports = Ports { host: 1 << 30, guest: 52 };
const OK: &[u8] = b"OK 1073741824\n";
/// Where packets' data lie in the guest.
const DATA: GuestAddress = GuestAddress(0x10_0000);
const FAR: GuestAddress = GuestAddress(0x20_0000);
const NOW: Duration = Duration::from_secs(1000);

/// What a program on the host sees of its stream.
#[derive(Default)]
struct Program {
    /// What it wrote and the connection has not read yet.
    writes: VecDeque<u8>,
    /// It writes no more.
    done: bool,
    /// What it read.
    read: Vec<u8>,
    /// It was told that nothing more comes.
    told_end: bool,
    /// It closed the stream.
    gone: bool,
    /// Bytes that the next calls may move; then they would wait.
    read_max: usize,
    write_max: usize,
}

#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Program>>);

impl Pipe {
    fn with<R>(&self, use_it: impl FnOnce(&mut Program) -> R) -> R {
        use_it(&mut self.0.lock().unwrap())
    }
}

impl Stream for Pipe {
    fn read(&mut self, into: &[GuestSlice<'_>]) -> io::Result<usize> {
        let len = into.iter().map(|slice| slice.len()).sum();
        assert!(len > 0);
        let mut bytes = vec![0; len];
        let read = self.read_bytes(&mut bytes)?;
        let mut rest = &bytes[..read];
        for slice in into {
            let here = rest.len().min(slice.len());
            slice.copy_from(&rest[..here]);
            rest = &rest[here..];
        }
        Ok(read)
    }

    fn write(&mut self, from: &[GuestSlice<'_>]) -> io::Result<usize> {
        let mut bytes = Vec::new();
        for slice in from {
            let mut copy = vec![0; slice.len()];
            slice.copy_to(&mut copy[..]);
            bytes.extend(copy);
        }
        self.write_bytes(&bytes)
    }

    fn peek(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        unreachable!("a connection does not peek");
    }

    fn read_bytes(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.with(|program| {
            let len = into.len().min(program.writes.len()).min(program.read_max);
            if len == 0 {
                let ended = program.writes.is_empty() && program.done;
                return if ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
            }
            program.read_max -= len;
            for (to, from) in into.iter_mut().zip(program.writes.drain(..len)) {
                *to = from;
            }
            Ok(len)
        })
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        assert!(!from.is_empty());
        self.with(|program| {
            assert!(!program.told_end, "bytes after the end");
            if program.gone {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let len = from.len().min(program.write_max);
            if len == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            program.write_max -= len;
            program.read.extend(&from[..len]);
            Ok(len)
        })
    }

    fn shutdown(&mut self, how: Direction) {
        self.with(|program| program.told_end |= how != Direction::Read);
    }

    fn is_heard(&self) -> bool {
        self.with(|program| !program.gone)
    }
}

/// One side.
struct Side {
    connection: Connection,
    program: Pipe,
    /// What it said and the other has not heard yet, in order.
    said: VecDeque<(Packet, Vec<u8>)>,
}

/// Both sides, and the memory through which data go.
struct Pair {
    sides: [Side; 2],
    memory: Arc<GuestMemory>,
}

impl Pair {
    /// A call that was granted.
    fn new() -> Self {
        let side = |connection: fn(Box<dyn Stream>) -> Connection| {
            let program = Pipe::default();
            program.with(|p| p.write_max = OK.len());
            Side {
                connection: connection(Box::new(program.clone())),
                program,
                said: VecDeque::new(),
            }
        };
        let call = |stream| Connection::call(PORTS, stream, Arc::default(), NOW);
        let answer = |stream| Connection::answer(PORTS, stream, Arc::default(), FULL);
        let mut pair = Self { sides: [side(call), side(answer)], memory: ram() };
        assert_eq!(pair.speak(0, 1), Some(Op::Request));
        pair.sides[0].said.clear();
        assert_eq!(pair.speak(1, 1), Some(Op::Response));
        assert!(pair.hear(0));
        assert_eq!(pair.sides[0].program.with(|p| std::mem::take(&mut p.read)), OK);
        pair
    }

    /// Lets side `who` speak, with room for `len` bytes of data.
    fn speak(&mut self, who: usize, len: usize) -> Option<Op> {
        let memory = self.memory.clone();
        let half = len / 2;
        let room = [(DATA, half), (FAR, len - half)].map(|(at, len)| memory.get_slice(at, len));
        let room = room.map(|slice| slice.unwrap());
        let had_word = self.sides[who].connection.has_word();
        let side = &mut self.sides[who];
        let packet = side.connection.speak(&room, NOW);
        let Some(packet) = packet else {
            assert!(!side.connection.has_word(), "a word that is not said");
            return None;
        };
        assert!(had_word, "{packet:?} without a word");
        let mut data = Vec::new();
        if let Op::Data(count) = packet.op {
            assert!(count > 0 && count as usize <= len);
            for slice in &room {
                let mut bytes = vec![0; slice.len()];
                slice.copy_to(&mut bytes[..]);
                data.extend(bytes);
            }
            data.truncate(count as usize);
        }
        side.said.push_back((packet, data));
        Some(packet.op)
    }

    /// Lets side `who` hear one packet of the other's.
    fn hear(&mut self, who: usize) -> bool {
        let Some((packet, data)) = self.sides[1 - who].said.pop_front() else { return false };
        self.memory.write_slice(&data, DATA).unwrap();
        let slices = match data.len() {
            0 => Vec::new(),
            len => vec![self.memory.get_slice(DATA, len).unwrap()],
        };
        self.sides[who].connection.receive(packet.op, packet.credit, &slices);
        true
    }

    /// Everything that can happen happens, until nothing can.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it never ends");
            let mut busy = false;
            for who in [0, 1] {
                self.sides[who].program.with(|p| {
                    p.read_max = usize::MAX;
                    p.write_max = usize::MAX;
                });
                self.sides[who].connection.host_ready(true, true);
                while self.speak(who, 4052).is_some() {
                    busy = true;
                }
                while self.hear(1 - who) {
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
    }
}

const FULL: Credit = Credit { buf_alloc: TX_BUFFER_MAX, fwd_cnt: 0 };

/// What side `who` writes: recognisable, whatever is lost or comes twice.
fn text(who: usize, start: usize, len: usize) -> impl Iterator<Item = u8> {
    (start..start + len).map(move |i| (i * 7 + i / 251 * 13 + who * 101) as u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_come_out_as_they_went_in(
        steps in prop::collection::vec((0usize..2, 0u8..6, 1usize..20_000), 0..400),
    ) {
        let mut pair = Pair::new();
        let mut written = [0, 0];
        for (who, what, len) in steps {
            let side = &mut pair.sides[who];
            match what {
                0 => {
                    side.program.with(|p| p.writes.extend(text(who, written[who], len)));
                    written[who] += len;
                    side.connection.host_ready(true, false);
                }
                1 => {
                    side.program.with(|p| p.read_max = len);
                    side.connection.host_ready(true, false);
                }
                2 => {
                    side.program.with(|p| p.write_max = len);
                    side.connection.host_ready(false, true);
                }
                3 => drop(pair.speak(who, len)),
                4 => drop(pair.hear(who)),
                _ => while pair.hear(who) {},
            }
        }
        pair.settle();
        // Both end their writing, and then close.
        for who in [0, 1] {
            pair.sides[who].program.with(|p| p.done = true);
        }
        pair.settle();
        for who in [0, 1] {
            let expected: Vec<u8> = text(1 - who, 0, written[1 - who]).collect();
            pair.sides[who].program.with(|p| {
                assert!(p.told_end, "{who} does not know of the end");
                assert!(p.read == expected, "{who} read something else");
            });
            prop_assert!(!pair.sides[who].connection.is_past());
        }
        pair.sides[0].program.with(|p| p.gone = true);
        pair.settle();
        prop_assert!(pair.sides.iter().all(|side| side.connection.is_over()));
    }

    #[test]
    fn any_packet_is_survived(
        packets in prop::collection::vec((0u8..8, any::<u32>(), any::<u32>(), any::<u8>()), 1..60),
    ) {
        let memory = ram();
        let program = Pipe::default();
        program.with(|p| (p.read_max, p.write_max) = (50_000, 50_000));
        program.with(|p| p.writes.extend([7; 60_000]));
        let credit = Credit { buf_alloc: 1 << 16, fwd_cnt: 0 };
        let mut connection =
            Connection::answer(PORTS, Box::new(program.clone()), Arc::default(), credit);
        for (kind, buf_alloc, fwd_cnt, choice) in packets {
            let flag = |bit: u8| choice & 1 << bit != 0;
            let len = buf_alloc as usize % 70_000;
            let op = match kind {
                0 => Op::Request,
                1 => Op::Response,
                2 if flag(7) && flag(6) => Op::Reset,
                3 => Op::Shutdown(Shutdown { receive: flag(0), send: flag(1) && flag(2) }),
                4 => Op::CreditUpdate,
                5 => Op::CreditRequest,
                _ => Op::Data(len as u32),
            };
            let data = [memory.get_slice(DATA, len).unwrap()];
            let data = if matches!(op, Op::Data(_)) && len > 0 { &data[..] } else { &[] };
            connection.receive(op, Credit { buf_alloc, fwd_cnt }, data);
            connection.host_ready(flag(3), flag(4));
            if flag(5) {
                let room = [memory.get_slice(DATA, 4000).unwrap()];
                for _ in 0..40 {
                    if connection.speak(&room, NOW).is_none() {
                        break;
                    }
                }
            }
            if connection.deadline().is_some_and(|_| flag(6)) {
                connection.expire(NOW);
            }
        }
    }
}

/// A connection that is open, and its program.
fn open(metrics: &Arc<VsockMetrics>) -> (Connection, Pipe, Arc<GuestMemory>) {
    let program = Pipe::default();
    program.with(|p| (p.read_max, p.write_max) = (usize::MAX, usize::MAX));
    let stream = Box::new(program.clone());
    let mut connection = Connection::answer(PORTS, stream, metrics.clone(), FULL);
    let memory = ram();
    assert_eq!(words(&mut connection, &memory), [Op::Response]);
    (connection, program, memory)
}

/// All that it has to say.
fn words(connection: &mut Connection, memory: &GuestMemory) -> Vec<Op> {
    let room = [memory.get_slice(DATA, 4000).unwrap()];
    std::iter::from_fn(|| connection.speak(&room, NOW)).map(|packet| packet.op).collect()
}

#[test]
fn a_guest_that_does_not_agree_to_the_end_is_cut_off_once_it_has_read_all() {
    let metrics = Arc::default();
    let (mut connection, program, memory) = open(&metrics);
    program.with(|p| {
        p.writes.extend(b"bye");
        (p.done, p.gone) = (true, true);
    });
    connection.host_ready(true, true);
    assert_eq!(words(&mut connection, &memory), [Op::Data(3), Op::Shutdown(Shutdown::BOTH)]);
    assert_eq!(connection.deadline(), Some(NOW + CLOSE_TIMEOUT));
    // It has not read yet: it is asked, and gets more time.
    connection.expire(NOW + CLOSE_TIMEOUT);
    assert_eq!(connection.deadline(), Some(NOW + 2 * CLOSE_TIMEOUT));
    assert_eq!(words(&mut connection, &memory), [Op::CreditRequest]);
    connection.receive(Op::CreditUpdate, Credit { fwd_cnt: 3, ..FULL }, &[]);
    assert_eq!(words(&mut connection, &memory), []);
    connection.expire(NOW + 2 * CLOSE_TIMEOUT);
    assert_eq!(words(&mut connection, &memory), [Op::Reset]);
    assert!(connection.is_over() && connection.deadline().is_none());
    assert_eq!(metrics.conns_killed.count(), 1);
}

#[test]
fn a_call_waits_for_its_answer_for_so_long() {
    let program = Pipe::default();
    let stream = Box::new(program.clone());
    let mut connection = Connection::call(PORTS, stream, Arc::default(), NOW);
    let memory = ram();
    assert_eq!(words(&mut connection, &memory), [Op::Request]);
    assert_eq!(connection.deadline(), Some(NOW + CONNECT_TIMEOUT));
    connection.expire(NOW + CONNECT_TIMEOUT);
    assert_eq!(words(&mut connection, &memory), [Op::Reset]);
    assert!(connection.is_over());
    assert!(program.with(|p| p.read.is_empty()));
}

#[test]
fn the_guest_is_asked_for_credit_once() {
    let metrics = Arc::default();
    let (mut connection, program, memory) = open(&metrics);
    connection.receive(Op::CreditUpdate, Credit { buf_alloc: 10, fwd_cnt: 0 }, &[]);
    program.with(|p| p.writes.extend([1; 25]));
    connection.host_ready(true, false);
    assert_eq!(words(&mut connection, &memory), [Op::Data(10), Op::CreditRequest]);
    connection.receive(Op::CreditUpdate, Credit { buf_alloc: 10, fwd_cnt: 0 }, &[]);
    assert_eq!(words(&mut connection, &memory), []);
    connection.receive(Op::CreditUpdate, Credit { buf_alloc: 10, fwd_cnt: 10 }, &[]);
    assert_eq!(words(&mut connection, &memory), [Op::Data(10), Op::CreditRequest]);
    // A guest that says it has read more than there was has no room.
    connection.receive(Op::CreditUpdate, Credit { buf_alloc: 100, fwd_cnt: 99 }, &[]);
    assert_eq!(words(&mut connection, &memory), []);
    connection.receive(Op::CreditUpdate, Credit { buf_alloc: 100, fwd_cnt: 20 }, &[]);
    assert_eq!(words(&mut connection, &memory), [Op::Data(5)]);
}

#[test]
fn what_the_guest_sent_before_its_end_still_reaches_the_host() {
    let metrics = Arc::default();
    let (mut connection, program, memory) = open(&metrics);
    program.with(|p| p.write_max = 3);
    memory.write_slice(b"hello", DATA).unwrap();
    let data = [memory.get_slice(DATA, 5).unwrap()];
    connection.receive(Op::Data(5), FULL, &data);
    connection.receive(Op::Shutdown(Shutdown::BOTH), FULL, &[]);
    assert_eq!(words(&mut connection, &memory), [Op::Reset]);
    assert!(connection.is_past() && !connection.is_over());
    program.with(|p| p.write_max = 9);
    connection.host_ready(false, true);
    assert!(connection.is_over());
    assert!(program.with(|p| p.read == b"hello" && p.told_end));
}
