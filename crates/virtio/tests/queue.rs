//! A queue as a device uses it: what goes back when, and who hears of it.

use std::sync::Arc;

use memory::{Bytes, GuestAddress, GuestMemory};
use proptest::prelude::*;
use sparkler_virtio::mock::{CountingLine, ram};
use sparkler_virtio::{Answer, Chain, Handler, Interrupt, Outcome, Queue, QueueState, Turn, Until};

const SIZE: u16 = 16;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;

struct Bench {
    memory: Arc<GuestMemory>,
    line: Arc<CountingLine>,
    interrupt: Interrupt,
    queue: Queue,
}

/// A queue that has come as far as `position`, with `chains` of 16 bytes to write in it.
fn bench(event_idx_enabled: bool, position: u16, chains: u16) -> Bench {
    let memory = ram();
    let line = Arc::new(CountingLine::default());
    let state = QueueState {
        max_size: SIZE,
        next_avail: position,
        next_used: position,
        event_idx_enabled,
        size: SIZE,
        ready: true,
        desc_table: TABLE,
        avail_ring: AVAILABLE,
        used_ring: USED,
    };
    let queue = Queue::from_state(state, &memory).expect("its parts lie right");
    let bench = Bench { interrupt: Interrupt::new(line.clone()), memory, line, queue };
    for i in 0..chains {
        let descriptor = [0x8000 + 16 * u64::from(i), 16 | 2 << 32];
        bench.poke(TABLE + 16 * u64::from(i), descriptor);
        bench.poke(AVAILABLE + 4 + 2 * u64::from(position.wrapping_add(i) % SIZE), i);
    }
    bench.poke(AVAILABLE + 2, position.wrapping_add(chains));
    bench.poke(USED + 2, position);
    bench
}

impl Bench {
    fn poke<T: memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).expect("in memory");
    }

    fn used_index(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).expect("in memory")
    }

    fn entry(&self, index: u16) -> (u32, u32) {
        let at = USED + 4 + 8 * u64::from(index % SIZE);
        let [head, len]: [u32; 2] = self.memory.read_obj(GuestAddress(at)).expect("in memory");
        (head, len)
    }

    fn serve(&mut self, handle: impl FnMut(&mut Chain) -> Answer) -> Outcome {
        self.queue.serve(&self.memory, &self.interrupt, handle)
    }
}

#[test]
fn a_queue_that_was_not_set_up_touches_no_memory() {
    for event_idx_enabled in [false, true] {
        let memory = ram();
        let state = QueueState {
            ready: false,
            event_idx_enabled,
            max_size: SIZE,
            size: SIZE,
            ..QueueState::default()
        };
        let mut queue = Queue::from_state(state, &memory).expect("nothing to check");
        queue.disable_notification(&memory).expect("nothing to do");
        assert!(!queue.enable_notification(&memory).expect("nothing to do") && !queue.ready());
        let interrupt = Interrupt::new(Arc::new(CountingLine::default()));
        let outcome = queue.serve(&memory, &interrupt, |_| unreachable!("it is empty"));
        assert_eq!(outcome, Outcome::Done);
        let mut low = [0; 0x1000];
        memory.read_slice(&mut low, GuestAddress(0)).expect("in memory");
        assert!(low.iter().all(|byte| *byte == 0));
    }
}

/// Keeps chains, and gives back some: what a disk does.
#[derive(Default)]
struct Keeper {
    /// What it says to the chains that come, in turn; the rest is kept.
    answers: Vec<Answer>,
    kept: Vec<u16>,
    /// How many it is done with.
    done: usize,
}

impl Handler for Keeper {
    fn handle(&mut self, chain: &mut Chain) -> Answer {
        let answer = if self.answers.is_empty() { Answer::Kept } else { self.answers.remove(0) };
        if answer == Answer::Kept {
            self.kept.push(chain.head());
        }
        answer
    }

    fn settle(&mut self, ended: &mut Vec<(u16, u32)>) {
        let done = std::mem::take(&mut self.done).min(self.kept.len());
        ended.extend(self.kept.drain(..done).map(|head| (head, 7)));
    }
}

/// A turn over four chains: how it ends, how many are given back and kept, and how many are left.
fn check(answers: &[Answer], done: usize, expected: (Outcome, u16, usize, u16)) {
    let mut bench = bench(false, 0, 4);
    let mut keeper = Keeper { answers: answers.to_vec(), done, ..Keeper::default() };
    let outcome = bench.queue.serve_by(&bench.memory, &bench.interrupt, &mut keeper);
    let left = 4 - bench.queue.state().next_avail;
    let got = (outcome, bench.used_index(), keeper.kept.len(), left);
    assert_eq!(got, expected, "{answers:?}, {done} done");
    assert_eq!(bench.line.take() > 0, expected.1 > 0);
}

