//! Disk and network of the same guest in `sparkler-vmm` on the software CPU and in QEMU's microvm
//! under TCG, one after the other: `cargo xtask bench io`.

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use image::kernel::Source;
use image::{Quiet, starter};
use serde_json::{Value, json};

use support::namespace::{GUEST, HOST, Namespace};
use support::{Guest, Process, namespace, network, tool};

const NAME: &str = "bench_io";
/// Runs of each; the median counts.
const RUNS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const IPERF_TRIES: u32 = 20;
const MEMORY_MIB: u32 = 256;
const DISK_MIB: usize = 256;
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("ssh", "openssh-client"),
    ("iperf3", "iperf3"),
    ("rustc", "rustc"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// (what is measured, its unit, whether more is better)
const MEASURES: [(&str, &str, bool); 5] = [
    ("sequential read, 1 MiB", "MB/s", true),
    ("random read, 4 KiB", "reads/s", true),
    ("TCP, host to guest", "Mbit/s", true),
    ("TCP, guest to host", "Mbit/s", true),
    ("round trip", "ms", false),
];

/// What both boot.
struct Work {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    command_line: String,
    root: PathBuf,
    data: PathBuf,
    randread: PathBuf,
    login: network::Login,
    net: Namespace,
    folder: tempfile::TempDir,
}

#[test]
#[ignore = "a benchmark"]
fn bench_io() {
    if !support::has_programs(NAME, &PROGRAMS) || !namespace::are_there(NAME) {
        return;
    }
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    let Some(root) = network::image(NAME, &cache) else { return };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let login = network::Login::new();
    let ip = format!("{GUEST}::{HOST}:255.255.255.252::eth0");
    let arguments = network::arguments(Some(&ip), Some(&login));
    let needs_initrd = kernel.source == Source::Debian;
    let work = Work {
        initrd: needs_initrd.then(|| starter::root_initramfs(&cache, &kernel, &Quiet).unwrap()),
        command_line: Guest::new(&kernel, &arguments).command_line(),
        kernel: kernel.vmlinux.clone(),
        root,
        data: data(folder.path()),
        randread: randread(folder.path()),
        login,
        net: Namespace::new(),
        folder,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(work.measure(&mut work.ours()));
        theirs.push(work.measure(&mut work.qemu()));
    }
    println!("kernel {} ({:?})\n", kernel.version, kernel.source);
    println!("| work | sparkler, software CPU | QEMU microvm, TCG | times as fast |");
    println!("| --- | --- | --- | --- |");
    for (at, (what, unit, more)) in MEASURES.iter().enumerate() {
        let (our, their) = (median(&ours, at), median(&theirs, at));
        let ratio = if *more { our / their } else { their / our };
        println!("| {what} | {our:.1} {unit} | {their:.1} {unit} | {ratio:.2} |");
    }
}

fn median(runs: &[[f64; MEASURES.len()]], at: usize) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(|run| run[at]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A disk of bytes that nothing can shorten.
fn data(folder: &Path) -> PathBuf {
    let path = folder.join("data");
    let mut random = File::open("/dev/urandom").unwrap();
    let mut file = File::create(&path).unwrap();
    let mut part = std::io::Read::take(&mut random, (DISK_MIB as u64) << 20);
    std::io::copy(&mut part, &mut file).unwrap();
    path
}

/// A static program for the guest.
fn randread(folder: &Path) -> PathBuf {
    let (source, path) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/randread.rs"), folder.join("r"));
    let mut rustc = Command::new("rustc");
    rustc.args(["-O", "--edition", "2024", "-C", "target-feature=+crt-static", "-o"]);
    tool(rustc.arg(&path).arg(source)).unwrap();
    path
}

impl Work {
    fn ours(&self) -> Command {
        let drive = |id: &str, path: &Path| {
            json!({"drive_id": id, "path_on_host": path, "is_root_device": false,
                   "is_read_only": true})
        };
        let mut boot = json!({"kernel_image_path": self.kernel, "boot_args": self.command_line});
        if let Some(initrd) = &self.initrd {
            boot["initrd_path"] = json!(initrd);
        }
        let config = json!({
            "boot-source": boot,
            "drives": [drive("root", &self.root), drive("data", &self.data)],
            "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
            "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}],
        });
        let path = self.folder.path().join("vm.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = self.net.command(&[env!("CARGO_BIN_EXE_sparkler-vmm")]);
        command.args(["--no-api", "--cpu", "soft", "--level", "Error", "--config-file"]).arg(path);
        command
    }

    fn qemu(&self) -> Command {
        let mut command = self.net.command(&["qemu-system-x86_64"]);
        command
            .args(["-M", "microvm,acpi=off", "-accel", "tcg", "-cpu", "max", "-nodefaults"])
            .args(["-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio"])
            .args(["-m", &MEMORY_MIB.to_string(), "-append", &self.command_line, "-kernel"])
            .arg(&self.kernel);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        command
            .args(["-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"])
            .args(["-device", "virtio-net-device,netdev=net"]);
        for (id, path) in [("root", &self.root), ("data", &self.data)] {
            let path = path.display();
            command
                .args(["-drive", &format!("file={path},if=none,id={id},format=raw,readonly=on")])
                .args(["-device", &format!("virtio-blk-device,drive={id}")]);
        }
        command
    }

    /// Boots the guest in `vmm` and measures it.
    fn measure(&self, vmm: &mut Command) -> [f64; MEASURES.len()] {
        let console = self.folder.path().join("console");
        let output = File::create(&console).unwrap();
        let child = vmm.stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).spawn().unwrap();
        let _process = Process(child);
        let text = || String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
        let start = Instant::now();
        while !text().contains(network::READY) {
            assert!(start.elapsed() < PATIENCE, "{vmm:?} is not ready:\n{}", text());
            thread::sleep(Duration::from_millis(50));
        }
        let sequential = self.ssh("dd if=/dev/vdb of=/dev/null bs=1M iflag=direct 2>&1", None);
        let randread = File::open(&self.randread).unwrap();
        self.ssh("cat > /run/r; chmod 755 /run/r", Some(randread));
        let random = self.ssh("/run/r /dev/vdb 3", None);
        let tcp = |direction: &[&str]| {
            let mut arguments = vec!["iperf3", "-c", GUEST, "-t", "3", "--json"];
            arguments.extend(direction);
            let mut last = String::new();
            // The server takes a moment from one test to the next.
            for _ in 0..IPERF_TRIES {
                let output = self.net.command(&arguments).output().unwrap();
                last = String::from_utf8_lossy(&output.stdout).into_owned();
                let report: Value = serde_json::from_str(&last).unwrap();
                if let Some(rate) = report["end"]["sum_received"]["bits_per_second"].as_f64() {
                    return rate / 1e6;
                }
                thread::sleep(Duration::from_millis(200));
            }
            panic!("{vmm:?}: {last}\n{}", text());
        };
        let (to_guest, to_host) = (tcp(&[]), tcp(&["-R"]));
        let ping = self.net.run(&["ping", "-q", "-c", "100", "-i", "0.02", GUEST]);
        [
            megabytes_a_second(&sequential),
            random.trim().parse().unwrap(),
            to_guest,
            to_host,
            average(&ping),
        ]
    }

    /// Runs a command in the guest; what it printed.
    fn ssh(&self, command: &str, input: Option<File>) -> String {
        let ssh = self.login.ssh(GUEST);
        let mut inside = self.net.command(&[]);
        inside.arg(ssh.get_program()).args(ssh.get_args()).arg(command);
        inside.stdin(input.map_or_else(Stdio::null, Stdio::from));
        let output = inside.output().unwrap();
        assert!(output.status.success(), "{inside:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Out of dd's last line: `268435456 bytes (268 MB, 256 MiB) copied, 0.25 s, 1.1 GB/s`.
fn megabytes_a_second(dd: &str) -> f64 {
    let line = dd.lines().find(|line| line.contains("copied")).unwrap_or_else(|| panic!("{dd}"));
    let bytes: f64 = line.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
    let (_, rest) = line.split_once("copied, ").unwrap();
    let seconds: f64 = rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
    bytes / seconds / 1e6
}

/// Out of ping's last line: `rtt min/avg/max/mdev = 0.1/0.2/0.3/0.1 ms`.
fn average(ping: &str) -> f64 {
    let (_, numbers) = ping.split_once(" = ").unwrap_or_else(|| panic!("{ping}"));
    numbers.split('/').nth(1).and_then(|n| n.parse().ok()).unwrap()
}
