//! How long each step of building a machine took.

use std::fmt;
use std::time::{Duration, Instant};

/// The steps' durations, in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Making the devices and putting them on the buses.
    pub devices: Duration,
    /// Opening, unpacking and loading the kernel.
    pub kernel: Duration,
    /// Opening, unpacking and loading the initial RAM disk.
    pub initrd: Duration,
    /// Writing the tables for the kernel.
    pub tables: Duration,
    /// Making the vCPUs and setting their first state.
    pub vcpus: Duration,
}

impl Timings {
    /// The steps by name.
    pub fn steps(&self) -> [(&'static str, Duration); 5] {
        [
            ("devices", self.devices),
            ("kernel", self.kernel),
            ("initrd", self.initrd),
            ("tables", self.tables),
            ("vcpus", self.vcpus),
        ]
    }

    /// All steps together.
    pub fn total(&self) -> Duration {
        self.steps().iter().map(|(_, duration)| duration).sum()
    }
}

impl fmt::Display for Timings {
    /// One line: `devices 0.1 ms, kernel 8.2 ms, …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, duration) in self.steps() {
            write!(f, "{name} {:.1} ms, ", duration.as_secs_f64() * 1e3)?;
        }
        write!(f, "together {:.1} ms", self.total().as_secs_f64() * 1e3)
    }
}

/// Measures one step after another.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the last lap.
    pub(crate) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let lap = now - self.0;
        self.0 = now;
        lap
    }
}
