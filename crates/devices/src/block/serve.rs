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
use virtio::{BufferError, Chain, GuestSlice, Interrupt, Outcome, Queue, QueueError};
use vm_memory::bitmap::Bitmap;

use super::backend::{Begun, BlockBackend, Tag, Transfer};
use super::flight::{Flight, Pending};
use super::request::{
    self, Action, Disk, EXTENT_LEN, EXTENTS_MAX, ID_LEN, Operation, Refusal, Request, SECTOR_SIZE,
};
use super::{BlockOptions, Clock};
use crate::rate::RateLimiter;

/// Most looks at the ring in one turn.
const TURN_LOOKS: u32 = 1024;
/// No further request is begun in a turn once its requests moved or cleared this many bytes.
const TURN_BYTES: u64 = 16 << 20;
/// Looks after which transfers are sent off, and the driver hears of what is done so far.
const LOOKS_PER_BATCH: u32 = 16;

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
    /// Bytes that this turn moved or cleared.
    work: u64,
    /// Kept for its allocation.
    scratch: Chain,
}

/// The queue, and what goes with it.
pub struct Ring<'a> {
    pub memory: &'a Arc<GuestMemory>,
    pub queue: &'a mut Queue,
    pub interrupt: &'a Interrupt,
}

/// What became of a chain.
enum Served {
    /// It is answered, with so many bytes written.
    Answered(u32),
    /// It will be answered when its transfer has ended.
    OnItsWay,
    /// It is to go back into the queue.
    Refused(Limit),
}

/// Why a request has to wait.
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
            work: 0,
            scratch: Chain::default(),
        }
    }

    /// Takes what is in the queue, up to a bound, and answers what is done.
    pub fn turn(&mut self, ring: &mut Ring<'_>) -> Outcome {
        self.metrics.queue_event_count.inc();
        if self.limiter.as_mut().is_some_and(RateLimiter::take_unblocked) {
            self.metrics.rate_limiter_event_count.inc();
        }
        let mut chain = std::mem::take(&mut self.scratch);
        let taken = self.take(ring, &mut chain);
        self.scratch = chain;
        // Also after a broken chain: the driver gets what was done before it.
        let sent = self.send_off(ring);
        match taken.and_then(|outcome| sent.map(|_| outcome)) {
            Ok(outcome) => outcome,
            Err(error) => {
                log::debug!("virtio-block: queue given up: {error}");
                self.metrics.event_fails.inc();
                Outcome::Broken
            }
        }
    }

    /// Waits for all that is on its way, and answers it.
    pub fn settle(&mut self, ring: &mut Ring<'_>) {
        self.backend.wait();
        if let Err(error) = self.send_off(ring) {
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

    fn take(&mut self, ring: &mut Ring<'_>, chain: &mut Chain) -> Result<Outcome, QueueError> {
        self.work = 0;
        ring.queue.disable_notification(ring.memory)?;
        self.collect(ring)?;
        // An empty look counts as well: a guest can make the index come and go between two looks.
        for looks in 1..=TURN_LOOKS {
            if ring.queue.pop(ring.memory, chain)? {
                match self.serve(ring.memory, chain) {
                    Served::Answered(written) => {
                        ring.queue.add_used(ring.memory, chain.head(), written)?;
                    }
                    Served::OnItsWay => {}
                    Served::Refused(limit) => {
                        ring.queue.undo_pop();
                        // What is sent off may end at once, and make room.
                        if !(matches!(limit, Limit::InFlight) && self.send_off(ring)?) {
                            self.count_refused(&limit);
                            return Ok(Outcome::Done);
                        }
                    }
                }
            } else if !ring.queue.enable_notification(ring.memory)? {
                return Ok(Outcome::Done);
            }
            if self.work >= TURN_BYTES {
                break;
            }
            if looks % LOOKS_PER_BATCH == 0 {
                self.send_off(ring)?;
            }
        }
        Ok(Outcome::More)
    }

    /// Sends transfers off, answers those that have ended, and tells the driver. True if any had.
    fn send_off(&mut self, ring: &mut Ring<'_>) -> Result<bool, QueueError> {
        self.backend.submit();
        let any = self.collect(ring)?;
        if ring.queue.needs_interrupt(ring.memory)? {
            ring.interrupt.signal_used();
        }
        Ok(any)
    }

    /// Answers the requests whose transfers have ended.
    fn collect(&mut self, ring: &mut Ring<'_>) -> Result<bool, QueueError> {
        let mut any = false;
        while let Some((tag, result)) = self.backend.ended() {
            let Some(pending) = self.flight.release(tag) else { continue };
            let Pending { chain, operation, status_at, since } = pending;
            mark_read(ring.memory, &chain, &operation);
            let done = result.map(|()| operation.written_len()).map_err(Failure::Host);
            self.count(&operation, &done, since);
            let written = answer(ring.memory, &chain, status_at, done);
            ring.queue.add_used(ring.memory, chain.head(), written)?;
            self.flight.recycle(chain);
            any = true;
        }
        Ok(any)
    }

    /// Begins the request in `chain`, and answers it if it is done at once.
    fn serve(&mut self, memory: &Arc<GuestMemory>, chain: &mut Chain) -> Served {
        let disk = self.disk();
        let (operation, status_at) = match Request::parse(memory, chain, disk) {
            Ok(Request { operation: Ok(operation), status_at }) => (operation, status_at),
            Ok(Request { operation: Err(refusal), status_at }) => {
                self.metrics.invalid_reqs_count.inc();
                let refused = Err(Failure::Refused(refusal));
                return Served::Answered(answer(memory, chain, status_at, refused));
            }
            Err(unanswerable) => {
                log::debug!("virtio-block request dropped: {unanswerable:?}");
                self.metrics.invalid_reqs_count.inc();
                return Served::Answered(0);
            }
        };
        let Some(tag) = self.flight.vacant() else { return Served::Refused(Limit::InFlight) };
        let bytes = operation.transfer_len();
        if !self.limiter.as_mut().is_none_or(|limiter| limiter.allows(bytes)) {
            return Served::Refused(Limit::Rate);
        }
        self.work += bytes;
        let since = (self.clock)();
        match self.begin(tag, memory, chain, &operation) {
            Some(done) => {
                self.count(&operation, &done, since);
                Served::Answered(answer(memory, chain, status_at, done))
            }
            None => {
                self.flight.occupy(chain, |chain| Pending { chain, operation, status_at, since });
                Served::OnItsWay
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
                    self.work += extent.len;
                    self.backend.write_zeroes(extent.offset, extent.len, extent.may_unmap)
                }
            };
            changed.map_err(Failure::Host)?;
        }
        Ok(0)
    }

    fn count_refused(&self, limit: &Limit) {
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
