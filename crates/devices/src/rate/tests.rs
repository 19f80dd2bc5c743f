//! Buckets over an imagined clock.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn settings(size: u64, one_time_burst: u64, refill_time_ms: u64) -> spec::TokenBucket {
    spec::TokenBucket::new(size, one_time_burst, refill_time_ms).unwrap()
}

/// A clock that a test moves, and what was set.
#[derive(Clone, Default)]
struct TestAlarm(Arc<Mutex<(Duration, Option<Duration>)>>);

impl TestAlarm {
    fn advance(&self, by: Duration) {
        self.0.lock().unwrap().0 += by;
    }

    /// The delay that was set since the last call.
    fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap().1.take()
    }
}

impl Alarm for TestAlarm {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn set(&self, delay: Duration) {
        self.0.lock().unwrap().1 = Some(delay);
    }
}

fn limiter(
    bandwidth: Option<spec::TokenBucket>,
    ops: Option<spec::TokenBucket>,
) -> (RateLimiter, TestAlarm) {
    let alarm = TestAlarm::default();
    (RateLimiter::new(spec::RateLimiter { bandwidth, ops }, Box::new(alarm.clone())), alarm)
}

/// Asks for tokens at times in milliseconds: (time, tokens, whether they are there).
fn check(bucket: spec::TokenBucket, requests: &[(u64, u64, bool)]) {
    let mut filled = TokenBucket::new(bucket, Duration::ZERO);
    for (i, (at, tokens, expected)) in requests.iter().enumerate() {
        let taken = filled.take(*tokens, Duration::from_millis(*at));
        assert_eq!(taken, *expected, "{bucket:?}, request {i} of {requests:?}");
    }
}

#[test]
fn tokens_are_spent_and_refilled() {
    let plain = settings(100, 0, 1000);
    check(plain, &[(0, 100, true), (0, 1, false), (9, 1, false), (10, 1, true), (10, 1, false)]);
    check(plain, &[(0, 60, true), (0, 60, false), (199, 60, false), (200, 60, true)]);
    check(plain, &[(9999, 100, true), (9999, 1, false)]);
    // The burst comes first, and only once.
    let burst = settings(100, 50, 1000);
    check(burst, &[(0, 30, true), (0, 120, true), (0, 1, false), (5000, 101, true)]);
    check(burst, &[(0, 150, true), (1000, 100, true), (1000, 1, false)]);
    // Nothing costs nothing, even in debt.
    check(plain, &[(0, 400, true), (0, 0, true)]);
    // Time that goes back does not count.
    check(plain, &[(500, 100, true), (0, 1, false), (509, 1, false), (510, 1, true)]);
}

#[test]
fn a_large_request_needs_a_full_bucket_and_leaves_a_debt() {
    let plain = settings(100, 0, 1000);
    check(plain, &[(0, 300, true), (2009, 1, false), (2010, 1, true)]);
    check(plain, &[(0, 1, true), (0, 300, false), (9, 300, false), (10, 300, true)]);
    check(plain, &[(0, 200, true), (1999, 200, false), (2000, 200, true), (2001, 1, false)]);
}

#[test]
fn the_alarm_comes_when_the_tokens_suffice() {
    let (mut limiter, alarm) = limiter(Some(settings(1000, 0, 1000)), Some(settings(10, 0, 1000)));
    assert!(limiter.allows(900) && !limiter.is_blocked());
    assert_eq!(alarm.take(), None);
    assert!(!limiter.allows(150) && limiter.is_blocked());
    assert_eq!(alarm.take(), Some(50 * MS));
    alarm.advance(49 * MS);
    assert!(limiter.is_blocked() && !limiter.take_unblocked());
    alarm.advance(MS);
    assert!(limiter.take_unblocked() && !limiter.take_unblocked());
    // What bandwidth refused did not cost an op: nine are left, and half a token came.
    for _ in 0..9 {
        assert!(limiter.allows(1));
    }
    assert!(!limiter.allows(1));
    assert_eq!(alarm.take(), Some(50 * MS));
}

#[test]
fn an_alarm_is_worth_while_but_never_late() {
    // A token comes each microsecond: a hundred thousand wait for one alarm.
    let (mut fine, alarm) = limiter(Some(settings(100_000, 0, 100)), None);
    assert!(fine.allows(100_000) && !fine.allows(1));
    assert_eq!(alarm.take(), Some(PAUSE_MIN));
    // A bucket that is full sooner is not kept waiting.
    let (mut coarse, alarm) = limiter(Some(settings(100, 0, 1)), None);
    assert!(coarse.allows(10) && !coarse.allows(100));
    assert_eq!(alarm.take(), Some(MS / 10));
}

#[test]
fn limits_change_while_requests_wait() {
    let (mut limiter, alarm) = limiter(None, Some(settings(1, 0, 1000)));
    assert!(limiter.allows(1 << 40) && !limiter.allows(1));
    alarm.take();
    limiter.update(Change::Keep, Change::Keep);
    assert_eq!(alarm.take(), Some(PAUSE_MIN));
    assert!(!limiter.allows(1));
    limiter.update(Change::Replace(settings(50, 5, 1)), Change::Remove);
    alarm.take();
    assert!(limiter.take_unblocked());
    assert!(limiter.allows(55) && !limiter.allows(1));
    let now = spec::RateLimiter { bandwidth: Some(settings(50, 5, 1)), ops: None };
    assert_eq!(limiter.settings(), now);
    // Nobody waits, so nobody is woken.
    limiter.update(Change::Remove, Change::Keep);
    alarm.take();
    assert!(limiter.allows(u64::MAX));
    limiter.update(Change::Keep, Change::Keep);
    assert_eq!(alarm.take(), None);
}

