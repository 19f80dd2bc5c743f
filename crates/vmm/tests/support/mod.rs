//! What the end-to-end tests share: kernels from the cache, machines as `sparkler-vmm` runs them,
//! and tools of the host.
//!
//! What a test needs and the host does not have is a reason to skip it, aloud; what fails although
//! it is there is a failure.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod debian;
pub mod namespace;
pub mod network;
pub mod userland;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use image::kernel::{self, Kernel, cmdline};
use image::{Cache, Quiet};
use serde_json::{Value, json};

/// Says why a test does not run, past the test harness, which would hide it.
pub fn skip(name: &str, reason: &str) {
    writeln!(std::io::stderr(), "SKIPPED {name}: {reason}").ok();
}

/// The cache and the kernel to boot: a compiled one if there is one, else Debian's, fetched if need
/// be. None, said aloud, if it cannot be had.
pub fn kernel(name: &str) -> Option<(Cache, Kernel)> {
    let cache = Cache::open().map_err(|error| skip(name, &error.to_string())).ok()?;
    let kernel = kernel::default(&cache, &Quiet);
    kernel.map_err(|error| skip(name, &error.to_string())).ok().map(|kernel| (cache, kernel))
}

/// Whether the host has all of these programs; says aloud which it lacks.
pub fn has_programs(name: &str, programs: &[(&str, &str)]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect();
    let missing =
        programs.iter().find(|(program, _)| !folders.iter().any(|f| f.join(program).is_file()));
    if let Some((program, package)) = missing {
        skip(name, &format!("there is no {program}; install the Debian package {package}"));
    }
    missing.is_none()
}

/// Runs a program of the host to its end; its output, or what it said when it failed.
pub fn tool(command: &mut Command) -> Result<Output, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = text.lines().rev().take(20).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(format!("{command:?} ended with {}:\n{}", output.status, tail.join("\n")))
}

/// apt-get with the package lists that the cache keeps, into which kernels are pulled too. None if
/// the lists cannot be fetched.
pub fn apt(cache: &Cache, program: &str) -> image::Result<Command> {
    kernel::pull(cache, &Quiet)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(cache.root().join("apt/apt.conf")).env("LC_ALL", "C");
    Ok(command)
}

/// A machine to run.
pub struct Guest<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// Disks with whether they are read-only; the first is the root disk.
    pub disks: Vec<(PathBuf, bool)>,
    /// What to add to the kernel's usual command line.
    pub arguments: String,
    /// Processors.
    pub vcpus: u8,
    /// RAM.
    pub memory_mib: u32,
}

impl<'a> Guest<'a> {
    /// A machine with one processor, 256 MiB and no disk.
    pub fn new(kernel: &'a Kernel, arguments: &str) -> Self {
        let arguments = arguments.to_string();
        Guest { kernel, initrd: None, disks: Vec::new(), arguments, vcpus: 1, memory_mib: 256 }
    }

    /// The configuration file's content.
    pub fn config(&self) -> Value {
        let drives: Vec<Value> = self.disks.iter().enumerate().map(drive).collect();
        let mut boot = json!({
            "kernel_image_path": self.kernel.vmlinux,
            "boot_args": self.command_line(),
        });
        if let Some(initrd) = &self.initrd {
            boot["initrd_path"] = json!(initrd);
        }
        json!({
            "boot-source": boot,
            "drives": drives,
            "machine-config": {"vcpu_count": self.vcpus, "mem_size_mib": self.memory_mib},
        })
    }

    /// The kernel's command line.
    pub fn command_line(&self) -> String {
        let usual = cmdline::default(self.kernel.source, cmdline::Features::All);
        format!("{usual} pci=off {}", self.arguments)
    }

    /// Runs it on the software CPU until it ends.
    pub fn run(&self, patience: Duration) -> Ended {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("vm.json");
        std::fs::write(&config, self.config().to_string()).expect("the configuration is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sparkler-vmm"));
        command.args(["--no-api", "--cpu", "soft", "--config-file"]).arg(&config);
        finish(&mut command, patience)
    }
}

fn drive((at, (path, read_only)): (usize, &(PathBuf, bool))) -> Value {
    json!({
        "drive_id": format!("disk{at}"),
        "path_on_host": path,
        // The root disk comes first, but its name on the command line is the test's own.
        "is_root_device": false,
        "is_read_only": read_only,
    })
}

/// How a machine ended.
pub struct Ended {
    /// Its exit status; none if it was killed because it took too long.
    pub status: Option<i32>,
    /// Its standard output, with plain line ends.
    pub text: String,
}

/// Runs a command to its end, or kills it when patience ends.
pub fn finish(command: &mut Command, patience: Duration) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let readers = [
        read_all(child.stdout.take().expect("it is piped")),
        read_all(child.stderr.take().expect("it is piped")),
    ];
    let status = wait(&mut child, patience);
    let text: Vec<String> = readers.into_iter().map(|r| r.join().expect("reading")).collect();
    Ended { status, text: text.concat().replace('\r', "") }
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, patience: Duration) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("waiting") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().ok();
    child.wait().ok();
    None
}

/// What lies between two lines of a text.
pub fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("{begin}\n"))?;
    Some(rest.split_once(&format!("{end}\n"))?.0)
}

/// Sums up a program of the host by what `--version` prints: part of cache keys.
pub fn version_of(program: &str) -> Vec<u8> {
    Command::new(program).arg("--version").output().map(|o| o.stdout).unwrap_or_default()
}

/// Copies a file that is to be written to.
pub fn copy(from: &Path, to: &Path) {
    // Sparse files stay sparse.
    tool(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).expect("a copy");
}

/// The program under test; `SPARKLER_TEST_VMM` names another build of it.
pub fn vmm() -> PathBuf {
    let other = std::env::var_os("SPARKLER_TEST_VMM").map(PathBuf::from);
    other.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_sparkler-vmm")))
}

/// A process that does not outlive the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk of `len` bytes that begins with `content`.
pub fn make_disk(path: &Path, content: &[u8], len: u64) {
    let file = std::fs::File::create(path).expect("a file");
    file.set_len(len).expect("its length");
    std::os::unix::fs::FileExt::write_all_at(&file, content, 0).expect("its content");
}
