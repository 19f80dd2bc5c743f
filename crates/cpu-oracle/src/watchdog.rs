//! Ends sequences that do not end by themselves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// Calls something when a run takes too long.
pub(crate) struct Watchdog {
    runs: Arc<Runs>,
}

struct Runs {
    /// Odd while one runs.
    count: AtomicU64,
    expired: AtomicBool,
}

impl Watchdog {
    /// Calls `bark` every tick once a run has taken more than `ticks` tenths of a second.
    pub(crate) fn new(ticks: u32, bark: impl Fn() + Send + 'static) -> Self {
        let runs = Arc::new(Runs { count: AtomicU64::new(0), expired: AtomicBool::new(false) });
        let weak = Arc::downgrade(&runs);
        thread::spawn(move || watch(&weak, ticks, &bark));
        Self { runs }
    }

    /// A run starts.
    pub(crate) fn start(&self) {
        self.runs.expired.store(false, Ordering::SeqCst);
        self.runs.count.fetch_add(1, Ordering::SeqCst);
    }

    /// The run is over.
    pub(crate) fn stop(&self) {
        self.runs.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the run took too long.
    pub(crate) fn has_expired(&self) -> bool {
        self.runs.expired.load(Ordering::SeqCst)
    }
}

fn watch(runs: &Weak<Runs>, ticks: u32, bark: &dyn Fn()) {
    let (mut last, mut age) = (0, 0);
    loop {
        thread::sleep(TICK);
        let Some(runs) = runs.upgrade() else { return };
        let now = runs.count.load(Ordering::SeqCst);
        age = if now == last { age + 1 } else { 0 };
        last = now;
        if now % 2 == 1 && age > ticks {
            runs.expired.store(true, Ordering::SeqCst);
            bark();
        }
    }
}
