//! `--timings`: when what happened, from the start of the process on.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm::Stage;

/// What happens in the life of a machine, in its usual order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// `main` was entered.
    Main,
    /// The kernel and the initramfs are at hand.
    Files,
    /// A stage of the machine's own start.
    Machine(Stage),
    /// The guest's init runs.
    Init,
    /// The shell or the command is executed.
    Program,
    /// The machine ended.
    End,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "process start",
            Self::Files => "kernel and initramfs found",
            Self::Machine(Stage::CpuChosen) => "CPU chosen",
            Self::Machine(Stage::KernelLoaded) => "kernel loaded",
            Self::Machine(Stage::Running) => "first guest instruction",
            Self::Init => "init",
            Self::Program => "shell or command",
            Self::End => "end",
        }
    }
}

/// Collects moments, from any thread; the first of a kind counts.
#[derive(Debug, Clone)]
pub struct Timings {
    start: Instant,
    moments: Arc<Mutex<Vec<(Moment, Duration)>>>,
}

impl Timings {
    /// Timings of a process whose `main` was entered at `start`.
    pub fn new(start: Instant) -> Self {
        let timings = Self { start, moments: Arc::default() };
        timings.at(Moment::Main, start);
        timings
    }

    /// Notes that `moment` is now.
    pub fn note(&self, moment: Moment) {
        self.at(moment, Instant::now());
    }

    fn at(&self, moment: Moment, now: Instant) {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        if moments.iter().all(|(known, _)| *known != moment) {
            moments.push((moment, now.saturating_duration_since(self.start)));
        }
    }
}

impl fmt::Display for Timings {
    /// A line for each moment: milliseconds since the start, and since the moment before.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(f, "     at ms   took ms   (from the first instruction of main)")?;
        let mut before = Duration::ZERO;
        for (moment, at) in moments.iter() {
            let (ms, step) = (at.as_secs_f64() * 1e3, (*at - before).as_secs_f64() * 1e3);
            writeln!(f, "{ms:10.1}{step:10.1}   {}", moment.name())?;
            before = *at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_counts() {
        let timings = Timings::new(Instant::now());
        for moment in [Moment::Init, Moment::Init, Moment::Program] {
            timings.note(moment);
        }
        let text = timings.to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.ends_with("process start")), "{text}");
    }
}
