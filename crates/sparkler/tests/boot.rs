//! Linux in a machine, from the command line of `sparkler run` to its exit status.
//!
//! Each kernel in the cache is booted on the software CPU; `SPARKLER_TEST_CPU=kvm` chooses KVM.
//! Without a kernel the tests say that they are skipped: `cargo xtask test` pulls one.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use image::kernel::{self, Source};
use image::{Cache, Quiet, starter};

/// When a guest is given up.
const PATIENCE: Duration = Duration::from_secs(180);

/// The kernels to test with, by the names that `--kernel` knows.
fn kernels() -> Vec<&'static str> {
    let cache = Cache::open().expect("a cache folder");
    let cached = |source| kernel::list(&cache, source).is_ok_and(|list| !list.is_empty());
    let mut names = Vec::new();
    names.extend(cached(Source::Debian).then_some("debian"));
    names.extend(cached(Source::Built).then_some("microvm"));
    if names.is_empty() {
        eprintln!(
            "SKIPPED: no kernel in the cache; run `cargo xtask test` or `sparkler kernel pull`"
        );
    }
    names
}

fn sparkler(args: &[&str]) -> Command {
    let cpu = std::env::var("SPARKLER_TEST_CPU").unwrap_or_else(|_| "soft".to_owned());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparkler"));
    command.args(["run", "--cpu", &cpu]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end of a machine, reading what it prints; kills it when patience ends.
fn finish(mut child: Child, what: &str) -> Output {
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let status = std::thread::scope(|scope| {
        let readers = [
            scope.spawn(|| out.read_to_end(&mut stdout)),
            scope.spawn(|| err.read_to_end(&mut stderr)),
        ];
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        for reader in readers {
            reader.join().unwrap().unwrap();
        }
        status
    });
    let text = String::from_utf8_lossy(&stderr);
    assert!(start.elapsed() < PATIENCE, "{what} did not end; it wrote:\n{text}");
    Output { status, stdout, stderr }
}

/// Runs a machine with `input` on its standard input.
fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = sparkler(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that does not read its input closes the pipe; that is its right.
        scope.spawn(move || stdin.write_all(input).ok());
        finish(child, &format!("{args:?}"))
    })
}

/// Runs a machine, and expects its status and its whole standard output.
fn check(args: &[&str], input: &[u8], status: i32, stdout: &[u8]) -> Output {
    let output = run(args, input);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {told}");
    let same = output.stdout == stdout;
    assert!(same, "{args:?} printed {:?}\n{told}", String::from_utf8_lossy(&output.stdout));
    output
}

#[test]
fn streams_and_status_with_one_and_two_cpus() {
    for kernel in kernels() {
        for cpus in ["1", "2"] {
            let script = "nproc; echo err >&2; exit 7";
            let args = ["--kernel", kernel, "--cpus", cpus, "--", "sh", "-c", script];
            let output = check(&args, b"", 7, format!("{cpus}\n").as_bytes());
            assert!(String::from_utf8_lossy(&output.stderr).contains("err\n"));
        }
    }
}

#[test]
fn statuses() {
    let cases: [(&[&str], i32); 6] = [
        (&["true"], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["/etc/passwd"], 126),
        (&["no-such-command"], 127),
    ];
    for kernel in kernels().into_iter().take(1) {
        for (command, status) in cases {
            let args = [&["--kernel", kernel, "--"], command].concat();
            check(&args, b"", status, b"");
        }
    }
}

#[test]
fn input_comes_through_byte_for_byte_and_ends() {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let bytes = all_bytes.repeat(512);
    for kernel in kernels() {
        check(&["--kernel", kernel, "--", "cat"], &bytes, 0, &bytes);
        check(&["--kernel", kernel, "--", "wc", "-c"], b"", 0, b"0\n");
    }
}

#[test]
fn a_shell_reads_its_commands_from_a_pipe() {
    for kernel in kernels().into_iter().take(1) {
        check(&["--kernel", kernel], b"echo $((6 * 7))\nexit 3\n", 3, b"42\n");
    }
}

#[test]
fn memory_is_what_was_asked_for() {
    for kernel in kernels().into_iter().take(1) {
        let args =
            ["--kernel", kernel, "-m", "300M", "--", "sed", "-n", "/MemTotal/p", "/proc/meminfo"];
        let output = run(&args, b"");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let kib: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((200 << 10..300 << 10).contains(&kib), "{text}");
    }
}

/// A root disk of the test's own.
fn root_disk(folder: &Path) -> PathBuf {
    let cache = Cache::open().unwrap();
    let path = folder.join("root.ext4");
    std::fs::copy(starter::disk(&cache, 64, &Quiet).unwrap(), &path).unwrap();
    path
}

