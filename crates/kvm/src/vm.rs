//! The virtual machine: RAM slots, interrupt controllers, interrupt lines and doorbells.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use bus::IrqLine;
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_cpuid_entry2, kvm_pit_config,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use memory::{GuestMemory, GuestMemoryBackend, GuestMemoryRegion};
use spec::{Capability, CpuTemplate};
use vcpu::{Error, Vcpu, Vm};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::cpu::KvmVcpu;
use crate::cpuid::{self, Place};
use crate::{failed, kick, open_kvm};

/// Where KVM keeps the task state segment of Intel's real-mode emulation: three pages above every
/// device, below 4 GiB. Its identity map is the page below.
const TSS_ADDRESS: usize = 0xFFFB_D000;
const IDENTITY_MAP_ADDRESS: u64 = 0xFFFB_C000;
/// Inputs of the in-kernel IO-APIC.
const GSI_COUNT: u32 = 24;
/// The most leaves of CPUID that KVM lists.
const CPUID_ENTRIES_MAX: usize = kvm_bindings::KVM_MAX_CPUID_ENTRIES;

/// What the host's KVM must offer, with the kernel's names.
pub const REQUIRED_CAPABILITIES: [(Cap, &str); 15] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// How a machine wants its vCPUs.
#[derive(Debug, Clone)]
pub struct Options {
    /// vCPUs that the machine will make, 1 to 32: CPUID tells the guest.
    pub vcpu_count: u8,
    /// Two vCPUs each share a core, as far as CPUID tells.
    pub smt: bool,
    /// KVM logs which pages the guest writes; see [`KvmVm::collect_dirty_pages`].
    pub track_dirty_pages: bool,
    /// Changes to what the host's CPU offers.
    pub cpu_template: CpuTemplate,
}

impl Default for Options {
    fn default() -> Self {
        let cpu_template = CpuTemplate::default();
        Self { vcpu_count: 1, smt: false, track_dirty_pages: false, cpu_template }
    }
}

/// What must live as long as any vCPU: with the descriptor go the interrupt lines, and KVM reaches
/// into the memory as long as a vCPU runs.
pub(crate) struct Body {
    // First, so that it is dropped first.
    fd: VmFd,
    memory: Arc<GuestMemory>,
}

/// A virtual machine of KVM.
pub struct KvmVm {
    body: Arc<Body>,
    options: Options,
    /// What KVM supports, with the template's changes.
    cpuid: Vec<kvm_cpuid_entry2>,
    msr_indices: Vec<u32>,
    tsc_deadline: bool,
    lines: Mutex<BTreeMap<u32, Arc<KvmLine>>>,
}

impl KvmVm {
    /// Makes a virtual machine over `memory` and hides its kind behind the contract.
    #[expect(clippy::new_ret_no_self, reason = "a machine knows its CPU by the contract alone")]
    pub fn new(memory: Arc<GuestMemory>, options: Options) -> Result<Arc<dyn Vm>, Error> {
        Ok(Self::open(memory, options)?)
    }

    /// Makes a virtual machine over `memory`: RAM slots, interrupt controllers and timer.
    pub fn open(memory: Arc<GuestMemory>, options: Options) -> Result<Arc<Self>, Error> {
        if !(1..=32).contains(&options.vcpu_count) {
            let text = format!("{} vCPUs: a machine has 1 to 32", options.vcpu_count);
            return Err(Error::Unsupported(text));
        }
        kick::install_handler();
        let kvm = open_kvm()?;
        check_capabilities(&kvm, options.cpu_template.capabilities())?;
        let (vendor, signature) = cpuid::host_cpu();
        let refused = |e: spec::Error| Error::Unsupported(e.to_string());
        options.cpu_template.check_cpu(&vendor, signature).map_err(refused)?;
        let supported = kvm
            .get_supported_cpuid(CPUID_ENTRIES_MAX)
            .map_err(|e| failed("KVM_GET_SUPPORTED_CPUID", e))?;
        let cpuid = cpuid::modified(supported.as_slice(), options.cpu_template.cpuid())?;
        let fd = create_vm(&kvm)?;
        let vm = Self {
            cpuid,
            msr_indices: msr_indices(&kvm, &options.cpu_template)?,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            body: Arc::new(Body { fd, memory }),
            options,
            lines: Mutex::default(),
        };
        vm.map_memory()?;
        vm.create_interrupt_controllers()?;
        Ok(Arc::new(vm))
    }

