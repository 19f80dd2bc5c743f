//! Requests in any number of pieces, what is no request, and answers byte for byte.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 100;

/// What comes out of `bytes`, as text: requests, "continue", or the error that ends it all.
fn parse(pieces: &[&[u8]]) -> Vec<String> {
    let mut parser = Parser::new(LIMIT);
    let mut found = Vec::new();
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.take() {
                Ok(None) => break,
                Ok(Some(Incoming::Continue)) => found.push("continue".to_owned()),
                Ok(Some(Incoming::Request(Request { method, path, body }))) => {
                    let body = body.map(|body| String::from_utf8_lossy(&body).into_owned());
                    found.push(format!("{method} {path} {}", body.unwrap_or_default()));
                }
                Err(error) => {
                    found.push(error.to_string());
                    return found;
                }
            }
        }
    }
    found
}

fn check(bytes: &str, expected: &[&str]) {
    assert_eq!(parse(&[bytes.as_bytes()]), expected, "{bytes:?}");
}

#[test]
fn requests() {
    check("GET / HTTP/1.1\r\n\r\n", &["GET / "]);
    check("GET /a/b HTTP/1.0\r\nHost: x\r\nAccept: */*\r\n\r\n", &["GET /a/b "]);
    check("PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", &["PUT /a {}"]);
    check("PATCH /a HTTP/1.1\r\ncontent-length:2\r\n\r\n{}", &["PATCH /a {}"]);
    check("DELETE /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n", &["DELETE /a "]);
    check("GET http://localhost/a HTTP/1.1\r\n\r\n", &["GET /a "]);
    check("GET http://localhost HTTP/1.1\r\n\r\n", &["GET  "]);
    check("GET a HTTP/1.1\r\n\r\n", &["GET  "]);
    // Several at once, and one that has only begun.
    check(
        "GET /1 HTTP/1.1\r\n\r\nPUT /2 HTTP/1.1\r\nContent-Length: 1\r\n\r\n2GET /3 HTTP/1.1\r\n",
        &["GET /1 ", "PUT /2 2"],
    );
    // The same length twice is one length.
    check("PUT /a HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", &["PUT /a {}"]);
    let largest = format!("PUT /a HTTP/1.1\r\nContent-Length: 100\r\n\r\n{}", "x".repeat(100));
    check(&largest, &[&format!("PUT /a {}", "x".repeat(100))]);
}

#[test]
fn a_client_that_waits_is_told_once_to_go_on() {
    let head = b"PUT /a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(parse(&[head, b"{", b"}"]), ["continue", "PUT /a {}"]);
    assert_eq!(parse(&[&[&head[..], b"{}"].concat()]), ["PUT /a {}"], "the body is there");
    let too_large = "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n";
    check(
        too_large,
        &["Request payload with size 101 is larger than the limit of 100 allowed by server."],
    );
}

