//! The machine around the vCPUs: shared interrupt controllers, time, wake-ups, and the ways from
//! an instruction to a device.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bus::{IoSpace, IrqLine};
use irqchip::{ApicBus, ApicConfig, IrqChip, IrqChipConfig, IrqInbox, LocalApic, Message, Sink};
use memory::{GuestMemory, RamView};
use spec::CpuTemplate;
use vcpu::{Error, Kick, Vcpu, Vm};

use crate::access::Modify;
use crate::cpu::Cpu;
use crate::jit::JitOptions;
use crate::run::SoftVcpu;
use crate::system::cpuid;

/// How a software VM is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many vCPUs the guest is told of: 1 to 32.
    pub vcpus: u8,
    /// Changes to what CPUID and the MSRs tell.
    pub cpu_template: CpuTemplate,
    /// How hot code is translated; None leaves all of it to the interpreter.
    pub jit: Option<JitOptions>,
    /// Log, at the end, what each vCPU did.
    pub stats: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vcpus: 1,
            cpu_template: CpuTemplate::default(),
            jit: Some(JitOptions::default()),
            stats: false,
        }
    }
}

/// A VM whose vCPUs are software.
pub struct SoftVm {
    shared: Arc<Shared>,
    ram: RamView,
    /// Bit n: vCPU n was made.
    made: AtomicU32,
}

impl SoftVm {
    /// A VM over `memory`.
    #[allow(clippy::new_ret_no_self)] // The contract hands out trait objects.
    pub fn new(memory: Arc<GuestMemory>, options: Options) -> Result<Arc<dyn Vm>, Error> {
        if !(1..=32).contains(&options.vcpus) {
            let text = format!("the software CPU runs 1 to 32 vCPUs, not {}", options.vcpus);
            return Err(Error::Unsupported(text));
        }
        cpuid::check_template(&options.cpu_template).map_err(Error::Unsupported)?;
        let shared = Arc::new(Shared::new(options));
        Ok(Arc::new(Self { shared, ram: RamView::new(memory), made: AtomicU32::new(0) }))
    }
}

impl Vm for SoftVm {
    fn vcpu(&self, id: u8) -> Result<Box<dyn Vcpu>, Error> {
        if id >= self.shared.vcpus {
            let text = format!("vCPU {id} is beyond the {} of this VM", self.shared.vcpus);
            return Err(Error::Unsupported(text));
        }
        if self.made.fetch_or(1 << id, Ordering::SeqCst) & 1 << id != 0 {
            return Err(Error::Unsupported(format!("vCPU {id} was made before")));
        }
        let mut cpu = Cpu::new(id, self.ram.clone(), self.shared.clone());
        cpu.modify_msrs().map_err(Error::Unsupported)?;
        Ok(Box::new(SoftVcpu::new(cpu)))
    }

    fn irq_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, Error> {
        if gsi >= 24 {
            return Err(Error::Unsupported(format!(
                "there is no interrupt line {gsi}, only 0 to 23"
            )));
        }
        Ok(Arc::new(Line { shared: self.shared.clone(), gsi }))
    }

    fn doorbell(&self, _: u64, _: u32, _: std::os::fd::BorrowedFd<'_>) -> Result<bool, Error> {
        Ok(false)
    }

    fn name(&self) -> &'static str {
        "soft"
    }
}

struct Line {
    shared: Arc<Shared>,
    gsi: u32,
}

impl IrqLine for Line {
    fn trigger(&self) {
        let shared = &*self.shared;
        shared.chip().pulse_gsi(self.gsi, &shared);
    }
}

/// The VM's clock: nanoseconds since the VM was made. The guest's TSC counts the same.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Nanoseconds since the start.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Seconds since 1970, for the real-time clock.
    pub fn unix_s() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
    }
}

