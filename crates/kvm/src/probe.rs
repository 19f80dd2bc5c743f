//! The fitness probe: is the host's KVM one that runs guests, and at the processor's own speed?
//!
//! A throw-away guest of 64 KiB takes a few steps in ring 0, each of which some nested host is
//! known to fail: a million loop iterations, CPUID, a breakpoint, `cmpxchg16b`, `popcnt`, a round
//! trip to user mode. It announces each step on a port, so that the probe can name the one that
//! went wrong.
//!
//! The probe cannot hang: a timer's signal breaks into `KVM_RUN` again and again once the time is
//! up, and the whole runs on a thread of its own that is given up should even that not help.

use std::arch::global_asm;
use std::os::raw::c_int;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion};
use vcpu::{CpuState, DescriptorTable, Error, Segment};

use crate::vm::{check_capabilities, create_vm};
use crate::{failed, kick, msrs, open_kvm, state};

/// The limits of [`probe`].
const LIMITS: Limits = Limits {
    loop_max: Duration::from_millis(5),
    guest_max: Duration::from_millis(12),
    // A host that creates virtual machines slowly has its time.
    thread_max: Duration::from_millis(500),
};
/// How often the timer's signal comes again: one may land just before `KVM_RUN`.
const SIGNAL_AGAIN: Duration = Duration::from_millis(1);

/// Instructions in the probe's loop: a million times `dec` and `jnz`.
const LOOP_INSTRUCTIONS: f64 = 2e6;

const RAM_LEN: u64 = 0x10000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const PML4: u64 = 0x4000;
const PDPT: u64 = 0x5000;
const PAGE_DIRECTORY: u64 = 0x6000;
const CODE: u64 = 0x8000;
const STEP_PORT: u16 = 0x10;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The guest's million loop iterations.
    pub loop_max: Duration,
    /// All of the guest's steps.
    pub guest_max: Duration,
    /// Everything; then the probe's thread is given up.
    pub thread_max: Duration,
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitness {
    /// KVM runs guests here as it should.
    pub usable: bool,
    /// Why not, or what was found, in one sentence without a full stop.
    pub reason: String,
    /// Millions of instructions a second in the guest's kernel mode, where it got that far.
    pub guest_mips: Option<f64>,
    /// How long the probe took.
    pub took: Duration,
}

/// Probes the host's KVM. Takes a few milliseconds where KVM is fit, and is bounded everywhere.
pub fn probe() -> Fitness {
    probe_within(LIMITS)
}

/// [`probe`] with the caller's limits, for a host that is known to be slow but not to be broken.
pub fn probe_within(limits: Limits) -> Fitness {
    let start = Instant::now();
    let (sender, receiver) = mpsc::channel::<Result<Found, Error>>();
    let spawned = std::thread::Builder::new().name("kvm-probe".to_string()).spawn(move || {
        // The result goes out before the machine is torn down, which takes the host a while. The
        // receiver may have given up, which is its right.
        if let Err(error) = probe_here(limits, &|found| drop(sender.send(Ok(found)))) {
            let _ = sender.send(Err(error));
        }
    });
    let (reason, guest_mips) = match spawned.map(|_| receiver.recv_timeout(limits.thread_max)) {
        Ok(Ok(Ok(found))) => (found.verdict(limits), found.guest_mips()),
        Ok(Ok(Err(error))) => (Err(error.to_string()), None),
        Ok(Err(_)) => (Err("KVM does not come back from the probe's guest".to_string()), None),
        Err(error) => (Err(format!("cannot start the probe's thread: {error}")), None),
    };
    let usable = reason.is_ok();
    let reason = reason.unwrap_or_else(|e| e);
    Fitness { usable, reason, guest_mips, took: start.elapsed() }
}

/// What happened to the probe's guest.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    /// The steps it announced, with the time since its start.
    steps: Vec<(Step, Duration)>,
    end: End,
}

