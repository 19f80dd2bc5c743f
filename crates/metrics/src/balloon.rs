//! `balloon`.

use crate::count::{Counter, group};

group! {
    /// The memory balloon.
    BalloonMetrics {
        /// Activations that failed.
        activate_fails: Counter,
        /// Times that pages were taken from the guest.
        inflate_count: Counter,
        /// Statistics that the driver gave.
        stats_updates_count: Counter,
        /// Statistics that could not be taken.
        stats_update_fails: Counter,
        /// Times that pages were given back.
        deflate_count: Counter,
        /// Events that could not be handled.
        event_fails: Counter,
        /// Times that the driver reported free pages.
        free_page_report_count: Counter,
        /// Bytes that reports freed.
        free_page_report_freed: Counter,
        /// Reported ranges that could not be freed.
        free_page_report_fails: Counter,
        /// Times that the driver hinted at free pages.
        free_page_hint_count: Counter,
        /// Bytes that hints freed.
        free_page_hint_freed: Counter,
        /// Hinted ranges that could not be freed.
        free_page_hint_fails: Counter,
    }
}
