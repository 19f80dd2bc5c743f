//! Rate limiters, as they stand in the bodies of devices.

use serde::{Deserialize, Serialize};

/// A bucket of tokens that refills at a steady rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Tokens that the bucket holds; 0 means no limit.
    pub size: u64,
    /// Tokens on top at the start, which do not come back.
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket fills; 0 means no limit.
    pub refill_time: u64,
}

/// Limits of bytes and of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Tokens are bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Tokens are operations.
    pub ops: Option<TokenBucket>,
}

impl TokenBucket {
    /// The bucket, unless it means "no limit".
    pub fn to_spec(self) -> Option<spec::TokenBucket> {
        spec::TokenBucket::new(self.size, self.one_time_burst.unwrap_or(0), self.refill_time)
    }

    /// The bucket as it is told to clients: nothing if it does not limit.
    fn effective(self) -> Option<Self> {
        let one_time_burst = self.one_time_burst.filter(|burst| *burst > 0);
        self.to_spec().map(|_| Self { one_time_burst, ..self })
    }
}

impl RateLimiter {
    /// The limits as they are told to clients: nothing if they do not limit.
    pub(crate) fn effective(self) -> Option<Self> {
        let limits = Self {
            bandwidth: self.bandwidth.and_then(TokenBucket::effective),
            ops: self.ops.and_then(TokenBucket::effective),
        };
        (limits != Self::default()).then_some(limits)
    }

    /// These limits with those of `update` that it names.
    pub(crate) fn updated(self, update: Self) -> Self {
        Self { bandwidth: update.bandwidth.or(self.bandwidth), ops: update.ops.or(self.ops) }
    }
}

impl From<RateLimiter> for spec::RateLimiter {
    fn from(body: RateLimiter) -> Self {
        let bucket = |bucket: Option<TokenBucket>| bucket.and_then(TokenBucket::to_spec);
        Self { bandwidth: bucket(body.bandwidth), ops: bucket(body.ops) }
    }
}
