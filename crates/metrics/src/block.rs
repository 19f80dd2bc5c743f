//! `block` and `block_<drive_id>`, and `vhost_user_block_<drive_id>`.

use crate::count::{Counter, Gauge, Latency, group};

group! {
    /// A virtio block device.
    BlockMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Accesses to the configuration space that failed.
        cfg_fails: Counter,
        /// Times that the queue was served and had no request.
        no_avail_buffer: Counter,
        /// Events that could not be handled.
        event_fails: Counter,
        /// Requests that could not be executed.
        execute_fails: Counter,
        /// Requests that are malformed, or of no known type.
        invalid_reqs_count: Counter,
        /// Flushes.
        flush_count: Counter,
        /// Notifications of the queue.
        queue_event_count: Counter,
        /// Times that the rate limiter let the queue go on.
        rate_limiter_event_count: Counter,
        /// Changes of the file behind the device.
        update_count: Counter,
        /// Changes of the file that failed.
        update_fails: Counter,
        /// Bytes read.
        read_bytes: Counter,
        /// Bytes written.
        write_bytes: Counter,
        /// Reads that succeeded.
        read_count: Counter,
        /// Writes that succeeded.
        write_count: Counter,
        /// How long reads took.
        read_agg: Latency,
        /// How long writes took.
        write_agg: Latency,
        /// Requests that the rate limiter held back.
        rate_limiter_throttled_events: Counter,
        /// Requests that were held back because the I/O engine was full.
        io_engine_throttled_events: Counter,
        /// Requests that were left in the queue when the device was done for now.
        remaining_reqs_count: Counter,
    }

    /// A block device whose other half is another process.
    VhostUserMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Accesses to the configuration space that failed.
        cfg_fails: Counter,
        /// How long it took to connect and to negotiate.
        init_time_us: Gauge,
        /// How long the activation took.
        activate_time_us: Gauge,
        /// How long the last change of the configuration took.
        config_change_time_us: Gauge,
    }
}
