//! A machine for each `RUN`: the stage's disk is its root, and sparkler's init runs the command.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use host::SignalFd;
use host::signals::{SIGHUP, SIGINT, SIGTERM};
use image::cpio::Writer;
use image::dockerfile::build::{Ended, Runner};
use image::dockerfile::plan::Exec;
use image::kernel::Kernel;
use image::kernel::cmdline::{self, Features};
use image::{Cache, starter};
use spec::{
    BootSource, CacheType, CommandLine, DeviceId, Drive, DriveBackend, InitrdPart, InstanceId,
    MemoryMib, NetworkInterface, VcpuCount, VmSpec,
};
use vmm::{
    Console, Control, CpuChoice, Decision, End, GuestEvent, GuestEvents, Machine, Observer,
    Resources, Setup, Stage, Stop,
};

use super::console::Report;
use super::network::{self, Network};
use crate::cli::dockerfile::{self as cli, DockerfileArgs};
use crate::cmd::run::plan::choose_kernel;
use crate::progress::Bar;

/// What init is asked for: frames, no input, and /tmp on the disk.
const OPTIONS: &str = "sparkler.tty=raw sparkler.input=none sparkler.tmp=disk";
/// Bytes of a command with its arguments, and of a single argument, as Linux has it.
const COMMAND_MAX: usize = 128 << 10;

/// Makes machines for steps.
pub struct Machines<'a> {
    vcpus: VcpuCount,
    memory: MemoryMib,
    cpu: CpuChoice,
    timeout: Option<Duration>,
    network: cli::Network,
    kernel: Option<&'a str>,
    cache: &'a Cache,
    bar: &'a Bar,
    /// Found with the first step: an image without any needs no kernel.
    boot: OnceCell<(Kernel, PathBuf)>,
}

impl<'a> Machines<'a> {
    /// Machines as the user wants them.
    pub fn new(args: &'a DockerfileArgs, cache: &'a Cache, bar: &'a Bar) -> Result<Self> {
        Ok(Self {
            vcpus: VcpuCount::new(args.cpus).context("--cpus")?,
            memory: MemoryMib::new(args.memory).context("--memory")?,
            cpu: args.cpu.into(),
            timeout: args.timeout,
            network: args.network,
            kernel: args.kernel.as_deref(),
            cache,
            bar,
            boot: OnceCell::new(),
        })
    }

    fn boot(&self) -> Result<&(Kernel, PathBuf)> {
        if let Some(boot) = self.boot.get() {
            return Ok(boot);
        }
        if self.network == cli::Network::User && !network::is_installed() {
            eprintln!(
                "sparkler: RUN has no network: install Debian's package passt, or say --network none"
            );
        }
        let kernel = choose_kernel(self.kernel, self.cache, self.bar)?;
        let initrd = starter::root_initramfs(self.cache, &kernel, self.bar)?;
        Ok(self.boot.get_or_init(|| (kernel, initrd)))
    }

    fn spec(&self, disk: &Path, command: &Exec) -> Result<VmSpec> {
        let (kernel, initrd) = self.boot()?;
        let mut line = format!("{} {OPTIONS}", cmdline::default(kernel.source, Features::Few));
        if self.has_network(command) {
            line = format!("{line} {}", network::option());
        }
        let line = CommandLine::new(line).context("kernel command line")?;
        let mut boot = BootSource::new(&kernel.vmlinux, line).context("--kernel")?;
        boot.push_initrd(InitrdPart::File(initrd.clone()))?;
        boot.push_initrd(InitrdPart::Bytes(overlay(command)?.into()))?;
        let mut spec = VmSpec::new(InstanceId::new("sparkler-build")?, boot);
        (spec.vcpus, spec.memory) = (self.vcpus, self.memory);
        spec.entropy = Some(spec::Entropy::default());
        let id = DeviceId::new("drive_id", "root")?;
        let mut drive = Drive::new(id, DriveBackend::File(disk.to_owned()))?;
        drive.is_root = true;
        // If the host dies, so does the step: nothing need reach its disk before the end.
        drive.cache = CacheType::Unsafe;
        spec.drives.put(drive)?;
        if self.has_network(command) {
            let id = DeviceId::new("iface_id", "net")?;
            spec.network.put(NetworkInterface::new(id, network::PROGRAM)?)?;
        }
        Ok(spec)
    }

    fn has_network(&self, command: &Exec) -> bool {
        command.network && self.network == cli::Network::User && network::is_installed()
    }

