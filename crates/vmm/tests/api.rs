//! The API of `sparkler-vmm` over its socket: conversations from `data/api/*.json`, and clients
//! that do not behave.
//!
//! A file is one process and one connection. Each step is a request with what must be answered, to
//! the byte but for the order of keys in an answer's body; `$TMP`, `$FILE` (an empty disk),
//! `$KERNEL` and `$INITRD` stand for paths, `$ARGS` for a command line whose guest sleeps. A file
//! that uses a kernel is skipped, aloud, where none can be had.
//!
//! | key | meaning |
//! | --- | --- |
//! | `request` | method and path |
//! | `body`, `text` | the body, as JSON or as it is |
//! | `bytes` | instead of both: all that is sent |
//! | `status` | of the answer; 204 if it is not said |
//! | `fault`, `error`, `answer` | its body: a fault message, a malformed request's error, or JSON |
//! | `deprecated` | whether it says so |
//! | `log` | what the log has then |
//! | `ends` | the process's exit code, if it ends then |

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::{Quiet, starter};
use serde::Deserialize;
use serde_json::Value;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One process, one connection.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conversation {
    /// What it is about, for the reader.
    #[serde(rename = "about")]
    _about: String,
    #[serde(default)]
    flags: Vec<String>,
    steps: Vec<Step>,
}

/// A request, and what must come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    request: String,
    body: Option<Value>,
    text: Option<String>,
    bytes: Option<String>,
    status: Option<u16>,
    fault: Option<String>,
    error: Option<String>,
    answer: Option<Value>,
    #[serde(default)]
    deprecated: bool,
    log: Option<String>,
    ends: Option<i32>,
}

/// Plays the conversation of this name.
fn play(name: &str) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/api").join(name);
    let mut text = std::fs::read_to_string(&data).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let Some(substitutes) = substitutes(name, &text, folder.path()) else { return };
    for (placeholder, path) in substitutes {
        text = text.replace(placeholder, &path);
    }
    let conversation: Conversation = serde_json::from_str(&text).unwrap();
    let mut vmm = Vmm::start(folder.path(), &conversation.flags);
    let client = vmm.client();
    for (number, step) in conversation.steps.iter().enumerate() {
        step.play(&mut vmm, &client, &format!("{name}, step {}", number + 1));
    }
}

/// What stands for the placeholders of `text`; none if a kernel is wanted and cannot be had.
fn substitutes(name: &str, text: &str, folder: &Path) -> Option<Vec<(&'static str, String)>> {
    let disk = folder.join("disk");
    std::fs::write(&disk, [0; 1 << 20]).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut found = vec![("$TMP", path(folder)), ("$FILE", path(&disk))];
    if text.contains("$KERNEL") {
        let (cache, kernel) = support::kernel(name)?;
        let initrd = starter::initramfs(&cache, &kernel, &Quiet).unwrap();
        found.push(("$KERNEL", path(&kernel.vmlinux)));
        found.push(("$INITRD", path(&initrd)));
        let quiet = "console=ttyS0 quiet reboot=k panic=1 i8042.noaux cryptomgr.notests";
        found.push(("$ARGS", format!("{quiet} rdinit=/bin/busybox -- sleep 1000000")));
    }
    Some(found)
}

impl Step {
    fn play(&self, vmm: &mut Vmm, client: &UnixStream, what: &str) {
        let sent = self.sent();
        let what = format!("{what}: {}", sent.lines().next().unwrap_or_default());
        { client }.write_all(sent.as_bytes()).unwrap();
        let (head, body) = receive(client).unwrap_or_else(|| panic!("{what}: no answer"));
        let expected_body = self.check_body(&body, &what);
        assert_eq!(head, self.head(expected_body.then_some(body.len())), "{what}\n{body}");
        if let Some(log) = &self.log {
            let text = vmm.log();
            assert!(text.contains(log), "{what}: {log:?} is not in\n{text}");
        }
        if let Some(code) = self.ends {
            assert_eq!(vmm.wait(), Some(code), "{what}\n{}", vmm.log());
        }
    }

    fn sent(&self) -> String {
        let json = self.body.as_ref().map(Value::to_string);
        let body = json.or_else(|| self.text.clone()).unwrap_or_default();
        self.bytes.clone().unwrap_or_else(|| request(&self.request, &body))
    }

