//! From what was typed to the machine that it means: kernel, initramfs, command line, disks.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use image::disk::OwnDisk;
use image::kernel::cmdline::Features;
use image::kernel::{self, Kernel, Source};
use image::store::Image;
use image::{Cache, Store, starter};
use spec::{
    BootSource, CacheType, CommandLine, DeviceId, Drive, DriveBackend, InitrdPart, InstanceId,
    MemoryMib, VcpuCount, VmSpec,
};

use crate::cli::{DiskArg, RunArgs};
use crate::guest::session::Kind;
use crate::progress::Bar;

/// What `--kernel` understands besides paths.
const KERNEL_NAMES: [&str; 2] = ["debian", "microvm"];
/// The shell that reads commands from a pipe.
const SHELL: &str = "/bin/sh";

/// A machine to run.
pub struct Plan {
    /// The machine.
    pub spec: VmSpec,
    /// How its console is used.
    pub kind: Kind,
    /// Which kernel it is, in words.
    pub kernel: String,
    /// The machine's copy of an image, which goes with it.
    pub root: Option<OwnDisk>,
}

/// What `--image` names.
enum Root {
    /// Nothing: a small system in memory.
    Memory,
    /// A disk of the user's.
    File(PathBuf),
    /// An image from the store, of which the machine gets a copy.
    Stored(Box<Image>),
}

impl Plan {
    /// Finds out what `args` mean here and now; fetches what is missing.
    pub fn new(args: &RunArgs) -> Result<Self> {
        // What costs nothing to check comes before downloads.
        let vcpus = VcpuCount::new(args.cpus).context("--cpus")?;
        let memory = MemoryMib::new(args.memory).context("--memory")?;
        let root = Root::find(args.image.as_deref())?;
        let (kind, command) = session(args, &root);
        check_files(args, &root)?;
        let bar = Bar::new();
        let cache = Cache::open()?;
        let kernel = choose_kernel(args.kernel.as_deref(), &cache, &bar)?;
        let initrd = match root {
            Root::File(_) | Root::Stored(_) => starter::root_initramfs(&cache, &kernel, &bar)?,
            Root::Memory => starter::initramfs(&cache, &kernel, &bar)?,
        };
        drop(bar);
        let line = CommandLine::new(command_line(&kernel, kind)).context("kernel command line")?;
        let mut boot = BootSource::new(&kernel.vmlinux, line).context("--kernel")?;
        boot.push_initrd(InitrdPart::File(initrd))?;
        if let Some(command) = command {
            let overlay = starter::command_overlay(&command, &root.environment())?;
            boot.push_initrd(InitrdPart::Bytes(overlay.into()))?;
        }
        let mut spec = VmSpec::new(InstanceId::new("sparkler-run")?, boot);
        (spec.vcpus, spec.memory) = (vcpus, memory);
        spec.entropy = Some(spec::Entropy::default());
        let own = root.own_disk()?;
        let disk = own.as_ref().map(OwnDisk::path).or(root.file());
        add_disks(&mut spec, disk, &args.disks)?;
        Ok(Self { spec, kind, kernel: describe(&kernel), root: own })
    }
}

impl Root {
    /// A file if there is one of this name, or if it can only be one; else an image's name.
    fn find(image: Option<&Path>) -> Result<Self> {
        let Some(path) = image else { return Ok(Self::Memory) };
        let name = path.to_str().filter(|name| !name.starts_with(['/', '.']) && !path.exists());
        match name {
            Some(name) => {
                let image = Store::open()?.find(name).context("--image")?;
                let run = &image.record.run;
                if !["", "0", "root", "0:0"].contains(&run.user.as_str()) {
                    eprintln!("sparkler: {name} is to run as {}; here it runs as root", run.user);
                }
                Ok(Self::Stored(Box::new(image)))
            }
            None => Ok(Self::File(path.to_owned())),
        }
    }

    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory | Self::Stored(_) => None,
        }
    }

    fn own_disk(&self) -> Result<Option<OwnDisk>> {
        match self {
            Self::Stored(image) => Ok(Some(OwnDisk::new(&Store::open()?, image)?)),
            Self::Memory | Self::File(_) => Ok(None),
        }
    }

    /// What is to run: as Docker has it, a command takes the place of the image's arguments, and
    /// its entry point stays in front.
    fn command(&self, given: &[String]) -> Vec<String> {
        match self {
            Self::Stored(image) => {
                let run = &image.record.run;
                let arguments = if given.is_empty() { &run.cmd } else { given };
                [&run.entrypoint, arguments].concat()
            }
            Self::Memory | Self::File(_) => given.to_vec(),
        }
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Stored(image) => {
                image.record.run.env.iter().filter_map(|pair| pair.split_once('=')).collect()
            }
            Self::Memory | Self::File(_) => Vec::new(),
        }
    }
}

/// Opens what the user named and lets go of it again: a mistyped path is told before a download.
fn check_files(args: &RunArgs, root: &Root) -> Result<()> {
    if let Some(path) = root.file() {
        host::FileDisk::open(path, false)?;
    }
    for disk in &args.disks {
        host::FileDisk::open(&disk.path, disk.read_only)?;
    }
    if let Some(path) = args.kernel.as_deref().filter(|name| !KERNEL_NAMES.contains(name)) {
        let what =
            || format!("cannot open the kernel {path} (names are {})", KERNEL_NAMES.join(", "));
        std::fs::File::open(path).with_context(what)?;
    }
    Ok(())
}

