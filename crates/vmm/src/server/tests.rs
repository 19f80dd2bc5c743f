//! Clients that behave, and clients that do not, against a main thread that answers slowly or not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use api::Tell;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const LIMIT: usize = 1 << 20;
const GET: &str = "GET /version HTTP/1.1\r\n\r\n";

/// A server, and the main thread behind it, which answers a request with its name when it may.
struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    server: Option<Server>,
    inbox: Option<Inbox>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (server, inbox) = Socket::bind(&path).unwrap().serve(LIMIT).unwrap();
        Self { _folder: folder, path, server: Some(server), inbox: Some(inbox) }
    }

    fn client(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn inbox(&self) -> &Inbox {
        self.inbox.as_ref().unwrap()
    }

    /// Takes a request, and answers it.
    fn serve(&self, body: &str) -> Request {
        let request = self.inbox().wait().unwrap();
        self.inbox().answer(Ok(Some(body.to_owned())));
        request
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.inbox.take());
        if let Some(server) = self.server.take() {
            server.join();
        }
    }
}

fn send(mut stream: &UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

/// Reads one answer; nothing if the connection was closed.
fn receive(mut stream: &UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap() == 0 {
            return String::new();
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    head + std::str::from_utf8(&body).unwrap()
}

fn check(stream: &UnixStream, expected: &str) {
    let answer = receive(stream);
    assert!(answer.contains(expected), "{expected:?} is not in {answer:?}");
}

#[test]
fn a_connection_serves_many_requests_and_remembers_nothing() {
    let fixture = Fixture::new();
    let client = fixture.client();
    for answer in ["1", "2"] {
        send(&client, GET);
        assert_eq!(fixture.serve(answer), Request::Tell(Tell::Version));
        check(&client, answer);
    }
    send(&client, "PUT /vsock HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
    check(&client, "missing field `guest_cid`");
    send(&client, "PUT /logger HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    check(&client, "HTTP/1.1 100 \r\n");
    send(&client, "{}");
    fixture.serve("3");
    check(&client, "3");
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let fixture = Fixture::new();
    let client = fixture.client();
    send(&client, &format!("{GET}GET /nothing HTTP/1.1\r\n\r\n{GET}POST / HTTP/1.1\r\n\r\n{GET}"));
    fixture.serve("first");
    check(&client, "first");
    check(&client, "GET nothing.");
    fixture.serve("third");
    check(&client, "third");
    check(&client, "Unsupported HTTP method.");
    assert_eq!(receive(&client), "", "nothing comes behind what is malformed");
}

#[test]
fn a_refused_body_can_be_sent_to_its_end() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let size = LIMIT + 1;
    send(&client, &format!("PUT /mmds HTTP/1.1\r\nContent-Length: {size}\r\n\r\n"));
    // More than any socket holds, so somebody reads it.
    send(&client, &"x".repeat(size));
    check(&client, &format!("size {size} is larger than the limit of {LIMIT} allowed by server."));
}

#[test]
fn nobody_waits_for_a_client_that_stops_half_way() {
    let fixture = Fixture::new();
    let half_head = fixture.client();
    send(&half_head, "GET /ver");
    let half_body = fixture.client();
    send(&half_body, "PUT /mmds HTTP/1.1\r\nContent-Length: 5\r\n\r\n{");
    let whole = fixture.client();
    send(&whole, GET);
    fixture.serve("here");
    check(&whole, "here");
    send(&half_head, "sion HTTP/1.1\r\n\r\n");
    fixture.serve("late");
    check(&half_head, "late");
}

#[test]
fn nobody_waits_for_a_client_that_does_not_read() {
    let fixture = Fixture::new();
    let deaf = fixture.client();
    send(&deaf, GET);
    // More than any socket holds.
    let large = format!("\"{}\"", "x".repeat(4 << 20));
    fixture.serve(&large);
    let other = fixture.client();
    send(&other, GET);
    fixture.serve("here");
    check(&other, "here");
    check(&deaf, &large);
}

#[test]
fn two_clients_take_turns() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.client(), fixture.client());
    send(&one, GET);
    let first = fixture.inbox().wait().unwrap();
    assert_eq!(first, Request::Tell(Tell::Version));
    send(&two, "GET / HTTP/1.1\r\n\r\n");
    std::thread::sleep(Duration::from_millis(50));
    assert!(fixture.inbox().next().is_none(), "one request at a time");
    fixture.inbox().answer(Ok(None));
    check(&one, "204");
    assert_eq!(fixture.serve("two"), Request::Tell(Tell::Instance));
    check(&two, "two");
}

#[test]
fn a_client_that_leaves_harms_nobody() {
    let fixture = Fixture::new();
    let leaving = fixture.client();
    send(&leaving, GET);
    assert_eq!(fixture.inbox().wait(), Some(Request::Tell(Tell::Version)));
    drop(leaving);
    let next = fixture.client();
    send(&next, GET);
    std::thread::sleep(Duration::from_millis(50));
    fixture.inbox().answer(Ok(Some("to nobody".to_owned())));
    fixture.serve("here");
    check(&next, "here");
}

#[test]
fn a_client_may_close_its_half_after_the_request() {
    let fixture = Fixture::new();
    let client = fixture.client();
    send(&client, GET);
    client.shutdown(Shutdown::Write).unwrap();
    fixture.serve("here");
    check(&client, "here");
    assert_eq!(receive(&client), "");
}

#[test]
fn the_eleventh_client_is_sent_away() {
    let fixture = Fixture::new();
    let clients: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| fixture.client()).collect();
    check(&fixture.client(), "HTTP/1.1 503\r\n");
    drop(clients);
    // Places become free as soon as the thread has seen it.
    let client = loop {
        let client = fixture.client();
        send(&client, GET);
        let mut looks = 0..100;
        let found = looks.find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            fixture.inbox().next()
        });
        if found.is_some() {
            break client;
        }
    };
    fixture.inbox().answer(Ok(None));
    check(&client, "204");
}

