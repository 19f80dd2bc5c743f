//! Model-specific registers: RDMSR, WRMSR, and the registers that have no better home.
//!
//! [`Register`] names every index that exists; any other index is #GP(0), which Linux takes as
//! "this processor lacks it". Registers of the local APIC, the memory types and the paravirtual
//! clock are passed on to the modules that own them.
//!
//! The time stamp counter counts nanoseconds of the machine's clock, so guest time needs no
//! conversion anywhere: TSC = clock + [`Msrs::tsc_offset`].

use spec::{Bits, MsrModifier};

use crate::cpu::{CS, Cpu, FS_BASE, GS_BASE, Step, Trap};
use crate::paging::canonical;
use crate::system::mtrr::Mtrrs;

/// EFER.SCE: SYSCALL is enabled.
pub const EFER_SCE: u64 = 1 << 0;
/// EFER.LME: paging, when it is enabled, is that of long mode.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA: long mode is active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE: page tables may forbid execution.
pub const EFER_NXE: u64 = 1 << 11;
const EFER_VALID: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

const CR0_PG: u64 = 1 << 31;

/// IA32_TIME_STAMP_COUNTER.
const TSC: u32 = 0x10;

/// Fast strings enabled; branch trace and precise sampling unavailable.
const MISC_ENABLE_RESET: u64 = 1 << 0 | 1 << 11 | 1 << 12;
/// Fast strings, limit of CPUID's leaves, and disabling of NX: the bits that software may flip.
const MISC_ENABLE_WRITABLE: u64 = 1 << 0 | 1 << 22 | 1 << 34;
/// Branch tracing and single stepping on branches: kept, without effect.
const DEBUG_CONTROL_WRITABLE: u64 = 3;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// The microcode revision, in the half where Linux reads it.
const MICROCODE_REVISION: u64 = 1 << 32;

/// IA32_ARCH_CAPABILITIES: this CPU does not speculate, so each "not affected" bit is set.
///
/// RDCL_NO, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO,
/// PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO and ITS_NO.
pub const ARCH_CAPABILITIES: u64 = 1 << 0
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// The registers, by name. Indices are those of SDM Vol. 4, chapter 2, and of Linux's
/// `Documentation/virt/kvm/x86/msr.rst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    Tsc,
    PlatformId,
    ApicBase,
    TscAdjust,
    MicrocodeTrigger,
    MicrocodeRevision,
    MtrrCap,
    ArchCapabilities,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    PerfStatus,
    MiscEnable,
    DebugControl,
    MtrrVariable(usize),
    MtrrFixed(usize),
    Pat,
    MtrrDefaultType,
    TscDeadline,
    X2Apic,
    KvmWallClock,
    KvmSystemTime,
    Efer,
    Star,
    Lstar,
    Cstar,
    Fmask,
    FsBase,
    GsBase,
    KernelGsBase,
    TscAux,
}

impl Register {
    fn at(index: u32) -> Option<Self> {
        Some(match index {
            TSC => Self::Tsc,
            0x11 | 0x4B56_4D00 => Self::KvmWallClock,
            0x12 | 0x4B56_4D01 => Self::KvmSystemTime,
            0x17 => Self::PlatformId,
            0x1B => Self::ApicBase,
            0x3B => Self::TscAdjust,
            0x79 => Self::MicrocodeTrigger,
            0x8B => Self::MicrocodeRevision,
            0xFE => Self::MtrrCap,
            0x10A => Self::ArchCapabilities,
            0x174 => Self::SysenterCs,
            0x175 => Self::SysenterEsp,
            0x176 => Self::SysenterEip,
            0x198 => Self::PerfStatus,
            0x1A0 => Self::MiscEnable,
            0x1D9 => Self::DebugControl,
            0x200..=0x20F => Self::MtrrVariable((index - 0x200) as usize),
            0x250 => Self::MtrrFixed(0),
            0x258..=0x259 => Self::MtrrFixed((index - 0x258) as usize + 1),
            0x268..=0x26F => Self::MtrrFixed((index - 0x268) as usize + 3),
            0x277 => Self::Pat,
            0x2FF => Self::MtrrDefaultType,
            0x6E0 => Self::TscDeadline,
            0x800..=0x8FF => Self::X2Apic,
            0xC000_0080 => Self::Efer,
            0xC000_0081 => Self::Star,
            0xC000_0082 => Self::Lstar,
            0xC000_0083 => Self::Cstar,
            0xC000_0084 => Self::Fmask,
            0xC000_0100 => Self::FsBase,
            0xC000_0101 => Self::GsBase,
            0xC000_0102 => Self::KernelGsBase,
            0xC000_0103 => Self::TscAux,
            _ => return None,
        })
    }
}