#[derive(Debug, Clone, PartialEq)]
enum End {
    Done,
    WrongResult,
    TimedOut,
    Died(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Loop = 1,
    Cpuid,
    Breakpoint,
    Cmpxchg16b,
    Popcnt,
    UserMode,
}

const STEPS: [Step; 6] =
    [Step::Loop, Step::Cpuid, Step::Breakpoint, Step::Cmpxchg16b, Step::Popcnt, Step::UserMode];

impl Step {
    fn what(self) -> &'static str {
        match self {
            Step::Loop => "a million loop iterations",
            Step::Cpuid => "CPUID as it was set",
            Step::Breakpoint => "a breakpoint (int3)",
            Step::Cmpxchg16b => "cmpxchg16b",
            Step::Popcnt => "popcnt",
            Step::UserMode => "a round trip to user mode (sysret, syscall)",
        }
    }
}

impl Found {
    /// A sentence for a fit KVM, or one for an unfit one.
    fn verdict(&self, limits: Limits) -> Result<String, String> {
        let step = self.steps.last().map_or("its first instruction", |(s, _)| s.what());
        match &self.end {
            End::Died(how) => return Err(format!("KVM fails in its guest at {step}: {how}")),
            End::WrongResult => return Err(format!("KVM's guest gets {step} wrong")),
            End::TimedOut => {
                let ms = limits.guest_max.as_millis();
                return Err(format!(
                    "KVM interprets its guest: after {ms} ms it is still at {step}"
                ));
            }
            End::Done => {}
        }
        match (self.loop_time(), self.guest_mips()) {
            (Some(time), Some(mips)) if time > limits.loop_max => Err(format!(
                "KVM interprets its guest: {} take {:.1} ms ({mips:.0} MIPS)",
                Step::Loop.what(),
                time.as_secs_f64() * 1e3
            )),
            (_, Some(mips)) => Ok(format!("KVM runs guests at {mips:.0} MIPS in kernel mode")),
            (_, None) => Err("KVM's guest skipped a step".to_string()),
        }
    }

    fn loop_time(&self) -> Option<Duration> {
        let at = |step| self.steps.iter().find(|(s, _)| *s == step).map(|(_, at)| *at);
        at(Step::Cpuid)?.checked_sub(at(Step::Loop)?)
    }

    fn guest_mips(&self) -> Option<f64> {
        self.loop_time().map(|t| LOOP_INSTRUCTIONS / t.as_secs_f64().max(1e-9) / 1e6)
    }
}

fn probe_here(limits: Limits, report: &dyn Fn(Found)) -> Result<(), Error> {
    kick::install_handler();
    kick::unblock_signal();
    let kvm = open_kvm()?;
    check_capabilities(&kvm, &[])?;
    let memory = guest_memory()?;
    let vm = create_vm(&kvm)?;
    map(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0).map_err(|e| failed("KVM_CREATE_VCPU 0", e))?;
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| failed("KVM_GET_SUPPORTED_CPUID", e))?;
    set_cpuid(&vcpu, supported.as_slice())?;
    set_registers(&vcpu)?;
    let timer = Timer::start(limits.guest_max)?;
    let found = run(&mut vcpu, limits.guest_max);
    drop(timer);
    report(found);
    Ok(())
}

/// Runs the guest to its end or to the end of its time.
fn run(vcpu: &mut VcpuFd, time: Duration) -> Found {
    let start = Instant::now();
    let mut steps = Vec::new();
    let end = loop {
        if start.elapsed() >= time {
            break End::TimedOut;
        }
        match vcpu.run() {
            Ok(VcpuExit::IoOut(STEP_PORT, [0, ..])) => break End::Done,
            Ok(VcpuExit::IoOut(STEP_PORT, [number, ..])) => {
                match STEPS.iter().find(|s| **s as u8 == *number) {
                    Some(step) => steps.push((*step, start.elapsed())),
                    None => break End::Died(format!("it announces step {number}")),
                }
            }
            Ok(VcpuExit::IoOut(..)) => break End::WrongResult,
            Ok(VcpuExit::InternalError) => {
                break End::Died("KVM cannot emulate it (KVM_EXIT_INTERNAL_ERROR)".to_string());
            }
            Ok(VcpuExit::Shutdown) => break End::Died("the guest triple-faults".to_string()),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => break End::Died(format!("unexpected exit {other:?}")),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {}
            Err(e) => break End::Died(format!("KVM_RUN: {e}")),
        }
    };
    Found { steps, end }
}

