//! Serving a disk's queue: from a chain to its answer.
//!
//! ```text
//!   queue ──pop──▶ parse ──▶ limits ──▶ begin ──▶ answer ──▶ used ring
//!     ▲                        │refuse      └on its way──▶ ended ──┘
//!     └────────undo────────────┘
//! ```
//!
//! A request that is refused stays in the queue, and with it all behind it: the rate limiter's
//! alarm, or the end of a transfer, has the queue served again. Until then the driver need not
//! notify.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use memory::GuestMemory;
use metrics::BlockMetrics;
use virtio::bindings::virtio_blk as wire;
use virtio::{
    Answer, BufferError, Chain, GuestSlice, Handler, Interrupt, Outcome, Queue, Turn, Until,
};
use vm_memory::bitmap::Bitmap;

use super::backend::{Begun, BlockBackend, Tag, Transfer};
use super::flight::{Flight, Pending};
use super::request::{
    self, Action, Disk, EXTENT_LEN, EXTENTS_MAX, ID_LEN, Operation, Refusal, Request, SECTOR_SIZE,
};
use super::{BlockOptions, Clock};
use crate::rate::RateLimiter;

/// A disk but for its queue.
pub struct Server<B> {
    pub backend: B,
    pub options: BlockOptions,
    /// What the guest reads as the disk's identity, if it is not the back end's.
    pub fixed_id: Option<[u8; ID_LEN as usize]>,
    pub limiter: Option<RateLimiter>,
    pub metrics: Arc<BlockMetrics>,
    pub clock: Clock,
    flight: Flight,
    /// What this turn clears. What it moves the queue counts, as the chains' lengths.
    cleared: Turn,
    /// Why the last request has to wait, if it has.
    refused: Option<Limit>,
}

/// The queue, and what goes with it.
pub struct Ring<'a> {
    pub memory: &'a Arc<GuestMemory>,
    pub queue: &'a mut Queue,
    pub interrupt: &'a Interrupt,
}

/// Why a request has to wait.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The rate limiter's alarm has the queue served again.
    Rate,
    /// The end of a transfer has.
    InFlight,
}

/// What came of an operation: bytes written to the chain, or why not.
type Done = Result<u64, Failure>;

/// Why a request could not be carried out: whose fault it is decides who hears of it.
enum Failure {
    /// The request is senseless: the guest's fault.
    Refused(Refusal),
    /// Its buffers are: the guest's fault as well.
    Buffer(BufferError),
    /// The back end failed: the host's.
    Host(io::Error),
}

impl<B: BlockBackend> Server<B> {
    /// A disk without limits, which nobody counts.
    pub fn new(backend: B, options: BlockOptions) -> Self {
        Self {
            backend,
            options,
            fixed_id: None,
            limiter: None,
            metrics: Arc::default(),
            clock: Box::new(|| Duration::ZERO),
            flight: Flight::default(),
            cleared: Turn::default(),
            refused: None,
        }
    }

    /// Takes what is in the queue, up to a bound, and answers what is done.
    pub fn turn(&mut self, ring: &mut Ring<'_>) -> Outcome {
        self.metrics.queue_event_count.inc();
        if self.limiter.as_mut().is_some_and(RateLimiter::take_unblocked) {
            self.metrics.rate_limiter_event_count.inc();
        }
        let Ring { memory, queue, interrupt } = ring;
        self.cleared = Turn::default();
        let outcome = queue.serve_by(memory, interrupt, &mut Serving { server: self, memory });
        if let Some(limit) = self.refused.take() {
            self.count_refused(limit);
        }
        if outcome == Outcome::Broken {
            self.metrics.event_fails.inc();
        }
        outcome
    }

    /// Waits for all that is on its way, and answers it.
    pub fn settle(&mut self, ring: &mut Ring<'_>) {
        self.backend.wait();
        let Ring { memory, queue, interrupt } = ring;
        if let Err(error) = queue.settle(memory, interrupt, &mut Serving { server: self, memory }) {
            log::debug!("virtio-block: queue broken while its disk came to rest: {error}");
        }
    }

    /// Waits for all that is on its way, for which nobody waits any more.
    pub fn forget(&mut self, memory: &GuestMemory) {
        self.backend.wait();
        while let Some((tag, _)) = self.backend.ended() {
            if let Some(pending) = self.flight.release(tag) {
                mark_read(memory, &pending.chain, &pending.operation);
            }
        }
    }

