//! Linux on `sparkler-vmm --cpu kvm`, to user space: on the host's own KVM if that is fit, else in a
//! machine inside QEMU that has a fit one (`guest_suite::nested`).
//!
//! All runs share one machine. A run is a configuration file, whose paths are relative; a shell
//! script runs one after the other. The ignored test `bench_kvm` compares with QEMU's microvm on
//! KVM, in the same machine; as the machine is emulated, only the ratio means something.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use guest_suite::nested::{self, NestedError, Options};
use image::kernel::Kernel;
use image::{Cache, Quiet, starter};
use serde_json::json;

use support::Guest;

const NAME: &str = "nested_kvm";
/// The folder with everything, in the nested machine.
const FOLDER: &str = "/vm";
const PATIENCE: Duration = Duration::from_secs(150);
const DISK_MIB: u64 = 16;

/// A machine to start, and what its user space must print.
struct Run {
    name: &'static str,
    vcpus: u8,
    on_disk: bool,
    command: &'static str,
    expected: &'static str,
}

const RUNS: [Run; 4] = [
    Run {
        name: "initramfs",
        vcpus: 1,
        on_disk: false,
        command: "echo user space on $(nproc)",
        expected: "user space on 1",
    },
    Run {
        name: "initramfs-2",
        vcpus: 2,
        on_disk: false,
        command: "echo user space on $(nproc)",
        expected: "user space on 2",
    },
    Run {
        name: "disk",
        vcpus: 1,
        on_disk: true,
        command: "echo kept > /root/file && echo disk on $(nproc)",
        expected: "disk on 1",
    },
    Run {
        name: "disk-2",
        vcpus: 2,
        on_disk: true,
        command: "echo disk on $(nproc), file $(cat /root/file)",
        expected: "disk on 2, file kept",
    },
];

#[test]
fn linux_boots_on_kvm() {
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    let stage = Stage::new(&cache, &kernel);
    for run in &RUNS {
        stage.add(run);
    }
    let Some(text) = stage.execute(&script()) else { return };
    for Run { name, expected, .. } in &RUNS {
        let (begin, end) = (format!("@ begin {name}"), format!("@ end {name} 0"));
        let own = support::between(&text, &begin, &end);
        let own = own.unwrap_or_else(|| panic!("{name} did not end with status 0:\n{text}"));
        assert!(own.contains(expected), "{name}: no {expected:?} in {own}");
    }
}

fn script() -> String {
    let mut script = String::new();
    for Run { name, .. } in &RUNS {
        // Writing to a string cannot fail.
        let _ = writeln!(
            script,
            "echo '@ begin {name}'\n\
             ./sparkler-vmm --no-api --cpu kvm --config-file {name}.json < /dev/null\n\
             echo \"@ end {name} $?\""
        );
    }
    script
}