global_asm!(
    ".pushsection .rodata.sparkler_kvm_probe, \"a\", @progbits",
    ".hidden sparkler_kvm_probe_start",
    ".globl sparkler_kvm_probe_start",
    "sparkler_kvm_probe_start:",
    include_str!("probe.s"),
    ".hidden sparkler_kvm_probe_end",
    ".globl sparkler_kvm_probe_end",
    "sparkler_kvm_probe_end:",
    ".popsection",
    options(raw)
);

unsafe extern "C" {
    static sparkler_kvm_probe_start: u8;
    static sparkler_kvm_probe_end: u8;
}

/// The guest's code.
fn code() -> &'static [u8] {
    let start = &raw const sparkler_kvm_probe_start;
    let end = &raw const sparkler_kvm_probe_end;
    // SAFETY: both labels are in the same read-only section, the second behind the first, with
    // nothing but the guest's bytes between them.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// RAM with the code, the tables, and an identity map of its first 2 MiB for both rings.
fn guest_memory() -> Result<Arc<GuestMemory>, Error> {
    let broken = |e: String| Error::Unsupported(format!("cannot make the probe's memory: {e}"));
    let memory =
        memory::allocate(&[(GuestAddress(0), RAM_LEN)]).map_err(|e| broken(e.to_string()))?;
    // A gate for ring 0's code segment, whose offset the guest fills in.
    const INTERRUPT_GATE: u64 = 0x8E00 << 32 | 8 << 16;
    let words = [
        (GDT + 0x08, 0x00AF_9B00_0000_FFFF), // kernel code, 64 bits
        (GDT + 0x10, 0x00CF_9300_0000_FFFF), // kernel data
        (GDT + 0x20, 0x00CF_F300_0000_FFFF), // user data
        (GDT + 0x28, 0x00AF_FB00_0000_FFFF), // user code, 64 bits
        (IDT + 3 * 16, INTERRUPT_GATE),
        (PML4, PDPT | 7),
        (PDPT, PAGE_DIRECTORY | 7),
        (PAGE_DIRECTORY, 0x80 | 7),
    ];
    let write = |(at, word): (u64, u64)| memory.write_obj(word, GuestAddress(at));
    words.into_iter().try_for_each(write).map_err(|e| broken(e.to_string()))?;
    memory.write_slice(code(), GuestAddress(CODE)).map_err(|e| broken(e.to_string()))?;
    Ok(Arc::new(memory))
}

fn map(vm: &VmFd, memory: &Arc<GuestMemory>) -> Result<(), Error> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the mapping outlives the VM: both are locals of `probe_here`, and the VM, made
        // later, is dropped first.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|e| failed("give the probe's guest its memory", e))?;
    }
    Ok(())
}

/// What KVM supports, with a name of our own for the hypervisor.
fn set_cpuid(vcpu: &VcpuFd, supported: &[kvm_cpuid_entry2]) -> Result<(), Error> {
    let mut entries: Vec<_> =
        supported.iter().copied().filter(|e| e.function & 0xFFFF_FF00 != 0x4000_0000).collect();
    entries.push(kvm_cpuid_entry2 {
        function: 0x4000_0000,
        eax: 0x4000_0000,
        ebx: u32::from_le_bytes(*b"spar"),
        ecx: u32::from_le_bytes(*b"kler"),
        edx: u32::from_le_bytes(*b"spar"),
        ..Default::default()
    });
    let list = CpuId::from_entries(&entries)
        .map_err(|_| Error::Unsupported("KVM lists too many CPUID leaves".to_string()))?;
    vcpu.set_cpuid2(&list).map_err(|e| failed("KVM_SET_CPUID2", e))
}