    /// Answers the requests whose transfers have ended.
    fn collect(&mut self, memory: &GuestMemory, ended: &mut Vec<(u16, u32)>) {
        while let Some((tag, result)) = self.backend.ended() {
            let Some(pending) = self.flight.release(tag) else { continue };
            let Pending { chain, operation, status_at, since } = pending;
            mark_read(memory, &chain, &operation);
            let done = result.map(|()| operation.written_len()).map_err(Failure::Host);
            self.count(&operation, &done, since);
            ended.push((chain.head(), answer(memory, &chain, status_at, done)));
            self.flight.recycle(chain);
        }
    }

    /// Begins the request in `chain`, and answers it if it is done at once.
    fn serve(&mut self, memory: &Arc<GuestMemory>, chain: &mut Chain) -> Answer {
        self.refused = None;
        let disk = self.disk();
        let (operation, status_at) = match Request::parse(memory, chain, disk) {
            Ok(Request { operation: Ok(operation), status_at }) => (operation, status_at),
            Ok(Request { operation: Err(refusal), status_at }) => {
                self.metrics.invalid_reqs_count.inc();
                let refused = Err(Failure::Refused(refusal));
                return Answer::Used(answer(memory, chain, status_at, refused));
            }
            Err(unanswerable) => {
                log::debug!("virtio-block request dropped: {unanswerable:?}");
                self.metrics.invalid_reqs_count.inc();
                return Answer::Used(0);
            }
        };
        if self.cleared.is_heavy() {
            return Answer::PutBack(Until::NextTurn);
        }
        let Some(tag) = self.flight.vacant() else { return self.refuse(Limit::InFlight) };
        let bytes = operation.transfer_len();
        if self.limiter.as_mut().is_some_and(|limiter| !limiter.allows(bytes)) {
            return self.refuse(Limit::Rate);
        }
        let since = (self.clock)();
        match self.begin(tag, memory, chain, &operation) {
            Some(done) => {
                self.count(&operation, &done, since);
                Answer::Used(answer(memory, chain, status_at, done))
            }
            None => {
                self.flight.occupy(chain, |chain| Pending { chain, operation, status_at, since });
                Answer::Kept
            }
        }
    }

    fn disk(&self) -> Disk {
        let len = self.backend.len() / SECTOR_SIZE * SECTOR_SIZE;
        Disk { len, read_only: self.options.read_only }
    }

    /// Begins `operation`; None if it is on its way.
    fn begin(
        &mut self,
        tag: Tag,
        memory: &Arc<GuestMemory>,
        chain: &Chain,
        operation: &Operation,
    ) -> Option<Done> {
        let begun = match operation {
            Operation::Read { offset, data } => {
                let into = match chain.writable_slices(memory, data.clone()) {
                    Ok(into) => into,
                    Err(error) => return Some(Err(Failure::Buffer(error))),
                };
                let transfer = Transfer::Read { offset: *offset, into: &into };
                let begun = self.backend.begin(tag, memory, transfer);
                if let Begun::Ended(_) = begun {
                    // Also after a failure, which may come half-way.
                    mark_written(&into);
                }
                begun
            }
            Operation::Write { offset, data } => {
                let from = match chain.readable_slices(memory, data.clone()) {
                    Ok(from) => from,
                    Err(error) => return Some(Err(Failure::Buffer(error))),
                };
                self.backend.begin(tag, memory, Transfer::Write { offset: *offset, from: &from })
            }
            Operation::Flush if self.options.write_back => {
                self.backend.begin(tag, memory, Transfer::Flush)
            }
            Operation::Flush => Begun::Ended(Ok(())),
            Operation::GetId { data } => {
                let id = self.fixed_id.unwrap_or_else(|| self.backend.id());
                let written = chain.write_at(memory, data.start, &id);
                return Some(written.map(|()| ID_LEN).map_err(Failure::Buffer));
            }
            Operation::Extents { action, list } => {
                let mut bytes = [0; EXTENTS_MAX * EXTENT_LEN];
                let len = (list.end - list.start) as usize;
                let read = chain.read_at(memory, list.start, &mut bytes[..len]);
                let read = read.map_err(Failure::Buffer);
                return Some(read.and_then(|()| self.change_extents(*action, &bytes[..len])));
            }
        };
        match begun {
            Begun::Ended(result) => {
                Some(result.map(|()| operation.written_len()).map_err(Failure::Host))
            }
            Begun::OnItsWay => None,
        }
    }

