//! `sparkler-vmm` from outside: flags, messages, exit codes. Nothing here runs a guest.

use std::path::Path;
use std::process::{Command, Output};

fn vmm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sparkler-vmm")).args(args).output().expect("it starts")
}

/// Runs with `args`, and expects the code, and the texts on standard output and error.
fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = vmm(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}{err}");
    assert!(out.contains(stdout), "{args:?}: {stdout:?} is not in {out:?}");
    assert!(err.contains(stderr), "{args:?}: {stderr:?} is not in {err:?}");
    assert!(err.lines().count() <= 1, "{args:?}: more than a line: {err:?}");
}

#[test]
fn what_only_prints() {
    check(&["--version"], 0, "Firecracker v1.17.0\n", "");
    check(&["--version"], 0, "Firecracker exiting successfully. exit_code=0", "");
    check(&["--snapshot-version"], 0, "v11.0.0\n", "");
    check(&["--help"], 0, "--config-file <config-file>", "");
    check(&["--nonsense", "--version"], 0, "Firecracker v", "");
}

#[test]
fn flags_that_cannot_be_understood() {
    let unexpected = "Arguments parsing error: Found argument 'foo' which wasn't expected, or \
                      isn't valid in this context. \n\nFor more information try --help.";
    check(&["--foo"], 153, unexpected, "Error: ParseArguments(UnexpectedArgument(\"foo\"))");
    check(&["foo"], 153, "Found argument 'foo'", "UnexpectedArgument");
    check(&["--no-api"], 153, "Argument 'config-file' required, but not found.", "Missing");
    check(&["--id"], 153, "The argument 'id' requires a value, but none was supplied.", "Missing");
    check(
        &["--id", "a", "--id", "b"],
        153,
        "The argument 'id' was provided more than once.",
        "DuplicateArgument",
    );
    check(&["--foo"], 153, "Firecracker exiting with error. exit_code=153", "");
}

#[test]
fn values_that_make_no_sense() {
    check(&["--level", "loud"], 152, "exit_code=152", "loud");
    check(&["--id", "a b"], 1, "[anonymous-instance:main] Invalid instance ID", "a b");
    check(&["--id", "vm-1", "--cpu", "hard"], 1, "[vm-1:main] Invalid value for --cpu", "hard");
    check(&["--api-sock", "/no/such/folder/s"], 1, "RunWithApiError error: ", "/no/such/folder/s");
    let number = "'http-api-max-payload-size' parameter expected to be of 'usize' type.";
    check(&["--http-api-max-payload-size", "many"], 1, number, "InvalidNumber");
    check(&["--start-time-us", "now"], 1, "'start-time-us' parameter expected", "InvalidNumber");
    check(
        &["--metadata", "/no/such"],
        1,
        "read from the mmds content file: No such file",
        "no/such",
    );
    check(&["--metrics-path", "/no/such/m"], 1, "Could not initialize metrics: ", "/no/such/m");
    check(&["--log-path", "/no/such/folder/log"], 1, "/no/such/folder/log", "Logger");
}

#[test]
fn log_lines_have_firecrackers_form() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let path = log.to_str().unwrap();
    let no_config = "/no/such/config";
    let run =
        |flags: &[&str]| vmm(&[&["--log-path", path, "--config-file", no_config], flags].concat());
    run(&["--show-level", "--show-log-origin", "--id", "vm-1"]);
    let text = std::fs::read_to_string(&log).unwrap();
    let line = text.lines().find(|line| line.contains("Running Firecracker v1.17.0")).unwrap();
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(
        time.len() == 29 && time.as_bytes()[10] == b'T' && time.as_bytes()[19] == b'.',
        "{line}"
    );
    assert!(rest.starts_with("[vm-1:main:INFO:crates/vmm/src/main.rs:"), "{line}");
    run(&["--level", "error"]);
    let more = std::fs::read_to_string(&log).unwrap();
    assert!(more.starts_with(&text) && more.len() > text.len(), "the log is appended to");
    assert_eq!(more.matches("Running").count(), 1, "level Error hides it");
}