/// What [`Cpu::save_msrs`] saves, in the order in which it is put back. Registers that
/// [`vcpu::CpuState`] names are not among them; the deadline comes last because it needs the
/// counter.
const SAVED: [u32; 45] = [
    0x3B,
    0x10,
    0x174,
    0x175,
    0x176,
    0x1A0,
    0x1D9,
    0x200,
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20A,
    0x20B,
    0x20C,
    0x20D,
    0x20E,
    0x20F,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26A,
    0x26B,
    0x26C,
    0x26D,
    0x26E,
    0x26F,
    0x277,
    0x2FF,
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,
    0xC000_0102,
    0xC000_0103,
    0x4B56_4D00,
    0x4B56_4D01,
    0x6E0,
];

/// The registers that live here, with their values after power-on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msrs {
    /// Selectors of SYSCALL (bits 32-47) and SYSRET (48-63).
    pub star: u64,
    /// Where SYSCALL of 64-bit code goes.
    pub lstar: u64,
    /// Where SYSCALL of compatibility code would go; unused on Intel CPUs.
    pub cstar: u64,
    /// RFLAGS bits that SYSCALL clears.
    pub fmask: u64,
    /// What SWAPGS exchanges with the base of GS.
    pub kernel_gs_base: u64,
    /// Code selector of SYSENTER.
    pub sysenter_cs: u64,
    /// Stack pointer of SYSENTER.
    pub sysenter_esp: u64,
    /// Where SYSENTER goes.
    pub sysenter_eip: u64,
    /// TSC minus the machine's clock in ns.
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST: the sum of all changes that software made to the TSC.
    pub tsc_adjust: u64,
    /// IA32_TSC_AUX, which RDTSCP reads.
    pub tsc_aux: u64,
    /// The page attribute table.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_DEBUGCTL.
    pub debug_control: u64,
    /// The memory type range registers.
    pub mtrrs: Mtrrs,
    /// Guest address of KVM's wall clock structure, as it was last written.
    pub kvm_wall_clock: u64,
    /// Guest address of KVM's clock structure of this vCPU; bit 0 enables it.
    pub kvm_system_time: u64,
    /// An NMI was delivered and no IRET followed: further ones wait. It belongs to no register,
    /// and is kept here so that it survives like one.
    pub nmi_blocked: bool,
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            tsc_aux: 0,
            pat: PAT_RESET,
            misc_enable: MISC_ENABLE_RESET,
            debug_control: 0,
            mtrrs: Mtrrs::default(),
            kvm_wall_clock: 0,
            kvm_system_time: 0,
            nmi_blocked: false,
        }
    }
}

impl Cpu {
    /// The time stamp counter now.
    pub fn tsc(&self) -> u64 {
        self.shared.clock.now_ns().wrapping_add(self.msrs.tsc_offset)
    }

    /// RDMSR behind its check of the CPL: see [`Cpu::rdmsr`].
    pub fn rdmsr(&mut self, index: u32) -> Result<u64, Trap> {
        self.require_cpl0()?;
        self.read_msr(index)
    }