    fn change_extents(&mut self, action: Action, list: &[u8]) -> Done {
        let extents = request::extents(action, list, self.disk()).map_err(Failure::Refused)?;
        for extent in extents {
            let changed = match action {
                Action::Discard => self.backend.discard(extent.offset, extent.len),
                Action::WriteZeroes => {
                    self.cleared.spend(extent.len);
                    self.backend.write_zeroes(extent.offset, extent.len, extent.may_unmap)
                }
            };
            changed.map_err(Failure::Host)?;
        }
        Ok(0)
    }

    fn refuse(&mut self, limit: Limit) -> Answer {
        self.refused = Some(limit);
        Answer::PutBack(match limit {
            Limit::Rate => Until::Served,
            Limit::InFlight => Until::Ended,
        })
    }

    fn count_refused(&self, limit: Limit) {
        self.metrics.remaining_reqs_count.inc();
        match limit {
            Limit::Rate => self.metrics.rate_limiter_throttled_events.inc(),
            Limit::InFlight => self.metrics.io_engine_throttled_events.inc(),
        }
    }

    fn count(&self, operation: &Operation, done: &Done, since: Duration) {
        let metrics = &self.metrics;
        match (done, operation) {
            (Err(Failure::Refused(_) | Failure::Buffer(_)), _) => metrics.invalid_reqs_count.inc(),
            (Err(Failure::Host(_)), _) => metrics.execute_fails.inc(),
            (Ok(_), Operation::Read { .. }) => {
                metrics.read_count.inc();
                metrics.read_bytes.add(operation.transfer_len());
                metrics.read_agg.record((self.clock)().saturating_sub(since));
            }
            (Ok(_), Operation::Write { .. }) => {
                metrics.write_count.inc();
                metrics.write_bytes.add(operation.transfer_len());
                metrics.write_agg.record((self.clock)().saturating_sub(since));
            }
            (Ok(_), Operation::Flush) => metrics.flush_count.inc(),
            (Ok(_), Operation::GetId { .. } | Operation::Extents { .. }) => {}
        }
    }
}

/// A disk over the guest's RAM, as its queue sees it.
struct Serving<'a, B> {
    server: &'a mut Server<B>,
    memory: &'a Arc<GuestMemory>,
}

impl<B: BlockBackend> Handler for Serving<'_, B> {
    fn handle(&mut self, chain: &mut Chain) -> Answer {
        self.server.serve(self.memory, chain)
    }

    fn settle(&mut self, ended: &mut Vec<(u16, u32)>) {
        self.server.backend.submit();
        self.server.collect(self.memory, ended);
    }
}

/// Puts the status where the driver looks for it. Returns how many bytes were written to the
/// chain, for the used ring.
fn answer(memory: &GuestMemory, chain: &Chain, status_at: u64, done: Done) -> u32 {
    let (written, status) = match done {
        Ok(written) => (written, wire::VIRTIO_BLK_S_OK),
        Err(failure) => (0, failure.status()),
    };
    match chain.write_at(memory, status_at, &[status as u8]) {
        // Bounded by the largest request.
        Ok(()) => written as u32 + 1,
        Err(_) => 0,
    }
}

/// Logs what an operation that was on its way may have written to guest memory.
fn mark_read(memory: &GuestMemory, chain: &Chain, operation: &Operation) {
    if let Operation::Read { data, .. } = operation {
        // The buffers were found in RAM when it began, and RAM does not move.
        mark_written(&chain.writable_slices(memory, data.clone()).unwrap_or_default());
    }
}

fn mark_written(slices: &[GuestSlice<'_>]) {
    for slice in slices {
        slice.bitmap().mark_dirty(0, slice.len());
    }
}

impl Failure {
    /// The status byte for the driver; the log gets the reason.
    fn status(&self) -> u32 {
        match self {
            Failure::Refused(Refusal::Unsupported { kind }) => {
                log::debug!("virtio-block request of unknown type {kind}, or with unknown flags");
                return wire::VIRTIO_BLK_S_UNSUPP;
            }
            Failure::Host(error) if error.kind() == io::ErrorKind::Unsupported => {
                log::debug!("disk request that the host does not know: {error}");
                return wire::VIRTIO_BLK_S_UNSUPP;
            }
            Failure::Refused(Refusal::Failed(fault)) => {
                log::debug!("virtio-block request refused: {fault:?}");
            }
            Failure::Buffer(error) => log::debug!("virtio-block request refused: {error}"),
            Failure::Host(error) => {
                log::warn!("disk request failed: {error}; the guest gets an I/O error");
            }
        }
        wire::VIRTIO_BLK_S_IOERR
    }
}
