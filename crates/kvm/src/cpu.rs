//! One vCPU: its first set-up, its state, and the loop around `KVM_RUN`.

use std::sync::Arc;

use bus::IoSpace;
use kvm_bindings::{
    CpuId, KVM_EXIT_IO_IN, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_cpuid_entry2,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use spec::MsrModifier;
use vcpu::{CpuState, Error, Exit, Kick, Vcpu};

use crate::kick::{self, ExitFlag, Kicker};
use crate::vm::Body;
use crate::{failed, msrs, state};

/// Offsets of local vector table entries in the local APIC's page (SDM Vol. 3A, table 11-1).
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
/// Delivery modes of such an entry, in place (SDM Vol. 3A, figure 11-8).
const DELIVER_EXTINT: u32 = 7 << 8;
const DELIVER_NMI: u32 = 4 << 8;
/// What the PC bus reads where no device answers.
const OPEN_BUS: u8 = 0xFF;

/// A vCPU of KVM.
pub(crate) struct KvmVcpu {
    id: u8,
    fd: VcpuFd,
    /// The machine around it, which stays as long as its vCPUs do.
    _body: Arc<Body>,
    kicker: Arc<Kicker>,
    /// MSRs that this vCPU has, in the order in which they are saved.
    msr_indices: Vec<u32>,
}

/// What to do after one exit of `KVM_RUN`.
enum Step {
    Again,
    Leave(Exit),
}

impl KvmVcpu {
    /// Gives a new vCPU what a PC's firmware and its reset would: CPUID, MSRs, interrupt wiring.
    pub(crate) fn set_up(
        id: u8,
        fd: VcpuFd,
        body: Arc<Body>,
        cpuid: &[kvm_cpuid_entry2],
        modifiers: &[MsrModifier],
        msr_indices: &[u32],
    ) -> Result<Self, Error> {
        let entries = CpuId::from_entries(cpuid).map_err(|_| {
            Error::Unsupported(format!("{} CPUID entries are more than KVM takes", cpuid.len()))
        })?;
        fd.set_cpuid2(&entries).map_err(|e| failed(format!("KVM_SET_CPUID2 of vCPU {id}"), e))?;
        msrs::set_up(&fd, modifiers)?;
        wire_local_apic(&fd)?;
        let msr_indices = msrs::readable(&fd, msr_indices)?;
        Ok(Self { id, fd, _body: body, kicker: Kicker::new(), msr_indices })
    }

    /// Serves one return from `KVM_RUN`.
    fn step(&mut self, io: &IoSpace) -> Result<Step, Error> {
        let reason = match self.fd.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                self.serve_ports(io);
                return Ok(Step::Again);
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                io.mmio.read(address, data);
                return Ok(Step::Again);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                io.mmio.write(address, data);
                return Ok(Step::Again);
            }
            // The signal of a kick, or one that somebody else sent to this thread.
            Ok(VcpuExit::Intr) => return Ok(self.interrupted()),
            Err(e) if e.errno() == libc::EINTR => return Ok(self.interrupted()),
            // INIT or SIPI arrived, and the vCPU has to be entered anew.
            Err(e) if e.errno() == libc::EAGAIN => return Ok(Step::Again),
            // Not every kernel says which address it was.
            Err(e) if e.errno() == libc::EFAULT => {
                "the host cannot provide a page of guest memory: it is out of memory, or its \
                 limit for this process is reached"
                    .to_string()
            }
            Err(e) => {
                let rip = self.fd.get_regs().map_or(0, |r| r.rip);
                return Err(failed(format!("KVM_RUN of vCPU {} at {rip:#x}", self.id), e));
            }
            Ok(VcpuExit::Shutdown) => return Ok(Step::Leave(Exit::TripleFault)),
            Ok(VcpuExit::SystemEvent(kind, _)) => match kind {
                KVM_SYSTEM_EVENT_SHUTDOWN | KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_CRASH => {
                    return Ok(Step::Leave(Exit::Reset));
                }
                _ => format!("KVM reports the system event {kind}, which a PC has not"),
            },
            Ok(VcpuExit::FailEntry(code, cpu)) => {
                format!("the processor refuses to enter the guest: {code:#x} on host CPU {cpu}")
            }
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
                format!("the host cannot provide {size} bytes of guest memory at {gpa:#x}")
            }
            Ok(VcpuExit::InternalError) => self.internal_error(),
            Ok(other) => format!("KVM returned an exit that is not served: {other:?}"),
        };
        let rip = self.fd.get_regs().map_or(0, |r| r.rip);
        Err(Error::Stuck { id: self.id, rip, reason })
    }

    fn interrupted(&self) -> Step {
        if self.kicker.leave_if_kicked() { Step::Leave(Exit::Kicked) } else { Step::Again }
    }

    /// Port accesses: one element, or several of a string instruction.
    fn serve_ports(&mut self, io: &IoSpace) {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit was KVM_EXIT_IO, for which the kernel fills this member.
        let request = unsafe { run.__bindgen_anon_1.io };
        let (size, count) = (usize::from(request.size), request.count as usize);
        // SAFETY: the kernel put `count` elements of `size` bytes at this offset into the mapping
        // of which `run` is the start, and touches them again only in the next KVM_RUN.
        let data = unsafe {
            let start = std::ptr::from_mut(run).cast::<u8>().add(request.data_offset as usize);
            std::slice::from_raw_parts_mut(start, size * count)
        };
        let port = u64::from(request.port);
        for element in data.chunks_exact_mut(size.max(1)) {
            if u32::from(request.direction) == KVM_EXIT_IO_IN {
                element.fill(OPEN_BUS);
                io.ports.read(port, element);
            } else {
                io.ports.write(port, element);
            }
        }
    }

    /// Words for KVM's own failure, with the instruction that it could not emulate.
    fn internal_error(&mut self) -> String {
        // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member.
        let error = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let what = match error.suberror {
            1 => "KVM cannot emulate an instruction of the guest",
            2 => "KVM met two events at once",
            3 => "KVM met an error while it delivered an event",
            4 => "KVM got an exit that it does not expect",
            _ => "KVM failed inside",
        };
        let count = (error.ndata as usize).min(error.data.len());
        // The second word says that instruction bytes follow; the third has their count and them.
        let bytes: Vec<u8> = error.data[..count].iter().flat_map(|w| w.to_le_bytes()).collect();
        match bytes.get(8..) {
            Some(rest) if error.suberror == 1 && error.data[0] & 1 != 0 && rest.len() > 1 => {
                let len = usize::from(rest[0]).min(rest.len() - 1).min(15);
                format!("{what}: bytes {:02x?}", &rest[1..=len])
            }
            _ => format!("{what} (error {}, data {:x?})", error.suberror, &error.data[..count]),
        }
    }

    fn call<T>(&self, name: &str, result: Result<T, kvm_ioctls::Error>) -> Result<T, Error> {
        result.map_err(|e| failed(format!("{name} of vCPU {}", self.id), e))
    }

    fn set_fpu(&self, new: &CpuState) -> Result<(), Error> {
        let mut xsave = self.call("KVM_GET_XSAVE", self.fd.get_xsave())?;
        state::write_fxsave(new, &mut xsave);
        // SAFETY: the image is one page, which is all that the kernel reads as long as the process
        // has asked for no dynamic components (AMX), which it never does.
        let result = unsafe { self.fd.set_xsave(&xsave) };
        self.call("KVM_SET_XSAVE", result)
    }
}

