//! A guest with all its devices, configured over the API socket: reached by SSH over a tap, with a
//! metadata service, sockets to the host, a balloon, and a drive that is replaced while it runs.
//!
//! All of it happens in a network namespace that the test makes. On the software CPU the test runs
//! here; on KVM it runs where KVM is fit, which may be a machine inside QEMU: there the test's own
//! program is started again, with what it needs in a folder that [`INSIDE`] names.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use api::{
    Action, Balloon, BootSource, Drive, DriveUpdate, Entropy, MachineConfigUpdate, Metrics,
    MmdsConfig, MmdsVersion, NetworkInterface, RateLimiter, TokenBucket, VmState, Vsock,
};
use client::Client;
use guest_suite::nested::{self, NestedError, Options};
use image::kernel::{Kernel, Source};
use image::{Cache, Quiet, starter};
use serde_json::{Value, json};

use support::namespace::{GUEST, HOST, Namespace};
use support::{Guest, Process, make_disk, namespace, network, skip, tool};

const NAME: &str = "network";
/// The environment variable with the folder of what the test needs, inside a nested machine.
const INSIDE: &str = "SPARKLER_TEST_NETWORK";
const METADATA: &str = "169.254.169.254";
const MAC: &str = "06:00:AC:10:00:02";
/// How long the guest may take for one step.
const PATIENCE: Duration = Duration::from_secs(120);
const NESTED_PATIENCE: Duration = Duration::from_secs(420);
const MIB: u64 = 1 << 20;
const MEMORY_MIB: u32 = 256;
/// No mapping of the VMM's own is as large as this.
const RAM_KIB_MIN: u64 = 16 << 10;
/// Programs of the host: (program, Debian package).
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("iperf3", "iperf3"),
];

/// What runs, and on what.
struct Stage {
    vmm: PathBuf,
    cpu: &'static str,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    /// The command line up to what the disk needs.
    command_line: String,
    disk: PathBuf,
}

#[test]
fn a_guest_with_everything_on_the_software_cpu() {
    let Some((cache, kernel, disk)) = needs() else { return };
    let stage = Stage {
        vmm: support::vmm(),
        cpu: "soft",
        initrd: initrd(&cache, &kernel),
        command_line: Guest::new(&kernel, "").command_line(),
        kernel: kernel.vmlinux.clone(),
        disk,
    };
    scenario(&stage);
}

