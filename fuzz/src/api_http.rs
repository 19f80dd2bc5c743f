//! What clients of the API send, in pieces of any size: no more is held than was asked for, and
//! where the pieces begin and end makes no difference.

use api::http::{HttpError, Incoming, Parser, Response};

use crate::source::Source;

/// Bytes of a body.
const PAYLOAD_BYTES_MAX: usize = 256;
/// Parts of requests, so that more than first lines are reached.
const PARTS: [&[u8]; 12] = [
    b"GET / HTTP/1.1\r\n",
    b"PUT http://localhost/drives/a HTTP/1.0\r\n",
    b"PATCH ",
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: 4\r\n",
    b"Content-Length: 300\r\n",
    b"Expect: 100-continue\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Accept: */*\r\n",
    b"no colon\r\n",
    b"{}",
];

/// Feeds what `data` describes to a parser, whole and in pieces.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mut bytes = Vec::new();
    let mut cuts = vec![0];
    while !source.is_empty() {
        let choice = source.u8();
        match PARTS.get(usize::from(choice & 0xF)) {
            Some(part) => bytes.extend_from_slice(part),
            None => bytes.extend_from_slice(source.bytes(usize::from(choice >> 4))),
        }
        if choice & 0x80 != 0 {
            cuts.push(bytes.len());
        }
    }
    cuts.push(bytes.len());
    let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
    assert_eq!(parse(pieces), parse(std::iter::once(&bytes[..])), "the pieces matter");
}

/// The requests, and the error that ended them. Whether a client is told to go on depends on the
/// pieces, and is left out.
fn parse<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<api::http::Request>, Option<HttpError>) {
    let mut parser = Parser::new(PAYLOAD_BYTES_MAX);
    let mut requests = Vec::new();
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.take() {
                Ok(None) => break,
                Ok(Some(Incoming::Continue)) => {}
                Ok(Some(Incoming::Request(request))) => {
                    let length = request.body.as_ref().map_or(0, Vec::len);
                    assert!(length <= PAYLOAD_BYTES_MAX, "a body of {length} bytes");
                    requests.push(request);
                }
                Err(error) => {
                    assert!(Response::malformed(&error).to_bytes().starts_with(b"HTTP/1.1 400 "));
                    return (requests, Some(error));
                }
            }
        }
    }
    (requests, None)
}
