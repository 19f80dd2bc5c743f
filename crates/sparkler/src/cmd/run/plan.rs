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
/// How images name the user that a command runs as anyhow.
const ROOT_USERS: [&str; 4] = ["", "0", "root", "0:0"];

/// A machine to run.
pub struct Plan {
    /// The machine.
    pub spec: VmSpec,
    /// How its console is used.
    pub kind: Kind,
    /// Which kernel it is, in words.
    pub kernel: String,
    /// The machine's own disk over an image, which goes with it.
    pub root: Option<OwnDisk>,
}

/// What `--image` names.
enum Root {
    /// Nothing: a small system in memory.
    Memory,
    /// A disk of the user's.
    File(PathBuf),
    /// An image from the store, over which the machine gets a disk of its own.
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
            let place = starter::place_overlay(root.user(), root.folder())?;
            boot.push_initrd(InitrdPart::Bytes(place.into()))?;
        }
        let mut spec = VmSpec::new(InstanceId::new("sparkler-run")?, boot);
        (spec.vcpus, spec.memory) = (vcpus, memory);
        spec.entropy = Some(spec::Entropy::default());
        let own = root.own_disk()?;
        add_disks(&mut spec, root.disk(own.as_ref()), &args.disks)?;
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

    /// The root disk, and what a flush of it means.
    fn disk(&self, own: Option<&OwnDisk>) -> Option<(DriveBackend, CacheType)> {
        match own {
            // Nobody reads it when the machine has ended.
            Some(own) => Some((own.backend().clone(), CacheType::Unsafe)),
            None => self.file().map(users_disk),
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

    /// As whom the command runs, if not as root.
    fn user(&self) -> Option<&str> {
        match self {
            Self::Stored(image) => {
                Some(image.record.run.user.as_str()).filter(|user| !ROOT_USERS.contains(user))
            }
            Self::Memory | Self::File(_) => None,
        }
    }

    /// Where it runs. Container images that say nothing mean `/`; for other images it is up to init.
    fn folder(&self) -> Option<&str> {
        match self {
            Self::Stored(image) => match image.record.run.working_dir.as_str() {
                "" => image.record.source_id.as_ref().map(|_| "/"),
                folder => Some(folder),
            },
            Self::Memory | Self::File(_) => None,
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

/// The kernel of this name, or the best there is.
pub fn choose_kernel(wanted: Option<&str>, cache: &Cache, bar: &Bar) -> Result<Kernel> {
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

/// A user's own disk: what the guest flushes is to be on it.
fn users_disk(path: &Path) -> (DriveBackend, CacheType) {
    (DriveBackend::File(path.to_owned()), CacheType::Writeback)
}

/// The root first, then the other disks in their order.
fn add_disks(
    spec: &mut VmSpec,
    root: Option<(DriveBackend, CacheType)>,
    disks: &[DiskArg],
) -> Result<()> {
    let root = root.into_iter().map(|disk| (disk, false, true));
    let others = disks.iter().map(|disk| (users_disk(&disk.path), disk.read_only, false));
    for (number, ((backend, cache), read_only, is_root)) in root.chain(others).enumerate() {
        let id = DeviceId::new("drive_id", format!("disk{number}"))?;
        let mut drive = Drive::new(id, backend)?;
        (drive.cache, drive.read_only, drive.is_root) = (cache, read_only, is_root);
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
    fn disks_come_in_order_with_the_root_first() {
        let own = (DriveBackend::Overlay("own".into()), CacheType::Unsafe);
        for root in [None, Some(users_disk("root".as_ref())), Some(own)] {
            let boot = BootSource::new("k", CommandLine::default()).unwrap();
            let mut spec = VmSpec::new(InstanceId::new("x").unwrap(), boot);
            add_disks(&mut spec, root.clone(), &args("--disk a --disk b:ro").disks).unwrap();
            let ids: Vec<_> = spec.drives.iter().map(|drive| drive.id().as_str()).collect();
            assert_eq!(ids, &["disk0", "disk1", "disk2"][..spec.drives.len()]);
            let disks = spec.drives.iter().map(|drive| {
                ((drive.backend().clone(), drive.cache), drive.read_only, drive.is_root)
            });
            let others =
                [(users_disk("a".as_ref()), false, false), (users_disk("b".as_ref()), true, false)];
            let expected = root.into_iter().map(|disk| (disk, false, true)).chain(others);
            assert_eq!(disks.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }
}