#[test]
fn metadata_without_tokens_from_files() {
    if !support::has_programs(NAME, &PROGRAMS) || !namespace::are_there(NAME) {
        return;
    }
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    let net = Namespace::new();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let script = format!(
        "ip route add {METADATA} dev eth0\n\
         echo name=$(wget -q -O - http://{METADATA}/meta/name)\n\
         echo keys=$(wget -q -O - http://{METADATA}/meta)\n\
         wget -q -O - http://{METADATA}/none || echo missing"
    );
    let mut initrd = fs::read(starter::initramfs(&cache, &kernel, &Quiet).unwrap()).unwrap();
    initrd.extend(starter::command_overlay::<_, &str>(&["sh", "-c", &script], &[]).unwrap());
    fs::write(at("initrd"), initrd).unwrap();
    fs::write(at("metadata"), r#"{"meta": {"name": "from a file", "zone": "a"}}"#).unwrap();
    let mut guest = Guest::new(&kernel, &format!("ip={GUEST}::{HOST}:255.255.255.252::eth0:off"));
    guest.initrd = Some(at("initrd"));
    let mut config = guest.config();
    config["network-interfaces"] = json!([{"iface_id": "eth0", "host_dev_name": "tap0"}]);
    config["mmds-config"] = json!({"network_interfaces": ["eth0"]});
    fs::write(at("vm.json"), config.to_string()).unwrap();
    let mut command = net.command(&[&support::vmm().display().to_string()]);
    command.args(["--no-api", "--cpu", "soft", "--config-file"]).arg(at("vm.json"));
    let ended = support::finish(command.arg("--metadata").arg(at("metadata")), PATIENCE);
    assert_eq!(ended.status, Some(0), "{}", ended.text);
    for line in ["name=from a file", "keys=name zone", "missing"] {
        assert!(ended.text.lines().any(|own| own == line), "no {line:?} in {}", ended.text);
    }
}

#[test]
fn a_guest_with_everything_on_kvm() {
    let Some((cache, kernel, disk)) = needs() else { return };
    let fitness = kvm::probe::probe();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("command-line"), Guest::new(&kernel, "").command_line()).unwrap();
    std::os::unix::fs::symlink(support::vmm(), at("sparkler-vmm")).unwrap();
    std::os::unix::fs::symlink(&kernel.vmlinux, at("kernel")).unwrap();
    std::os::unix::fs::symlink(&disk, at("disk")).unwrap();
    if let Some(initrd) = initrd(&cache, &kernel) {
        std::os::unix::fs::symlink(initrd, at("initrd")).unwrap();
    }
    if fitness.usable {
        scenario(&Stage::from_folder(folder.path()));
        return;
    }
    match run_nested(folder.path()) {
        Ok(output) => {
            for line in output.lines().filter(|line| line.starts_with("network on")) {
                eprintln!("{line}");
            }
            assert!(output.contains("test result: ok. 1 passed"), "{output}");
        }
        Err(missing @ NestedError::Missing(_)) => {
            skip(NAME, &format!("the host's KVM is not fit ({}), and {missing}", fitness.reason));
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
#[ignore = "run by a_guest_with_everything_on_kvm, in a machine with a fit KVM"]
fn inside() {
    let folder = std::env::var_os(INSIDE).expect("the folder with what the test needs");
    scenario(&Stage::from_folder(Path::new(&folder)));
}

/// What both need; None, said aloud, if it cannot be had.
fn needs() -> Option<(Cache, Kernel, PathBuf)> {
    if !support::has_programs(NAME, &PROGRAMS) {
        return None;
    }
    if !namespace::are_there(NAME) {
        return None;
    }
    let (cache, kernel) = support::kernel(NAME)?;
    let disk = network::image(NAME, &cache)?;
    Some((cache, kernel, disk))
}

fn initrd(cache: &Cache, kernel: &Kernel) -> Option<PathBuf> {
    let needed = kernel.source == Source::Debian;
    needed.then(|| starter::root_initramfs(cache, kernel, &Quiet).unwrap())
}

/// Runs [`inside`] in a nested machine that has what is in `folder`; what it wrote.
fn run_nested(folder: &Path) -> Result<String, NestedError> {
    let own = std::env::current_exe().expect("a test is a program");
    let mut files: Vec<(PathBuf, String)> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), format!("/vm/{}", path.file_name().unwrap().display())))
        .collect();
    files.push((own.clone(), "/vm/test".into()));
    let mut programs = vec![own, folder.join("sparkler-vmm")];
    for (program, _) in PROGRAMS {
        let path = which(program);
        files.push((path.clone(), format!("/usr/bin/{program}")));
        programs.push(path);
    }
    let mut libraries: Vec<PathBuf> =
        programs.iter().flat_map(|program| nested::libraries(program).unwrap()).collect();
    libraries.sort();
    libraries.dedup();
    files.extend(libraries.into_iter().map(|path| (path.clone(), path.display().to_string())));
    let files: Vec<(&Path, &str)> =
        files.iter().map(|(from, to)| (from.as_path(), to.as_str())).collect();
    let script = format!(
        "export PATH=/usr/bin:/bin:/sbin:/usr/sbin HOME=/root TMPDIR=/tmp {INSIDE}=/vm\n\
         mkdir -p /etc /root /tmp /run/netns /var\n\
         ln -s /run /var/run\n\
         echo root:x:0:0:root:/root:/bin/sh > /etc/passwd\n\
         cd /vm && ./test --exact inside --ignored --nocapture"
    );
    let options = Options { cpus: 2, memory_mib: 3072, time_max: NESTED_PATIENCE };
    nested::run_with(&script, &files, &options).map(|output| output.text)
}

