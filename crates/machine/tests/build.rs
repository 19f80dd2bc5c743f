//! Machines built over a CPU back end that only takes notes.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bus::{IoSpace, IrqLine};
use devices::PowerSink;
use devices::block::BlockBackend;
use devices::rng::EntropySource;
use devices::status_port::{GuestEvent, GuestEvents};
use memory::{Bytes, GuestAddress};
use sparkler_machine as machine;
use sparkler_machine::{Machine, Parts, VirtioHandle, VirtioSlot, build};
use spec::{
    BootSource, CommandLine, DeviceId, Drive, DriveBackend, Entropy, InitrdPart, InstanceId,
    IoEngine, MemoryMib, NetworkInterface, VcpuCount, VmSpec,
};
use vcpu::{CpuState, Exit, Kick, MpState, Vcpu, Vm};
use virtio::GuestSlice;

/// What happened, in words.
#[derive(Default, Clone)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, note: String) {
        self.0.lock().unwrap().push(note);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl PowerSink for Notes {
    fn reset(&self) {
        self.add("reset".into());
    }
    fn power_off(&self) {
        self.add("off".into());
    }
}

impl GuestEvents for Notes {
    fn event(&self, event: GuestEvent) {
        self.add(format!("{event:?}"));
    }
}

impl Kick for Notes {
    fn kick(&self) {}
}

struct Line;

impl IrqLine for Line {
    fn trigger(&self) {}
}

/// A back end whose vCPUs remember their state.
struct NotingVm(Notes);

impl Vm for NotingVm {
    fn vcpu(&self, id: u8) -> Result<Box<dyn Vcpu>, vcpu::Error> {
        self.0.add(format!("vcpu {id}"));
        Ok(Box::new(NotingVcpu(CpuState::default())))
    }
    fn irq_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, vcpu::Error> {
        self.0.add(format!("line {gsi}"));
        Ok(Arc::new(Line))
    }
    fn doorbell(&self, _: u64, _: u32, _: BorrowedFd<'_>) -> Result<bool, vcpu::Error> {
        Ok(false)
    }
    fn name(&self) -> &'static str {
        "noting"
    }
}

struct NotingVcpu(CpuState);

impl Vcpu for NotingVcpu {
    fn set_state(&mut self, state: &CpuState) -> Result<(), vcpu::Error> {
        self.0 = state.clone();
        Ok(())
    }
    fn state(&mut self) -> Result<CpuState, vcpu::Error> {
        Ok(self.0.clone())
    }
    fn run(&mut self, _: &Arc<IoSpace>) -> Result<Exit, vcpu::Error> {
        Ok(Exit::Kicked)
    }
    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::new(Notes::default())
    }
}

struct NoDisk;

