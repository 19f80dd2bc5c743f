//! `net` and `net_<iface_id>`.

use crate::count::{Counter, Latency, group};

group! {
    /// A virtio network device. Receiving is what the guest receives.
    NetMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Accesses to the configuration space that failed.
        cfg_fails: Counter,
        /// Times that the guest set its MAC address.
        mac_address_updates: Counter,
        /// Times that a frame waited and the guest had no buffer for it.
        no_rx_avail_buffer: Counter,
        /// Times that the transmit queue was served and had no frame.
        no_tx_avail_buffer: Counter,
        /// Events that could not be handled.
        event_fails: Counter,
        /// Notifications of the receive queue.
        rx_queue_event_count: Counter,
        /// Times that the receiving rate limiter let the queue go on.
        rx_event_rate_limiter_count: Counter,
        /// Frames that the receiving rate limiter held back.
        rx_rate_limiter_throttled: Counter,
        /// Times that the TAP said that it has frames.
        rx_tap_event_count: Counter,
        /// Bytes received.
        rx_bytes_count: Counter,
        /// Frames received.
        rx_packets_count: Counter,
        /// Frames that could not be received.
        rx_fails: Counter,
        /// Reads that gave a frame to the guest.
        rx_count: Counter,
        /// Reads from the TAP that failed.
        tap_read_fails: Counter,
        /// Writes to the TAP that failed.
        tap_write_fails: Counter,
        /// How long writes to the TAP took.
        tap_write_agg: Latency,
        /// Bytes transmitted.
        tx_bytes_count: Counter,
        /// Frames of the guest that are malformed.
        tx_malformed_frames: Counter,
        /// Frames that could not be transmitted.
        tx_fails: Counter,
        /// Writes of a frame that succeeded.
        tx_count: Counter,
        /// Frames transmitted.
        tx_packets_count: Counter,
        /// Notifications of the transmit queue.
        tx_queue_event_count: Counter,
        /// Times that the transmitting rate limiter let the queue go on.
        tx_rate_limiter_event_count: Counter,
        /// Frames that the transmitting rate limiter held back.
        tx_rate_limiter_throttled: Counter,
        /// Frames whose sender is not the guest's MAC address.
        tx_spoofed_mac_count: Counter,
        /// Frames that were left in the queue when the device was done for now.
        tx_remaining_reqs_count: Counter,
    }
}
