//! A request as bytes, and what its answer means: what both clients have in common.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::answer::Answer;
use crate::error::{Excerpt, fault};

/// A request whose answer is a `T`.
pub(crate) struct Call<T> {
    method: &'static str,
    path: String,
    body: Option<Result<Vec<u8>, serde_json::Error>>,
    answer: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Call<T> {
    pub fn get(path: &str) -> Self {
        Self::new("GET", path.to_owned(), None)
    }

    pub fn put(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self::new("PUT", path.into(), Some(serde_json::to_vec(body)))
    }

    pub fn patch(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self::new("PATCH", path.into(), Some(serde_json::to_vec(body)))
    }

    pub fn delete(path: String) -> Self {
        Self::new("DELETE", path, None)
    }

    fn new(
        method: &'static str,
        path: String,
        body: Option<Result<Vec<u8>, serde_json::Error>>,
    ) -> Self {
        Self { method, path, body, answer: PhantomData }
    }

    /// The bytes to send.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let request = |why| Error::Request { call: self.to_string(), why };
        // An id is the user's; what it must not do is to end the path, or the line.
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%');
        if !self.path.bytes().all(fits) {
            let why = "an id may have ASCII letters, digits and '_'";
            return Err(request(why.to_owned()));
        }
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n",
            self.method, self.path
        );
        let body = match &self.body {
            None => &[][..],
            Some(Ok(body)) => {
                head += &format!(
                    "Content-Type: application/json\r\nContent-Length: {}\r\n",
                    body.len()
                );
                body
            }
            Some(Err(error)) => return Err(request(error.to_string())),
        };
        head += "\r\n";
        Ok([head.as_bytes(), body].concat())
    }

    /// What the answer says.
    pub fn read(&self, answer: &Answer) -> Result<T, Error> {
        let call = || self.to_string();
        let status = answer.status;
        if !(200..300).contains(&status) {
            return Err(Error::Refused { call: call(), status, fault: fault(&answer.body) });
        }
        // No body says nothing, which is what most calls want to hear.
        let body = if answer.body.is_empty() { b"null" } else { answer.body.as_slice() };
        serde_json::from_slice(body).map_err(|error| Error::Answer {
            call: call(),
            why: format!("{error} in {}", Excerpt(body)),
        })
    }
}

/// Method and path.
impl<T> fmt::Display for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(call: Call<()>) -> Result<String, Error> {
        call.to_bytes().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_request_has_a_body_or_none() {
        let expected = "GET /vm/config HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\
                        \r\n\r\n";
        assert_eq!(bytes(Call::get("/vm/config")).unwrap(), expected);
        let expected = "PUT /actions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
                        Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(bytes(Call::put("/actions", &serde_json::json!({}))).unwrap(), expected);
    }

    #[test]
    fn an_id_cannot_smuggle_a_request() {
        for id in ["a b", "a\r\nX: y", "a?b", "ä", "a%2f"] {
            let error = bytes(Call::delete(format!("/drives/{id}"))).unwrap_err();
            assert!(matches!(error, Error::Request { .. }), "{id:?}");
        }
        assert!(bytes(Call::delete("/drives/a_1".to_owned())).is_ok());
    }

    #[test]
    fn refusals_carry_the_words_of_the_vmm() {
        for (status, body, expected) in [
            (400, r#"{"fault_message":"No."}"#, "GET / was refused (400): No."),
            (400, "gibberish", "GET / was refused (400): gibberish"),
            (413, r#"{"fault_message":"Full."}"#, "(413): Full.; store less"),
            (503, r#"{ "error": "Too many open connections" }"#, "connections; close connections"),
        ] {
            let answer = Answer { status, body: body.as_bytes().to_vec() };
            let error = Call::<()>::get("/").read(&answer).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.status(), Some(status));
        }
    }

    #[test]
    fn answers_are_read_as_what_they_should_be() {
        let answer = |body: &str| Answer { status: 200, body: body.as_bytes().to_vec() };
        let version = Call::<api::Version>::get("/version");
        let read = version.read(&answer(r#"{"firecracker_version":"1.17.0"}"#)).unwrap();
        assert_eq!(read.firecracker_version, "1.17.0");
        let error = version.read(&answer("")).unwrap_err().to_string();
        assert!(error.starts_with("GET /version: the answer makes no sense: "), "{error}");
        Call::<()>::put("/x", &()).read(&Answer { status: 204, body: Vec::new() }).unwrap();
    }
}