/// How the console is used, and the command for init.
fn session(args: &RunArgs, root: &Root) -> (Kind, Option<Vec<String>>) {
    let command = Some(root.command(&args.command)).filter(|command| !command.is_empty());
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    match (terminal, command) {
        (true, command) => (Kind::Terminal, command),
        (false, Some(command)) => (Kind::Framed, Some(command)),
        // An image's own init knows no frames; the starter image's shell needs them for its end.
        (false, None) if args.image.is_some() => (Kind::Plain, None),
        (false, None) => (Kind::Framed, Some(vec![SHELL.to_owned()])),
    }
}

fn choose_kernel(wanted: Option<&str>, cache: &Cache, bar: &Bar) -> Result<Kernel> {
    let newest = |source| kernel::list(cache, source).map(|list| list.into_iter().next());
    match wanted {
        None => Ok(kernel::default(cache, bar)?),
        Some("debian") => match newest(Source::Debian)? {
            Some(kernel) => Ok(kernel),
            None => Ok(kernel::pull(cache, bar)?),
        },
        Some("microvm") => newest(Source::Built)?
            .context("no microVM kernel in the cache: make one with `sparkler kernel build`"),
        Some(path) => Ok(own_kernel(Path::new(path))),
    }
}

/// A kernel that the user brings; what it needs is built into it.
fn own_kernel(path: &Path) -> Kernel {
    Kernel {
        source: Source::Built,
        version: "own".to_owned(),
        package: String::new(),
        vmlinux: path.to_owned(),
        vmlinuz: None,
        config: None,
        modules: Vec::new(),
        made: SystemTime::UNIX_EPOCH,
        size: 0,
        id: String::new(),
    }
}

fn describe(kernel: &Kernel) -> String {
    match (kernel.package.is_empty(), kernel.source) {
        (true, _) => kernel.vmlinux.display().to_string(),
        (false, Source::Debian) => format!("debian ({})", kernel.version),
        (false, Source::Built) => format!("microvm ({})", kernel.version),
    }
}

fn command_line(kernel: &Kernel, kind: Kind) -> String {
    let features = match kind {
        // A single command, or a few, and then the machine is gone.
        Kind::Framed => Features::Few,
        Kind::Terminal | Kind::Plain => Features::All,
    };
    let mut words = vec![kernel::cmdline::default(kernel.source, features)];
    match kind {
        Kind::Framed => words.push("sparkler.tty=raw".to_owned()),
        Kind::Plain => {}
        Kind::Terminal => {
            let term = std::env::var("TERM").unwrap_or_default();
            if is_plain(&term) {
                words.push(format!("sparkler.term={term}"));
            }
            if let Some((rows, columns)) = host::terminal::size() {
                words.push(format!("sparkler.winsize={rows}x{columns}"));
            }
        }
    }
    words.join(" ")
}

/// Whether a text can stand on a kernel command line, unquoted.
fn is_plain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    !text.is_empty() && text.bytes().all(plain)
}

/// The image first, as the root disk, then the other disks in their order.
fn add_disks(spec: &mut VmSpec, root: Option<&Path>, disks: &[DiskArg]) -> Result<()> {
    let image = root.iter().map(|path| (*path, false, true));
    let others =
        disks.iter().map(|DiskArg { path, read_only }| (path.as_path(), *read_only, false));
    for (number, (path, read_only, is_root)) in image.chain(others).enumerate() {
        let id = DeviceId::new("drive_id", format!("disk{number}"))?;
        let mut drive = Drive::new(id, DriveBackend::File(path.to_owned()))?;
        (drive.read_only, drive.is_root) = (read_only, is_root);
        // A user's own disk: what the guest flushes is to be on it.
        drive.cache = CacheType::Writeback;
        spec.drives.put(drive)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn args(line: &str) -> RunArgs {
        let words = ["sparkler", "run"].into_iter().chain(line.split_whitespace());
        match Cli::parse_from(words).verb {
            Verb::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn impossible_sizes_are_refused_before_anything_is_fetched() {
        for (line, expected) in [
            ("--cpus 0", "--cpus: vcpu_count is 0; it must be from 1 to 32"),
            ("--cpus 33", "--cpus: vcpu_count is 33; it must be from 1 to 32"),
            ("--memory 0", "--memory: mem_size_mib is 0"),
            ("--memory 999999999", "--memory: mem_size_mib is 999999999"),
        ] {
            let message = format!("{:#}", Plan::new(&args(line)).err().unwrap());
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn disks_come_in_order_with_the_image_first() {
        let args = args("--disk a --disk b:ro --image root.ext4");
        let boot = BootSource::new("k", CommandLine::default()).unwrap();
        let mut spec = VmSpec::new(InstanceId::new("x").unwrap(), boot);
        add_disks(&mut spec, args.image.as_deref(), &args.disks).unwrap();
        let disks: Vec<_> = spec
            .drives
            .iter()
            .map(|drive| match drive.backend() {
                DriveBackend::File(path) => {
                    (path.to_str().unwrap(), drive.read_only, drive.is_root)
                }
                DriveBackend::VhostUser(_) => panic!("not asked for"),
            })
            .collect();
        assert_eq!(disks, [("root.ext4", false, true), ("a", false, false), ("b", true, false)]);
    }
}