/// 64-bit mode in ring 0 at the start of the code, with `syscall` ready but for its target.
fn set_registers(vcpu: &VcpuFd) -> Result<(), Error> {
    const EFER_SCE_LME_LMA: u64 = 1 | 1 << 8 | 1 << 10;
    const IA32_STAR: u32 = 0xC000_0081;
    const IA32_SFMASK: u32 = 0xC000_0084;
    let code = Segment { selector: 8, base: 0, limit: !0, attributes: 0xA9B, unusable: false };
    let data = Segment { selector: 16, attributes: 0xC93, ..code };
    let task = Segment { limit: 0x67, attributes: 0x8B, ..Segment::default() };
    let mut start = CpuState {
        rip: CODE,
        segments: [data, code, data, data, data, data],
        tr: task,
        ldtr: Segment { unusable: true, ..Segment::default() },
        gdtr: DescriptorTable { base: GDT, limit: 0x2F },
        idtr: DescriptorTable { base: IDT, limit: 4 * 16 - 1 },
        cr0: 0x8005_0033,
        cr3: PML4,
        cr4: 1 << 5 | 1 << 9,
        efer: EFER_SCE_LME_LMA,
        ..CpuState::default()
    };
    start.gpr[4] = RAM_LEN;
    // Without an in-kernel interrupt controller, KVM keeps the APIC base but does not look at it.
    vcpu.set_sregs(&state::sregs(&start)).map_err(|e| failed("KVM_SET_SREGS", e))?;
    vcpu.set_regs(&state::regs(&start)).map_err(|e| failed("KVM_SET_REGS", e))?;
    msrs::set(vcpu, &[(IA32_STAR, 8 << 32 | 0x1B << 48), (IA32_SFMASK, 0x200)])
}

/// A timer that signals the calling thread once its time is up, and then again and again.
struct Timer(libc::timer_t);

impl Timer {
    fn start(after: Duration) -> Result<Self, Error> {
        let os_error = |what: &str| Error::Host {
            what: what.to_string(),
            source: std::io::Error::last_os_error(),
        };
        // SAFETY: all-zero bytes are a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick::signal() as c_int;
        // SAFETY: gettid has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are to live locals.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } != 0 {
            return Err(os_error("timer_create for the probe"));
        }
        let timer = Self(timer);
        let time = |d: Duration| libc::timespec {
            tv_sec: d.as_secs() as libc::time_t,
            tv_nsec: d.subsec_nanos().into(),
        };
        let spec = libc::itimerspec { it_interval: time(SIGNAL_AGAIN), it_value: time(after) };
        // SAFETY: the timer is live, and `spec` is a live local.
        if unsafe { libc::timer_settime(timer.0, 0, &spec, std::ptr::null_mut()) } != 0 {
            return Err(os_error("timer_settime for the probe"));
        }
        Ok(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made in `start`, deleted only here.
        unsafe { libc::timer_delete(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_name_the_step() {
        let ms = Duration::from_millis;
        let fast: Vec<_> = STEPS.iter().zip(1..).map(|(s, at)| (*s, ms(at))).collect();
        let slow: Vec<_> = STEPS.iter().zip(1..).map(|(s, at)| (*s, ms(at * 8))).collect();
        for (steps, end, usable, word) in [
            (&fast[..], End::Done, true, "2000 MIPS"),
            (&slow[..], End::Done, false, "take 8.0 ms"),
            (&fast[..3], End::WrongResult, false, "int3"),
            (&fast[..1], End::TimedOut, false, "still at a million"),
            (&fast[..4], End::Died("boom".into()), false, "cmpxchg16b: boom"),
            (&[], End::Died("boom".into()), false, "first instruction"),
            (&[], End::Done, false, "skipped"),
        ] {
            let verdict = Found { steps: steps.to_vec(), end }.verdict(LIMITS);
            assert_eq!(verdict.is_ok(), usable, "{verdict:?}");
            assert!(verdict.unwrap_or_else(|e| e).contains(word), "{word}");
        }
    }

    /// Whatever this host's KVM is, the probe comes back soon and says something.
    #[test]
    fn the_probe_is_bounded() {
        let found = probe();
        assert!(!found.reason.is_empty());
        assert!(found.took < LIMITS.thread_max + Duration::from_millis(500), "{found:?}");
        println!("{found:?}");
    }
}