#[test]
fn what_is_charged_afterwards_is_owed() {
    let (mut limiter, alarm) = limiter(Some(settings(100, 0, 1000)), None);
    alarm.advance(1000 * MS);
    assert!(limiter.admits(1));
    limiter.charge(150);
    assert!(!limiter.admits(1));
    assert_eq!(alarm.take(), Some(510 * MS));
}

#[test]
fn time_before_a_charge_does_not_pay_for_it() {
    let mut bucket = TokenBucket::new(settings(100, 0, 1000), Duration::ZERO);
    bucket.charge(100, 5000 * MS);
    assert!(!bucket.take(1, 5009 * MS) && bucket.take(1, 5010 * MS));
}

/// Numbers of all magnitudes.
fn any_size() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(n, shift)| n >> shift)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn never_more_than_allowed_in_any_interval(
        size in 1u64..10_000,
        burst in 0u64..10_000,
        refill_ms in 1u64..5_000,
        steps in prop::collection::vec((0u64..2_000_000_000, 0u64..15_000), 1..60),
    ) {
        let mut bucket = TokenBucket::new(settings(size, burst, refill_ms), Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut taken = Vec::new();
        for (pause_ns, tokens) in steps {
            now += Duration::from_nanos(pause_ns);
            if bucket.take(tokens, now) {
                taken.push((now, tokens));
            }
        }
        let largest = taken.iter().map(|t| t.1).max().unwrap_or(0).max(size);
        for (i, (start, _)) in taken.iter().enumerate() {
            let mut sum = 0u128;
            for (end, tokens) in &taken[i..] {
                sum += u128::from(*tokens);
                let refilled = (*end - *start).as_nanos() * u128::from(size)
                    / (u128::from(refill_ms) * 1_000_000);
                prop_assert!(sum <= u128::from(burst) + u128::from(largest) + refilled);
            }
        }
    }

    /// Whoever takes what it can, whenever it is woken, gets the rate.
    #[test]
    fn the_rate_is_held(
        size in 1u64..1_000_000,
        refill_ms in 1u64..2_000,
        requests in prop::collection::vec(1u64..48, 1..8),
        late_us in 0u64..20,
    ) {
        let (mut limiter, alarm) = limiter(Some(settings(size, 0, refill_ms)), None);
        let mut taken = 0;
        let mut largest = size;
        for sixteenths in requests.iter().cycle().take(2000) {
            let request = (size * sixteenths / 16).max(1);
            largest = largest.max(request);
            while !limiter.allows(request) {
                // Nobody is woken to the nanosecond.
                alarm.advance(alarm.take().unwrap() + Duration::from_micros(late_us));
            }
            taken += u128::from(request);
        }
        let refill_ns = u128::from(refill_ms) * 1_000_000;
        let allowed = alarm.now().as_nanos() * u128::from(size) / refill_ns;
        prop_assert!(taken <= allowed + u128::from(largest));
        prop_assert!(taken * 10 >= allowed * 9, "{taken} of {allowed}");
    }

    /// A token each few nanoseconds, one at a time: rounding would add up.
    #[test]
    fn there_is_no_drift(size in 1u64..50_000_000, refill_ms in 1u64..100) {
        let mut bucket = TokenBucket::new(settings(size, 0, refill_ms), Duration::ZERO);
        bucket.charge(size, Duration::ZERO);
        let mut now = Duration::ZERO;
        for _ in 0..1000 {
            now += bucket.wait(1, now);
            prop_assert!(bucket.take(1, now));
        }
        let ideal = u128::from(refill_ms) * 1_000_000 * 1000 / u128::from(size);
        prop_assert!(now.as_nanos().abs_diff(ideal) <= 1, "{} {ideal}", now.as_nanos());
    }

    #[test]
    fn waiting_as_told_is_enough_and_more_time_never_hurts(
        size in any_size(),
        burst in any_size(),
        refill_ms in any_size(),
        steps in prop::collection::vec((any_size(), any_size(), any::<bool>()), 1..30),
    ) {
        let Some(settings) = spec::TokenBucket::new(size, burst, refill_ms) else { return Ok(()) };
        let mut bucket = TokenBucket::new(settings, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (pause_ns, tokens, charge) in steps {
            now = now.saturating_add(Duration::from_nanos(pause_ns));
            let wait = bucket.clone().wait(tokens, now);
            let later = now.saturating_add(Duration::from_nanos(pause_ns));
            prop_assert!(bucket.clone().wait(tokens, later) <= wait);
            if wait < Duration::from_nanos(u64::MAX) {
                prop_assert!(bucket.clone().take(tokens, now.saturating_add(wait)));
            }
            if let Some(early) = wait.checked_sub(Duration::from_nanos(1)) {
                prop_assert!(!bucket.clone().take(tokens, now + early));
            }
            if charge {
                bucket.charge(tokens, now);
            } else {
                prop_assert_eq!(bucket.take(tokens, now), wait.is_zero());
            }
        }
    }
}
