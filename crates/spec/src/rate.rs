//! Rate limits: token buckets.

/// A bucket of tokens that refills continuously.
///
/// Built only by [`TokenBucket::new`], so that a bucket in hand always limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    size: u64,
    one_time_burst: u64,
    refill_time_ms: u64,
}

impl TokenBucket {
    /// A bucket of `size` tokens that refills in `refill_time_ms`, with `one_time_burst` tokens
    /// more at the start. None where either is 0, which means that there is no limit.
    pub fn new(size: u64, one_time_burst: u64, refill_time_ms: u64) -> Option<Self> {
        (size > 0 && refill_time_ms > 0).then_some(Self { size, one_time_burst, refill_time_ms })
    }

    /// Tokens in a full bucket.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Tokens that are spent first and never refilled.
    pub fn one_time_burst(&self) -> u64 {
        self.one_time_burst
    }

    /// Milliseconds from an empty bucket to a full one.
    pub fn refill_time_ms(&self) -> u64 {
        self.refill_time_ms
    }
}

/// The limits of a device; a missing bucket does not limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimiter {
    /// One token a byte.
    pub bandwidth: Option<TokenBucket>,
    /// One token a request.
    pub ops: Option<TokenBucket>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_means_no_limit() {
        for (size, refill_time_ms, limits) in
            [(0, 0, false), (1, 0, false), (0, 1, false), (1, 1, true)]
        {
            assert_eq!(TokenBucket::new(size, 9, refill_time_ms).is_some(), limits);
        }
    }
}
