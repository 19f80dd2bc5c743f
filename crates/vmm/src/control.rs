//! The one place that knows whether the machine runs, and why it ended.
//!
//! ```text
//!              pause            all vCPUs parked
//!   Running ──────────▶ Pausing ────────────────▶ Paused
//!      ▲                                            │
//!      └──────────────── resume ────────────────────┘
//!      any state ── end (the first reason counts) ──▶ Ending
//! ```
//!
//! vCPU threads ask [`Control::gate`] before each run; devices, signals and clients say what they
//! want; the event loop is woken through an eventfd. No lock is held while a vCPU is kicked.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devices::PowerSink;
use host::EventFd;
use vcpu::Kick;

use crate::Error;

/// Why a machine is no more.
#[derive(Debug)]
pub enum End {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself, which ends a microVM as well.
    Reset,
    /// A signal came, or whoever runs the machine wants it to stop.
    Stopped(Stop),
    /// The machine cannot go on.
    Failed(Error),
}

/// Who stopped a machine that could have gone on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A signal with this number.
    Signal(i32),
    /// The user at the console.
    User,
    /// The program that runs the machine: it has what it wanted.
    Program,
}

/// What a vCPU's thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Run guest code.
    Run,
    /// Return.
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Pausing,
    Ending,
}

struct State {
    phase: Phase,
    end: Option<End>,
    /// vCPU threads that live.
    threads: usize,
    /// Those of them that wait in the gate.
    parked: usize,
}

/// A handle on a machine, for any thread.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    wake: EventFd,
    kickers: Mutex<Vec<Arc<dyn Kick>>>,
}

impl Control {
    /// A handle on a machine that is about to run.
    pub fn new() -> std::io::Result<Self> {
        let state = State { phase: Phase::Running, end: None, threads: 0, parked: 0 };
        Ok(Self(Arc::new(Inner {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake: EventFd::new()?,
            kickers: Mutex::default(),
        })))
    }

    /// Ends the machine. Of several reasons the first one counts.
    pub fn end(&self, why: End) {
        let mut state = self.state();
        state.phase = Phase::Ending;
        state.end.get_or_insert(why);
        drop(state);
        self.0.changed.notify_all();
        self.kick_all();
        self.wake();
    }

    /// Stops the guest between two instructions, and returns when it stands still. False if it
    /// does not within `patience`, or if the machine is ending.
    pub fn pause(&self, patience: Duration) -> bool {
        let mut state = self.state();
        if state.phase == Phase::Ending {
            return false;
        }
        state.phase = Phase::Pausing;
        drop(state);
        self.kick_all();
        self.wait_until(patience, |state| state.parked == state.threads)
    }

    /// Lets a paused guest go on. False if the machine is ending.
    pub fn resume(&self) -> bool {
        let mut state = self.state();
        if state.phase == Phase::Pausing {
            state.phase = Phase::Running;
        }
        let running = state.phase == Phase::Running;
        drop(state);
        self.0.changed.notify_all();
        running
    }

    /// Whether the guest stands still, or is about to.
    pub fn is_paused(&self) -> bool {
        self.state().phase == Phase::Pausing
    }

    /// Makes the event loop look at what it waits for.
    pub fn wake(&self) {
        self.0.wake.signal();
    }

    /// What [`Control::wake`] raises.
    pub(crate) fn wake_event(&self) -> &EventFd {
        &self.0.wake
    }

    /// Why the machine ended, for the one who asks first.
    pub(crate) fn take_end(&self) -> Option<End> {
        self.state().end.take()
    }

    /// Counts a vCPU's thread that is about to start.
    pub(crate) fn add_thread(&self, kicker: Arc<dyn Kick>) {
        self.state().threads += 1;
        self.kickers().push(kicker);
    }

    /// A vCPU's thread returns.
    pub(crate) fn remove_thread(&self) {
        self.state().threads -= 1;
        self.0.changed.notify_all();
    }

    /// Waits until all vCPU threads have returned. False if they have not within `patience`.
    pub(crate) fn join(&self, patience: Duration) -> bool {
        self.wait_until(patience, |state| state.threads == 0)
    }

    /// Holds a vCPU's thread while the machine is paused, and says what it does next.
    pub(crate) fn gate(&self) -> Gate {
        let mut state = self.state();
        if state.phase == Phase::Pausing {
            state.parked += 1;
            self.0.changed.notify_all();
            while state.phase == Phase::Pausing {
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.parked -= 1;
        }
        match state.phase {
            Phase::Running | Phase::Pausing => Gate::Run,
            Phase::Ending => Gate::Leave,
        }
    }

    fn wait_until(&self, patience: Duration, done: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn kick_all(&self) {
        let kickers = self.kickers().clone();
        for kicker in kickers {
            kicker.kick();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kickers(&self) -> MutexGuard<'_, Vec<Arc<dyn Kick>>> {
        self.0.kickers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PowerSink for Control {
    fn reset(&self) {
        self.end(End::Reset);
    }

    fn power_off(&self) {
        self.end(End::PowerOff);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct NoKick;

    impl Kick for NoKick {
        fn kick(&self) {}
    }

    /// A thread that passes the gate over and over, as a vCPU does.
    fn spin(control: &Control) -> std::thread::JoinHandle<()> {
        control.add_thread(Arc::new(NoKick));
        let control = control.clone();
        std::thread::spawn(move || {
            while control.gate() == Gate::Run {
                std::thread::yield_now();
            }
            control.remove_thread();
        })
    }

    #[test]
    fn pause_resume_end() {
        let control = Control::new().unwrap();
        let threads = [spin(&control), spin(&control)];
        for _ in 0..3 {
            assert!(control.pause(PATIENCE));
            assert!(control.resume());
        }
        assert!(control.pause(PATIENCE));
        control.end(End::PowerOff);
        control.end(End::Reset);
        assert!(control.join(PATIENCE));
        assert!(!control.pause(PATIENCE) && !control.resume());
        assert!(matches!(control.take_end(), Some(End::PowerOff)));
        assert!(control.wake_event().clear());
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_vcpu_that_never_parks_does_not_hold_the_caller() {
        let control = Control::new().unwrap();
        control.add_thread(Arc::new(NoKick));
        assert!(!control.pause(Duration::from_millis(5)));
        control.end(End::Stopped(Stop::Program));
        assert!(!control.join(Duration::from_millis(5)));
    }
}
