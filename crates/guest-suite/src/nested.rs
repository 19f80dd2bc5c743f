//! A machine with a working KVM, on any host: QEMU's TCG emulates AMD's SVM.
//!
//! [`run`] boots Debian's cloud kernel in QEMU with an initramfs of busybox, the KVM modules and
//! the caller's files, runs one shell command there, and gives back its output and status. It needs
//! the Debian packages `qemu-system-x86` and `busybox-static`, and `apt-get download` once for the
//! kernel, which it keeps in the user's cache folder and never installs.
//!
//! There are no libraries: a dynamically linked program needs its `libraries` among the files. It
//! refuses to run longer than its time. What differs on Intel's VMX, next-RIP save, XSAVEC and AVX-512 are missing there, and
//! TCG's time is not real time: compare within one machine, and quote nothing as absolute.

mod initramfs;
mod kernel;
mod libraries;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use thiserror::Error;

pub use libraries::libraries;

/// Where busybox is on Debian.
const BUSYBOX: &str = "/bin/busybox";
const QEMU: &str = "qemu-system-x86_64";
/// Lines around the command's output on the serial console.
const BEGIN: &str = "----- nested command begins";
const STATUS: &str = "----- nested command ended with status ";

/// The machine's size and time.
#[derive(Debug, Clone)]
pub struct Options {
    /// Processors.
    pub cpus: u8,
    /// RAM.
    pub memory_mib: u32,
    /// When the machine is ended, whatever it does.
    pub time_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { cpus: 1, memory_mib: 1024, time_max: Duration::from_secs(120) }
    }
}

/// What the command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its standard output and error, with plain line ends.
    pub text: String,
    /// Its exit status.
    pub status: i32,
}

/// Why there is no output.
#[derive(Debug, Error)]
pub enum NestedError {
    /// A program or package is missing on the host.
    #[error("{0}: install it, for example with `apt-get install qemu-system-x86 busybox-static`")]
    Missing(String),
    /// A step on the host failed.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted.
        what: String,
        /// The host's reason.
        source: std::io::Error,
    },
    /// A tool of the host failed.
    #[error("{what} failed: {text}")]
    Tool {
        /// Its command line.
        what: String,
        /// What it wrote.
        text: String,
    },
    /// The machine was ended before the command was.
    #[error("the nested machine was ended after {time:?}; its console:\n{console}")]
    TimedOut {
        /// The time it had.
        time: Duration,
        /// All it wrote.
        console: String,
    },
    /// The machine ended, but the command did not.
    #[error("the nested machine ended without the command's status; its console:\n{console}")]
    Died {
        /// All it wrote.
        console: String,
    },
}

/// Runs `command` in a nested machine that has `files`: (path on this host, path there).
pub fn run(command: &str, files: &[(&Path, &str)]) -> Result<Output, NestedError> {
    run_with(command, files, &Options::default())
}

/// [`run`] with a size and time of the caller's.
pub fn run_with(
    command: &str,
    files: &[(&Path, &str)],
    options: &Options,
) -> Result<Output, NestedError> {
    if !Path::new(BUSYBOX).exists() {
        return Err(NestedError::Missing(format!("there is no {BUSYBOX}")));
    }
    let kernel = kernel::get()?;
    let folder = Scratch::new()?;
    let initrd = folder.0.join("initrd");
    let image = initramfs::build(command, files, &kernel.modules)?;
    std::fs::write(&initrd, image).map_err(|source| NestedError::Host {
        what: format!("write {}", initrd.display()),
        source,
    })?;
    let console = boot(&kernel.image, &initrd, options)?;
    parse(&console).ok_or(NestedError::Died { console })
}

/// Boots the machine and gives its console when it has powered off.
fn boot(kernel: &Path, initrd: &Path, options: &Options) -> Result<String, NestedError> {
    let mut child = Command::new(QEMU)
        .args(["-M", "q35", "-accel", "tcg", "-cpu", "EPYC", "-nodefaults", "-no-reboot"])
        .args(["-nographic", "-serial", "stdio"])
        .args(["-smp", &options.cpus.to_string(), "-m", &options.memory_mib.to_string()])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 panic=-1 quiet tsc=reliable"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| NestedError::Missing(format!("cannot start {QEMU} ({e})")))?;
    let console = collect(&mut child, options.time_max);
    // Either it has ended, or its time is up. Both calls only fail if it is gone already.
    let _ = child.kill();
    let _ = child.wait();
    console
}

fn collect(child: &mut Child, time: Duration) -> Result<String, NestedError> {
    let Some(mut stdout) = child.stdout.take() else { return Ok(String::new()) };
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..len].to_vec()).is_err() {
                return;
            }
        }
    });
    let deadline = std::time::Instant::now() + time;
    let mut bytes = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match receiver.recv_timeout(left) {
            Ok(part) => bytes.extend(part),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                let console = String::from_utf8_lossy(&bytes).into_owned();
                return Err(NestedError::TimedOut { time, console });
            }
        }
    }
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}

/// Finds the command's output and status on the console.
fn parse(console: &str) -> Option<Output> {
    let (_, rest) = console.split_once(&format!("{BEGIN}\n"))?;
    let (text, rest) = rest.split_once(STATUS)?;
    let status = rest.lines().next()?.trim().parse().ok()?;
    Some(Output { text: text.to_string(), status })
}

/// A folder that goes away again.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, NestedError> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sparkler-nested-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|source| NestedError::Host {
            what: format!("make {}", path.display()),
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in the temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles() {
        let output = |text: &str, status| Some(Output { text: text.to_string(), status });
        for (console, expected) in [
            (format!("boot\n{BEGIN}\nhello\n{STATUS}3\nbye"), output("hello\n", 3)),
            (format!("{BEGIN}\n{STATUS}0\n"), output("", 0)),
            (format!("{BEGIN}\nhello"), None),
            ("kernel panic".to_string(), None),
        ] {
            assert_eq!(parse(&console), expected);
        }
    }
}
