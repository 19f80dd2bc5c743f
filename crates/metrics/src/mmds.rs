//! `mmds`.

use crate::count::{Counter, group};

group! {
    /// The metadata service. Receiving is what the service receives.
    MmdsMetrics {
        /// Frames that were for the service.
        rx_accepted: Counter,
        /// Frames for the service that could not be handled.
        rx_accepted_err: Counter,
        /// Frames for the service that are odd: no TCP, or a segment that no connection expects.
        rx_accepted_unusual: Counter,
        /// Frames that are no Ethernet frames.
        rx_bad_eth: Counter,
        /// Requests whose token is not valid.
        rx_invalid_token: Counter,
        /// Requests without a token.
        rx_no_token: Counter,
        /// Frames that were received.
        rx_count: Counter,
        /// Bytes sent.
        tx_bytes: Counter,
        /// Times that something was sent.
        tx_count: Counter,
        /// Frames that could not be sent.
        tx_errors: Counter,
        /// Frames sent.
        tx_frames: Counter,
        /// Connections that were accepted.
        connections_created: Counter,
        /// Connections that ended.
        connections_destroyed: Counter,
    }
}