fn which(program: &str) -> PathBuf {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from);
    let found = folders.into_iter().map(|folder| folder.join(program)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{program} was there a moment ago"))
}

impl Stage {
    fn from_folder(folder: &Path) -> Self {
        let initrd = folder.join("initrd");
        Self {
            vmm: folder.join("sparkler-vmm"),
            cpu: "kvm",
            kernel: folder.join("kernel"),
            initrd: initrd.exists().then_some(initrd),
            command_line: fs::read_to_string(folder.join("command-line")).unwrap(),
            disk: folder.join("disk"),
        }
    }
}

/// All that happens to one guest, in order.
fn scenario(stage: &Stage) {
    let step = |what: &str| eprintln!("network on {}: {what}", stage.cpu);
    let net = Namespace::new();
    step("start");
    let vm = Vm::start(stage, &net);
    step("ssh, ping, iperf3");
    assert_eq!(vm.ssh("echo $((6*7))").trim(), "42");
    net.run(&["ping", "-c", "3", "-W", "5", GUEST]);
    vm.ssh(&format!("ping -c 3 -W 5 {HOST}"));
    throughput(&vm, &net);
    step("metadata");
    metadata(&vm);
    step("vsock");
    vsock(&vm);
    step("balloon");
    balloon(&vm);
    step("drive");
    drive(&vm);
    step("rate limiters");
    limits(&vm);
    step("pause");
    pause(&vm, &net);
    step("metrics");
    metrics(&vm);
    step(&format!("{} KiB of memory besides the guest's", vm.own_memory() >> 10));
    step("end");
    vm.end();
}

fn throughput(vm: &Vm, net: &Namespace) {
    for direction in [None, Some("-R")] {
        let mut arguments = vec!["iperf3", "-c", GUEST, "-n", "16M", "--json"];
        arguments.extend(direction);
        let report: Value = serde_json::from_str(&net.run(&arguments)).expect("iperf3's report");
        // The receiver stops counting when the sender says that it is done.
        for (sum, least) in [("sum_sent", 16 * MIB), ("sum_received", 4 * MIB)] {
            let bytes = report["end"][sum]["bytes"].as_u64();
            assert!(bytes.is_some_and(|bytes| bytes >= least), "{report}");
        }
    }
    // What the guest sends unfinished (segmentation, checksums) arrives whole.
    let sum = vm.ssh("head -c 3000000 /dev/urandom > /tmp/random; md5sum < /tmp/random");
    let mut copy = vm.ssh_command("cat /tmp/random");
    let copy = copy.stdin(Stdio::null()).output().expect("ssh runs");
    let path = vm.folder.path().join("random");
    fs::write(&path, &copy.stdout).unwrap();
    let own = tool(Command::new("md5sum").stdin(File::open(&path).unwrap()).arg(&path)).unwrap();
    let own = String::from_utf8_lossy(&own.stdout).into_owned();
    assert_eq!(own.split(' ').next(), sum.split(' ').next());
}

fn metadata(vm: &Vm) {
    vm.api.put_mmds(&json!({"meta": {"name": "first", "port": "80"}})).unwrap();
    vm.api.patch_mmds(&json!({"meta": {"port": null, "zone": "a"}})).unwrap();
    assert_eq!(vm.api.mmds().unwrap(), json!({"meta": {"name": "first", "zone": "a"}}));
    vm.ssh(&format!("ip route replace {METADATA} dev eth0"));
    let url = format!("http://{METADATA}");
    let status = vm.ssh(&format!("curl -s -m 10 -o /dev/null -w '%{{http_code}}' {url}/meta/name"));
    assert_eq!(status, "401", "V2 wants a token");
    let token = format!(
        "$(curl -s -m 10 -X PUT -H 'X-metadata-token-ttl-seconds: 60' {url}/latest/api/token)"
    );
    let get = |path: &str, more: &str| {
        vm.ssh(&format!("curl -s -m 10 -H \"X-metadata-token: {token}\" {more} {url}{path}"))
    };
    assert_eq!(get("/meta/name", ""), "first");
    assert_eq!(get("/meta", ""), "name\nzone");
    let whole: Value = serde_json::from_str(&get("/", "-H 'Accept: application/json'")).unwrap();
    assert_eq!(whole, json!({"meta": {"name": "first", "zone": "a"}}));
}