impl Vcpu for KvmVcpu {
    /// The order matters: the local APIC is set when the APIC base allows it, and the MSRs with the
    /// timer's deadline come when the local APIC's timer is set.
    fn set_state(&mut self, new: &CpuState) -> Result<(), Error> {
        let fd = &self.fd;
        self.call("KVM_SET_MP_STATE", fd.set_mp_state(state::mp_state(new.mp_state)))?;
        self.call("KVM_SET_REGS", fd.set_regs(&state::regs(new)))?;
        self.call("KVM_SET_SREGS", fd.set_sregs(&state::sregs(new)))?;
        self.set_fpu(new)?;
        self.call("KVM_SET_XCRS", fd.set_xcrs(&state::xcrs(new)))?;
        self.call("KVM_SET_DEBUGREGS", fd.set_debug_regs(&state::debug_regs(new)))?;
        if let Some(bytes) = &new.lapic {
            self.call("KVM_SET_LAPIC", fd.set_lapic(&state::lapic(bytes)))?;
        }
        msrs::set(fd, &new.msrs)
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        let fd = &self.fd;
        // First, because reading it makes KVM act on an INIT or SIPI that waits.
        let mp_state = state::read_mp_state(self.call("KVM_GET_MP_STATE", fd.get_mp_state())?);
        let mut now = CpuState { mp_state, ..CpuState::default() };
        state::read_regs(&self.call("KVM_GET_REGS", fd.get_regs())?, &mut now);
        state::read_sregs(&self.call("KVM_GET_SREGS", fd.get_sregs())?, &mut now);
        state::read_fxsave(&self.call("KVM_GET_XSAVE", fd.get_xsave())?, &mut now);
        state::read_xcrs(&self.call("KVM_GET_XCRS", fd.get_xcrs())?, &mut now);
        state::read_debug_regs(&self.call("KVM_GET_DEBUGREGS", fd.get_debug_regs())?, &mut now);
        now.lapic = Some(state::read_lapic(&self.call("KVM_GET_LAPIC", fd.get_lapic())?));
        now.msrs = msrs::get(fd, &self.msr_indices)?;
        Ok(now)
    }

    fn run(&mut self, io: &Arc<IoSpace>) -> Result<Exit, Error> {
        kick::unblock_signal();
        let flag = ExitFlag::of(self.fd.get_kvm_run());
        if !self.kicker.enter(flag) {
            return Ok(Exit::Kicked);
        }
        loop {
            match self.step(io) {
                Ok(Step::Again) => {}
                Ok(Step::Leave(exit)) => {
                    self.kicker.leave();
                    return Ok(exit);
                }
                Err(error) => {
                    self.kicker.leave();
                    return Err(error);
                }
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }
}

/// Wires the 8259 and the NMI to the local APIC's pins, as a PC's firmware leaves them.
fn wire_local_apic(fd: &VcpuFd) -> Result<(), Error> {
    let mut lapic = fd.get_lapic().map_err(|e| failed("KVM_GET_LAPIC", e))?;
    let mut bytes = state::read_lapic(&lapic);
    for (offset, mode) in [(APIC_LVT_LINT0, DELIVER_EXTINT), (APIC_LVT_LINT1, DELIVER_NMI)] {
        bytes[offset..offset + 4].copy_from_slice(&mode.to_le_bytes());
    }
    lapic.regs = state::lapic(&bytes).regs;
    fd.set_lapic(&lapic).map_err(|e| failed("KVM_SET_LAPIC", e))
}