    /// WRMSR: #GP(0) at CPL above 0, for unknown registers and for values they refuse.
    pub fn wrmsr(&mut self, index: u32, value: u64) -> Step {
        self.require_cpl0()?;
        self.write_msr(index, value)
    }

    fn read_msr(&mut self, index: u32) -> Result<u64, Trap> {
        let Some(register) = Register::at(index) else {
            log::debug!("vCPU {}: RDMSR of {index:#x}, which does not exist: #GP", self.id);
            return Err(self.gp0());
        };
        Ok(match register {
            Register::Tsc => self.tsc(),
            Register::PlatformId => self.read_only_msr(index, 0),
            Register::MicrocodeTrigger => 0,
            Register::ApicBase => self.apic_base(),
            Register::TscAdjust => self.msrs.tsc_adjust,
            Register::MicrocodeRevision => self.read_only_msr(index, MICROCODE_REVISION),
            Register::MtrrCap => self.read_only_msr(index, Mtrrs::CAP),
            Register::ArchCapabilities => self.read_only_msr(index, ARCH_CAPABILITIES),
            Register::SysenterCs => self.msrs.sysenter_cs,
            Register::SysenterEsp => self.msrs.sysenter_esp,
            Register::SysenterEip => self.msrs.sysenter_eip,
            // The ratio of 10 to a bus of 100 MHz.
            Register::PerfStatus => self.read_only_msr(index, 10 << 8),
            Register::MiscEnable => self.msrs.misc_enable,
            Register::DebugControl => self.msrs.debug_control,
            Register::MtrrVariable(i) => self.msrs.mtrrs.variable[i],
            Register::MtrrFixed(i) => self.msrs.mtrrs.fixed[i],
            Register::Pat => self.msrs.pat,
            Register::MtrrDefaultType => self.msrs.mtrrs.default_type,
            Register::TscDeadline => self.tsc_deadline(),
            Register::X2Apic => return self.apic_read_msr(index),
            Register::KvmWallClock => self.msrs.kvm_wall_clock,
            Register::KvmSystemTime => self.msrs.kvm_system_time,
            Register::Efer => self.efer,
            Register::Star => self.msrs.star,
            Register::Lstar => self.msrs.lstar,
            Register::Cstar => self.msrs.cstar,
            Register::Fmask => self.msrs.fmask,
            Register::FsBase => self.regs[FS_BASE],
            Register::GsBase => self.regs[GS_BASE],
            Register::KernelGsBase => self.msrs.kernel_gs_base,
            Register::TscAux => self.msrs.tsc_aux,
        })
    }

