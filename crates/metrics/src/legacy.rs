//! `i8042` and `uart`.

use crate::count::{Counter, group};

group! {
    /// The keyboard controller.
    I8042Metrics {
        /// Things that went wrong.
        error_count: Counter,
        /// Reads that mean nothing.
        missed_read_count: Counter,
        /// Writes that mean nothing.
        missed_write_count: Counter,
        /// Reads.
        read_count: Counter,
        /// Resets that the guest asked for.
        reset_count: Counter,
        /// Writes.
        write_count: Counter,
    }

    /// The serial port.
    UartMetrics {
        /// Writes of the console's output that failed.
        error_count: Counter,
        /// Times that the console's output was flushed.
        flush_count: Counter,
        /// Reads that mean nothing.
        missed_read_count: Counter,
        /// Writes that mean nothing, and bytes that were lost.
        missed_write_count: Counter,
        /// Bytes that the guest read.
        read_count: Counter,
        /// Bytes that the guest wrote.
        write_count: Counter,
        /// Bytes that the rate limiter dropped.
        rate_limiter_dropped_bytes: Counter,
    }
}
