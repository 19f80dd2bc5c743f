//! The mailbox through which other threads reach a vCPU's [`LocalApic`].
//!
//! [`LocalApic`]: crate::LocalApic
//!
//! Posting and draining take no lock. Edge and level posts of a vector have
//! their own bitmaps, so that a trigger mode never travels apart from its
//! vector.
//!
//! # Memory ordering
//!
//! * A poster first sets its bit in a payload word (`Release`), then the
//!   word's bit in `work` by `fetch_or` (`AcqRel`).
//! * The owner first clears `work` by `swap` (`AcqRel`), then swaps out the
//!   payload words that it named (`Acquire`).
//!
//! Every change of `work` is a read-modify-write, so all posts since the last
//! drain form one release sequence, and the owner's swap synchronises with
//! each of them: a payload bit whose `work` bit was taken is always seen. A
//! post that lands between the two swaps leaves `work` set and costs one empty
//! drain; none is lost.
//!
//! [`IrqInbox::has_work`] is a `Relaxed` load: it is a hint polled at block
//! heads, and [`IrqInbox::take`] synchronises. A vCPU that goes to sleep must
//! test it once more under whatever its waker takes (a mutex and a condition
//! variable, or an eventfd written after the post); the posts alone wake
//! nobody, which is why each says whether a kick is due.
//!
//! The routing word is published by the owner (`Release`) and read by senders
//! (`Acquire`). A sender may act on the routing from just before a change, as
//! on hardware, where a message in flight was addressed before it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::apic::ApicRouting;
use crate::bitmap::Bitmap256;
use crate::message::{DeliveryMode, Message, Trigger};

/// Pending interrupts of one vCPU, shared between all threads of the VM.
#[derive(Debug)]
pub struct IrqInbox {
    /// Bit `n` (0 to 7): `vectors[n]` may be non-zero; bit 8: `events` changed.
    work: AtomicU32,
    /// Words 0 to 3 hold edge-triggered vectors, 4 to 7 level-triggered ones.
    vectors: [AtomicU64; 8],
    events: AtomicU32,
    routing: AtomicU64,
}

const LEVEL_WORDS: usize = 4;
const WORK_EVENTS: u32 = 1 << 8;

const EVENT_NMI: u32 = 1 << 0;
const EVENT_INIT: u32 = 1 << 1;
const EVENT_START_UP: u32 = 1 << 2;
/// The 8259A pair's INTR output, a level: a drain leaves it in place.
const EVENT_EXTINT: u32 = 1 << 3;
const START_UP_VECTOR_SHIFT: u32 = 8;
const START_UP_MASK: u32 = EVENT_START_UP | 0xff << START_UP_VECTOR_SHIFT;

/// What a drain took out of an inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) edge: Bitmap256,
    pub(crate) level: Bitmap256,
    /// `None` when no event changed.
    pub(crate) events: Option<TakenEvents>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TakenEvents {
    pub(crate) nmi: bool,
    pub(crate) init: bool,
    pub(crate) start_up: Option<u8>,
    pub(crate) extint: bool,
}

impl IrqInbox {
    /// An empty inbox of the local APIC that `routing` describes.
    pub fn new(routing: ApicRouting) -> Self {
        Self {
            work: AtomicU32::new(0),
            vectors: [const { AtomicU64::new(0) }; 8],
            events: AtomicU32::new(0),
            routing: AtomicU64::new(routing.pack()),
        }
    }

