//! The order of assembly.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use boot::{FileSource, Initrd, Input, Kernel, Platform, Root, Source};
use bus::IoSpace;
use devices::i8042::I8042;
use devices::serial::Serial;
use memory::GuestMemory;
use spec::{CommandLine, InitrdPart, VmSpec};
use vcpu::{CpuState, Vcpu, Vm};

use crate::attach::{SLEEP, attach};
use crate::timings::Stopwatch;
use crate::{Doorbell, Error, Parts, Timings, VirtioSlot};

/// A machine that is ready for its first instruction.
pub struct Machine {
    /// Its RAM, with the kernel in it.
    pub memory: Arc<GuestMemory>,
    /// Its CPU back end.
    pub vm: Arc<dyn Vm>,
    /// What its vCPUs reach besides RAM.
    pub io: Arc<IoSpace>,
    /// Its vCPUs by number, each in its first state.
    pub vcpus: Vec<Box<dyn Vcpu>>,
    /// COM1, which takes input.
    pub serial: Arc<Serial>,
    /// The keyboard controller, which can press Ctrl-Alt-Del.
    pub i8042: Arc<I8042>,
    /// Its virtio devices, in the guest's order.
    pub virtio: Vec<VirtioSlot>,
    /// The kernel that was loaded.
    pub kernel: Kernel,
    /// The initial RAM disk that was loaded.
    pub initrd: Option<Initrd>,
    /// The command line that the kernel sees.
    pub command_line: CommandLine,
    /// How long building it took.
    pub timings: Timings,
}

impl Machine {
    /// The doorbells of all its virtio devices.
    pub fn doorbells(&self) -> impl Iterator<Item = Doorbell> + '_ {
        self.virtio.iter().flat_map(VirtioSlot::doorbells)
    }
}

/// Builds the machine that `spec` asks for out of `parts`.
pub fn build(spec: &VmSpec, parts: Parts) -> Result<Machine, Error> {
    let mut watch = Stopwatch::start();
    let mut timings = Timings::default();
    let (memory, vm) = (parts.memory.clone(), parts.vm.clone());
    let real_time_clock = parts.real_time_clock;
    let attached = attach(spec, parts)?;
    timings.devices = watch.lap();

    let kernel = load_kernel(spec, &memory)?;
    timings.kernel = watch.lap();
    let initrd = load_initrd(spec, &memory, kernel.end)?;
    timings.initrd = watch.lap();

    let virtio: Vec<_> = attached.virtio.iter().map(|slot| slot.place).collect();
    let root = spec.drives.root().map(|drive| (Root::of(drive), drive.read_only));
    let command_line = boot::command_line(spec.boot.command_line(), root, &virtio)?;
    let platform = Platform { vcpus: spec.vcpus.get(), virtio, sleep: SLEEP, real_time_clock };
    boot::write_tables(&memory, &platform)?;
    let state = boot::write_entry(&memory, &kernel, initrd, &command_line)?;
    timings.tables = watch.lap();

    let vcpus = make_vcpus(vm.as_ref(), spec.vcpus.get(), &state)?;
    timings.vcpus = watch.lap();
    Ok(Machine {
        memory,
        vm,
        io: Arc::new(attached.io),
        vcpus,
        serial: attached.serial,
        i8042: attached.i8042,
        virtio: attached.virtio,
        kernel,
        initrd,
        command_line,
        timings,
    })
}

fn load_kernel(spec: &VmSpec, memory: &GuestMemory) -> Result<Kernel, Error> {
    let path = spec.boot.kernel();
    let source = open("kernel", path)?;
    let name = path.to_string_lossy();
    Ok(boot::load_kernel(memory, Input { name: &name, source: &source })?)
}

fn load_initrd(
    spec: &VmSpec,
    memory: &GuestMemory,
    kernel_end: u64,
) -> Result<Option<Initrd>, Error> {
    let opened: Vec<_> = spec.boot.initrd().iter().map(open_part).collect::<Result<_, _>>()?;
    let inputs: Vec<_> =
        opened.iter().map(|(name, source)| Input { name, source: source.as_ref() }).collect();
    Ok(boot::load_initrd(memory, &inputs, kernel_end)?)
}

fn open_part(part: &InitrdPart) -> Result<(String, Box<dyn Source + '_>), Error> {
    match part {
        InitrdPart::File(path) => {
            Ok((path.to_string_lossy().into_owned(), Box::new(open("initrd", path)?)))
        }
        InitrdPart::Bytes(bytes) => Ok(("(built in)".to_owned(), Box::new(&bytes[..]))),
    }
}

fn open(what: &'static str, path: &Path) -> Result<FileSource, Error> {
    open_regular(path).map_err(|source| Error::Open { what, path: path.to_owned(), source })
}

fn open_regular(path: &Path) -> io::Result<FileSource> {
    // Opening a named pipe would wait for its other end, so ask what it is before.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    FileSource::new(File::open(path)?)
}

/// Makes the vCPUs. The first starts in `boot_state`, the others wait for it to wake them.
fn make_vcpus(vm: &dyn Vm, count: u8, boot_state: &CpuState) -> Result<Vec<Box<dyn Vcpu>>, Error> {
    let waiting = boot::application_processor();
    (0..count)
        .map(|id| {
            let mut vcpu = vm.vcpu(id)?;
            vcpu.set_state(if id == 0 { boot_state } else { &waiting })?;
            Ok(vcpu)
        })
        .collect()
}