/// Files for machines that cannot be.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts the machine that `json` describes, and expects one line of error with `expected`.
    fn refuse(&self, json: &str, expected: &str) {
        let config = self.write("vm.json", json.as_bytes());
        check(&["--no-api", "--cpu", "soft", "--config-file", &config], 1, "exit_code=1", expected);
    }

    fn refuse_kernel(&self, kernel: &str, expected: &str) {
        let json =
            format!(r#"{{"boot-source": {{"kernel_image_path": "{kernel}"}}, "drives": []}}"#);
        self.refuse(&json, expected);
        self.refuse(&json, kernel);
    }

    fn refuse_disk(&self, disk: &str, expected: &str) {
        let kernel = self.write("kernel", b"looked at later");
        let json = format!(
            r#"{{"boot-source": {{"kernel_image_path": "{kernel}"}}, "drives": [{{"drive_id": "d",
                "is_root_device": true, "path_on_host": "{disk}"}}]}}"#
        );
        self.refuse(&json, expected);
        self.refuse(&json, disk);
    }

    fn refuse_size(&self, size: &str, expected: &str) {
        let kernel = self.write("kernel", b"looked at later");
        let json = format!(
            r#"{{"boot-source": {{"kernel_image_path": "{kernel}"}}, "drives": [],
                "machine-config": {{{size}}}}}"#
        );
        self.refuse(&json, expected);
    }
}

#[test]
fn configurations_that_are_none() {
    let files = Files::new();
    let missing = files.path("missing.json");
    check(
        &["--no-api", "--config-file", &missing],
        1,
        "Unable to open or read from the configuration file",
        "missing.json",
    );
    files.refuse("{", "vm.json");
    files.refuse("{}", "missing field `boot-source`");
    files.refuse(r#"{"boot-source": {"kernel": 1}, "drives": []}"#, "unknown field `kernel`");
    files.refuse_size(r#""vcpu_count": 0, "mem_size_mib": 128"#, "VcpuCount");
    files.refuse_size(r#""vcpu_count": 33, "mem_size_mib": 128"#, "VcpuCount");
    files.refuse_size(r#""vcpu_count": 1, "mem_size_mib": 0"#, "MemorySize");
    // More than fits a machine, and more than any host has that runs this.
    files.refuse_size(r#""vcpu_count": 1, "mem_size_mib": 99999999"#, "value: 99999999");
    files.refuse_size(r#""vcpu_count": 1, "mem_size_mib": 261120"#, "mem_size_mib is 261120");
    let large = files.write("large.json", &vec![b' '; (1 << 20) + 1]);
    check(&["--no-api", "--config-file", &large], 1, "is larger than", "large.json");
}

#[test]
fn kernels_that_are_none() {
    let files = Files::new();
    let own = std::fs::read(env!("CARGO_BIN_EXE_sparkler-vmm")).unwrap();
    files.refuse_kernel(&files.path("missing"), "No such file");
    files.refuse_kernel(files.0.path().to_str().unwrap(), "not a regular file");
    files.refuse_kernel(&files.write("empty", b""), "empty");
    files.refuse_kernel(&files.write("text", &b"no kernel ".repeat(1000)), "text");
    files.refuse_kernel(&files.write("cut", &own[..100]), "cut");
    files.refuse_kernel(&files.write("program", &own), "program");
}

#[test]
fn disks_that_are_none() {
    let files = Files::new();
    files.refuse_disk(&files.path("missing"), "No such file");
    files.refuse_disk(files.0.path().to_str().unwrap(), "is a directory");
    files.refuse_disk(&files.write("small", &[0; 511]), "has 511 bytes");
    let used = files.write("used", &[0; 4096]);
    let holder = std::fs::File::open(&used).unwrap();
    holder.try_lock().unwrap();
    files.refuse_disk(&used, "in use by another virtual machine");
}

#[test]
fn nothing_is_left_behind() {
    let files = Files::new();
    files.refuse_disk(&files.path("missing"), "No such file");
    let names: Vec<_> = std::fs::read_dir(files.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "the kernel and vm.json: {names:?}");
    assert!(!Path::new(&files.path("missing")).exists());
}