#[test]
fn chains_are_answered_kept_or_put_back() {
    use Answer::{Kept, PutBack, Used};
    use Outcome::{Done, More};
    check(&[Used(1); 4], 0, (Done, 4, 0, 0));
    check(&[Used(1), Kept, Used(1), Kept], 0, (Done, 2, 2, 0));
    check(&[Kept; 4], 3, (Done, 3, 1, 0));
    check(&[Used(1), PutBack(Until::Served)], 0, (Done, 1, 0, 3));
    check(&[Used(1), PutBack(Until::NextTurn)], 0, (More, 1, 0, 3));
    // Nothing ends, so it is over; or something does, so it goes on.
    check(&[Kept, PutBack(Until::Ended)], 0, (Done, 0, 1, 3));
    check(&[Kept, PutBack(Until::Ended)], 1, (Done, 1, 3, 0));
    check(&[Kept, PutBack(Until::Ended), Used(1)], 1, (Done, 2, 2, 0));
}

#[test]
fn a_handler_that_always_finds_an_end_does_not_hold_a_turn() {
    struct Restless(u32);
    impl Handler for Restless {
        fn handle(&mut self, _chain: &mut Chain) -> Answer {
            self.0 += 1;
            Answer::PutBack(Until::Ended)
        }
        fn settle(&mut self, ended: &mut Vec<(u16, u32)>) {
            ended.push((0, 0));
        }
    }
    let mut bench = bench(false, 0, 1);
    let mut restless = Restless(0);
    let outcome = bench.queue.serve_by(&bench.memory, &bench.interrupt, &mut restless);
    assert_eq!((outcome, restless.0), (Outcome::More, 1024));
}

#[test]
fn a_turn_is_bounded() {
    let looks = |bytes| {
        let mut turn = Turn::default();
        let look = || {
            let any = turn.look();
            turn.spend(bytes);
            any.then_some(())
        };
        std::iter::from_fn(look).count()
    };
    assert_eq!([0, 1 << 14, 1 << 20, u64::MAX].map(looks), [1024, 1024, 16, 1]);
}

#[test]
fn the_driver_hears_of_each_sixteenth_look() {
    let mut bench = bench(false, 0, SIZE);
    let line = bench.line.clone();
    let mut heard = Vec::new();
    let (available, memory) = (GuestAddress(AVAILABLE + 2), bench.memory.clone());
    let outcome = bench.serve(|_| {
        heard.push(line.take());
        // The driver never stops.
        let next: u16 = memory.read_obj(available).expect("in memory");
        memory.write_obj(next.wrapping_add(1), available).expect("in memory");
        Answer::Used(0)
    });
    assert_eq!((outcome, heard.len()), (Outcome::More, 1024));
    let expected = (0..1024).map(|look| u32::from(look > 0 && look % 16 == 0));
    assert!(heard.into_iter().eq(expected));
}

proptest! {
    /// Entries that are added together are seen together, and interrupt as if they had been added
    /// one by one (virtio 1.2, 2.7.10: when the index passes the driver's wish).
    #[test]
    fn many_are_given_back_as_one(
        position in any::<u16>(),
        batches in prop::collection::vec(0u16..=3 * SIZE, 1..6),
        wish in 0u16..40,
    ) {
        let mut bench = bench(true, position, 0);
        let event = position.wrapping_add(wish);
        bench.poke(AVAILABLE + 4 + 2 * u64::from(SIZE), event);
        let mut end = position;
        for batch in batches {
            let used: Vec<_> = (0..batch).map(|i| (i % SIZE, u32::from(i) + 100)).collect();
            bench.queue.add_used_all(&bench.memory, &used).expect("in memory");
            bench.queue.signal(&bench.memory, &bench.interrupt).expect("in memory");
            let passes = (0..batch).any(|i| end.wrapping_add(i) == event);
            prop_assert_eq!(bench.line.take(), u32::from(passes));
            // A driver that offers a chain twice gets more back than its ring holds.
            let first = used.len().saturating_sub(usize::from(SIZE));
            for (i, (head, len)) in used.iter().enumerate().skip(first) {
                let entry = bench.entry(end.wrapping_add(i as u16));
                prop_assert_eq!(entry, (u32::from(*head), *len));
            }
            end = end.wrapping_add(batch);
            let behind: u64 = bench.memory.read_obj(GuestAddress(USED + 4 + 8 * u64::from(SIZE))).unwrap();
            prop_assert_eq!(behind, 0);
            prop_assert_eq!((bench.used_index(), bench.queue.state().next_used), (end, end));
        }
    }
}
