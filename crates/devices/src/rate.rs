//! Rate limits, as Firecracker defines them: token buckets for bytes and for requests.
//!
//! A [`TokenBucket`] starts full. Taking tokens empties it, time fills it again, continuously:
//! `size` tokens in the refill time. The one-time burst is spent before that, and never refilled.
//! A request for more than the bucket's size passes when the bucket is full, and leaves a debt
//! that is paid before the next request: so the rate holds whatever the requests' size, where
//! Firecracker's grows with it.
//!
//! A [`RateLimiter`] has a bucket for bytes and one for requests, each of which may be missing. A
//! request takes from both or from none. One that has to wait sets the [`Alarm`] of its queue:
//!
//! ```text
//!  process_queue ──allows? yes──▶ served
//!        ▲             no
//!        └───Alarm◀────┘   the request stays in the queue
//! ```
//!
//! Firecracker looks again after 100 ms. Here the alarm comes when the tokens suffice: a bucket
//! whose refill time is below 100 ms would otherwise overflow meanwhile and fall short of its rate.
//! To serve more than one request for each alarm, it comes after [`PAUSE_MIN`] at the soonest, or
//! when the bucket is full.

use std::time::Duration;

use crate::Alarm;

/// How long a queue that ran out of tokens rests at least.
pub const PAUSE_MIN: Duration = Duration::from_millis(1);

/// A bucket of tokens over a time that is given.
///
/// All of it is exact: a rate of one token in 3 ns does not drift. Only a refill time beyond 584
/// years (2^64 ns) is taken for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    settings: spec::TokenBucket,
    refill_ns: u64,
    /// What is left of the one-time burst.
    burst: u64,
    /// What the bucket lacks until it is full, in tokens times [`Self::refill_ns`]: 0 is full,
    /// size times refill time is empty, and more is a debt. A nanosecond takes `size` off.
    missing: u128,
    /// The time for which `missing` holds.
    updated: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(settings: spec::TokenBucket, now: Duration) -> Self {
        let refill_ns = settings.refill_time_ms().saturating_mul(1_000_000);
        let burst = settings.one_time_burst();
        Self { settings, refill_ns, burst, missing: 0, updated: now }
    }

    /// Takes `tokens` if they are there, and says whether they were.
    pub fn take(&mut self, tokens: u64, now: Duration) -> bool {
        let there = self.wait(tokens, now).is_zero();
        if there {
            self.charge(tokens, now);
        }
        there
    }

    /// How long it is until `tokens` are there, if nobody takes any meanwhile.
    pub fn wait(&mut self, tokens: u64, now: Duration) -> Duration {
        self.refill(now);
        match tokens.saturating_sub(self.burst).min(self.settings.size()) {
            0 => Duration::ZERO,
            needed => self.until_lacking(self.settings.size() - needed),
        }
    }

    /// When a queue that waits for `tokens` is best served again: None if they are there now.
    fn pause(&mut self, tokens: u64, now: Duration) -> Option<Pause> {
        let wait = self.wait(tokens, now);
        let alarm = wait.max(PAUSE_MIN.min(self.until_lacking(0)));
        (!wait.is_zero()).then_some(Pause { wait, alarm })
    }

    /// How long it is until the bucket lacks no more than `tokens`.
    fn until_lacking(&self, tokens: u64) -> Duration {
        let excess = self.missing.saturating_sub(u128::from(tokens) * u128::from(self.refill_ns));
        let ns = excess.div_ceil(u128::from(self.settings.size()));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// Takes `tokens` whether they are there or not; the bucket owes what is missing.
    pub fn charge(&mut self, tokens: u64, now: Duration) {
        self.refill(now);
        let of_burst = tokens.min(self.burst);
        self.burst -= of_burst;
        let cost = u128::from(tokens - of_burst) * u128::from(self.refill_ns);
        self.missing = self.missing.saturating_add(cost);
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated).as_nanos();
        let gain = elapsed.saturating_mul(u128::from(self.settings.size()));
        self.missing = self.missing.saturating_sub(gain);
        self.updated = self.updated.max(now);
    }
}

