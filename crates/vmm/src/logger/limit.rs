//! How often one place in the source may log, so that a guest cannot fill the host's disk.
//!
//! Each place has a bucket of [`BURST`] lines, which regains one each [`INTERVAL`]. What is over is
//! suppressed, and the next line that is not says how many were.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Lines that a place may log at once.
const BURST: u32 = 10;
/// The time in which it regains one: ten in five seconds, as in Firecracker.
const INTERVAL: Duration = Duration::from_millis(500);

/// A place in the source: file and line. There are as many as the program has.
type Place = (&'static str, u32);

/// The buckets of all places that logged.
#[derive(Default)]
pub(super) struct Limits(Mutex<BTreeMap<Place, Bucket>>);

/// Whether a line is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes, and so many of its place were suppressed since the last one.
    Log { suppressed: u64 },
    /// No.
    Suppress,
}

impl Limits {
    /// Asks for a line of `place` at the time `now`.
    pub fn ask(&self, place: Place, now: Duration) -> Verdict {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.entry(place).or_default().ask(now)
    }
}

#[derive(Debug, Default)]
struct Bucket {
    /// When the bucket will be full again.
    full_at: Duration,
    suppressed: u64,
}

impl Bucket {
    fn ask(&mut self, now: Duration) -> Verdict {
        let full_at = self.full_at.max(now) + INTERVAL;
        if full_at - now > INTERVAL * BURST {
            self.suppressed += 1;
            return Verdict::Suppress;
        }
        self.full_at = full_at;
        Verdict::Log { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    const HERE: Place = ("here.rs", 1);

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Asks at each time in ms; each row has the expected answer: Some(suppressed), or None.
    fn check(rows: &[(u64, Option<u64>)]) {
        let limits = Limits::default();
        for (n, &(ms, expected)) in rows.iter().enumerate() {
            let expected = expected.map_or(Verdict::Suppress, |n| Verdict::Log { suppressed: n });
            assert_eq!(limits.ask(HERE, millis(ms)), expected, "question {n}, at {ms} ms");
        }
    }

    #[test]
    fn ten_at_once_then_one_each_half_second() {
        let mut rows = vec![(1000, Some(0)); 10];
        rows.extend([
            (1000, None),
            (1499, None),
            (1500, Some(2)),
            (1501, None),
            (2000, Some(1)),
            // Full again, and not more than that.
            (60_000, Some(0)),
        ]);
        rows.extend([(60_000, Some(0)); 9]);
        rows.push((60_000, None));
        check(&rows);
    }

    #[test]
    fn places_do_not_share() {
        let limits = Limits::default();
        while limits.ask(HERE, millis(0)) != Verdict::Suppress {}
        assert_eq!(limits.ask(("here.rs", 2), millis(0)), Verdict::Log { suppressed: 0 });
    }

    proptest! {
        /// Whatever the times: in any stretch of time no more than the burst and what was regained
        /// in it, and no line is forgotten.
        #[test]
        fn limits_hold(steps in proptest::collection::vec(0u64..900, 1..200)) {
            let limits = Limits::default();
            let (mut now, mut told, mut hidden) = (0, 0, 0);
            let mut logged: Vec<u64> = Vec::new();
            for step in steps {
                now += step;
                match limits.ask(HERE, millis(now)) {
                    Verdict::Log { suppressed } => {
                        told += suppressed;
                        logged.push(now);
                        prop_assert_eq!(told, hidden);
                    }
                    Verdict::Suppress => hidden += 1,
                }
            }
            for (i, start) in logged.iter().enumerate() {
                for (n, end) in logged[i..].iter().enumerate() {
                    prop_assert!((n as u64) < u64::from(BURST) + (end - start) / 500);
                }
            }
        }
    }
}
