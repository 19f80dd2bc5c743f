//! A disk whose transfers go on while the machine does: io_uring.
//!
//! ```text
//!   begin ──▶ queued ──submit──▶ the kernel's ──▶ completion ring ──▶ ended
//!                ▲                                │     └ raises the event
//!                └────────── a part is left ──────┘
//! ```
//!
//! Reads, writes and flushes are sent off; what is rare (discards, writes of zeroes) is done at
//! once. The kernel reads and writes guest RAM until a transfer has ended: each keeps the RAM
//! alive, and a disk that is dropped waits for them. If the ring fails, which no kernel does that
//! let it be made, the disk goes on without.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use devices::block::request::ID_LEN;
use devices::block::{Begun, BlockBackend, IN_FLIGHT_MAX, Tag, Transfer};
use io_uring::{IoUring, opcode, squeue, types};
use memory::GuestMemory;
use virtio::GuestSlice;

use crate::disk::{Pieces, Way};
use crate::{DiskError, FileDisk};

/// How often to look for the end of transfers if the kernel does not let us wait.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A file as a disk, by io_uring.
pub struct UringDisk {
    disk: FileDisk,
    ring: IoUring,
    /// By tag; grows as far as it is used.
    flights: Vec<Flight>,
    /// Tags in the submission ring that the kernel has not taken yet.
    queued: VecDeque<Tag>,
    /// Transfers that have ended but were not told of.
    landed: VecDeque<(Tag, io::Result<()>)>,
    /// Transfers that are queued or the kernel's.
    busy: usize,
    /// The kernel refused the ring, which is not entered any more.
    broken: bool,
}

/// One transfer.
#[derive(Default)]
struct Flight {
    job: Option<Job>,
    pieces: Pieces,
    /// The RAM that `pieces` are in, while the transfer is queued or the kernel's.
    memory: Option<Arc<GuestMemory>>,
}

#[derive(Debug, Clone, Copy)]
enum Job {
    Move(Way),
    Flush,
}

impl UringDisk {
    /// Makes the transfers of `disk` asynchronous. `event`, an eventfd, is raised when transfers
    /// end: the disk's queue is then to be served. It need not be read.
    pub fn new(disk: FileDisk, event: impl AsFd) -> Result<Self, DiskError> {
        let no_uring = |source| DiskError::NoUring { source };
        let ring = IoUring::new(IN_FLIGHT_MAX.into()).map_err(no_uring)?;
        ring.submitter().register_eventfd(event.as_fd().as_raw_fd()).map_err(no_uring)?;
        let (flights, queued, landed) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Ok(Self { disk, ring, flights, queued, landed, busy: 0, broken: false })
    }

    fn flight(&mut self, tag: Tag) -> &mut Flight {
        let index = usize::from(tag);
        if index >= self.flights.len() {
            self.flights.resize_with(index + 1, Flight::default);
        }
        &mut self.flights[index]
    }

    /// Puts what is left of the transfer under `tag` into the submission ring.
    fn queue(&mut self, tag: Tag) {
        let fd = types::Fd(self.disk.raw_fd());
        let Flight { job, pieces, .. } = self.flight(tag);
        let (offset, list) = pieces.next();
        let (list, count) = (list.as_ptr(), list.len() as u32);
        let entry = match job {
            Some(Job::Move(Way::ToGuest)) => {
                opcode::Readv::new(fd, list, count).offset(offset).build()
            }
            Some(Job::Move(Way::FromGuest)) => {
                opcode::Writev::new(fd, list, count).offset(offset).build()
            }
            Some(Job::Flush) => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            None => return,
        };
        if !self.broken && self.push(&entry.user_data(tag.into())) {
            self.queued.push_back(tag);
        } else {
            self.land(tag, Err(io::ErrorKind::ResourceBusy.into()));
        }
    }

    /// Puts an entry into the submission ring, which has room for one of each tag.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the file is open for as long as the ring. The pieces' list stays in place and
        // unchanged until the transfer has ended, since only `begin` and `step` change it; they
        // lie in RAM that the flight keeps mapped until then, and `drop` waits for the end. The
        // guest may change RAM meanwhile: the kernel copies bytes, without assumptions.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Hands what is queued to the kernel, and waits for `want` completions.
    fn enter(&mut self, want: usize) {
        while !self.broken && (want > 0 || !self.queued.is_empty()) {
            let entered = self.ring.submitter().submit_and_wait(want);
            let left = self.ring.submission().len();
            self.queued.drain(..self.queued.len().saturating_sub(left));
            match entered {
                Ok(_) if self.queued.is_empty() => return,
                // An entry that the kernel refused ends the round; the rest goes with the next.
                Ok(_) => {}
                Err(error) if is_passing(&error) => std::thread::yield_now(),
                Err(error) => self.give_up(&error),
            }
        }
    }