/// How long a queue has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pause {
    /// Until there are enough tokens.
    wait: Duration,
    /// Until the alarm, which comes no sooner.
    alarm: Duration,
}

/// What happens to a bucket while its device is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    #[default]
    Keep,
    /// There is no limit any more.
    Remove,
    /// A new bucket takes its place, full and with its burst.
    Replace(spec::TokenBucket),
}

/// The limits of one queue.
pub struct RateLimiter {
    alarm: Box<dyn Alarm>,
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
    /// When the request that was refused last can pass.
    due: Option<Duration>,
}

impl RateLimiter {
    /// Limits as `settings` say; `alarm` has the queue served again.
    pub fn new(settings: spec::RateLimiter, alarm: Box<dyn Alarm>) -> Self {
        let now = alarm.now();
        let bucket = |settings| TokenBucket::new(settings, now);
        let (bandwidth, ops) = (settings.bandwidth.map(bucket), settings.ops.map(bucket));
        Self { alarm, bandwidth, ops, due: None }
    }

    /// Whether a request of `bytes` may pass; it is charged if so. Otherwise nothing is charged,
    /// and the alarm is set.
    pub fn allows(&mut self, bytes: u64) -> bool {
        let passes = self.admits(bytes);
        if passes {
            self.charge(bytes);
        }
        passes
    }

    /// Whether a request may begin that will have at least `bytes`; the alarm is set if not.
    /// Whoever learns a request's size only by carrying it out asks this before, and calls
    /// [`RateLimiter::charge`] after.
    pub fn admits(&mut self, bytes: u64) -> bool {
        if self.is_unlimited() {
            self.due = None;
            return true;
        }
        let now = self.alarm.now();
        let bandwidth = self.bandwidth.as_mut().and_then(|bucket| bucket.pause(bytes, now));
        let ops = self.ops.as_mut().and_then(|bucket| bucket.pause(1, now));
        let pause = bandwidth.max(ops);
        self.due = pause.map(|pause| now.saturating_add(pause.wait));
        if let Some(pause) = pause {
            self.alarm.set(pause.alarm);
        }
        pause.is_none()
    }

    /// Charges a request of `bytes`, whether the tokens are there or not.
    pub fn charge(&mut self, bytes: u64) {
        if self.is_unlimited() {
            return;
        }
        let now = self.alarm.now();
        for (bucket, tokens) in [(&mut self.bandwidth, bytes), (&mut self.ops, 1)] {
            if let Some(bucket) = bucket {
                bucket.charge(tokens, now);
            }
        }
    }

    /// Whether a request was refused, and still would be.
    pub fn is_blocked(&self) -> bool {
        self.due.is_some_and(|due| self.alarm.now() < due)
    }

    /// Says once that a request was refused which can pass now.
    pub fn take_unblocked(&mut self) -> bool {
        let unblocked = self.due.is_some() && !self.is_blocked();
        if unblocked {
            self.due = None;
        }
        unblocked
    }

    fn is_unlimited(&self) -> bool {
        self.bandwidth.is_none() && self.ops.is_none()
    }

    /// Changes the limits of a queue in use. A request that waits is looked at again.
    pub fn update(&mut self, bandwidth: Change, ops: Change) {
        let now = self.alarm.now();
        for (bucket, change) in [(&mut self.bandwidth, bandwidth), (&mut self.ops, ops)] {
            match change {
                Change::Keep => {}
                Change::Remove => *bucket = None,
                Change::Replace(settings) => *bucket = Some(TokenBucket::new(settings, now)),
            }
        }
        if self.due.take().is_some() {
            self.due = Some(now);
            self.alarm.set(PAUSE_MIN);
        }
    }

    /// The time by the alarm's clock.
    pub fn now(&self) -> Duration {
        self.alarm.now()
    }

    /// The limits as they are set.
    pub fn settings(&self) -> spec::RateLimiter {
        let settings = |bucket: &Option<TokenBucket>| bucket.as_ref().map(|b| b.settings);
        spec::RateLimiter { bandwidth: settings(&self.bandwidth), ops: settings(&self.ops) }
    }
}

#[cfg(test)]
mod tests;
