//! From bytes to requests.

use httparse::{EMPTY_HEADER, Header};
use thiserror::Error;

use super::{Method, Request};

/// Bytes of a request's first line and headers together.
pub const HEAD_BYTES_MAX: usize = 8 << 10;

/// Headers of a request.
pub const HEADERS_MAX: usize = 64;

/// Bytes of a request's body, unless the user sets another limit.
pub const PAYLOAD_BYTES_MAX: usize = 51_200;

/// Why a connection is not read any further. The texts are Firecracker's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HttpError {
    /// The bytes are no request.
    #[error("Invalid request.")]
    Request,
    /// Not a method of this API.
    #[error("Invalid HTTP Method: Unsupported HTTP method.")]
    Method,
    /// No path, or one that is no text.
    #[error("Invalid URI: {0}")]
    Uri(&'static str),
    /// Not HTTP/1.0 and not HTTP/1.1.
    #[error("Invalid HTTP Version: Unsupported HTTP version.")]
    Version,
    /// A header without a colon, or with a name that is none.
    #[error("Invalid header. Reason: Header is incorrectly formatted. Key: {0}")]
    HeaderFormat(String),
    /// A header that says what cannot be.
    #[error("Invalid header. Reason: Invalid value. Key:{0}; Value:{1}")]
    HeaderValue(&'static str, String),
    /// A header that asks for what is not offered.
    #[error("Invalid header. Reason: Unsupported feature. Key: {0}; Value: {1}")]
    Feature(&'static str, String),
    /// A body larger than the limit.
    #[error(
        "Request payload with size {size} is larger than the limit of {limit} allowed by server."
    )]
    Payload {
        /// What the client announced.
        size: u64,
        /// What is allowed.
        limit: usize,
    },
}

/// What comes out of a [`Parser`].
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The client waits to be told to send the body.
    Continue,
    /// A request.
    Request(Request),
}

/// Finds requests in the bytes of one connection.
///
/// It holds no more than one head, one body, and what was pushed behind them: whoever reads from
/// the connection calls [`Parser::take`] until it has nothing before reading more.
#[derive(Debug)]
pub struct Parser {
    buffer: Vec<u8>,
    head: Option<Head>,
    payload_max: usize,
}

/// A request whose body is still to come.
#[derive(Debug)]
struct Head {
    method: Method,
    path: String,
    body_len: usize,
    wants_continue: bool,
}

impl Parser {
    /// A parser at the beginning of a connection, for bodies of at most `payload_max` bytes.
    pub fn new(payload_max: usize) -> Self {
        Self { buffer: Vec::new(), head: None, payload_max }
    }

    /// More bytes came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether there is nothing between two requests.
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty() && self.head.is_none()
    }

    /// What is complete; none if more bytes are needed. After an error the connection is done.
    pub fn take(&mut self) -> Result<Option<Incoming>, HttpError> {
        if self.head.is_none() {
            let Some((head, len)) = parse_head(&self.buffer, self.payload_max)? else {
                return Ok(None);
            };
            self.buffer.drain(..len);
            self.head = Some(head);
        }
        let have = self.buffer.len();
        match self.head.take() {
            Some(mut head) if have < head.body_len => {
                let wants_continue = std::mem::take(&mut head.wants_continue);
                self.head = Some(head);
                Ok(wants_continue.then_some(Incoming::Continue))
            }
            Some(Head { method, path, body_len, .. }) => {
                let body = self.buffer.drain(..body_len).collect::<Vec<_>>();
                let body = (!body.is_empty()).then_some(body);
                Ok(Some(Incoming::Request(Request { method, path, body })))
            }
            None => Ok(None),
        }
    }
}

/// A request's head and its length in bytes; none if it is not complete.
fn parse_head(bytes: &[u8], payload_max: usize) -> Result<Option<(Head, usize)>, HttpError> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    // Whole lines only, so that what is said of a bad one does not depend on how much of it is here.
    let within_limits = bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes);
    let end = within_limits.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = &within_limits[..end];
    let len = match request.parse(lines) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(HttpError::Request),
        Err(_) => return Err(explain(lines)),
    };
    let method = request.method.and_then(Method::from_name).ok_or(HttpError::Method)?;
    let path = absolute_path(request.path.unwrap_or_default()).to_owned();
    let (body_len, wants_continue) = body_of(request.headers, payload_max)?;
    Ok(Some((Head { method, path, body_len, wants_continue }, len)))
}

/// How long the body is, and whether the client waits before it sends it.
fn body_of(headers: &[Header<'_>], payload_max: usize) -> Result<(usize, bool), HttpError> {
    const LENGTH: &str = "Content-Length";
    let mut announced: Option<u64> = None;
    let mut wants_continue = false;
    for header in headers {
        let value = String::from_utf8_lossy(header.value).into_owned();
        if header.name.eq_ignore_ascii_case(LENGTH) {
            let size = decimal(header.value);
            let size = size.filter(|size| announced.is_none_or(|before| before == *size));
            announced = Some(size.ok_or_else(|| bad_value(LENGTH, &value))?);
        } else if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            return Err(HttpError::Feature("Transfer-Encoding", value));
        } else if header.name.eq_ignore_ascii_case("Expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(HttpError::Feature("Expect", value));
            }
            wants_continue = true;
        }
    }
    let size = announced.unwrap_or(0);
    match usize::try_from(size) {
        Ok(len) if len <= payload_max => Ok((len, wants_continue)),
        _ => Err(HttpError::Payload { size, limit: payload_max }),
    }
}

/// Firecracker quotes a header's value with the blank that stands before it.
fn bad_value(name: &'static str, value: &str) -> HttpError {
    HttpError::HeaderValue(name, format!(" {value}"))
}

/// A length: digits and nothing else, of 32 bits.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let size: u32 = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    Some(size.into())
}

/// The path of `http://host/path` and of `/path`; nothing where there is none.
fn absolute_path(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
        None if target.starts_with('/') => target,
        None => "",
    }
}

/// Firecracker's words for what httparse found in `lines`. It does not say where, so the shortest
/// beginning is looked for that is wrong already: its last line is to blame.
fn explain(lines: &[u8]) -> HttpError {
    let mut end = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let beginning = lines.get(..end).unwrap_or(lines);
        if let Err(error) = httparse::Request::new(&mut headers).parse(beginning) {
            return blame(error, line.trim_ascii());
        }
    }
    HttpError::Request
}

fn blame(error: httparse::Error, line: &[u8]) -> HttpError {
    match error {
        httparse::Error::Version => HttpError::Version,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => {
            let key = line.split(|byte| *byte == b':').next().unwrap_or_default();
            HttpError::HeaderFormat(String::from_utf8_lossy(key).into_owned())
        }
        httparse::Error::Token => match line.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] {
            [_, b"", _] => HttpError::Uri("Empty URI not allowed."),
            [_, target, _] if std::str::from_utf8(target).is_err() => {
                HttpError::Uri("Cannot parse URI as UTF-8.")
            }
            _ => HttpError::Request,
        },
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::TooManyHeaders => {
            HttpError::Request
        }
    }
}