#[test]
fn what_is_no_request() {
    let header = |line: &str| format!("PUT /a HTTP/1.1\r\n{line}\r\n\r\n{{}}");
    for (bytes, expected) in [
        ("\0\r\n".into(), "Invalid request."),
        ("x".repeat(HEAD_BYTES_MAX), "Invalid request."),
        ("GET\r\n\r\n".into(), "Invalid request."),
        ("GET /\r\n\r\n".into(), "Invalid request."),
        ("POST / HTTP/1.1\r\n\r\n".into(), "Invalid HTTP Method: Unsupported HTTP method."),
        ("get / HTTP/1.1\r\n\r\n".into(), "Invalid HTTP Method: Unsupported HTTP method."),
        ("GET  HTTP/1.1\r\n\r\n".into(), "Invalid URI: Empty URI not allowed."),
        ("GET / HTTP/2.0\r\n\r\n".into(), "Invalid HTTP Version: Unsupported HTTP version."),
        ("GET / http/1.1\r\n\r\n".into(), "Invalid HTTP Version: Unsupported HTTP version."),
        (
            header("Content-Length"),
            "Invalid header. Reason: Header is incorrectly formatted. Key: Content-Length",
        ),
        (
            header("Content-Length: five"),
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value: five",
        ),
        (
            header("Content-Length: -1"),
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value: -1",
        ),
        (
            header("Content-Length: +2"),
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value: +2",
        ),
        (
            header("Content-Length: 4294967296"),
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value: 4294967296",
        ),
        (
            header("Content-Length: 2\r\nContent-Length: 3"),
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value: 3",
        ),
        (
            header("Transfer-Encoding: chunked"),
            "Invalid header. Reason: Unsupported feature. Key: Transfer-Encoding; Value: chunked",
        ),
        (
            header("Expect: a-miracle"),
            "Invalid header. Reason: Unsupported feature. Key: Expect; Value: a-miracle",
        ),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_BYTES_MAX)), "Invalid request."),
        (header(&"A: b\r\n".repeat(HEADERS_MAX + 1)), "Invalid request."),
        (
            header("Content-Length: 101"),
            "Request payload with size 101 is larger than the limit of 100 allowed by server.",
        ),
    ] {
        check(&bytes, &[expected]);
    }
    let bytes: &[u8] = b"GET /\xFF HTTP/1.1\r\n\r\n";
    let found = parse(&[bytes]);
    assert!(found[0].starts_with("Invalid URI") || found == ["GET /\u{FFFD} "], "{found:?}");
}

#[test]
fn answers_are_what_firecracker_sends() {
    let head = "Server: Firecracker API\r\nConnection: keep-alive\r\n";
    let deprecated = Response { deprecated: true, ..Response::no_content() };
    for (response, expected) in [
        (Response::no_content(), format!("HTTP/1.1 204 \r\n{head}\r\n")),
        (deprecated, format!("HTTP/1.1 204 \r\n{head}Deprecation: true\r\n\r\n")),
        (
            Response::ok("{}".to_owned()),
            format!(
                "HTTP/1.1 200 \r\n{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
        ),
        (
            Response::fault(Status::PayloadTooLarge, "a \"b\"\n"),
            format!(
                "HTTP/1.1 413 \r\n{head}Content-Type: application/json\r\nContent-Length: 29\r\n\r\n\
                 {{\"fault_message\":\"a \\\"b\\\"\\n\"}}"
            ),
        ),
        (
            Response::malformed(&HttpError::Payload { size: 260, limit: 250 }),
            format!(
                "HTTP/1.1 400 \r\n{head}Content-Type: application/json\r\nContent-Length: 145\r\n\r\n\
                 {{ \"error\": \"Request payload with size 260 is larger than the limit of 250 \
                 allowed by server.\nAll previous unanswered requests will be dropped.\" }}"
            ),
        ),
    ] {
        assert_eq!(String::from_utf8(response.to_bytes()).unwrap(), expected);
    }
    let (_, body) = std::str::from_utf8(SERVER_FULL).unwrap().split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), 40);
}

/// Requests and what is none, to be cut and glued.
const TEXTS: [&str; 6] = [
    "GET / HTTP/1.1\r\n\r\n",
    "PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345",
    "PATCH http://x/a HTTP/1.1\r\nAccept: */*\r\nContent-Length: 1\r\n\r\n{",
    "GET / HTTP/1.1\r\nno colon\r\n\r\n",
    "PUT /a HTTP/1.1\r\nContent-Length: 101\r\n\r\n",
    "\r\n",
];

proptest! {
    /// Where the pieces begin and end makes no difference.
    #[test]
    fn pieces_do_not_matter(
        texts in prop::collection::vec(prop::sample::select(&TEXTS[..]), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = texts.concat().into_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &whole[cut[0]..cut[1]]).collect();
        prop_assert_eq!(parse(&pieces), parse(&[&whole]));
    }

    /// Nothing that a client sends makes the parser hold more than it may.
    #[test]
    fn noise_is_refused_or_awaited(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        parse(&[&noise]);
    }
}
