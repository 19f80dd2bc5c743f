//! Answers, byte for byte.

use std::io::Write;

use serde_json::json;

use super::HttpError;

/// What a client is told that waits to send its body.
pub const CONTINUE: &[u8] =
    b"HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";

/// What a client is told for whom there is no connection left.
pub const SERVER_FULL: &[u8] = b"HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\n\
    Content-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }";

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done; here is what was asked for.
    Ok,
    /// Done.
    NoContent,
    /// Refused.
    BadRequest,
    /// Refused because the metadata would become too large.
    PayloadTooLarge,
}

impl Status {
    /// The number.
    pub fn code(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::NoContent => 204,
            Self::BadRequest => 400,
            Self::PayloadTooLarge => 413,
        }
    }

    /// The words that go with the number in the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NoContent => "No Content",
            Self::BadRequest => "Bad Request",
            Self::PayloadTooLarge => "Payload too large",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// How the request ended.
    pub status: Status,
    /// Whether the request used what will go away.
    pub deprecated: bool,
    /// The answer's body.
    pub body: Option<String>,
}

impl Response {
    /// Done, and nothing to tell.
    pub fn no_content() -> Self {
        Self { status: Status::NoContent, deprecated: false, body: None }
    }

    /// Done; this JSON was asked for.
    pub fn ok(body: String) -> Self {
        Self { status: Status::Ok, deprecated: false, body: Some(body) }
    }

    /// Refused, for this reason.
    pub fn fault(status: Status, reason: &str) -> Self {
        let body = json!({ "fault_message": reason }).to_string();
        Self { status, deprecated: false, body: Some(body) }
    }

    /// Not understood. As in Firecracker the text is not escaped, and promises less than is kept:
    /// requests that came before are answered.
    pub fn malformed(error: &HttpError) -> Self {
        let body = format!(
            "{{ \"error\": \"{error}\nAll previous unanswered requests will be dropped.\" }}"
        );
        Self { status: Status::BadRequest, deprecated: false, body: Some(body) }
    }

    /// The bytes to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 {} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n",
            self.status.code()
        )
        .into_bytes();
        if self.deprecated {
            bytes.extend_from_slice(b"Deprecation: true\r\n");
        }
        if let Some(body) = &self.body {
            // Writing to a vector does not fail.
            let _ = write!(
                bytes,
                "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        } else {
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}