/// What all vCPUs of a VM share.
pub struct Shared {
    chip: Mutex<IrqChip>,
    /// The way to every local APIC.
    pub bus: ApicBus,
    wakers: Vec<Arc<Waker>>,
    /// The VM's clock.
    pub clock: Clock,
    /// How many vCPUs there are.
    pub vcpus: u8,
    /// Changes to what CPUID and the MSRs tell.
    pub cpu_template: CpuTemplate,
    /// When the PIT wants to be polled; `u64::MAX` for never.
    pit_deadline: AtomicU64,
    /// How hot code is translated.
    pub jit: Option<JitOptions>,
    /// Log, at the end, what each vCPU did.
    pub stats: bool,
    /// Held while a page becomes one that holds code.
    pub code_lock: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let ids = 0..u32::from(options.vcpus);
        let inboxes = ids.map(|id| Arc::new(IrqInbox::new(new_apic(id).routing()))).collect();
        let wakers = (0..options.vcpus).map(|_| Arc::new(Waker::default())).collect();
        Self {
            chip: Mutex::new(IrqChip::new(IrqChipConfig::default())),
            bus: ApicBus::new(inboxes),
            wakers,
            clock: Clock { start: Instant::now() },
            vcpus: options.vcpus,
            cpu_template: options.cpu_template,
            pit_deadline: AtomicU64::new(u64::MAX),
            jit: options.jit,
            stats: options.stats,
            code_lock: Mutex::new(()),
        }
    }

    /// The interrupt controllers and timers that all vCPUs share.
    pub fn chip(&self) -> MutexGuard<'_, IrqChip> {
        self.chip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The waker of vCPU `id`.
    pub fn waker(&self, id: u8) -> &Arc<Waker> {
        &self.wakers[usize::from(id)]
    }

    /// All wakers, by vCPU.
    pub fn wakers(&self) -> &[Arc<Waker>] {
        &self.wakers
    }

    /// When the PIT wants to be polled.
    pub fn pit_deadline(&self) -> u64 {
        self.pit_deadline.load(Ordering::Relaxed)
    }

    /// Looks the PIT's deadline up anew; vCPU 0, which polls it, is woken if it changed.
    pub fn update_pit_deadline(&self, chip: &IrqChip) {
        let deadline = chip.next_deadline().unwrap_or(u64::MAX);
        if self.pit_deadline.swap(deadline, Ordering::Relaxed) != deadline {
            self.wakers[0].notify();
        }
    }

    fn wake(&self, vcpu: usize) {
        if let Some(waker) = self.wakers.get(vcpu) {
            waker.notify();
        }
    }

    /// Sends an IPI of vCPU `sender`.
    pub fn send_ipi(&self, sender: u8, ipi: &irqchip::Ipi) {
        self.bus.send_ipi(usize::from(sender), ipi, |vcpu| self.wake(vcpu));
    }
}

impl Sink for &Shared {
    fn message(&self, message: &Message) {
        self.bus.deliver(message, |vcpu| self.wake(vcpu));
    }

    fn extint(&self, level: bool) {
        self.bus.set_extint(level, |vcpu| self.wake(vcpu));
    }
}

/// What does not change in the local APIC of vCPU `id`.
pub fn apic_config(id: u32) -> ApicConfig {
    ApicConfig { id, bootstrap: id == 0, ..ApicConfig::default() }
}

/// A new local APIC for vCPU `id`, with the legacy pins wired as firmware leaves them.
pub fn new_apic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(apic_config(id));
    if id == 0 {
        apic.wire_legacy_pins();
    }
    apic
}

/// Wakes a vCPU that sleeps, and tells one that runs to look up.
#[derive(Default)]
pub struct Waker {
    /// Somebody wants [`vcpu::Exit::Kicked`].
    pub kicked: AtomicBool,
    /// Frames in `protect` wait to lose their writable TLB entries.
    pub protect_pending: AtomicBool,
    /// Frames that hold code now.
    pub protect: Mutex<Vec<u64>>,
    /// The vCPU runs guest code, or is about to: requests wait until it has seen them.
    pub in_guest: AtomicBool,
    sleeping: Mutex<bool>,
    signal: Condvar,
}

impl Waker {
    /// Ends the vCPU's sleep, or keeps the next one from starting.
    pub fn notify(&self) {
        let mut sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        *sleeping = false;
        drop(sleeping);
        self.signal.notify_one();
    }

    /// Sleeps until notified, for `timeout` at most. `ready` is asked once more before, behind the
    /// point from which no notification is missed.
    pub fn sleep(&self, timeout: Option<Duration>, ready: impl Fn() -> bool) {
        let mut sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        *sleeping = true;
        drop(sleeping);
        if ready() {
            return;
        }
        sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        while *sleeping {
            sleeping = match timeout {
                None => self.signal.wait(sleeping).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = timeout.saturating_sub(started.elapsed());
                    if left.is_zero() {
                        return;
                    }
                    let waited = self.signal.wait_timeout(sleeping, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Kick for Waker {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.notify();
    }
}

/// What a vCPU needs besides its registers to reach the world.
pub struct CpuPort {
    /// Guest RAM.
    pub ram: RamView,
    /// The local APIC.
    pub lapic: LocalApic,
    /// What other threads post to the local APIC.
    pub inbox: Arc<IrqInbox>,
    /// Devices.
    pub io: Arc<IoSpace>,
    /// This vCPU's waker.
    pub waker: Arc<Waker>,
    /// A read-modify-write on its way.
    pub modify: Modify,
    /// The memory operand of an SSE or x87 instruction.
    pub operand: simd::Operand,
}

impl CpuPort {
    /// For vCPU `id`, with no devices yet.
    pub fn new(id: u8, ram: RamView, shared: &Shared) -> Self {
        let inbox = shared.bus.inbox(usize::from(id)).expect("one inbox a vCPU").clone();
        Self {
            ram,
            lapic: new_apic(u32::from(id)),
            inbox,
            io: Arc::default(),
            waker: shared.waker(id).clone(),
            modify: Modify::default(),
            operand: simd::Operand::default(),
        }
    }
}
