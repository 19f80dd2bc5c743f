//! The main thread: waits for the guest's doorbells, the host's side of its devices, standard
//! input, signals, an API's requests, and the machine's end.
//!
//! ```text
//!   stdin ──room?──▶ Input::bytes ──▶ pending ──▶ Serial::input ──▶ the guest
//!                                        ▲ what did not fit waits for `room`
//!   doorbell, tap, alarm ──edge──▶ Notify::notify(queue)
//! ```
//!
//! Standard input is watched only while nothing is pending and the console has room, so that what
//! the guest does not read stays in the pipe or the terminal, and an idle guest costs nothing.
//!
//! While the guest is paused, only requests, signals and the machine's end are looked at; what
//! queues wait for ([`Watches`]) waits for the resume.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use devices::serial::Serial;
use host::{Event, Poller, SignalFd, TimerFd};

use crate::console::{Input, Wish};
use crate::control::{Control, End, Stop};
use crate::controller::Running;
use crate::guest::Guest;
use crate::watches::Watches;
use crate::{Error, metrics};

/// Most bytes read from standard input at a time.
const READ_MAX: usize = 4096;
/// How long input waits before it asks again whether the process's output moves.
const OUTPUT_STUCK_RETRY: Duration = Duration::from_millis(50);
/// How often metrics are written, if nobody asks for them.
const METRICS_INTERVAL: Duration = Duration::from_secs(60);

const TOKEN_WAKE: u64 = 0;
const TOKEN_SIGNAL: u64 = 1;
const TOKEN_STDIN: u64 = 2;
const TOKEN_REQUEST: u64 = 3;
const TOKEN_METRICS: u64 = 4;

/// Requests to the running machine, from another thread.
pub(crate) trait Requests {
    /// Readable while a request waits.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Answers what waits.
    fn serve(&mut self, machine: &mut dyn Running);
}

/// What the main thread looks after.
pub(crate) struct EventLoop {
    pub control: Control,
    pub serial: Arc<Serial>,
    pub input: Option<Box<dyn Input>>,
    pub signals: Option<SignalFd>,
    pub watches: Arc<Watches>,
    pub guest: Guest,
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
    pub fn run(mut self, mut requests: Option<&mut dyn Requests>) -> Result<End, Error> {
        let watches = self.watches.clone();
        let running = watches.poller();
        let paused = self.add_own(running, requests.as_deref()).map_err(Error::event_loop)?;
        let metrics_timer = TimerFd::new().map_err(Error::event_loop)?;
        let added = running.add_edge(&metrics_timer, TOKEN_METRICS);
        added.and_then(|()| metrics_timer.arm(METRICS_INTERVAL)).map_err(Error::event_loop)?;
        let mut console = Feeder::new(self.input.take(), self.serial.clone());
        let mut ready: Vec<Event> = Vec::new();
        loop {
            if self.control.is_paused() {
                paused.wait(&mut ready, None).map_err(Error::event_loop)?;
            } else {
                let timeout = console.advance(running)?;
                if console.wish == Wish::Leave {
                    self.control.end(End::Stopped(Stop::User));
                }
                running.wait(&mut ready, timeout).map_err(Error::event_loop)?;
            }
            for event in &ready {
                match event.token {
                    TOKEN_WAKE => _ = self.control.wake_event().clear(),
                    TOKEN_SIGNAL => self.signals(&mut console),
                    TOKEN_STDIN => console.readable = true,
                    TOKEN_REQUEST => {
                        if let Some(requests) = &mut requests {
                            requests.serve(&mut self.guest);
                        }
                    }
                    TOKEN_METRICS => write_metrics(&metrics_timer),
                    token => watches.notify(token),
                }
            }
            if let Some(end) = self.control.take_end() {
                return Ok(end);
            }
        }
    }

    /// Adds what is looked at in any case to the `running` poller, and makes the one for the time
    /// while the guest is paused.
    fn add_own(&self, running: &Poller, requests: Option<&dyn Requests>) -> io::Result<Poller> {
        let paused = Poller::new()?;
        for poller in [running, &paused] {
            poller.add_input(self.control.wake_event(), TOKEN_WAKE)?;
            if let Some(signals) = &self.signals {
                poller.add_input(signals, TOKEN_SIGNAL)?;
            }
            if let Some(requests) = requests {
                poller.add_input(requests.as_fd(), TOKEN_REQUEST)?;
            }
        }
        Ok(paused)
    }

    fn signals(&self, console: &mut Feeder) {
        while let Some(signal) = self.signals.as_ref().and_then(SignalFd::next) {
            if console.signal(signal) == Wish::Leave {
                self.control.end(End::Stopped(Stop::Signal(signal)));
            }
        }
    }
}

fn write_metrics(timer: &TimerFd) {
    metrics::flush_or_log();
    if let Err(error) = timer.arm(METRICS_INTERVAL) {
        log::warn!("metrics are written on request only: their timer failed: {error}");
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
        let stdin = io::stdin();
        match (self.stdin, wanted) {
            (Stdin::Idle, true) => {
                self.stdin = match poller.add_input(&stdin, TOKEN_STDIN) {
                    Ok(()) => Stdin::Watched,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
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
