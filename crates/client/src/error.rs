//! Why a call gave no answer.

use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use serde::Deserialize;
use thiserror::Error;

/// A call that gave no answer, or not the one that was wanted. `call` is its method and path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the socket.
    #[error(
        "cannot connect to {}: {source}; start the VMM with --api-sock and this path, or wait \
         until it is ready", path.display()
    )]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The VMM refused the request. Its words say why.
    #[error("{call} was refused ({status}): {fault}{}", advice(*status))]
    Refused {
        /// What was asked.
        call: String,
        /// The HTTP status: 400, 413 or 503.
        status: u16,
        /// The VMM's own words.
        fault: String,
    },
    /// No answer came in time. The VMM may still do what was asked.
    #[error(
        "{call} was not answered within {timeout:?}: look at the VMM's log, and whether it still \
         runs; ask for its state before you try again"
    )]
    Timeout {
        /// What was asked.
        call: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The connection broke. The VMM may have ended.
    #[error("{call}: the connection broke: {source}; look whether the VMM still runs, and its log")]
    Io {
        /// What was asked.
        call: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The answer is none that this client knows.
    #[error("{call}: the answer makes no sense: {why}; is a VMM of this version at the socket?")]
    Answer {
        /// What was asked.
        call: String,
        /// What is wrong with it.
        why: String,
    },
    /// The request cannot be sent: its body is no JSON, or an id does not fit into a path.
    #[error("{call} cannot be sent: {why}")]
    Request {
        /// What was asked.
        call: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// The HTTP status with which the VMM refused the request.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The words with which the VMM refused the request.
    pub fn fault(&self) -> Option<&str> {
        match self {
            Self::Refused { fault, .. } => Some(fault),
            _ => None,
        }
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        413 => "; store less, or start the VMM with a larger --mmds-size-limit",
        503 => "; close connections: a VMM serves ten at a time",
        _ => "",
    }
}

/// What the body of a refusal says.
pub(crate) fn fault(body: &[u8]) -> String {
    /// `error` is how a VMM says that it has too many connections.
    #[derive(Deserialize)]
    struct Fault {
        #[serde(alias = "error")]
        fault_message: String,
    }
    match serde_json::from_slice::<Fault>(body) {
        Ok(fault) => fault.fault_message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

/// The beginning of what somebody sent, for an error's text.
pub(crate) struct Excerpt<'a>(pub &'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BYTES: usize = 64;
        write!(f, "{:?}", String::from_utf8_lossy(&self.0[..self.0.len().min(BYTES)]))
    }
}
