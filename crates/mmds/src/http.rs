//! HTTP 1.0 and 1.1, as far as the service speaks it: requests without a body, one after the other.
//!
//! Parsing is apart from answering: [`parse`] looks at what has arrived so far, the service makes a
//! [`Response`], and that is rendered. A request that is refused here ends the connection, since
//! nobody knows where the next one begins.

use httparse::{EMPTY_HEADER, Header, Status};

use crate::Error;

/// Bytes of a request with its headers. They wait in the connection's receive buffer.
pub const REQUEST_BYTES_MAX: usize = 2500;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The path, which begins with a slash; empty if the request names none.
    pub(crate) path: &'a str,
    /// Whether it accepts JSON, and nothing else.
    pub(crate) accepts_json: bool,
    /// The session token.
    pub(crate) token: Option<&'a str>,
    /// How long a token shall live: the header's name as it was sent, and its value.
    pub(crate) lifetime: Option<(&'a str, &'a str)>,
    /// The header by which a proxy says that it passed the request on, as it was sent.
    pub(crate) forwarded: Option<&'a str>,
    /// Whether another request may follow.
    pub(crate) keep_alive: bool,
}

/// Methods that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Put,
    Patch,
    Delete,
}

/// Versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// What has arrived so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// The beginning of a request.
    Partial,
    /// A request, and how many bytes it has.
    Complete(Request<'a>, usize),
    /// No request that the service understands.
    Bad(Error),
}

/// What the service answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) version: Version,
    pub(crate) status: u16,
    pub(crate) json: bool,
    /// A header of its own: name and value.
    pub(crate) header: Option<(String, String)>,
    pub(crate) body: String,
    pub(crate) keep_alive: bool,
}

/// Parses what has arrived so far.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Partial) => Parsed::Partial,
        Ok(Status::Complete(length)) => match read(&request) {
            Ok(request) => Parsed::Complete(request, length),
            Err(error) => Parsed::Bad(error),
        },
        Err(httparse::Error::Version) => Parsed::Bad(Error::UnsupportedVersion),
        Err(_) => Parsed::Bad(Error::InvalidRequest),
    }
}

fn read<'a>(request: &httparse::Request<'_, 'a>) -> Result<Request<'a>, Error> {
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("PUT") => Method::Put,
        Some("PATCH") => Method::Patch,
        Some("DELETE") => Method::Delete,
        _ => return Err(Error::UnsupportedMethod),
    };
    let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let mut read = Request {
        method,
        version,
        path: path(request.path.unwrap_or_default()),
        accepts_json: false,
        token: None,
        lifetime: None,
        forwarded: None,
        keep_alive: version == Version::Http11,
    };
    request.headers.iter().try_for_each(|header| read.take_header(header))?;
    Ok(read)
}

impl<'a> Request<'a> {
    fn take_header(&mut self, header: &Header<'a>) -> Result<(), Error> {
        let value = std::str::from_utf8(header.value).map_err(|_| Error::InvalidRequest)?.trim();
        let name = header.name;
        match name.to_ascii_lowercase().as_str() {
            "accept" => self.accepts_json = value == "application/json",
            "x-metadata-token" | "x-aws-ec2-metadata-token" => {
                self.token.get_or_insert(value);
            }
            "x-metadata-token-ttl-seconds" | "x-aws-ec2-metadata-token-ttl-seconds" => {
                self.lifetime.get_or_insert((name, value));
            }
            "x-forwarded-for" => self.forwarded = Some(name),
            "connection" => self.take_connection(value),
            "content-length" => {
                let bad = || Error::HeaderValue { name: name.to_owned(), value: value.to_owned() };
                if value.parse::<u32>().map_err(|_| bad())? != 0 {
                    return Err(Error::InvalidRequest);
                }
            }
            "transfer-encoding" => return Err(Error::InvalidRequest),
            _ => {}
        }
        Ok(())
    }

    fn take_connection(&mut self, value: &str) {
        for option in value.split(',').map(str::trim) {
            if option.eq_ignore_ascii_case("close") {
                self.keep_alive = false;
            } else if option.eq_ignore_ascii_case("keep-alive") {
                self.keep_alive = true;
            }
        }
    }
}

/// The path of a request's target, which may be absolute (RFC 9112, 3.2.2).
fn path(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
        None if target.starts_with('/') => target,
        None => "",
    }
}