    /// The ring is of no use any more. What the kernel did not take fails; what it took ends by
    /// itself.
    fn give_up(&mut self, error: &io::Error) {
        log::error!("io_uring failed: {error}; the disk goes on with one request at a time");
        self.broken = true;
        while let Some(tag) = self.queued.pop_front() {
            self.land(tag, Err(error.kind().into()));
        }
    }

    /// Takes completions from the ring.
    fn collect(&mut self) {
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { return };
            // Only tags are put in.
            let tag = entry.user_data() as Tag;
            match self.step(tag, entry.result()) {
                Some(result) => self.land(tag, result),
                None => {
                    self.queue(tag);
                    self.enter(0);
                }
            }
        }
    }

    /// The kernel is done with a part of the transfer under `tag`, perhaps with all of it. None if
    /// there is more to do.
    fn step(&mut self, tag: Tag, result: i32) -> Option<io::Result<()>> {
        let flight = self.flight(tag);
        let done = match usize::try_from(result) {
            Ok(done) => done,
            Err(_) => {
                let error = io::Error::from_raw_os_error(-result);
                return (!is_passing(&error)).then_some(Err(error));
            }
        };
        match flight.job {
            Some(Job::Flush) | None => return Some(Ok(())),
            Some(Job::Move(_)) if done == 0 => {
                return Some(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            Some(Job::Move(_)) => flight.pieces.advance(done),
        }
        flight.pieces.next().1.is_empty().then_some(Ok(()))
    }

    /// The transfer under `tag` has ended.
    fn land(&mut self, tag: Tag, result: io::Result<()>) {
        let flight = self.flight(tag);
        if flight.job.take().is_some() {
            flight.memory = None;
            self.busy -= 1;
            self.landed.push_back((tag, result));
        }
    }
}

/// Whether the same will succeed if it is tried again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl BlockBackend for UringDisk {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        self.disk.read_at(offset, into)
    }

    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        self.disk.write_at(offset, from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }

    fn id(&self) -> [u8; ID_LEN as usize] {
        self.disk.id()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.discard(offset, len)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        self.disk.write_zeroes(offset, len, may_unmap)
    }

    fn begin(&mut self, tag: Tag, memory: &Arc<GuestMemory>, transfer: Transfer<'_>) -> Begun {
        if self.broken {
            return self.disk.begin(tag, memory, transfer);
        }
        let (job, offset, slices) = match transfer {
            Transfer::Read { offset, into } => (Job::Move(Way::ToGuest), offset, into),
            Transfer::Write { offset, from } => (Job::Move(Way::FromGuest), offset, from),
            Transfer::Flush => (Job::Flush, 0, &[][..]),
        };
        let flight = self.flight(tag);
        if flight.job.is_some() {
            return Begun::Ended(Err(io::ErrorKind::ResourceBusy.into()));
        }
        flight.pieces.set(offset, slices);
        match job {
            Job::Move(_) if flight.pieces.next().1.is_empty() => return Begun::Ended(Ok(())),
            Job::Move(_) if !flight.pieces.lie_in(memory) => {
                return Begun::Ended(Err(io::ErrorKind::InvalidInput.into()));
            }
            Job::Move(_) | Job::Flush => {}
        }
        flight.job = Some(job);
        flight.memory = Some(memory.clone());
        self.busy += 1;
        self.queue(tag);
        Begun::OnItsWay
    }

    fn submit(&mut self) {
        self.enter(0);
    }

    fn ended(&mut self) -> Option<(Tag, io::Result<()>)> {
        if self.landed.is_empty() {
            self.collect();
        }
        self.landed.pop_front()
    }

    fn wait(&mut self) {
        loop {
            self.enter(0);
            self.collect();
            match (self.busy, self.broken) {
                (0, _) => return,
                (_, false) => self.enter(1),
                (_, true) => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        self.wait();
    }
}