    fn write_msr(&mut self, index: u32, value: u64) -> Step {
        let Some(register) = Register::at(index) else {
            log::debug!("vCPU {}: WRMSR of {index:#x} = {value:#x}: unknown, #GP", self.id);
            return Err(self.gp0());
        };
        match register {
            Register::Tsc => self.write_tsc(value),
            Register::MicrocodeTrigger | Register::MicrocodeRevision => {}
            Register::ApicBase => return self.set_apic_base(value),
            Register::TscAdjust => {
                let change = value.wrapping_sub(self.msrs.tsc_adjust);
                self.write_tsc(self.tsc().wrapping_add(change));
                self.msrs.tsc_adjust = value;
            }
            Register::PlatformId
            | Register::MtrrCap
            | Register::ArchCapabilities
            | Register::PerfStatus => return Err(self.gp0()),
            Register::SysenterCs => self.msrs.sysenter_cs = value & 0xFFFF_FFFF,
            Register::SysenterEsp => self.msrs.sysenter_esp = self.canonical_or_gp(value)?,
            Register::SysenterEip => self.msrs.sysenter_eip = self.canonical_or_gp(value)?,
            Register::MiscEnable => {
                let kept = self.msrs.misc_enable & !MISC_ENABLE_WRITABLE;
                self.msrs.misc_enable = kept | value & MISC_ENABLE_WRITABLE;
            }
            Register::DebugControl => {
                self.refuse_bits(value, !DEBUG_CONTROL_WRITABLE)?;
                self.msrs.debug_control = value;
            }
            Register::MtrrVariable(i) => {
                let accepted = self.msrs.mtrrs.set_variable(i, value);
                return self.accept(accepted);
            }
            Register::MtrrFixed(i) => {
                let accepted = self.msrs.mtrrs.set_fixed(i, value);
                return self.accept(accepted);
            }
            Register::MtrrDefaultType => {
                let accepted = self.msrs.mtrrs.set_default_type(value);
                return self.accept(accepted);
            }
            Register::Pat => {
                self.accept(pat_is_valid(value))?;
                self.msrs.pat = value;
            }
            Register::TscDeadline => self.set_tsc_deadline(value),
            Register::X2Apic => return self.apic_write_msr(index, value),
            Register::KvmWallClock => return self.set_kvm_wall_clock(value),
            Register::KvmSystemTime => return self.set_kvm_system_time(value),
            Register::Efer => return self.write_efer(value),
            Register::Star => self.msrs.star = value,
            Register::Lstar => self.msrs.lstar = self.canonical_or_gp(value)?,
            Register::Cstar => self.msrs.cstar = self.canonical_or_gp(value)?,
            Register::Fmask => {
                self.refuse_bits(value, !0xFFFF_FFFF)?;
                self.msrs.fmask = value;
            }
            Register::FsBase => self.regs[FS_BASE] = self.canonical_or_gp(value)?,
            Register::GsBase => self.regs[GS_BASE] = self.canonical_or_gp(value)?,
            Register::KernelGsBase => self.msrs.kernel_gs_base = self.canonical_or_gp(value)?,
            Register::TscAux => {
                self.refuse_bits(value, !0xFFFF_FFFF)?;
                self.msrs.tsc_aux = value;
            }
        }
        Ok(())
    }

    /// A register that no software writes: its `value`, with the CPU template's changes.
    fn read_only_msr(&self, index: u32, value: u64) -> u64 {
        let changes = self.shared.cpu_template.msrs().iter().filter(|m| m.index == index);
        changes.fold(value, |value, change| change.bits.apply(value))
    }

    /// Makes the CPU template's changes to the registers of a new vCPU, or says which one cannot
    /// be made.
    pub fn modify_msrs(&mut self) -> Result<(), String> {
        let shared = self.shared.clone();
        let pending = self.pending;
        for &MsrModifier { index, bits } in shared.cpu_template.msrs() {
            let made = self.modify_msr(index, bits);
            self.pending = pending;
            if !made {
                return Err(format!(
                    "the CPU template gives MSR {index:#x} a value that the software CPU does not \
                     know; leave it alone, or use KVM"
                ));
            }
        }
        Ok(())
    }

    /// Whether the register has the change then. A read-only one always has.
    fn modify_msr(&mut self, index: u32, bits: Bits<u64>) -> bool {
        let Ok(old) = self.read_msr(index) else { return false };
        let wanted = bits.apply(old);
        if old != wanted && self.restore_msr(index, wanted).is_err() {
            return false;
        }
        // Some keep only the bits that they have; the time stamp counter moves on.
        index == TSC || self.read_msr(index).is_ok_and(|now| bits.apply(now) == now)
    }

    /// Moves the TSC, and IA32_TSC_ADJUST with it (SDM Vol. 3B, 18.17.3).
    fn write_tsc(&mut self, value: u64) {
        let change = value.wrapping_sub(self.tsc());
        self.msrs.tsc_offset = self.msrs.tsc_offset.wrapping_add(change);
        self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(change);
        self.refresh_kvm_clock();
    }