    /// Checks an answer's body, and says whether there must be one.
    fn check_body(&self, body: &str, what: &str) -> bool {
        if let Some(error) = &self.error {
            let expected = format!(
                "{{ \"error\": \"{error}\nAll previous unanswered requests will be dropped.\" }}"
            );
            assert_eq!(body, expected, "{what}");
        } else if let Some(fault) = &self.fault {
            assert_eq!(body, serde_json::json!({ "fault_message": fault }).to_string(), "{what}");
        } else if let Some(answer) = &self.answer {
            let found: Value = serde_json::from_str(body).expect(what);
            assert_eq!(&found, answer, "{what}");
        } else {
            assert_eq!(body, "", "{what}");
            return false;
        }
        true
    }

    /// The head that the answer must have, to the byte.
    fn head(&self, length: Option<usize>) -> String {
        let usual = match (&self.answer, self.fault.is_some() || self.error.is_some()) {
            (Some(_), _) => 200,
            (None, true) => 400,
            (None, false) => 204,
        };
        let status = self.status.unwrap_or(usual);
        let deprecated = if self.deprecated { "Deprecation: true\r\n" } else { "" };
        let length = length.map_or(String::new(), |length| {
            format!("Content-Type: application/json\r\nContent-Length: {length}\r\n")
        });
        format!(
            "HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
             {deprecated}{length}\r\n"
        )
    }
}

/// The program, with its API in a folder.
struct Vmm {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Vmm {
    fn start(folder: &Path, flags: &[String]) -> Self {
        let (socket, log) = (folder.join("api.sock"), folder.join("log"));
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sparkler-vmm"))
            .args(["--cpu", "soft", "--show-level", "--api-sock"])
            .arg(&socket)
            .args(flags)
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap();
        Self { child, socket, log }
    }

    fn client(&mut self) -> UnixStream {
        let start = Instant::now();
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}\n{}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for the end. None if there is none.
    fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A request's bytes; an empty body is none.
fn request(method_and_path: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method_and_path} HTTP/1.1\r\n{length}\r\n{body}")
}

fn send(mut stream: &UnixStream, method_and_path: &str, body: &str) {
    stream.write_all(request(method_and_path, body).as_bytes()).unwrap();
}

/// An answer's head and body; none if the connection ends.
fn receive(mut stream: &UnixStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).expect("an answer in time") == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    Some((head, String::from_utf8(body).unwrap()))
}

#[test]
fn every_endpoint_before_the_start() {
    play("before_start.json");
}

#[test]
fn what_is_refused_before_the_start() {
    play("refused_before_start.json");
}

#[test]
fn paths_that_lead_nowhere() {
    play("routes.json");
}

#[test]
fn bodies_of_a_wrong_shape() {
    play("bodies.json");
}

#[test]
fn what_is_no_http() {
    for name in ["http_method.json", "http_header.json", "http_payload.json"] {
        play(name);
    }
}

#[test]
fn limits_of_the_flags() {
    play("limits.json");
}

#[test]
fn a_snapshot_that_cannot_be_loaded_ends_the_process() {
    play("snapshot_load.json");
}

#[test]
fn every_endpoint_while_the_guest_runs() {
    play("running.json");
}