impl Response {
    /// What goes over the wire.
    pub(crate) fn render(&self) -> Vec<u8> {
        let version = match self.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        };
        let connection = if self.keep_alive { "keep-alive" } else { "close" };
        let header = self.header.as_ref().map(|(name, value)| format!("{name}: {value}\r\n"));
        let content = if self.json { "application/json" } else { "text/plain" };
        format!(
            "{version} {} \r\nServer: Firecracker API\r\nConnection: {connection}\r\n{}\
             Content-Type: {content}\r\nContent-Length: {}\r\n\r\n{}",
            self.status,
            header.unwrap_or_default(),
            self.body.len(),
            self.body,
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> Request<'_> {
        Request {
            method: Method::Get,
            version: Version::Http11,
            path,
            accepts_json: false,
            token: None,
            lifetime: None,
            forwarded: None,
            keep_alive: true,
        }
    }

    fn check(text: &str, expected: Request<'_>) {
        let with_more = format!("{text}GET /next");
        let length = text.len();
        assert_eq!(parse(with_more.as_bytes()), Parsed::Complete(expected, length), "{text:?}");
        for at in 0..length {
            assert_eq!(parse(&text.as_bytes()[..at]), Parsed::Partial, "{:?}", &text[..at]);
        }
    }

    #[test]
    fn requests() {
        check("GET / HTTP/1.1\r\n\r\n", request("/"));
        check("GET http://169.254.169.254/a/b HTTP/1.1\r\n\r\n", request("/a/b"));
        check("GET http://169.254.169.254 HTTP/1.1\r\n\r\n", request(""));
        check("GET a HTTP/1.1\r\n\r\n", request(""));
        check("GET / HTTP/1.1\n\n", request("/"));
        check("GET /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", request("/a?b"));
        for (method, text) in
            [(Method::Put, "PUT"), (Method::Patch, "PATCH"), (Method::Delete, "DELETE")]
        {
            check(&format!("{text} / HTTP/1.1\r\n\r\n"), Request { method, ..request("/") });
        }
        check(
            "GET / HTTP/1.1\r\naccept:  application/json \r\nX-Metadata-Token: a=\r\n\
             x-aws-ec2-metadata-token: b\r\n\r\n",
            Request { accepts_json: true, token: Some("a="), ..request("/") },
        );
        check(
            "GET / HTTP/1.1\r\nX-AWS-EC2-Metadata-Token-TTL-Seconds: 60\r\nX-Forwarded-for:\r\n\r\n",
            Request {
                lifetime: Some(("X-AWS-EC2-Metadata-Token-TTL-Seconds", "60")),
                forwarded: Some("X-Forwarded-for"),
                ..request("/")
            },
        );
    }

    #[test]
    fn whether_the_connection_stays() {
        for (version, header, keep_alive) in [
            (Version::Http11, "X: y", true),
            (Version::Http11, "Connection: close", false),
            (Version::Http11, "connection: te, CLOSE", false),
            (Version::Http10, "X: y", false),
            (Version::Http10, "Connection: Keep-Alive", true),
        ] {
            let number = if version == Version::Http10 { 0 } else { 1 };
            let text = format!("GET / HTTP/1.{number}\r\n{header}\r\n\r\n");
            check(&text, Request { version, keep_alive, ..request("/") });
        }
    }

    #[test]
    fn what_is_no_request() {
        let value = |name: &str, value: &str| Error::HeaderValue {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        for (text, expected) in [
            ("GET / HTTP/2.0\r\n\r\n", Error::UnsupportedVersion),
            ("POST / HTTP/1.1\r\n\r\n", Error::UnsupportedMethod),
            ("get / HTTP/1.1\r\n\r\n", Error::UnsupportedMethod),
            ("GET\r\n\r\n", Error::InvalidRequest),
            ("\0", Error::InvalidRequest),
            ("GET / HTTP/1.1\r\nContent-Length: 100\r\n\r\n", Error::InvalidRequest),
            ("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", value("Content-Length", "-1")),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Error::InvalidRequest),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", Error::InvalidRequest),
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Bad(expected), "{text:?}");
        }
        let bad_text = b"GET / HTTP/1.1\r\nX: \xFF\r\n\r\n";
        assert_eq!(parse(bad_text), Parsed::Bad(Error::InvalidRequest));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse(many.as_bytes()), Parsed::Bad(Error::InvalidRequest));
    }

    #[test]
    fn responses() {
        let response = Response {
            version: Version::Http11,
            status: 200,
            json: true,
            header: Some(("X-metadata-token-ttl-seconds".into(), "60".into())),
            body: "{}".into(),
            keep_alive: true,
        };
        let expected = "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
            X-metadata-token-ttl-seconds: 60\r\nContent-Type: application/json\r\n\
            Content-Length: 2\r\n\r\n{}";
        assert_eq!(String::from_utf8(response.render()).unwrap(), expected);
        let response = Response {
            version: Version::Http10,
            status: 404,
            json: false,
            header: None,
            body: String::new(),
            keep_alive: false,
        };
        let expected = "HTTP/1.0 404 \r\nServer: Firecracker API\r\nConnection: close\r\n\
            Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8(response.render()).unwrap(), expected);
    }
}
