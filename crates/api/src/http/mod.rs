//! HTTP/1.1 as the API speaks it, over bytes: no sockets here.
//!
//! ```text
//!   bytes ──push──▶ Parser ──take──▶ Continue │ Request │ HttpError (the connection's last word)
//!   Response ──to_bytes──▶ bytes
//! ```
//!
//! Requests may arrive in any number of pieces, and several in one piece. What is answered, down
//! to the blank behind the status, is what Firecracker's clients have been tested with.
//!
//! Refused, with Firecracker's texts: methods other than GET, PUT, PATCH and DELETE, versions other
//! than 1.0 and 1.1, heads larger than [`HEAD_BYTES_MAX`], bodies larger than the parser's limit,
//! bodies whose length is not given in advance. After a refusal nothing more is read: where the next
//! request would begin is not known.

mod parser;
mod response;
#[cfg(test)]
mod tests;

pub use parser::{HEAD_BYTES_MAX, HEADERS_MAX, HttpError, Incoming, PAYLOAD_BYTES_MAX, Parser};
pub use response::{CONTINUE, Response, SERVER_FULL, Status};

use std::fmt;

/// What a client wants done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Tell.
    Get,
    /// Set, all of it.
    Put,
    /// Set, in part.
    Patch,
    /// Take away.
    Delete,
}

impl Method {
    /// All methods, by the names that requests give them.
    const NAMES: [(&str, Self); 4] =
        [("GET", Self::Get), ("PUT", Self::Put), ("PATCH", Self::Patch), ("DELETE", Self::Delete)];

    /// The method of this name; case counts.
    fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, method)| *method)
    }

    /// The name in a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request, complete, of which only the form is known to be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub method: Method,
    /// Of what: an absolute path, or nothing if the request named none.
    pub path: String,
    /// Its body; none if it is empty.
    pub body: Option<Vec<u8>>,
}