/// With a file the machine runs at once, the API is there as well, and the process ends with it.
#[test]
fn a_file_and_an_api() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"boot-source": {"kernel_image_path": "$KERNEL", "initrd_path": "$INITRD",
        "boot_args": "$ARGS"}, "drives": []}"#;
    let Some(substitutes) = substitutes("a_file_and_an_api", text, folder.path()) else { return };
    let text =
        substitutes.iter().fold(text.to_owned(), |text, (name, path)| text.replace(name, path));
    let config = folder.path().join("vm.json");
    std::fs::write(&config, text.replace("sleep 1000000", "poweroff -f -d 1")).unwrap();
    let flags = ["--config-file".to_owned(), config.to_str().unwrap().to_owned()];
    let mut vmm = Vmm::start(folder.path(), &flags);
    let client = vmm.client();
    send(&client, "GET /", "");
    assert!(receive(&client).unwrap().1.contains(r#""state":"Running""#));
    send(&client, "PUT /vsock", r#"{"guest_cid": 3, "uds_path": "v"}"#);
    assert!(receive(&client).unwrap().1.contains("not supported after starting the microVM."));
    assert_eq!(vmm.wait(), Some(0), "{}", vmm.log());
    assert!(receive(&client).is_none());
    for line in [
        "Successfully started microvm that was configured from one single json",
        "Vmm is stopping.",
        "Firecracker exiting successfully. exit_code=0",
    ] {
        assert!(vmm.log().contains(line), "{line:?} is not in\n{}", vmm.log());
    }
    assert!(vmm.socket.exists(), "Firecracker leaves its socket, too");
}

/// Two clients configure one machine; a third stops half way, a fourth does not read.
#[test]
fn clients_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start(folder.path(), &[]);
    let half = vmm.client();
    { &half }.write_all(b"PUT /mmds HTTP/1.1\r\nContent-Length: 100\r\n\r\n{").unwrap();
    let deaf = vmm.client();
    { &deaf }.write_all("GET /vm/config HTTP/1.1\r\n\r\n".repeat(20).as_bytes()).unwrap();
    let (one, two) = (vmm.client(), vmm.client());
    for (number, client) in [&one, &two, &one, &two].into_iter().enumerate() {
        let body = format!("{{\"vcpu_count\": {}}}", number + 1);
        send(client, "PATCH /machine-config", &body);
        assert!(receive(client).unwrap().0.starts_with("HTTP/1.1 204 "));
    }
    send(&one, "GET /machine-config", "");
    assert!(receive(&one).unwrap().1.contains("\"vcpu_count\":4"));
    for _ in 0..20 {
        assert!(receive(&deaf).unwrap().0.starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn the_eleventh_client_is_told_that_there_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::start(folder.path(), &[]);
    let clients: Vec<UnixStream> = (0..10).map(|_| vmm.client()).collect();
    let (head, body) = receive(&vmm.client()).unwrap();
    assert_eq!(
        head,
        "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n"
    );
    assert_eq!(body, r#"{ "error": "Too many open connections" }"#);
    for client in &clients {
        send(client, "GET /", "");
        assert!(receive(client).is_some());
    }
}

#[test]
fn a_socket_that_cannot_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, b"mine").unwrap();
    for (path, expected) in [
        (taken.clone(), "Check that it is not already used."),
        (folder.path().join("x".repeat(120)), "Failed to bind and run the HTTP server"),
        (folder.path().join("no/such/folder"), "No such file or directory"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sparkler-vmm"));
        let ended = support::finish(command.arg("--api-sock").arg(&path), PATIENCE);
        assert_eq!(ended.status, Some(1), "{}", ended.text);
        let line = "RunWithApiError error: Failed to ";
        assert!(ended.text.contains(line) && ended.text.contains(expected), "{}", ended.text);
        assert!(ended.text.contains("Firecracker exiting with error. exit_code=1"));
    }
    assert_eq!(std::fs::read(&taken).unwrap(), b"mine", "what is there stays");
}

#[test]
fn metadata_comes_with_a_flag_and_the_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metadata.json");
    std::fs::write(&file, r#"{"a": [1]}"#).unwrap();
    let flags = ["--metadata".to_owned(), file.to_str().unwrap().to_owned()];
    let mut vmm = Vmm::start(folder.path(), &flags);
    let client = vmm.client();
    send(&client, "GET /mmds", "");
    assert_eq!(receive(&client).unwrap().1, r#"{"a":[1]}"#);
    assert!(vmm.log().contains("Successfully added metadata to mmds from file"));
    send(&client, "PUT /snapshot/load", r#"{"snapshot_path": "a", "mem_file_path": "b"}"#);
    assert!(receive(&client).is_some());
    assert_eq!(vmm.wait(), Some(1));
    assert!(vmm.socket.exists());
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let flags = ["--log-path".to_owned(), pipe.to_str().unwrap().to_owned()];
    let mut vmm = Vmm::start(folder.path(), &flags);
    let client = vmm.client();
    // Two lines a request, far more than a pipe holds.
    for _ in 0..1000 {
        send(&client, "GET /version", "");
        assert!(receive(&client).is_some());
    }
}

/// The time from the start of the process to its first answer, and the time of a call. Loose
/// bounds: other tests run beside this one.
#[test]
fn the_api_is_there_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut vmm = Vmm::start(folder.path(), &["--level".to_owned(), "Error".to_owned()]);
    let client = vmm.client();
    send(&client, "GET /", "");
    assert!(receive(&client).is_some());
    let ready = start.elapsed();
    let calls = 200;
    let start = Instant::now();
    for _ in 0..calls {
        send(&client, "GET /vm/config", "");
        assert!(receive(&client).is_some());
    }
    let call = start.elapsed() / calls;
    println!("first answer after {ready:?}, a call takes {call:?}");
    assert!(ready < Duration::from_secs(2) && call < Duration::from_millis(20));
}