#[test]
fn answers_are_sent_before_the_end() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    send(&client, GET);
    fixture.serve("last");
    drop(fixture.inbox.take());
    fixture.server.take().unwrap().join();
    check(&client, "last");
    assert_eq!(receive(&client), "");
    assert!(fixture.path.exists(), "the socket stays");
}

#[test]
fn a_path_that_cannot_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, b"mine").unwrap();
    let long = folder.path().join("x".repeat(200));
    let missing = folder.path().join("no/such/folder");
    for (path, expected) in [
        (&taken, "Failed to open the API socket at: "),
        (&long, "Failed to bind and run the HTTP server: IO error: "),
        (&missing, "Failed to bind and run the HTTP server: IO error: No such file or directory"),
    ] {
        let error = Socket::bind(path).err().expect("it is refused").to_string();
        let named = error.contains(path.to_str().unwrap());
        assert!(error.starts_with(expected) && named, "{error}");
    }
    assert_eq!(std::fs::read(&taken).unwrap(), b"mine");
}

#[test]
fn requests_are_described_without_secrets() {
    let request = |method, path: &str, body: &str| {
        let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
        describe(&http::Request { method, path: path.to_owned(), body })
    };
    for (method, path, body, expected) in [
        (Method::Get, "/", "", r#"Get request on "/""#),
        (
            Method::Put,
            "/vsock",
            "{\"a\":\n1}",
            r#"Put request on "/vsock" with body "{\"a\":\n1}""#,
        ),
        (Method::Patch, "/mmds", "{\"secret\":1}", r#"Patch request on "/mmds""#),
    ] {
        assert_eq!(request(method, path, body), expected);
    }
    let template = request(Method::Put, "/cpu-config", "{\"long\":1}");
    assert!(!template.contains("long"), "{template}");
}