    /// Whether a drain would find something. One relaxed load, for the CPU's
    /// inner loop.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.work.load(Ordering::Relaxed) != 0
    }

    /// Posts `message`, which the caller has found to match this vCPU. Returns
    /// whether the inbox was empty before, which is when the vCPU needs a
    /// kick. System management and ExtINT messages are dropped: the first are
    /// not emulated, and the 8259A pair is wired to LINT0 and to no I/O APIC
    /// pin.
    pub fn post(&self, message: &Message) -> bool {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.post_vector(message.vector, message.trigger)
            }
            DeliveryMode::Nmi => self.post_nmi(),
            DeliveryMode::Init => self.post_init(),
            DeliveryMode::StartUp => self.post_start_up(message.vector),
            DeliveryMode::Smi | DeliveryMode::ExtInt => false,
        }
    }

    /// Posts a vector. Returns whether the vCPU needs a kick.
    pub fn post_vector(&self, vector: u8, trigger: Trigger) -> bool {
        let word = usize::from(vector >> 6)
            + match trigger {
                Trigger::Edge => 0,
                Trigger::Level => LEVEL_WORDS,
            };
        self.vectors[word].fetch_or(1 << (vector & 63), Ordering::Release);
        self.announce(1 << word)
    }

    /// Posts a non-maskable interrupt. Returns whether the vCPU needs a kick.
    pub fn post_nmi(&self) -> bool {
        self.events.fetch_or(EVENT_NMI, Ordering::Release);
        self.announce(WORK_EVENTS)
    }

    /// Posts an INIT, which cancels a start-up posted before it. Returns
    /// whether the vCPU needs a kick.
    pub fn post_init(&self) -> bool {
        self.update_events(|events| events & !START_UP_MASK | EVENT_INIT)
    }

    /// Posts a start-up message. Returns whether the vCPU needs a kick.
    pub fn post_start_up(&self, vector: u8) -> bool {
        let start_up = EVENT_START_UP | u32::from(vector) << START_UP_VECTOR_SHIFT;
        self.update_events(|events| events & !START_UP_MASK | start_up)
    }

    /// Sets the level of the 8259A pair's INTR output as LINT0 sees it.
    /// Returns whether the vCPU needs a kick.
    pub fn set_extint(&self, level: bool) -> bool {
        if level {
            self.events.fetch_or(EVENT_EXTINT, Ordering::Release);
        } else {
            self.events.fetch_and(!EVENT_EXTINT, Ordering::Release);
        }
        self.announce(WORK_EVENTS)
    }

    /// Publishes how the local APIC is addressed now. Only the owner calls it,
    /// after [`ApicAction::RoutingChanged`](crate::ApicAction::RoutingChanged).
    pub fn publish_routing(&self, routing: ApicRouting) {
        self.routing.store(routing.pack(), Ordering::Release);
    }

    /// How the local APIC was last published to be addressed.
    pub fn routing(&self) -> ApicRouting {
        ApicRouting::unpack(self.routing.load(Ordering::Acquire))
    }

    /// Takes everything that was posted. Only the owner calls it.
    pub(crate) fn take(&self) -> Taken {
        let work = self.work.swap(0, Ordering::AcqRel);
        let mut taken = Taken::default();
        for word in (0..self.vectors.len()).filter(|word| work & 1 << word != 0) {
            let bits = self.vectors[word].swap(0, Ordering::Acquire);
            if word < LEVEL_WORDS {
                taken.edge.0[word] = bits;
            } else {
                taken.level.0[word - LEVEL_WORDS] = bits;
            }
        }
        if work & WORK_EVENTS != 0 {
            taken.events = Some(self.take_events());
        }
        taken
    }

    fn take_events(&self) -> TakenEvents {
        let events = self.events.fetch_and(EVENT_EXTINT, Ordering::AcqRel);
        TakenEvents {
            nmi: events & EVENT_NMI != 0,
            init: events & EVENT_INIT != 0,
            start_up: (events & EVENT_START_UP != 0)
                .then_some((events >> START_UP_VECTOR_SHIFT) as u8),
            extint: events & EVENT_EXTINT != 0,
        }
    }

    fn update_events(&self, update: impl Fn(u32) -> u32) -> bool {
        let mut events = self.events.load(Ordering::Relaxed);
        while let Err(changed) = self.events.compare_exchange_weak(
            events,
            update(events),
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            events = changed;
        }
        self.announce(WORK_EVENTS)
    }

    fn announce(&self, work: u32) -> bool {
        self.work.fetch_or(work, Ordering::AcqRel) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::apic::{ApicConfig, LocalApic};

    fn inbox() -> IrqInbox {
        IrqInbox::new(LocalApic::new(ApicConfig::default()).routing())
    }

    #[test]
    fn takes_what_was_posted_once() {
        let inbox = inbox();
        assert!(!inbox.has_work());
        assert!(inbox.post_vector(0x31, Trigger::Edge));
        assert!(!inbox.post_vector(0xfe, Trigger::Level), "already due for a drain");
        assert!(inbox.has_work());
        let taken = inbox.take();
        assert!(taken.edge.contains(0x31) && taken.level.contains(0xfe));
        assert_eq!(taken.events, None);
        assert!(!inbox.has_work());
        assert_eq!(inbox.take(), Taken::default());
    }

    #[test]
    fn init_cancels_an_earlier_start_up_but_not_a_later_one() {
        let inbox = inbox();
        inbox.post_start_up(0x12);
        inbox.post_init();
        let expected = TakenEvents { nmi: false, init: true, start_up: None, extint: false };
        assert_eq!(inbox.take().events, Some(expected));
        inbox.post_init();
        inbox.post_start_up(0x99);
        let expected = TakenEvents { start_up: Some(0x99), ..expected };
        assert_eq!(inbox.take().events, Some(expected));
    }

    #[test]
    fn extint_is_a_level_and_announces_changes_only() {
        let inbox = inbox();
        inbox.set_extint(true);
        assert!(inbox.take().events.is_some_and(|events| events.extint));
        assert!(!inbox.has_work(), "the level alone is no work");
        inbox.post_nmi();
        assert!(inbox.take().events.is_some_and(|events| events.extint && events.nmi));
        inbox.set_extint(false);
        assert!(inbox.take().events.is_some_and(|events| !events.extint));
    }

    #[test]
    fn loses_no_post_under_contention() {
        let inbox = Arc::new(inbox());
        let posters: Vec<_> = (0..4u8)
            .map(|poster| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    for vector in (poster * 64)..=(poster * 64 + 63) {
                        inbox.post_vector(vector, Trigger::from_bit(vector & 1 != 0));
                    }
                })
            })
            .collect();
        let mut seen = Bitmap256::default();
        while seen.0 != [u64::MAX; 4] {
            let taken = inbox.take();
            for word in 0..4 {
                seen.0[word] |= taken.edge.0[word] | taken.level.0[word];
                assert_eq!(taken.edge.0[word] & 0xaaaa_aaaa_aaaa_aaaa, 0);
                assert_eq!(taken.level.0[word] & 0x5555_5555_5555_5555, 0);
            }
        }
        for poster in posters {
            poster.join().expect("a poster does not panic");
        }
    }
}
