//! `sparkler-vmm` through the Rust client: what it counts, what it logs, and what its last words
//! are. The guest need not get far: it is started, paused, resumed and ended.

mod support;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use client::Client;
use client::api::{Action, BootSource, InstanceState, LogLevel, Logger, MachineConfig, VmState};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Firecracker's document for a machine with a device of each kind.
const DOCUMENT: &str = include_str!("../../metrics/src/document.json");

/// A VMM that is waiting for requests.
struct Vmm {
    child: Child,
    client: Client,
    folder: tempfile::TempDir,
}

impl Vmm {
    fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_sparkler-vmm"))
            .args(["--cpu", "soft", "--id", "observed", "--api-sock"])
            .arg(&socket)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let vmm = Self { child, client: Client::new(socket), folder };
        assert_eq!(vmm.client.wait_ready(PATIENCE).unwrap().id, "observed");
        vmm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn boot(&self, kernel: &Path) {
        let size = MachineConfig { mem_size_mib: 256, ..MachineConfig::default() };
        self.client.put_machine_config(&size).unwrap();
        let boot = BootSource { kernel_image_path: text(kernel), ..BootSource::default() };
        self.client.put_boot_source(&boot).unwrap();
        self.client.put_action(Action::InstanceStart).unwrap();
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn end(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn metrics_tell_what_happened_until_the_last_signal() {
    let Some((_cache, kernel)) = support::kernel("metrics") else { return };
    let mut vmm = Vmm::start(&[]);
    let path = vmm.path("metrics");
    let metrics =
        client::api::Metrics { metrics_path: text(&path), emit_id: true, properties: None };
    vmm.client.put_metrics(&metrics).unwrap();
    let again = vmm.client.put_metrics(&metrics).unwrap_err();
    assert!(
        again.fault().unwrap().ends_with("Reinitialization of metrics not allowed."),
        "{again}"
    );
    vmm.boot(&kernel.vmlinux);
    for (state, expected) in
        [(VmState::Paused, InstanceState::Paused), (VmState::Resumed, InstanceState::Running)]
    {
        vmm.client.patch_vm(state).unwrap();
        assert_eq!(vmm.client.instance().unwrap().state, expected);
    }
    vmm.signal("-PIPE");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", vmm.child.id())).unwrap();
    let descriptors = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard] = [0, 1].map(|at| -> u64 {
        let limit = descriptors.split_whitespace().nth(at).unwrap();
        limit.parse().unwrap_or(u64::MAX)
    });
    assert!(soft >= hard.min(4096), "{descriptors}");
    vmm.client.put_action(Action::FlushMetrics).unwrap();
    // SIGHUP: 128 are for signals that nobody catches.
    assert_eq!(vmm.end("-HUP").code(), Some(156));
    let lines = lines(&path);
    assert!(lines.len() >= 3, "at the start, on request, and at the end: {lines:#?}");
    let sum = |group: &str, key: &str| -> u64 {
        lines.iter().map(|line| line[group][key].as_u64().unwrap()).sum()
    };
    assert_eq!(sum("put_api_requests", "metrics_count"), 2);
    assert_eq!(sum("put_api_requests", "actions_count"), 2);
    assert_eq!((sum("signals", "sigpipe"), sum("vcpu", "failures")), (1, 0));
    let last = lines.last().unwrap();
    assert_eq!(last["signals"]["sighup"], 1);
    assert!(last["latencies_us"]["pause_vm"].as_u64().unwrap() > 0, "{}", last["latencies_us"]);
    assert_eq!(last["id"], "observed");
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    for (group, fields) in last.as_object().unwrap() {
        let Some(expected) = document[group].as_object() else { continue };
        assert!(expected.keys().eq(fields.as_object().unwrap().keys()), "{group}");
    }
}

#[test]
fn a_log_without_a_reader_stops_nothing() {
    let vmm = Vmm::start(&["--level", "Trace"]);
    let pipe = vmm.path("log");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let log = Logger { log_path: Some(text(&pipe)), ..Logger::default() };
    vmm.client.put_logger(&log).unwrap();
    let metrics = vmm.path("metrics");
    let config =
        client::api::Metrics { metrics_path: text(&metrics), emit_id: false, properties: None };
    vmm.client.put_metrics(&config).unwrap();
    // Each request makes some lines of log; the pipe holds 64 KiB of them.
    for _ in 0..1000 {
        vmm.client.version().unwrap();
    }
    // A regular file takes what comes from now on.
    let file = vmm.path("file");
    let log = Logger {
        log_path: Some(text(&file)),
        level: Some(LogLevel::Info),
        show_level: Some(true),
        ..Logger::default()
    };
    vmm.client.put_logger(&log).unwrap();
    vmm.client.version().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(":INFO] The API server received a Get request on \"/version\""),
        "{text}"
    );
}

/// Who reads a pipe that is there already finds lines in it.
#[test]
fn metrics_go_into_a_named_pipe() {
    let Some((_cache, kernel)) = support::kernel("metrics pipe") else { return };
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("metrics");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let vmm = Vmm::start(&["--metrics-path", &text(&pipe)]);
    vmm.boot(&kernel.vmlinux);
    let reader = OpenOptions::new().read(true).open(&pipe).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(reader), &mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["put_api_requests"]["boot_source_count"], 1);
    assert!(line.get("id").is_none());
}