#[test]
fn a_file_on_the_root_disk_is_there_after_a_reboot() {
    for kernel in kernels() {
        let folder = tempfile::tempdir().unwrap();
        let disk = root_disk(folder.path());
        let guest = |cpus, script| {
            let disk = disk.to_str().unwrap();
            let args =
                ["--kernel", kernel, "--image", disk, "--cpus", cpus, "--", "sh", "-c", script];
            let output = run(&args, b"");
            let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
            assert_eq!(output.status.code(), Some(0), "{script}: {err}");
            String::from_utf8(out).unwrap()
        };
        let text = guest("1", "grep ' / ' /proc/mounts; echo kept > /root/file; sync");
        assert!(text.starts_with("/dev/vda / ext4 rw"), "{text}");
        assert_eq!(guest("2", "cat /root/file"), "kept\n");
        let check = Command::new("e2fsck").arg("-fn").arg(&disk).output();
        assert!(check.is_ok_and(|output| output.status.success()), "the file system is clean");
    }
}

#[test]
fn further_disks_are_written_to_unless_read_only() {
    for kernel in kernels().into_iter().take(1) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (a, b) = (path("a"), path("b"));
        std::fs::write(&a, vec![b'.'; 1 << 20]).unwrap();
        std::fs::write(&b, vec![b'.'; 1 << 20]).unwrap();
        let script = "printf hello | dd of=/dev/vda bs=512 seek=3 conv=notrunc,fsync 2>/dev/null \
                      && ! dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null \
                      && cat /sys/block/vdb/ro";
        let ro = format!("{b}:ro");
        let args = ["--kernel", kernel, "--disk", &a, "--disk", &ro, "--", "sh", "-c", script];
        check(&args, b"", 0, b"1\n");
        assert_eq!(&std::fs::read(&a).unwrap()[1536..1541], b"hello");
        assert!(std::fs::read(&b).unwrap().iter().all(|&byte| byte == b'.'));
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_machine() {
    for kernel in kernels().into_iter().take(1) {
        let mut child = sparkler(&["--kernel", kernel, "--", "yes"]).spawn().unwrap();
        let mut some = [0; 100];
        child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
        drop(child.stdout.replace(std::process::ChildStdout::from(std::os::fd::OwnedFd::from(
            std::fs::File::open("/dev/null").unwrap(),
        ))));
        assert_eq!(finish(child, "yes").status.code(), Some(141));
    }
}

#[test]
fn an_idle_guest_costs_no_cpu() {
    const WATCHED: Duration = Duration::from_secs(3);
    for kernel in kernels() {
        let command = ["--kernel", kernel, "--", "sh", "-c", "echo up; sleep 5"];
        let mut child = sparkler(&command).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let before = cpu_ticks(child.id());
        std::thread::sleep(WATCHED);
        let used = cpu_ticks(child.id()) - before;
        // 100 ticks a second; 2 % of a core.
        let allowed = WATCHED.as_secs() * 100 * 2 / 100;
        assert!(used <= allowed, "{kernel}: {used} ticks of 10 ms in {WATCHED:?}");
        finish(child, "an idle guest");
    }
}

/// User and system time of a process, in ticks (proc(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A machine on a terminal, which `script` (of Debian's bsdutils) provides.
struct OnTerminal {
    child: Child,
    seen: Vec<u8>,
}

impl OnTerminal {
    fn start(args: &[&str]) -> Self {
        let command = sparkler(args);
        let mut line = command.get_program().to_str().unwrap().to_owned();
        for arg in command.get_args() {
            line = format!("{line} {}", arg.to_str().unwrap());
        }
        let child = Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, seen: Vec::new() }
    }

    /// Reads until `text` was seen.
    fn expect(&mut self, text: &str) {
        let found = |seen: &[u8]| seen.windows(text.len()).any(|part| part == text.as_bytes());
        let mut chunk = [0; 1024];
        while !found(&self.seen) {
            let n = self.child.stdout.as_mut().unwrap().read(&mut chunk).unwrap();
            let seen = String::from_utf8_lossy(&self.seen);
            assert!(n > 0, "{text:?} is not in {seen:?}");
            self.seen.extend_from_slice(&chunk[..n]);
        }
        self.seen.clear();
    }

    fn send(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn end(mut self) -> Option<i32> {
        let mut rest = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_shell_on_a_terminal() {
    for kernel in kernels().into_iter().take(1) {
        let mut shell = OnTerminal::start(&["--kernel", kernel]);
        shell.expect("Ctrl-A x leaves");
        shell.expect("# ");
        shell.send("echo a$((1+1))b; sleep 1000\r");
        shell.expect("a2b");
        // Ctrl-C is the guest's.
        shell.send("\x03");
        shell.expect("# ");
        shell.send("exit 5\r");
        assert_eq!(shell.end(), Some(5));
        let mut shell = OnTerminal::start(&["--kernel", kernel]);
        shell.expect("# ");
        shell.send("\x01x");
        assert_eq!(shell.end(), Some(0));
    }
}

#[test]
fn a_signal_reaches_the_command() {
    for kernel in kernels().into_iter().take(1) {
        let script = "trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.1; done";
        let mut child = sparkler(&["--kernel", kernel, "--", "sh", "-c", script]).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        let output = finish(child, "a trapped signal");
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(9), &b"caught\n"[..]));
    }
}

#[test]
fn where_the_time_went() {
    for kernel in kernels().into_iter().take(1) {
        let output = run(&["--kernel", kernel, "--timings", "--", "true"], b"");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for name in ["process start", "kernel loaded", "first guest instruction", "init", "shell"] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }
}