fn vsock(vm: &Vm) {
    // The host calls the guest.
    let path = vm.folder.path().join("v.sock");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "CONNECT {}", network::ECHO_PORT).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("OK "), "{line:?}");
    let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let writer = thread::spawn({
        let sent = sent.clone();
        move || stream.write_all(&sent).unwrap()
    });
    let mut echoed = vec![0; sent.len()];
    reader.read_exact(&mut echoed).unwrap();
    writer.join().unwrap();
    assert!(echoed == sent, "the echo differs");
    // Nobody listens.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "CONNECT 4999").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    // The guest calls the host.
    let listener = UnixListener::bind(vm.folder.path().join("v.sock_6000")).unwrap();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(line.to_uppercase().as_bytes()).unwrap();
    });
    let answer = vm.ssh("echo 'from the guest' | socat -t 10 - VSOCK-CONNECT:2:6000");
    assert_eq!(answer.trim(), "FROM THE GUEST");
    echo.join().unwrap();
}

fn balloon(vm: &Vm) {
    // Touched once, free now: the host does not know.
    vm.ssh(
        "head -c 80M /dev/zero > /tmp/zeroes; rm /tmp/zeroes; echo 3 > /proc/sys/vm/drop_caches",
    );
    let before = vm.resident();
    vm.api.patch_balloon(96).unwrap();
    vm.until("the balloon is full", || vm.api.balloon_stats().unwrap().actual_mib >= 96);
    let full = vm.resident();
    assert!(
        before > full + 48 * MIB,
        "resident before {before}, with 96 MiB in the balloon {full}"
    );
    let stats = vm.api.balloon_stats().unwrap();
    assert_eq!((stats.target_mib, stats.target_pages), (96, 96 * 256));
    assert!(stats.total_memory.is_some_and(|bytes| bytes > 100 * MIB), "{stats:?}");
    vm.api.patch_balloon(0).unwrap();
    vm.until("the balloon is empty", || vm.api.balloon_stats().unwrap().actual_mib == 0);
    vm.ssh("head -c 80M /dev/zero > /tmp/zeroes; rm /tmp/zeroes");
}

fn drive(vm: &Vm) {
    assert_eq!(vm.ssh("head -c 5 /dev/vdb"), "first");
    let other = vm.folder.path().join("other");
    make_disk(&other, b"other", 2 * MIB);
    let path_on_host = Some(other.display().to_string());
    let update = DriveUpdate { drive_id: "data".into(), path_on_host, rate_limiter: None };
    vm.api.patch_drive(&update).unwrap();
    vm.until("the new size is seen", || vm.ssh("cat /sys/block/vdb/size").trim() == "4096");
    let read = "dd if=/dev/vdb bs=4096 count=1 iflag=direct 2> /dev/null | head -c 5";
    assert_eq!(vm.ssh(read), "other");
    let write = "echo again | dd of=/dev/vdb bs=4096 conv=sync oflag=direct 2> /dev/null; sync";
    vm.ssh(write);
    assert!(fs::read(&other).unwrap().starts_with(b"again\n"));
    assert!(fs::read(vm.folder.path().join("data")).unwrap().starts_with(b"first"));
    // Space that the guest gives back is a hole in the file.
    vm.ssh("dd if=/dev/urandom of=/dev/vdb bs=1M count=2 oflag=direct 2> /dev/null");
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&other).unwrap());
    let before = blocks();
    vm.ssh("blkdiscard /dev/vdb");
    assert!(blocks() < before, "{before} blocks before the discard, {} after", blocks());
}

