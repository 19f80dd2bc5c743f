//! `vsock`.

use crate::count::{Counter, group};

group! {
    /// The vsock device and its connections. Receiving is what the guest receives.
    VsockMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Accesses to the configuration space that failed.
        cfg_fails: Counter,
        /// Notifications of the receive queue that could not be handled.
        rx_queue_event_fails: Counter,
        /// Notifications of the transmit queue that could not be handled.
        tx_queue_event_fails: Counter,
        /// Notifications of the event queue that could not be handled.
        ev_queue_event_fails: Counter,
        /// Events of the host's sockets that could not be handled.
        muxer_event_fails: Counter,
        /// Events of one connection that could not be handled.
        conn_event_fails: Counter,
        /// Notifications of the receive queue.
        rx_queue_event_count: Counter,
        /// Notifications of the transmit queue.
        tx_queue_event_count: Counter,
        /// Bytes received.
        rx_bytes_count: Counter,
        /// Bytes transmitted.
        tx_bytes_count: Counter,
        /// Packets received.
        rx_packets_count: Counter,
        /// Packets transmitted.
        tx_packets_count: Counter,
        /// Connections that were made.
        conns_added: Counter,
        /// Connections that were ended by force.
        conns_killed: Counter,
        /// Connections that ended.
        conns_removed: Counter,
        /// Times that the list of connections to end was made anew.
        killq_resync: Counter,
        /// Buffers that could not be written to the host's socket later.
        tx_flush_fails: Counter,
        /// Writes to the host's socket that failed.
        tx_write_fails: Counter,
        /// Reads from the host's socket that failed.
        rx_read_fails: Counter,
    }
}
