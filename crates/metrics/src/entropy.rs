//! `entropy`.

use crate::count::{Counter, group};

group! {
    /// The entropy device.
    EntropyMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Requests that could not be handled.
        entropy_event_fails: Counter,
        /// Requests.
        entropy_event_count: Counter,
        /// Random bytes given to the guest.
        entropy_bytes: Counter,
        /// Times that the host gave no random bytes.
        host_rng_fails: Counter,
        /// Requests that the rate limiter held back.
        entropy_rate_limiter_throttled: Counter,
        /// Times that the rate limiter let the queue go on.
        rate_limiter_event_count: Counter,
    }
}