fn limits(vm: &Vm) {
    let read = "dd if=/dev/vdb of=/dev/null bs=64k count=24 iflag=direct 2> /dev/null";
    let time = || {
        let start = Instant::now();
        vm.ssh(read);
        start.elapsed()
    };
    let update = |bandwidth| {
        let rate_limiter = Some(RateLimiter { bandwidth: Some(bandwidth), ops: None });
        let drive_id = "data".to_owned();
        let update = DriveUpdate { drive_id, path_on_host: None, rate_limiter };
        vm.api.patch_drive(&update).unwrap();
    };
    let free = time();
    // 1.5 MiB at 512 KiB a second, of which the first 512 KiB are in the bucket.
    update(TokenBucket { size: MIB / 2, one_time_burst: None, refill_time: 1000 });
    let limited = time();
    assert!(limited > free + Duration::from_millis(1500), "free {free:?}, limited {limited:?}");
    update(TokenBucket { size: 0, one_time_burst: None, refill_time: 0 });
    let again = time();
    assert!(again < limited, "limited {limited:?}, without the limit {again:?}");
}

fn pause(vm: &Vm, net: &Namespace) {
    let offset = || {
        let guest: f64 = vm.ssh("date +%s.%N").trim().parse().expect("a time");
        let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        guest - host.as_secs_f64()
    };
    let before = offset();
    for _ in 0..2 {
        vm.api.patch_vm(VmState::Paused).unwrap();
    }
    assert!(!net.try_run(&["ping", "-c", "1", "-W", "1", GUEST]), "a paused guest answers");
    thread::sleep(Duration::from_secs(2));
    for _ in 0..2 {
        vm.api.patch_vm(VmState::Resumed).unwrap();
    }
    net.run(&["ping", "-c", "3", "-W", "5", GUEST]);
    let after = offset();
    // The clock goes on, whether it stood still meanwhile or not.
    assert!((after - before).abs() < 5.0, "the guest's clock was off by {before} s, now {after} s");
    let first: f64 = vm.ssh("cut -d' ' -f1 /proc/uptime").trim().parse().unwrap();
    let second: f64 = vm.ssh("sleep 0.2; cut -d' ' -f1 /proc/uptime").trim().parse().unwrap();
    assert!(second > first);
}

fn metrics(vm: &Vm) {
    vm.api.put_action(Action::FlushMetrics).unwrap();
    let text = fs::read_to_string(vm.folder.path().join("metrics")).unwrap();
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() >= 2, "{text}");
    let sum = |path: &str| -> u64 {
        lines.iter().filter_map(|line| line.pointer(path).and_then(Value::as_u64)).sum()
    };
    for path in [
        "/net/rx_bytes_count",
        "/net_eth0/tx_bytes_count",
        "/block_data/read_bytes",
        "/block/write_bytes",
        "/vsock/conns_added",
        "/balloon/inflate_count",
        "/mmds/tx_count",
        "/patch_api_requests/drive_count",
    ] {
        assert!(sum(path) > 0, "{path} is 0 in {text}");
    }
}

/// The running machine.
struct Vm {
    api: Client,
    login: network::Login,
    namespace: String,
    folder: tempfile::TempDir,
    process: Process,
}

impl Vm {
    /// Starts a VMM in the namespace, configures it over its socket, and waits for the guest.
    fn start(stage: &Stage, net: &Namespace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        make_disk(&folder.path().join("data"), b"first", MIB);
        let console = File::create(folder.path().join("console")).unwrap();
        let mut command = net.command(&[&stage.vmm.display().to_string()]);
        command.args(["--api-sock", &at("api.sock"), "--cpu", stage.cpu, "--level", "Warn"]);
        let child = command.stdin(Stdio::null()).stdout(console).spawn().unwrap();
        let vm = Self {
            api: Client::new(folder.path().join("api.sock")),
            login: network::Login::new(),
            namespace: net.name.clone(),
            folder,
            process: Process(child),
        };
        vm.api.wait_ready(PATIENCE).unwrap();
        vm.configure(stage);
        vm.api.put_action(Action::InstanceStart).unwrap();
        vm.until("the guest is ready", || vm.console().contains(network::READY));
        vm
    }

