//! How soon the API answers after the start of the process, and how long a call takes:
//! `cargo xtask bench api`.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::Process;

const STARTS: usize = 15;
const CALLS: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look for the socket.
const LOOK: Duration = Duration::from_micros(50);
const REQUEST: &[u8] = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
#[ignore = "a benchmark"]
fn bench_api() {
    let folder = tempfile::tempdir().unwrap();
    let mut starts = Vec::new();
    let mut calls = Vec::new();
    for number in 0..STARTS {
        let socket = folder.path().join(format!("{number}.sock"));
        let start = Instant::now();
        let mut command = Command::new(support::vmm());
        command.arg("--api-sock").arg(&socket).args(["--level", "Error"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let _process = Process(command.spawn().unwrap());
        let mut stream = connect(&socket, start);
        call(&mut stream);
        starts.push(start.elapsed());
        for _ in 0..CALLS / STARTS {
            let start = Instant::now();
            call(&mut stream);
            calls.push(start.elapsed());
        }
    }
    report("first answer after the start", &mut starts);
    report("a call", &mut calls);
}

fn connect(socket: &Path, start: Instant) -> UnixStream {
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return stream;
        }
        assert!(start.elapsed() < PATIENCE, "no API within {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
}

fn call(stream: &mut UnixStream) {
    stream.write_all(REQUEST).unwrap();
    let mut answer = [0; 1024];
    let len = stream.read(&mut answer).unwrap();
    assert!(answer[..len].starts_with(b"HTTP/1.1 200 "));
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: median {:?}, 99th percentile {:?}, best {:?}", at(50), at(99), at(0));
}