impl BlockBackend for NoDisk {
    fn len(&self) -> u64 {
        4096
    }
    fn read_at(&mut self, _: u64, _: &[GuestSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
    fn write_at(&mut self, _: u64, _: &[GuestSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn id(&self) -> [u8; 20] {
        [0; 20]
    }
}

struct NoEntropy;

impl EntropySource for NoEntropy {
    fn fill(&mut self, _: &mut [u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A kernel of one instruction at 1 MiB, entered in 64-bit mode.
fn kernel() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0x10_0000u64, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [120u64, 0x10_0000, 0x10_0000, 1, 0x1000, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.push(0xF4);
    file
}

struct Bench {
    folder: tempfile::TempDir,
    notes: Notes,
    events: Notes,
    metrics: Arc<metrics::Metrics>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vmlinux"), kernel()).unwrap();
        std::fs::write(folder.path().join("initrd"), b"initrd").unwrap();
        Self { folder, notes: Notes::default(), events: Notes::default(), metrics: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self, kernel: &Path) -> VmSpec {
        let line = CommandLine::new("console=ttyS0").unwrap();
        let boot = BootSource::new(kernel, line).unwrap();
        let mut spec = VmSpec::new(InstanceId::new("test").unwrap(), boot);
        spec.memory = MemoryMib::new(2).unwrap();
        spec
    }

    fn build(&self, spec: &VmSpec) -> Result<Machine, machine::Error> {
        let memory = memory::allocate(&memory::ranges(spec.memory.bytes())).unwrap();
        let vm = Arc::new(NotingVm(self.notes.clone()));
        let power = Arc::new(self.events.clone());
        let mut parts = Parts::new(Arc::new(memory), vm, power, Box::new(NoEntropy));
        parts.disks = spec.drives.iter().map(|_| Box::new(NoDisk) as _).collect();
        parts.guest_events = Some(Arc::new(self.events.clone()));
        parts.metrics = self.metrics.clone();
        let events = self.events.clone();
        parts.booted = Some(Box::new(move || events.add("booted".into())));
        build(spec, parts)
    }

    fn refusal(&self, spec: &VmSpec) -> String {
        let error = self.build(spec).err().expect("the machine should be refused").to_string();
        error.replace(&self.folder.path().display().to_string(), "/t")
    }
}

fn drive(id: &str, is_root: bool) -> Drive {
    let id = DeviceId::new("drive_id", id).unwrap();
    let mut drive = Drive::new(id, DriveBackend::File("/disk".into())).unwrap();
    drive.is_root = is_root;
    drive
}

fn kind(slot: &VirtioSlot) -> &'static str {
    match slot.handle {
        VirtioHandle::Block(_) => "block",
        VirtioHandle::Net(_) => "net",
        VirtioHandle::Vsock(_) => "vsock",
        VirtioHandle::Balloon(_) => "balloon",
        VirtioHandle::Rng(_) => "rng",
    }
}

#[test]
fn a_machine_with_everything() {
    let bench = Bench::new();
    let mut spec = bench.spec(&bench.path("vmlinux"));
    spec.vcpus = VcpuCount::new(3).unwrap();
    spec.boot.push_initrd(InitrdPart::File(bench.path("initrd"))).unwrap();
    spec.boot.push_initrd(InitrdPart::Bytes(Arc::new(*b"more"))).unwrap();
    spec.drives.put(drive("data", false)).unwrap();
    spec.drives.put(drive("root", true)).unwrap();
    spec.entropy = Some(Entropy::default());
    spec.boot_timer = true;
    let mut machine = bench.build(&spec).unwrap();

    let lines: Vec<_> = ["line 5", "line 6", "line 7", "line 4", "line 1"].map(String::from).into();
    let vcpus: Vec<_> = ["vcpu 0", "vcpu 1", "vcpu 2"].map(String::from).into();
    assert_eq!(bench.notes.take(), [lines, vcpus].concat());
    let states: Vec<_> = machine.vcpus.iter_mut().map(|v| v.state().unwrap()).collect();
    assert_eq!((states[0].rip, states[0].mp_state), (0x10_0000, MpState::Runnable));
    assert!(states[1..].iter().all(|s| s.mp_state == MpState::Uninitialized));

    let slots: Vec<_> =
        machine.virtio.iter().map(|s| (kind(s), s.id.as_str(), s.place.address)).collect();
    assert_eq!(
        slots,
        [
            ("block", "root", 0xC000_1000),
            ("block", "data", 0xC000_2000),
            ("rng", "rng", 0xC000_3000),
        ]
    );
    let doorbells: Vec<_> = machine.doorbells().map(|d| (d.address, d.queue)).collect();
    assert_eq!(doorbells, [(0xC000_1050, 0), (0xC000_2050, 0), (0xC000_3050, 0)]);
    assert_eq!(
        machine.command_line.as_str(),
        "console=ttyS0 pci=off root=/dev/vda rw virtio_mmio.device=4K@0xc0001000:5 \
         virtio_mmio.device=4K@0xc0002000:6 virtio_mmio.device=4K@0xc0003000:7"
    );
    let initrd = machine.initrd.unwrap();
    let mut bytes = vec![0; initrd.len as usize];
    machine.memory.read_slice(&mut bytes, GuestAddress(initrd.address)).unwrap();
    assert_eq!(bytes, b"initrd\0\0more");
    let timings = machine.timings.to_string();
    assert!(timings.starts_with("devices ") && timings.contains(", together "), "{timings}");
}

#[test]
fn devices_answer_at_their_addresses() {
    let bench = Bench::new();
    let mut spec = bench.spec(&bench.path("vmlinux"));
    spec.drives.put(drive("root", true)).unwrap();
    spec.boot_timer = true;
    let machine = bench.build(&spec).unwrap();
    let mut magic = [0; 4];
    machine.io.mmio.read(0xC000_1000, &mut magic);
    assert_eq!(&magic, b"virt");
    for (port, value, expected) in [
        (0x64, 0xFE, &["reset"][..]),
        (0x600, 0x34, &["off"]),
        (0x5C0, 0x01, &["InitStarted"]),
        (0x80, 0x12, &[]),
        (0xCF8, 0x12, &[]),
    ] {
        machine.io.ports.write(port, &[value]);
        assert_eq!(bench.events.take(), expected, "{port:#x}");
    }
    machine.io.mmio.write(0xC000_0000, &[123]);
    assert_eq!(bench.events.take(), ["booted"]);
    let mut status = [0];
    machine.io.ports.read(0x3F8 + 5, &mut status);
    assert_eq!(status, [0x60]);

    machine.i8042.ctrl_alt_del().unwrap();
    let metrics = &bench.metrics;
    let counts = [
        &metrics.vcpu.exit_io_in,
        &metrics.vcpu.exit_io_out,
        &metrics.vcpu.exit_mmio_read,
        &metrics.vcpu.exit_mmio_write,
        &metrics.interrupts.triggers,
        &metrics.i8042.reset_count,
    ];
    assert_eq!(counts.map(metrics::Counter::count), [1, 5, 1, 1, 1, 1]);
}

#[test]
fn refusals_say_what_is_wrong() {
    let bench = Bench::new();
    let good = bench.spec(&bench.path("vmlinux"));

    let missing = bench.spec(&bench.path("nothing"));
    assert_eq!(
        bench.refusal(&missing),
        "cannot open the kernel /t/nothing: No such file or directory (os error 2)"
    );
    let folder = bench.spec(bench.folder.path());
    assert_eq!(bench.refusal(&folder), "cannot open the kernel /t: it is not a regular file");
    let no_kernel = bench.spec(&bench.path("initrd"));
    assert_eq!(
        bench.refusal(&no_kernel),
        "kernel /t/initrd: is not a kernel: neither an x86-64 ELF file (vmlinux) nor a bzImage; it \
         starts with [69, 6e, 69, 74, 72, 64]"
    );

    let mut no_initrd = good.clone();
    no_initrd.boot.push_initrd(InitrdPart::File(bench.path("nothing"))).unwrap();
    assert_eq!(
        bench.refusal(&no_initrd),
        "cannot open the initrd /t/nothing: No such file or directory (os error 2)"
    );

    let mut network = good.clone();
    let id = DeviceId::new("iface_id", "eth0").unwrap();
    network.network.put(NetworkInterface::new(id, "tap0").unwrap()).unwrap();
    assert_eq!(
        bench.refusal(&network),
        "the machine has 1 network interfaces, and 0 were opened for them"
    );

    let mut vhost = good.clone();
    let id = DeviceId::new("drive_id", "d").unwrap();
    vhost.drives.put(Drive::new(id, DriveBackend::VhostUser("/s".into())).unwrap()).unwrap();
    assert_eq!(
        bench.refusal(&vhost),
        "drive d: vhost-user sockets are not supported by this version: remove it"
    );

    let mut overlay = good.clone();
    let id = DeviceId::new("drive_id", "d").unwrap();
    let mut drive_over = Drive::new(id, DriveBackend::Overlay("/o".into())).unwrap();
    drive_over.io_engine = IoEngine::Async;
    overlay.drives.put(drive_over).unwrap();
    assert_eq!(
        bench.refusal(&overlay),
        "drive d: overlays with the I/O engine Async are not supported by this version: remove it"
    );

    let mut crowded = good.clone();
    for n in 0..18 {
        crowded.drives.put(drive(&format!("d{n}"), false)).unwrap();
    }
    assert_eq!(
        bench.refusal(&crowded),
        "the machine has more than 17 virtio devices: remove drives or interfaces"
    );
}