    fn configure(&self, stage: &Stage) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let ip = format!("{GUEST}::{HOST}:255.255.255.252::eth0");
        let arguments = network::arguments(Some(&ip), Some(&self.login));
        self.api
            .put_metrics(&Metrics { metrics_path: at("metrics"), emit_id: false, properties: None })
            .unwrap();
        let size = MachineConfigUpdate {
            vcpu_count: Some(1),
            mem_size_mib: Some(MEMORY_MIB as usize),
            ..MachineConfigUpdate::default()
        };
        self.api.patch_machine_config(&size).unwrap();
        let boot = BootSource {
            kernel_image_path: stage.kernel.display().to_string(),
            initrd_path: stage.initrd.as_ref().map(|path| path.display().to_string()),
            boot_args: Some(format!("{} {arguments}", stage.command_line)),
        };
        self.api.put_boot_source(&boot).unwrap();
        let root = stage.disk.display().to_string();
        for (id, path, is_read_only) in [("root", root, true), ("data", at("data"), false)] {
            let drive = Drive {
                drive_id: id.into(),
                path_on_host: Some(path),
                is_read_only: Some(is_read_only),
                ..Drive::default()
            };
            self.api.put_drive(&drive).unwrap();
        }
        let interface = NetworkInterface {
            iface_id: "eth0".into(),
            host_dev_name: "tap0".into(),
            guest_mac: Some(MAC.into()),
            ..NetworkInterface::default()
        };
        self.api.put_network_interface(&interface).unwrap();
        let metadata = MmdsConfig {
            version: MmdsVersion::V2,
            network_interfaces: vec!["eth0".into()],
            ..MmdsConfig::default()
        };
        self.api.put_mmds_config(&metadata).unwrap();
        let vsock = Vsock { guest_cid: 3, uds_path: at("v.sock"), vsock_id: None };
        self.api.put_vsock(&vsock).unwrap();
        let balloon = Balloon {
            amount_mib: 0,
            deflate_on_oom: true,
            stats_polling_interval_s: 1,
            ..Balloon::default()
        };
        self.api.put_balloon(&balloon).unwrap();
        self.api.put_entropy(&Entropy::default()).unwrap();
    }

    /// Waits until something is so.
    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(
                start.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}\n{}",
                self.console()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn console(&self) -> String {
        let bytes = fs::read(self.folder.path().join("console")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn ssh_command(&self, command: &str) -> Command {
        let ssh = self.login.ssh(GUEST);
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace]).arg(ssh.get_program());
        inside.args(ssh.get_args()).arg(command);
        inside
    }

    /// Runs a command in the guest; what it printed.
    fn ssh(&self, command: &str) -> String {
        let output = tool(&mut self.ssh_command(command));
        let output = output.unwrap_or_else(|why| panic!("{why}\n{}", self.console()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Bytes of memory that the VMM and its guest use.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Bytes of memory that the VMM itself uses: all but the guest's RAM, which is what is private,
    /// anonymous and at least as large as [`RAM_KIB_MIN`].
    fn own_memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps", self.process.0.id())).unwrap();
        let (mut own, mut is_plain, mut is_ram) = (0, false, false);
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [_, permissions, _, _, _, ref path @ ..] if permissions.len() == 4 => {
                    is_plain = permissions == "rw-p" && path.is_empty();
                }
                ["Size:", kib, "kB"] => {
                    is_ram = is_plain && kib.parse::<u64>().is_ok_and(|kib| kib >= RAM_KIB_MIN);
                }
                ["Rss:", kib, "kB"] if !is_ram => own += kib.parse::<u64>().unwrap_or(0) << 10,
                _ => {}
            }
        }
        own
    }

    /// Ends the guest from the inside; the process ends with it.
    fn end(mut self) {
        // The guest goes without a word, so this one would wait for ever.
        let mut command = self.ssh_command("busybox reboot -f");
        let _ssh = Process(command.stdin(Stdio::null()).spawn().expect("ssh runs"));
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                assert!(status.success(), "{status}\n{}", self.console());
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the VMM does not end\n{}", self.console());
            thread::sleep(Duration::from_millis(50));
        }
    }
}