    fn start(&self, disk: &Path, command: &Exec, report: &Report) -> Result<Started> {
        let spec = self.spec(disk, command)?;
        let mut resources = Resources::default();
        let mut network = None;
        if let Some(interface) = spec.network.iter().next() {
            let mut passt = Network::start(disk.parent().unwrap_or(Path::new(".")))?;
            resources.passt(interface, passt.connect()?)?;
            network = Some(passt);
        }
        // Before the machine's threads, which would take the signals.
        let signals = SignalFd::new(&[SIGINT, SIGTERM, SIGHUP]).context("cannot watch signals")?;
        let control = Control::new()?;
        let guest = Arc::new(Guest { report: report.clone(), control: control.clone() });
        let setup = Setup {
            console: Console { output: Box::new(report.output()), input: None },
            control: control.clone(),
            signals: Some(signals),
            observer: guest.clone(),
            guest_events: Some(guest),
            resources,
            ..Setup::plain()?
        };
        let machine = Machine::start_with(spec, self.cpu, setup)?;
        Ok(Started { machine, control, _network: network })
    }
}

/// A machine that runs, with its network.
struct Started {
    machine: Machine,
    control: Control,
    _network: Option<Network>,
}

impl Runner for Machines<'_> {
    fn run(&self, disk: &Path, command: &Exec) -> Ended {
        let report = Report::default();
        let Started { machine, control, _network } = match self.start(disk, command, &report) {
            Ok(started) => started,
            Err(error) => return Ended::Failed(format!("{error:#}")),
        };
        let clock = self.timeout.map(|timeout| Clock::start(timeout, control, report.clone()));
        let end = machine.wait();
        drop(clock);
        match (end, report.status()) {
            (End::Stopped(Stop::Signal(_) | Stop::User), _) => Ended::Interrupted,
            (_, _) if report.timed_out() => {
                Ended::TimedOut(self.timeout.unwrap_or_default().as_secs())
            }
            (End::Failed(error), _) => Ended::Failed(error.to_string()),
            (End::PowerOff | End::Reset | End::Stopped(Stop::Program), Some(status)) => {
                Ended::Status(status)
            }
            (End::PowerOff | End::Reset | End::Stopped(Stop::Program), None) => {
                if let Some(said) = report.last_words() {
                    eprint!("{said}");
                }
                Ended::Failed(
                    "its machine ended before the command did; it may need more --memory"
                        .to_owned(),
                )
            }
        }
    }
}

/// Listens to a machine's start and to its init.
struct Guest {
    report: Report,
    control: Control,
}

impl Observer for Guest {
    fn cpu(&self, _decision: &Decision) {}

    fn stage(&self, _stage: Stage) {}
}

impl GuestEvents for Guest {
    fn event(&self, event: GuestEvent) {
        match event {
            GuestEvent::InitStarted | GuestEvent::ProgramStarted => {}
            GuestEvent::Exited(status) => self.report.set_status(status),
            GuestEvent::Ended => {
                self.report.set_unmounted();
                self.control.end(End::Stopped(Stop::Program));
            }
        }
    }
}

/// Stops a machine when its time is over, unless it is dropped before.
struct Clock {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    fn start(timeout: Duration, control: Control, report: Report) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            if stopped.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                report.set_timed_out();
                control.end(End::Stopped(Stop::Program));
            }
        });
        Clock { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, the step has ended all the same.
            let _ = thread.join();
        }
    }
}

/// The command and all around it, as files of the initramfs.
fn overlay(command: &Exec) -> Result<Vec<u8>> {
    let list = |parts: &[&[String]]| -> Vec<u8> {
        let all = parts.iter().flat_map(|part| part.iter());
        all.flat_map(|text| text.bytes().chain([0])).collect()
    };
    let arguments = list(&[&command.command]);
    if arguments.len() > COMMAND_MAX {
        bail!("the command is longer than {} KiB", COMMAND_MAX >> 10);
    }
    let write = || -> io::Result<Vec<u8>> {
        let mut writer = Writer::new(Vec::new());
        writer.folder("sparkler", 0o755)?;
        writer.file("sparkler/cmd", 0o644, &arguments)?;
        writer.file("sparkler/env", 0o644, &list(&[&command.env, &command.proxies]))?;
        writer.file("sparkler/folder", 0o644, command.folder.as_bytes())?;
        if !command.user.is_empty() {
            writer.file("sparkler/user", 0o644, command.user.as_bytes())?;
        }
        writer.finish()
    };
    Ok(write()?)
}
