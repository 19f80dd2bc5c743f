//! The main thread: waits for standard input, doorbells, signals and the machine's end.
//!
//! ```text
//!   stdin ──room?──▶ Input::bytes ──▶ pending ──▶ Serial::input ──▶ the guest
//!                                        ▲ what did not fit waits for `room`
//! ```
//!
//! Standard input is watched only while nothing is pending and the console has room, so that what
//! the guest does not read stays in the pipe or the terminal, and an idle guest costs nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use devices::serial::Serial;
use host::{Event, EventFd, Poller, SignalFd};
use virtio::MmioTransport;

use crate::Error;
use crate::console::{Input, Wish};
use crate::control::{Control, End, Stop};

/// Most bytes read from standard input at a time.
const READ_MAX: usize = 4096;
/// How long input waits before it asks again whether the process's output moves.
const OUTPUT_STUCK_RETRY: Duration = Duration::from_millis(50);

const TOKEN_WAKE: u64 = 0;
const TOKEN_SIGNAL: u64 = 1;
const TOKEN_STDIN: u64 = 2;
/// Doorbell n has token `TOKEN_DOORBELL + n`.
const TOKEN_DOORBELL: u64 = 16;

/// A write to a device's notification register that arrives as an event.
pub(crate) struct Doorbell {
    /// Raised by the back end.
    pub event: EventFd,
    /// Whose register it is.
    pub transport: Arc<MmioTransport>,
    /// The queue that is notified.
    pub queue: u32,
}

/// What the main thread looks after.
pub(crate) struct EventLoop {
    pub control: Control,
    pub serial: Arc<Serial>,
    pub input: Option<Box<dyn Input>>,
    pub signals: Option<SignalFd>,
    pub doorbells: Vec<Doorbell>,
}

/// Standard input, as the loop sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// Watched by the poller.
    Watched,
    /// Not watched now.
    Idle,
    /// A regular file or the like: there is no need to wait for it.
    AlwaysReady,
    /// Ended, or not wanted.
    Closed,
}

impl EventLoop {
    /// Runs until the machine ends.
    pub fn run(mut self) -> Result<End, Error> {
        let poller = Poller::new().map_err(Error::event_loop)?;
        let add =
            |fd: BorrowedFd<'_>, token| poller.add_input(fd, token).map_err(Error::event_loop);
        add(self.control.wake_event().as_fd(), TOKEN_WAKE)?;
        if let Some(signals) = &self.signals {
            add(signals.as_fd(), TOKEN_SIGNAL)?;
        }
        for (doorbell, token) in self.doorbells.iter().zip(TOKEN_DOORBELL..) {
            add(doorbell.event.as_fd(), token)?;
        }
        let input = self.input.take();
        let doorbells = std::mem::take(&mut self.doorbells);
        let mut console = Feeder::new(input, self.serial.clone());
        self.turn(&poller, &doorbells, &mut console)
    }

    fn turn(
        &self,
        poller: &Poller,
        doorbells: &[Doorbell],
        console: &mut Feeder,
    ) -> Result<End, Error> {
        let mut ready: Vec<Event> = Vec::new();
        loop {
            let timeout = console.advance(poller)?;
            if console.wish == Wish::Leave {
                self.control.end(End::Stopped(Stop::User));
            }
            poller.wait(&mut ready, timeout).map_err(Error::event_loop)?;
            for event in &ready {
                match event.token {
                    TOKEN_WAKE => _ = self.control.wake_event().clear(),
                    TOKEN_SIGNAL => self.signals(console),
                    TOKEN_STDIN => console.readable = true,
                    token => ring(doorbells, token),
                }
            }
            if let Some(end) = self.control.take_end() {
                return Ok(end);
            }
        }
    }

    fn signals(&self, console: &mut Feeder) {
        while let Some(signal) = self.signals.as_ref().and_then(SignalFd::next) {
            if console.signal(signal) == Wish::Leave {
                self.control.end(End::Stopped(Stop::Signal(signal)));
            }
        }
    }
}