/// What the runs need, in a folder of the host.
struct Stage<'a> {
    cache: &'a Cache,
    kernel: &'a Kernel,
    folder: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    fn new(cache: &'a Cache, kernel: &'a Kernel) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink(&kernel.vmlinux, at("kernel")).unwrap();
        symlink(support::vmm(), at("sparkler-vmm")).unwrap();
        let disk = starter::disk(cache, DISK_MIB, &Quiet).unwrap();
        support::copy(&disk, &at("disk"));
        Stage { cache, kernel, folder }
    }

    /// Adds the files of a run: its configuration, and an initramfs with its command.
    fn add(&self, run: &Run) {
        let (root, initrd) = if run.on_disk {
            ("root=/dev/vda rw", starter::root_initramfs(self.cache, self.kernel, &Quiet))
        } else {
            ("", starter::initramfs(self.cache, self.kernel, &Quiet))
        };
        let mut archive = fs::read(initrd.unwrap()).unwrap();
        archive
            .extend(starter::command_overlay::<_, &str>(&["sh", "-c", run.command], &[]).unwrap());
        let name = format!("{}.initrd", run.name);
        fs::write(self.folder.path().join(&name), archive).unwrap();
        let mut guest = Guest::new(self.kernel, root);
        guest.initrd = Some(PathBuf::from(name));
        guest.vcpus = run.vcpus;
        if run.on_disk {
            guest.disks.push((PathBuf::from("disk"), false));
        }
        let mut config = guest.config();
        config["boot-source"]["kernel_image_path"] = json!("kernel");
        let path = self.folder.path().join(format!("{}.json", run.name));
        fs::write(path, config.to_string()).unwrap();
    }

    /// Runs a script in the folder, where KVM is fit; what it wrote.
    fn execute(&self, script: &str) -> Option<String> {
        let fitness = kvm::probe::probe();
        if fitness.usable {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(self.folder.path());
            return Some(support::finish(&mut command, PATIENCE).text);
        }
        self.execute_nested(script, &[], &fitness.reason)
    }

    /// Runs a script in a nested machine, with further programs of the host and their libraries.
    fn execute_nested(&self, script: &str, more: &[&Path], why: &str) -> Option<String> {
        let mut files: Vec<(PathBuf, String)> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), format!("{FOLDER}/{}", path.file_name().unwrap().display())))
            .collect();
        let mut libraries: Vec<PathBuf> = Vec::new();
        for program in more.iter().copied().chain([support::vmm().as_path()]) {
            libraries.extend(nested::libraries(program).unwrap());
        }
        libraries.extend(more.iter().map(|path| path.to_path_buf()));
        libraries.sort();
        libraries.dedup();
        files.extend(libraries.into_iter().map(|path| (path.clone(), path.display().to_string())));
        let files: Vec<(&Path, &str)> =
            files.iter().map(|(from, to)| (from.as_path(), to.as_str())).collect();
        let options = Options { cpus: 2, memory_mib: 3072, time_max: PATIENCE };
        match nested::run_with(&format!("cd {FOLDER}\n{script}"), &files, &options) {
            Ok(output) => Some(output.text),
            Err(missing @ NestedError::Missing(_)) => {
                let why = format!("the host's KVM is not fit ({why}), and {missing}");
                support::skip(NAME, &why);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// How often each VMM starts; the median counts.
const STARTS: usize = 5;
/// Guest RAM is in the anonymous mappings of at least this size.
const RAM_KIB_MIN: u32 = 16 * 1024;
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// What its microvm loads.
const QEMU_FILES: [&str; 4] = [
    "/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
    "/usr/share/seabios/bios-microvm.bin",
];

/// `cargo test --release --package sparkler-vmm --test nested_kvm -- --ignored --nocapture`
#[test]
#[ignore = "a benchmark"]
fn bench_kvm() {
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    if !support::has_programs(NAME, &[("qemu-system-x86_64", "qemu-system-x86")]) {
        return;
    }
    let stage = Stage::new(&cache, &kernel);
    let run = |name, command| Run { name, vcpus: 1, on_disk: false, command, expected: "" };
    stage.add(&run("bench", "echo user space"));
    stage.add(&run("wait", "echo user space; sleep 1000"));
    let line = Guest::new(&kernel, "").command_line();
    let files: Vec<&Path> =
        [QEMU].iter().chain(&QEMU_FILES).map(Path::new).filter(|path| path.exists()).collect();
    let Some(text) = stage.execute_nested(&bench_script(&line), &files, "a benchmark") else {
        return;
    };
    println!("kernel {} ({:?})", kernel.version, kernel.source);
    for vmm in ["sparkler-vmm", "qemu"] {
        let mut times: Vec<f64> = text.lines().filter_map(|line| seconds(line, vmm)).collect();
        times.sort_by(f64::total_cmp);
        println!("{vmm}: median {:?} s of {times:?}", times.get(times.len() / 2));
        assert_eq!(times.len(), STARTS, "{text}");
    }
    let memory = text.lines().find(|line| line.starts_with("@ memory"));
    println!("{}", memory.unwrap_or_else(|| panic!("no memory in {text}")));
}

/// The time in a line `@ VMM START END`.
fn seconds(line: &str, vmm: &str) -> Option<f64> {
    let mut words = line.strip_prefix("@ ")?.strip_prefix(vmm)?.split_whitespace();
    let (start, end) = (words.next()?, words.next()?);
    let number = |text: &str| text.parse::<f64>().ok();
    Some(number(end)? - number(start)?)
}

/// Starts both in alternation, and then looks at the memory of a running `sparkler-vmm`. Times are
/// those of /proc/uptime, in hundredths of a second.
fn bench_script(line: &str) -> String {
    let mut script = format!(
        "up() {{ read now rest < /proc/uptime; echo $now; }}\n\
         mkfifo pipe\n\
         measure() {{ name=$1; shift; start=$(up)\n\
         \"$@\" < /dev/null > pipe 2>&1 &\n\
         pid=$!\n\
         while read -r said; do\n\
         case $said in 'user space'*) echo \"@ $name $start $(up)\"; kill $pid;; esac\n\
         done < pipe\n\
         wait $pid 2> /dev/null; }}\n\
         ours() {{ measure sparkler-vmm ./sparkler-vmm --no-api --cpu kvm --level Error --config-file bench.json; }}\n\
         theirs() {{ measure qemu {QEMU} -M microvm -accel kvm -cpu host -smp 1 -m 256 -nodefaults \
         -no-user-config -no-reboot -nographic -serial stdio -kernel kernel -initrd bench.initrd \
         -append '{line}'; }}\n"
    );
    for _ in 0..STARTS {
        script.push_str("ours; theirs\n");
    }
    let _ = writeln!(
        script,
        "./sparkler-vmm --no-api --cpu kvm --level Error --config-file wait.json < /dev/null > out &\n\
         pid=$!\n\
         for second in 1 2 3 4 5 6 7 8 9 10 11 12; do grep -q 'user space' out && break; sleep 1; done\n\
         awk '/^[0-9a-f]+-/ {{ plain = $2 == \"rw-p\" && $6 == \"\" }}\n\
         /^Size:/ {{ ram = plain && $2 >= {RAM_KIB_MIN} }}\n\
         /^Rss:/ {{ if (ram) guest += $2; else own += $2 }}\n\
         /^Private_Dirty:/ && !ram {{ dirty += $2 }}\n\
         END {{ print \"@ memory beyond guest RAM: \" own \" KiB resident, \" dirty \" KiB of them private \
         and written; guest RAM \" guest \" KiB\" }}' /proc/$pid/smaps\n\
         kill $pid"
    );
    script
}
