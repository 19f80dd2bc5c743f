//! An HTTP answer, out of as many pieces as it comes in.

/// Longest head of an answer, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest body of an answer, in bytes: the metadata of a machine is the largest there is.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Most header lines.
const HEADERS_MAX: usize = 64;

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Takes bytes until an answer is complete.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    bytes: Vec<u8>,
    /// Status, end of the head, and length of the body, once the head is there.
    head: Option<Head>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    status: u16,
    end: usize,
    length: usize,
}

impl Parser {
    /// Takes some bytes; the answer, if it is complete with them. An error says what is wrong.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Answer>, String> {
        self.bytes.extend_from_slice(bytes);
        loop {
            let head = match self.head {
                Some(head) => head,
                None => match read_head(&self.bytes)? {
                    Some(head) => *self.head.insert(head),
                    None => return Ok(None),
                },
            };
            if head.status < 200 {
                // Interim: the answer itself is behind it (RFC 9110, 15.2).
                self.bytes.drain(..head.end);
                self.head = None;
                continue;
            }
            let Some(body) = self.bytes.get(head.end..head.end + head.length) else {
                return Ok(None);
            };
            return Ok(Some(Answer { status: head.status, body: body.to_vec() }));
        }
    }

    /// What there is, for the error of an answer that ends early.
    pub fn so_far(&self) -> &[u8] {
        &self.bytes
    }
}

fn read_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let end = match answer.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Complete(end) => end,
        httparse::Status::Partial if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        httparse::Status::Partial => {
            return Err(format!("its head has more than {HEAD_BYTES_MAX} bytes"));
        }
    };
    let status = answer.code.ok_or("it has no status")?;
    let mut length = 0;
    for header in answer.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("its body comes in chunks".to_owned());
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = str::from_utf8(header.value).unwrap_or_default();
            length = text.parse().map_err(|_| format!("its length is {text:?}"))?;
        }
    }
    if length > ANSWER_BYTES_MAX {
        return Err(format!("it has {length} bytes, more than {ANSWER_BYTES_MAX}"));
    }
    // These have no body, whatever a header says (RFC 9112, 6.3).
    let length = if status < 200 || status == 204 { 0 } else { length };
    Ok(Some(Head { status, end, length }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    const OK: &str = "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
                      Content-Type: application/json\r\nContent-Length: 4\r\n\r\nnull";

    fn check(bytes: &str, expected: Result<Option<(u16, &str)>, &str>) {
        let found = Parser::default().push(bytes.as_bytes());
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                let expected = expected.map(|(status, body)| Answer { status, body: body.into() });
                assert_eq!(found, expected, "{bytes:?}");
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{bytes:.80?}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn answers_end_where_they_say() {
        check(OK, Ok(Some((200, "null"))));
        check(&OK[..OK.len() - 1], Ok(None));
        check("HTTP/1.1 204 \r\nServer: x\r\n\r\n", Ok(Some((204, ""))));
        check("HTTP/1.1 503\r\nContent-Length: 2\r\n\r\n{}", Ok(Some((503, "{}"))));
        check("HTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\n\r\n", Ok(Some((204, ""))));
        check("", Ok(None));
        check("SSH-2.0-OpenSSH_9.2p1\r\n", Err("invalid HTTP version"));
        check("HTTP/1.1 200 \r\nContent-Length: x\r\n\r\n", Err("its length is \"x\""));
        check("HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n", Err("more than"));
        check("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", Err("chunks"));
        check(&format!("HTTP/1.1 200 \r\nX: {}", "x".repeat(HEAD_BYTES_MAX)), Err("its head has"));
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_answer(cut in 0..OK.len()) {
            let mut parser = Parser::default();
            prop_assert_eq!(parser.push(&OK.as_bytes()[..cut]), Ok(None));
            let answer = Some(Answer { status: 200, body: b"null".to_vec() });
            prop_assert_eq!(parser.push(&OK.as_bytes()[cut..]), Ok(answer));
        }

        #[test]
        fn no_bytes_panic(pieces in proptest::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut parser = Parser::default();
            for piece in pieces {
                if parser.push(&piece).is_err() {
                    break;
                }
            }
        }
    }
}
