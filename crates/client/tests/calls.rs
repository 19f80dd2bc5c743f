//! Both clients against a server that does what the test says.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use sparkler_client::api::{Action, Drive, InstanceState};
use sparkler_client::{Client, Error};

const INSTANCE: &str =
    r#"{"id":"vm","state":"Not started","vmm_version":"1.17.0","app_name":"Firecracker"}"#;

fn answer(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} \r\nServer: Firecracker API\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A server that answers each connection with the next of these, in pieces of that many bytes.
struct Server {
    path: PathBuf,
    requests: Receiver<String>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn new(answers: Vec<String>, piece: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, requests) = channel();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                sender.send(String::from_utf8_lossy(&request[..length]).into_owned()).ok();
                for piece in answer.as_bytes().chunks(piece) {
                    if stream.write_all(piece).is_err() {
                        break;
                    }
                }
                // An empty answer is a VMM that hangs.
                if answer.is_empty() {
                    thread::sleep(Duration::from_secs(5));
                }
            }
        });
        Self { path, requests, _folder: folder }
    }

    fn client(&self) -> Client {
        Client::new(&self.path)
    }
}

#[test]
fn a_call_is_a_request_and_its_answer() {
    let server = Server::new(vec![answer(204, ""), answer(200, INSTANCE), answer(204, "")], 7);
    let client = server.client();
    let drive = Drive { drive_id: "root".to_owned(), is_root_device: true, ..Drive::default() };
    client.put_drive(&drive).unwrap();
    let request = server.requests.recv().unwrap();
    assert!(request.starts_with("PUT /drives/root HTTP/1.1\r\n"), "{request}");
    let body = request.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(serde_json::from_str::<Drive>(body).unwrap(), drive);
    assert_eq!(client.instance().unwrap().state, InstanceState::NotStarted);
    assert!(server.requests.recv().unwrap().starts_with("GET / HTTP/1.1\r\n"));
    client.put_action(Action::InstanceStart).unwrap();
    assert!(server.requests.recv().unwrap().ends_with(r#"{"action_type":"InstanceStart"}"#));
}

#[test]
fn a_refusal_has_status_and_words() {
    let server = Server::new(vec![answer(400, r#"{"fault_message":"No."}"#)], 1000);
    let error = server.client().put_action(Action::FlushMetrics).unwrap_err();
    assert_eq!((error.status(), error.fault()), (Some(400), Some("No.")));
    assert_eq!(error.to_string(), "PUT /actions was refused (400): No.");
}

#[test]
fn what_goes_wrong_on_the_way_is_told_apart() {
    let server = Server::new(
        vec![
            "SSH-2.0-nonsense\r\n".to_owned(),
            "HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\n{}".to_owned(),
        ],
        1000,
    );
    for expected in ["invalid HTTP version", "the connection ended behind"] {
        let error = server.client().version().unwrap_err();
        assert!(matches!(error, Error::Answer { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = Client::new("/no/such/socket").version().unwrap_err();
    assert!(error.to_string().starts_with("cannot connect to /no/such/socket: "), "{error}");
}

#[test]
fn a_vmm_that_hangs_costs_the_timeout_and_no_more() {
    let server = Server::new(vec![String::new()], 1);
    let client = server.client().with_timeout(Duration::from_millis(100));
    let start = Instant::now();
    let error = client.instance().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_vmm_that_comes_late_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let client = Client::new(&path);
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        let listener = UnixListener::bind(&path).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(answer(200, INSTANCE).as_bytes()).unwrap();
    });
    assert_eq!(client.wait_ready(Duration::from_secs(10)).unwrap().id, "vm");
    late.join().unwrap();
    let missing = Client::new(folder.path().join("other.sock"));
    let error = missing.wait_ready(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use sparkler_client::AsyncClient;

    use super::*;

    #[tokio::test]
    async fn the_async_client_does_the_same() {
        let answers =
            vec![answer(200, INSTANCE), answer(400, r#"{"fault_message":"No."}"#), String::new()];
        let server = Server::new(answers, 7);
        let client = AsyncClient::new(&server.path);
        assert_eq!(client.wait_ready(Duration::from_secs(10)).await.unwrap().id, "vm");
        let error = client.put_action(Action::FlushMetrics).await.unwrap_err();
        assert_eq!(error.to_string(), "PUT /actions was refused (400): No.");
        let hurried = client.with_timeout(Duration::from_millis(100));
        let error = hurried.version().await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        let missing = AsyncClient::new("/no/such/socket").version().await.unwrap_err();
        assert!(matches!(missing, Error::Connect { .. }), "{missing:?}");
    }
}
