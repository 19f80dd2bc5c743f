//! `pmem` and `pmem_<id>`, and `memory_hotplug`.

use crate::count::{Counter, Latency, group};

group! {
    /// A persistent memory device.
    PmemMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Accesses to the configuration space that failed.
        cfg_fails: Counter,
        /// Events that could not be handled.
        event_fails: Counter,
        /// Notifications of the queue.
        queue_event_count: Counter,
        /// Flushes that the rate limiter held back.
        rate_limiter_throttled_events: Counter,
        /// Times that the rate limiter let the queue go on.
        rate_limiter_event_count: Counter,
    }

    /// The memory device, whose memory comes and goes while the guest runs.
    MemoryHotplugMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Notifications of the queue that could not be handled.
        queue_event_fails: Counter,
        /// Notifications of the queue.
        queue_event_count: Counter,
        /// How long it took to plug memory.
        plug_agg: Latency,
        /// Times that memory was plugged.
        plug_count: Counter,
        /// Bytes that were plugged.
        plug_bytes: Counter,
        /// Times that memory could not be plugged.
        plug_fails: Counter,
        /// How long it took to unplug memory.
        unplug_agg: Latency,
        /// Times that memory was unplugged.
        unplug_count: Counter,
        /// Bytes that were unplugged.
        unplug_bytes: Counter,
        /// Times that memory could not be unplugged.
        unplug_fails: Counter,
        /// Ranges that were unplugged but could not be given back to the host.
        unplug_discard_fails: Counter,
        /// How long it took to unplug all.
        unplug_all_agg: Latency,
        /// Times that all was unplugged.
        unplug_all_count: Counter,
        /// Times that it could not be.
        unplug_all_fails: Counter,
        /// How long it took to answer what is plugged.
        state_agg: Latency,
        /// Times that the driver asked what is plugged.
        state_count: Counter,
        /// Times that there was no answer.
        state_fails: Counter,
    }
}