    /// Marks the pages that the guest wrote since the last call in the memory's own log, where the
    /// writes of devices are already. Only with [`Options::track_dirty_pages`], and while no vCPU
    /// runs.
    pub fn collect_dirty_pages(&self) -> Result<(), Error> {
        if !self.options.track_dirty_pages {
            let text = "this machine does not log written pages: ask for that when it is made";
            return Err(Error::Unsupported(text.to_string()));
        }
        for (slot, region) in (0u32..).zip(self.body.memory.iter()) {
            let bitmap = self
                .body
                .fd
                .get_dirty_log(slot, region.len() as usize)
                .map_err(|e| failed(format!("KVM_GET_DIRTY_LOG of slot {slot}"), e))?;
            let log = (**region).bitmap();
            for (word, mut bits) in bitmap.into_iter().enumerate() {
                while bits != 0 {
                    log.set_dirty(word * 64 + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
            }
        }
        Ok(())
    }

    fn map_memory(&self) -> Result<(), Error> {
        let log = if self.options.track_dirty_pages { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        for (slot, region) in (0u32..).zip(self.body.memory.iter()) {
            let kvm_region = kvm_userspace_memory_region {
                slot,
                flags: log,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is a mapping of the body's memory, which the VM and every vCPU of
            // it keep alive, and which nobody accesses other than as memory shared with the guest.
            unsafe { self.body.fd.set_user_memory_region(kvm_region) }.map_err(|e| {
                let (start, mib) = (region.start_addr().0, region.len() >> 20);
                failed(format!("give the guest {mib} MiB of RAM at {start:#x}"), e)
            })?;
        }
        Ok(())
    }

    fn create_interrupt_controllers(&self) -> Result<(), Error> {
        let fd = &self.body.fd;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(|e| failed("KVM_SET_IDENTITY_MAP_ADDR", e))?;
        fd.set_tss_address(TSS_ADDRESS).map_err(|e| failed("KVM_SET_TSS_ADDR", e))?;
        fd.create_irq_chip().map_err(|e| failed("KVM_CREATE_IRQCHIP", e))?;
        // The speaker's port is part of the timer's, and Linux calibrates with it.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(|e| failed("KVM_CREATE_PIT2", e))
    }

    fn place(&self, id: u8) -> Place {
        Place {
            id,
            count: self.options.vcpu_count,
            threads_per_core: if self.options.smt && self.options.vcpu_count > 1 { 2 } else { 1 },
            tsc_deadline: self.tsc_deadline,
        }
    }
}

impl Vm for KvmVm {
    fn vcpu(&self, id: u8) -> Result<Box<dyn Vcpu>, Error> {
        if id >= self.options.vcpu_count {
            let count = self.options.vcpu_count;
            return Err(Error::Unsupported(format!("vCPU {id} of a machine of {count}")));
        }
        let fd = self
            .body
            .fd
            .create_vcpu(u64::from(id))
            .map_err(|e| failed(format!("KVM_CREATE_VCPU {id}"), e))?;
        let cpuid = cpuid::for_vcpu(&self.cpuid, self.place(id), cpuid::host_leaf);
        Ok(Box::new(KvmVcpu::set_up(
            id,
            fd,
            self.body.clone(),
            &cpuid,
            self.options.cpu_template.msrs(),
            &self.msr_indices,
        )?))
    }

    fn irq_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, Error> {
        if gsi >= GSI_COUNT {
            return Err(Error::Unsupported(format!("interrupt line {gsi}: there are 0 to 23")));
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&gsi) {
            return Ok(line.clone());
        }
        let event = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Host {
            what: format!("make the eventfd of interrupt line {gsi}"),
            source,
        })?;
        self.body
            .fd
            .register_irqfd(&event, gsi)
            .map_err(|e| failed(format!("KVM_IRQFD of interrupt line {gsi}"), e))?;
        let line = Arc::new(KvmLine(event));
        lines.insert(gsi, line.clone());
        Ok(line)
    }

    fn doorbell(&self, address: u64, value: u32, event: BorrowedFd<'_>) -> Result<bool, Error> {
        let what = || format!("KVM_IOEVENTFD at {address:#x} for {value}");
        let copy =
            event.try_clone_to_owned().map_err(|source| Error::Host { what: what(), source })?;
        // SAFETY: the descriptor is ours alone, and `event` is an eventfd as the contract says; if
        // it is none, KVM refuses it. KVM keeps a reference of its own.
        let event = unsafe { EventFd::from_raw_fd(copy.into_raw_fd()) };
        self.body
            .fd
            .register_ioevent(&event, &IoEventAddress::Mmio(address), value)
            .map_err(|e| failed(what(), e))?;
        Ok(true)
    }

    fn name(&self) -> &'static str {
        "kvm"
    }
}

/// An interrupt line as an irqfd: KVM turns each write into one edge.
struct KvmLine(EventFd);

impl IrqLine for KvmLine {
    fn trigger(&self) {
        // The write can only fail when 2^64-1 edges wait, and then one more makes no difference.
        let _ = self.0.write(1);
    }
}

/// The MSRs that are saved with a vCPU: those that KVM lists, and those that the template changes.
fn msr_indices(kvm: &Kvm, template: &CpuTemplate) -> Result<Vec<u32>, Error> {
    let listed = kvm.get_msr_index_list().map_err(|e| failed("KVM_GET_MSR_INDEX_LIST", e))?;
    let mut indices = listed.as_slice().to_vec();
    for modifier in template.msrs() {
        if !indices.contains(&modifier.index) {
            indices.push(modifier.index);
        }
    }
    Ok(indices)
}

/// Refuses hosts whose KVM lacks something.
pub(crate) fn check_capabilities(kvm: &Kvm, template: &[Capability]) -> Result<(), Error> {
    if kvm.get_api_version() != 12 {
        let text = format!("KVM's API has version {}, 12 is needed", kvm.get_api_version());
        return Err(Error::Unsupported(text));
    }
    let mut missing: Vec<String> = REQUIRED_CAPABILITIES
        .iter()
        .filter(|(cap, _)| !template.contains(&Capability::Waived(*cap as u32)))
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| (*name).to_string())
        .collect();
    for capability in template {
        match *capability {
            Capability::Required(n) if kvm.check_extension_raw(n.into()) <= 0 => {
                missing.push(format!("capability {n}"));
            }
            Capability::Required(_) | Capability::Waived(_) => {}
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(", ");
    Err(Error::Unsupported(format!("this host's KVM lacks {names}: use the software CPU")))
}

/// `KVM_CREATE_VM`, again when a signal interrupted it.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, Error> {
    const ATTEMPTS_MAX: u32 = 5;
    let mut attempt = 1;
    loop {
        match kvm.create_vm() {
            Ok(fd) => return Ok(fd),
            Err(e) if e.errno() == libc::EINTR && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(e) => return Err(failed("KVM_CREATE_VM", e)),
        }
    }
}