    /// LME may change only while paging is off; LMA follows from CR0 and is not written.
    fn write_efer(&mut self, value: u64) -> Step {
        self.refuse_bits(value, !EFER_VALID)?;
        let changed = (value ^ self.efer) & !EFER_LMA;
        if changed & EFER_LME != 0 && self.cr0 & CR0_PG != 0 {
            return Err(self.gp0());
        }
        self.efer ^= changed;
        if changed & EFER_NXE != 0 {
            self.tlb.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    /// `value`, or #GP(0) if it is not a canonical address.
    pub(crate) fn canonical_or_gp(&mut self, value: u64) -> Result<u64, Trap> {
        if canonical(value) { Ok(value) } else { Err(self.gp0()) }
    }

    /// #GP(0) if any of `reserved` is set in `value`.
    pub(crate) fn refuse_bits(&mut self, value: u64, reserved: u64) -> Step {
        self.accept(value & reserved == 0)
    }

    /// #GP(0) unless `accepted`.
    pub(crate) fn accept(&mut self, accepted: bool) -> Step {
        if accepted { Ok(()) } else { Err(self.gp0()) }
    }

    /// The registers that [`vcpu::CpuState::msrs`] carries.
    pub fn save_msrs(&mut self) -> Vec<(u32, u64)> {
        let pending = self.pending;
        let saved = SAVED.iter().filter_map(|&i| self.read_msr(i).ok().map(|value| (i, value)));
        let saved = saved.collect();
        self.pending = pending;
        saved
    }

    /// Puts registers back. Those that this CPU lacks are skipped: states of other back ends name
    /// many more than a guest has used.
    pub fn restore_msrs(&mut self, msrs: &[(u32, u64)]) {
        let pending = self.pending;
        let late = |index: u32| index == 0x6E0;
        let (last, first): (Vec<_>, Vec<_>) = msrs.iter().partition(|(index, _)| late(*index));
        for &(index, value) in first.iter().chain(&last) {
            if self.restore_msr(index, value).is_err() {
                log::debug!("vCPU {}: MSR {index:#x} = {value:#x} is not restored", self.id);
            }
        }
        self.pending = pending;
        self.refresh_kvm_clock();
    }

    /// Unlike a write by the guest, moving the TSC leaves IA32_TSC_ADJUST alone and the reverse,
    /// and the wall clock structure is not written again.
    fn restore_msr(&mut self, index: u32, value: u64) -> Step {
        match Register::at(index) {
            Some(Register::Tsc) => {
                let now = self.shared.clock.now_ns();
                self.msrs.tsc_offset = value.wrapping_sub(now);
            }
            Some(Register::TscAdjust) => self.msrs.tsc_adjust = value,
            Some(Register::KvmWallClock) => self.msrs.kvm_wall_clock = value,
            Some(Register::KvmSystemTime) => self.msrs.kvm_system_time = value,
            _ => return self.write_msr(index, value),
        }
        Ok(())
    }
}

/// Whether CS says 64-bit code, whatever EFER says.
pub(crate) fn cs_is_long(cpu: &Cpu) -> bool {
    cpu.segments[CS].attributes & (1 << 9) != 0
}

/// Each byte is one of UC, WC, WT, WP, WB and UC- (SDM Vol. 3A, 12.12.2).
fn pat_is_valid(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_registers_exist_and_are_named_once() {
        for (i, index) in SAVED.iter().enumerate() {
            assert!(Register::at(*index).is_some(), "{index:#x}");
            assert!(!SAVED[..i].contains(index), "{index:#x}");
        }
    }

    #[test]
    fn pat_takes_the_six_types() {
        let check = |value, valid| assert_eq!(pat_is_valid(value), valid, "{value:#x}");
        check(PAT_RESET, true);
        check(0x0007_0105_0007_0106, true);
        check(0x0000_0000_0000_0002, false);
        check(0x0300_0000_0000_0000, false);
        check(0x0000_0008_0000_0000, false);
    }

    #[test]
    fn registers_of_speculation_control_do_not_exist() {
        for index in [0x48, 0x49, 0x10B, 0x122, 0x179, 0x38D, 0xC1, 0xC001_0015] {
            assert_eq!(Register::at(index), None, "{index:#x}");
        }
    }
}
