#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod answer;
mod blocking;
mod call;
mod endpoints;
mod error;
#[cfg(feature = "tokio")]
mod nonblocking;

pub use answer::{ANSWER_BYTES_MAX, HEAD_BYTES_MAX};
pub use api;
pub use blocking::Client;
pub use error::Error;
#[cfg(feature = "tokio")]
pub use nonblocking::AsyncClient;

use std::time::Duration;

/// How long a call may take if nothing else is said. A snapshot of a large machine may take longer.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait between two looks at whether a VMM answers.
const READY_INTERVAL: Duration = Duration::from_millis(2);