fn ring(doorbells: &[Doorbell], token: u64) {
    let index = usize::try_from(token - TOKEN_DOORBELL).unwrap_or(usize::MAX);
    if let Some(doorbell) = doorbells.get(index)
        && doorbell.event.clear()
    {
        doorbell.transport.notify(doorbell.queue);
    }
}

/// Carries bytes from standard input to the serial port.
struct Feeder {
    input: Option<Box<dyn Input>>,
    serial: Arc<Serial>,
    stdin: Stdin,
    /// The poller said that there is something to read.
    readable: bool,
    /// What the guest did not take yet.
    pending: Vec<u8>,
    wish: Wish,
}

impl Feeder {
    fn new(input: Option<Box<dyn Input>>, serial: Arc<Serial>) -> Self {
        let stdin = if input.is_some() { Stdin::Idle } else { Stdin::Closed };
        Self { input, serial, stdin, readable: false, pending: Vec::new(), wish: Wish::GoOn }
    }

    fn signal(&mut self, signal: i32) -> Wish {
        match &mut self.input {
            Some(input) => input.signal(signal, &mut self.pending),
            None => Wish::Leave,
        }
    }

    /// Moves what can be moved, and says how long the poller may wait then.
    fn advance(&mut self, poller: &Poller) -> Result<Option<Duration>, Error> {
        loop {
            if let Some(retry) = self.give() {
                return Ok(Some(retry));
            }
            let room = self.input.as_ref().map_or(0, |input| input.room());
            let wanted = self.pending.is_empty() && room > 0 && self.wish == Wish::GoOn;
            self.watch(poller, wanted)?;
            if !wanted || !self.can_read() {
                return Ok(None);
            }
            self.read(poller, room)?;
        }
    }

    fn can_read(&self) -> bool {
        match self.stdin {
            Stdin::AlwaysReady => true,
            Stdin::Watched => self.readable,
            Stdin::Idle | Stdin::Closed => false,
        }
    }

    /// Gives the guest what is pending. Some(_) if the process's own output is stuck: the serial
    /// port is then busy writing, and would hold this thread as well.
    fn give(&mut self) -> Option<Duration> {
        if self.pending.is_empty() {
            return None;
        }
        if !host::stdout_moves() {
            return Some(OUTPUT_STUCK_RETRY);
        }
        let taken = self.serial.input(&self.pending);
        self.pending.drain(..taken);
        None
    }

    fn watch(&mut self, poller: &Poller, wanted: bool) -> Result<(), Error> {
        let stdin = std::io::stdin();
        match (self.stdin, wanted) {
            (Stdin::Idle, true) => {
                self.stdin = match poller.add_input(&stdin, TOKEN_STDIN) {
                    Ok(()) => Stdin::Watched,
                    Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                        Stdin::AlwaysReady
                    }
                    // Standard input may be closed from the start.
                    Err(_) => Stdin::Closed,
                };
                if self.stdin == Stdin::Closed {
                    self.end_of_input();
                }
            }
            (Stdin::Watched, false) => {
                poller.remove(&stdin).map_err(Error::event_loop)?;
                self.stdin = Stdin::Idle;
                self.readable = false;
            }
            (Stdin::Idle | Stdin::AlwaysReady | Stdin::Closed, _) | (Stdin::Watched, true) => {}
        }
        Ok(())
    }

    fn read(&mut self, poller: &Poller, room: usize) -> Result<(), Error> {
        self.readable = false;
        let mut chunk = [0; READ_MAX];
        let chunk = &mut chunk[..READ_MAX.min(room)];
        match host::read_stdin(chunk) {
            Ok(0) => {
                self.watch(poller, false)?;
                self.stdin = Stdin::Closed;
                self.end_of_input();
            }
            Ok(n) => {
                if let Some(input) = &mut self.input {
                    self.wish = input.bytes(&chunk[..n], &mut self.pending);
                }
            }
            Err(error) => {
                log::warn!("standard input cannot be read: {error}");
                self.watch(poller, false)?;
                self.stdin = Stdin::Closed;
                self.end_of_input();
            }
        }
        Ok(())
    }

    fn end_of_input(&mut self) {
        if let Some(input) = &mut self.input {
            input.end(&mut self.pending);
        }
    }
}
