//! `cargo xtask bench`: criterion's benches, and boots in alternation with QEMU.
//!
//! `bench boot` starts the same kernel, initramfs and command line in `sparkler-vmm` and in
//! `qemu-system-x86_64 -M microvm,acpi=off -accel tcg`, one after the other, and prints the median
//! time from the start of the process to the guest's first output from user space.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use crate::shell::{self, cargo};

/// Runs of each machine; the median counts.
const RUNS: usize = 5;
/// When a machine is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// The command line for a kernel that is given; those of the cache have their own.
const OPTIONS: &str = "console=ttyS0 quiet reboot=k panic=-1 random.trust_cpu=on no_timer_check";
/// What the guest's first process prints.
const MARK: &str = "sparkler-bench-mark";
/// Guest memory in MiB.
const MEMORY_MIB: u32 = 256;

/// Criterion's benches.
pub fn criterion() -> anyhow::Result<()> {
    shell::run("benches", &mut cargo(&["bench", "--workspace"]))
}

/// `sparkler-vmm` against QEMU, both with KVM, in one nested machine.
pub fn kvm() -> anyhow::Result<()> {
    let args = ["test", "--release", "--package", "sparkler-vmm", "--test", "nested_kvm"];
    let only = ["--", "--ignored", "--nocapture"];
    shell::run("boots with KVM", cargo(&args).args(only))
}

/// Disk and network against QEMU's.
pub fn io() -> anyhow::Result<()> {
    let args = ["test", "--release", "--package", "sparkler-vmm", "--test", "bench_io"];
    let only = ["--", "--ignored", "--nocapture"];
    shell::run("disk and network", cargo(&args).args(only))
}

/// A user land's work against QEMU's.
pub fn cpu() -> anyhow::Result<()> {
    let args = ["test", "--release", "--package", "sparkler-vmm", "--test", "bench_cpu"];
    let only = ["--", "--ignored", "--nocapture"];
    shell::run("a user land's work", cargo(&args).args(only))
}

/// How soon and how fast the API answers.
pub fn api() -> anyhow::Result<()> {
    let args = ["test", "--release", "--package", "sparkler-vmm", "--test", "bench_api"];
    shell::run("the API", cargo(&args).args(["--", "--ignored", "--nocapture"]))
}

/// Boots in alternation. `args`: `KERNEL INITRD`, or nothing for what the cache holds.
pub fn boot(args: &[&str]) -> anyhow::Result<()> {
    let build = ["build", "--release", "--package", "sparkler-vmm", "--package", "sparkler"];
    shell::run("release build", &mut cargo(&build))?;
    let guests = match args {
        [kernel, initrd] => vec![Guest::new("given", kernel, initrd, OPTIONS)],
        [] => cached_guests()?,
        _ => bail!("usage: cargo xtask bench boot [KERNEL INITRD]"),
    };
    println!("| kernel | sparkler, software CPU | QEMU microvm, TCG | ratio |");
    println!("| --- | --- | --- | --- |");
    for guest in &guests {
        compare(guest)?;
    }
    Ok(())
}

/// What both machines boot.
struct Guest {
    name: String,
    kernel: PathBuf,
    initrd: PathBuf,
    options: String,
}

impl Guest {
    fn new(name: &str, kernel: &str, initrd: &str, options: &str) -> Self {
        let (name, options) = (name.to_owned(), options.to_owned());
        Self { name, kernel: kernel.into(), initrd: initrd.into(), options }
    }

    /// The first process only prints: busybox's echo, with the mark as its argument.
    fn command_line(&self) -> String {
        format!("{} rdinit=/bin/echo -- {MARK}", self.options)
    }
}

/// The kernels in the cache, as `sparkler kernel ls --paths` lists them.
fn cached_guests() -> anyhow::Result<Vec<Guest>> {
    let mut list = Command::new(program("sparkler"));
    let list = shell::output(list.args(["kernel", "ls", "--paths"]))?;
    let guests: Vec<Guest> = list.lines().filter_map(guest_of_line).collect();
    if guests.is_empty() {
        bail!("no kernel in the cache; run `sparkler kernel pull` or `sparkler kernel build`");
    }
    Ok(guests)
}

fn guest_of_line(line: &str) -> Option<Guest> {
    let mut fields = line.split('\t');
    Some(Guest::new(fields.next()?, fields.next()?, fields.next()?, fields.next()?))
}

fn compare(guest: &Guest) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("sparkler-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let config = write_config(guest, &folder)?;
    let (mut ours, mut qemus) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(time_to_mark(&mut our_command(&config))?);
        if shell::has("qemu-system-x86_64") {
            qemus.push(time_to_mark(&mut qemu_command(guest))?);
        }
    }
    std::fs::remove_dir_all(&folder)?;
    let our = median(&mut ours).context("no runs")?;
    match median(&mut qemus) {
        Some(qemu) => println!(
            "| {} | {:.0} ms | {:.0} ms | {:.2} |",
            guest.name,
            our * 1e3,
            qemu * 1e3,
            our / qemu
        ),
        None => println!("| {} | {:.0} ms | not installed | |", guest.name, our * 1e3),
    }
    Ok(())
}

fn write_config(guest: &Guest, folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("vm.json");
    let config = json!({
        "boot-source": {
            "kernel_image_path": guest.kernel,
            "initrd_path": guest.initrd,
            "boot_args": guest.command_line(),
        },
        "drives": [],
        "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
    });
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

fn program(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| shell::root().join("target")).join("release").join(name)
}

fn our_command(config: &Path) -> Command {
    let mut command = Command::new(program("sparkler-vmm"));
    command.args(["--no-api", "--cpu", "soft", "--level", "Error", "--config-file"]).arg(config);
    command
}

fn qemu_command(guest: &Guest) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "microvm,acpi=off", "-accel", "tcg", "-cpu", "max", "-nodefaults"])
        .args(["-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio"])
        .args(["-m", &MEMORY_MIB.to_string(), "-append", &guest.command_line(), "-kernel"])
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initrd);
    command
}

/// Seconds from the start of the process until the mark comes out of it.
fn time_to_mark(command: &mut Command) -> anyhow::Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let found = wait_for_mark(&mut child, start);
    child.kill().ok();
    child.wait()?;
    found.with_context(|| format!("{command:?} did not print `{MARK}`"))
}

fn wait_for_mark(child: &mut Child, start: Instant) -> Option<f64> {
    let mut stdout = child.stdout.take()?;
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while start.elapsed() < PATIENCE {
        let n = stdout.read(&mut chunk).ok().filter(|n| *n > 0)?;
        seen.extend_from_slice(&chunk[..n]);
        // The command line, which the kernel may print, holds the mark too, but not alone.
        if seen.split(|&b| b == b'\n').any(|line| line.trim_ascii() == MARK.as_bytes()) {
            return Some(start.elapsed().as_secs_f64());
        }
    }
    None
}

fn median(times: &mut [f64]) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_few() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
    }
}
