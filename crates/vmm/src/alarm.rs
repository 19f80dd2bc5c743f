//! Alarms of devices: timers that the event loop watches.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use devices::Alarm;
use host::TimerFd;
use machine::Alarms;

/// A timer is stopped by a delay of zero, so this is the least that one waits.
const DELAY_MIN: Duration = Duration::from_nanos(1);

/// Makes alarms, and remembers for which queues.
#[derive(Clone, Default)]
pub(crate) struct TimerAlarms {
    made: Arc<Mutex<Vec<Made>>>,
}

/// An alarm that was made.
pub(crate) struct Made {
    /// Its timer's descriptor, readable when the time has come.
    pub fd: OwnedFd,
    /// The number of the device among the machine's virtio devices.
    pub slot: usize,
    /// The queue that is to be served.
    pub queue: u32,
}

impl TimerAlarms {
    /// The alarms made so far, for the event loop.
    pub fn take(&self) -> Vec<Made> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Alarms for TimerAlarms {
    fn alarm(&mut self, slot: usize, queue: u32) -> io::Result<Box<dyn Alarm>> {
        let timer = TimerFd::new()?;
        let fd = timer.as_fd().try_clone_to_owned()?;
        let made = Made { fd, slot, queue };
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        Ok(Box::new(TimerAlarm { timer, start: Instant::now() }))
    }
}

struct TimerAlarm {
    timer: TimerFd,
    start: Instant,
}

impl Alarm for TimerAlarm {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn set(&self, delay: Duration) {
        if let Err(error) = self.timer.arm(delay.max(DELAY_MIN)) {
            log::error!("a device's timer failed; what it limits may stand still: {error}");
        }
    }
}
