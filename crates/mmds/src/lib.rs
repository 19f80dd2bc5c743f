//! The metadata service (MMDS): a document that the host writes and the guest reads, at an address
//! of its own, by HTTP, without a network behind it.
//!
//! ```text
//!   host:  API ──────────────▶ Store
//!                                ▲
//!   guest: frames ─▶ Stack ─▶ Service ─▶ tokens
//! ```
//!
//! A [`Store`] holds the document, a [`Service`] answers requests about it, and there is a
//! [`Stack`] for each network interface on which the guest can reach the service: it takes the
//! guest's frames that are for the service's address out of the way to the network and answers
//! them. Nothing here knows a socket, a clock or a thread: frames and the time are given.
//!
//! The TCP state machine is smoltcp's: one that others fuzz and mend is worth more than the hundred
//! kilobytes that an own one would spare. It runs on bare IP packets, as the guest is the only
//! neighbour there is and its address is on every frame: [`Stack`] does Ethernet and ARP itself. A
//! socket exists from the first SYN of a connection to its end, so that an idle service has no
//! buffers, and at most [`CONNECTIONS_MAX`] exist.
#![forbid(unsafe_code)]

mod error;
mod frame;
mod http;
mod service;
mod stack;
mod store;
mod token;

pub use error::Error;
pub use frame::MAC;
pub use http::{HEADERS_MAX, REQUEST_BYTES_MAX};
pub use service::{Reply, Service};
pub use stack::{CONNECTIONS_MAX, FRAMES_MAX, IDLE, PATIENCE, PORT, SEND_MAX, Stack};
pub use store::{STORE_BYTES_DEFAULT, Store};
pub use token::{LIFETIME_SECONDS_MAX, LIFETIME_SECONDS_MIN, TOKEN_CHARACTERS_MAX};
