//! The guest's accesses to a local APIC: the memory-mapped page, the x2APIC
//! registers and the few registers outside both.

use super::registers::{LVT_COUNT, MsrAccess, Register};
use super::routing::x2apic_logical_id;
use super::timer::TimerMode;
use super::{APIC_BASE_ADDRESS, LVT_MASKED};
use super::{ApicAction, ApicMode, LocalApic, LvtEntry};
use crate::error::Error;

/// Version 0x14 (a processor's built-in APIC) with six LVT entries.
const VERSION: u32 = 0x14 | (LVT_COUNT as u32 - 1) << 16;

const SVR_WRITABLE: u32 = 0x3ff;
const DFR_MODEL_SHIFT: u32 = 28;
const ERROR_REGISTER: u32 = 1 << 7;
const MSR_APIC_BASE: u32 = 0x1b;
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

impl LocalApic {
    // --- Memory-mapped registers -----------------------------------------

    /// A 32-bit read at byte `offset` of the register page.
    pub fn read(&mut self, offset: u16, now_ns: u64) -> u32 {
        if self.state.mode != ApicMode::XApic {
            return u32::MAX;
        }
        self.poll_timer(now_ns);
        match Register::at_offset(offset) {
            Some(register) => self.read_register(register, now_ns),
            None => {
                self.report_error(ERROR_REGISTER);
                0
            }
        }
    }

    /// A 32-bit write at byte `offset` of the register page.
    pub fn write(&mut self, offset: u16, value: u32, now_ns: u64) -> ApicAction {
        if self.state.mode != ApicMode::XApic {
            return ApicAction::None;
        }
        self.poll_timer(now_ns);
        match Register::at_offset(offset) {
            Some(register) => self.write_register(register, value, now_ns),
            None => {
                self.report_error(ERROR_REGISTER);
                ApicAction::None
            }
        }
    }

    // --- Model-specific registers ----------------------------------------

    /// `RDMSR` of an x2APIC register (0x800 to 0x8ff).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchMsr`] outside x2APIC mode and for registers that cannot
    /// be read.
    pub fn read_msr(&mut self, msr: u32, now_ns: u64) -> Result<u64, Error> {
        let (register, access) = self.x2apic_register(msr)?;
        self.poll_timer(now_ns);
        match access {
            MsrAccess::WriteOnly { .. } => Err(Error::NoSuchMsr { msr }),
            MsrAccess::ReadOnly | MsrAccess::ReadWrite { .. } => Ok(match register {
                Register::IcrLow => self.state.icr,
                other => u64::from(self.read_register(other, now_ns)),
            }),
        }
    }

    /// `WRMSR` of an x2APIC register (0x800 to 0x8ff).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchMsr`] outside x2APIC mode and for registers that cannot
    /// be written, [`Error::InvalidValue`] for reserved bits.
    pub fn write_msr(&mut self, msr: u32, value: u64, now_ns: u64) -> Result<ApicAction, Error> {
        let (register, access) = self.x2apic_register(msr)?;
        let valid = match access {
            MsrAccess::ReadOnly => return Err(Error::NoSuchMsr { msr }),
            MsrAccess::WriteOnly { valid } | MsrAccess::ReadWrite { valid } => valid,
        };
        if value & !valid != 0 {
            return Err(Error::InvalidValue { msr, value });
        }
        self.poll_timer(now_ns);
        if register == Register::IcrLow {
            self.state.icr = value & 0xffff_ffff_0000_0000;
        }
        Ok(self.write_register(register, value as u32, now_ns))
    }

    /// `RDMSR` of `IA32_APIC_BASE`.
    pub fn base_msr(&self) -> u64 {
        let bootstrap = if self.config.bootstrap { BASE_BSP } else { 0 };
        let mode = match self.state.mode {
            ApicMode::Disabled => 0,
            ApicMode::XApic => BASE_ENABLE,
            ApicMode::X2Apic => BASE_ENABLE | BASE_X2APIC,
        };
        APIC_BASE_ADDRESS | bootstrap | mode
    }

    /// `WRMSR` of `IA32_APIC_BASE`. Turning the APIC off resets its registers.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for another address, reserved bits and the
    /// transitions that the SDM forbids.
    pub fn set_base_msr(&mut self, value: u64) -> Result<ApicAction, Error> {
        let invalid = Error::InvalidValue { msr: MSR_APIC_BASE, value };
        if value & !(BASE_BSP | BASE_X2APIC | BASE_ENABLE) != APIC_BASE_ADDRESS {
            return Err(invalid);
        }
        let mode = match (value & BASE_ENABLE != 0, value & BASE_X2APIC != 0) {
            (false, false) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) if self.config.x2apic => ApicMode::X2Apic,
            (true, true) | (false, true) => return Err(invalid),
        };
        match (self.state.mode, mode) {
            (ApicMode::X2Apic, ApicMode::XApic) | (ApicMode::Disabled, ApicMode::X2Apic) => {
                return Err(invalid);
            }
            (_, ApicMode::Disabled) => {
                self.reset_by_init();
                self.state.id = self.config.id;
            }
            (ApicMode::XApic, ApicMode::X2Apic) => {
                self.state.id = self.config.id;
                self.state.icr &= u64::from(u32::MAX);
            }
            (ApicMode::Disabled | ApicMode::XApic, ApicMode::XApic)
            | (ApicMode::X2Apic, ApicMode::X2Apic) => {}
        }
        self.state.mode = mode;
        Ok(ApicAction::RoutingChanged)
    }

    /// The `IA32_TSC_DEADLINE` register; zero when disarmed.
    pub fn tsc_deadline(&self) -> u64 {
        self.state.timer.tsc_deadline
    }

    /// `WRMSR` of `IA32_TSC_DEADLINE`, with the configured [`TscClock`](crate::TscClock).
    pub fn set_tsc_deadline(&mut self, tsc: u64, now_ns: u64) -> ApicAction {
        self.set_tsc_deadline_at(tsc, self.config.tsc.deadline_ns(tsc, now_ns))
    }

    /// The same for a back end that converts for itself: the counter reaches
    /// `tsc` at `deadline_ns`. Ignored outside the timer's TSC-deadline mode.
    pub fn set_tsc_deadline_at(&mut self, tsc: u64, deadline_ns: u64) -> ApicAction {
        match self.timer_mode() {
            TimerMode::TscDeadline => {
                self.state.timer.arm(tsc, deadline_ns);
                ApicAction::TimerChanged
            }
            TimerMode::OneShot | TimerMode::Periodic | TimerMode::Reserved => ApicAction::None,
        }
    }

    /// CR8: the class of the task priority.
    pub fn cr8(&self) -> u8 {
        self.state.task_priority >> 4
    }

    /// Writes CR8. Bits above the low four were the CPU's to refuse.
    pub fn set_cr8(&mut self, class: u8) {
        self.state.task_priority = class << 4;
    }

    fn read_register(&self, register: Register, now_ns: u64) -> u32 {
        let state = &self.state;
        match register {
            Register::Id => self.shown_id(),
            Register::Version => VERSION,
            Register::TaskPriority => u32::from(state.task_priority),
            Register::ProcessorPriority => u32::from(self.processor_priority()),
            Register::LogicalDestination => self.shown_logical_id(),
            Register::DestinationFormat => {
                u32::from(state.destination_format) << DFR_MODEL_SHIFT | 0x0fff_ffff
            }
            Register::SpuriousVector => state.spurious,
            Register::InService(bank) => state.in_service.bank(bank),
            Register::TriggerMode(bank) => state.trigger_mode.bank(bank),
            Register::Request(bank) => state.request.bank(bank),
            Register::ErrorStatus => state.error_status,
            Register::IcrLow => state.icr as u32,
            Register::IcrHigh => (state.icr >> 32) as u32,
            Register::Lvt(entry) => self.lvt(entry),
            Register::InitialCount => state.timer.initial_count,
            Register::CurrentCount => state.timer.current_count(self.config.bus_hz, now_ns),
            Register::DivideConfig => state.timer.divide_config,
            Register::ArbitrationPriority
            | Register::Eoi
            | Register::RemoteRead
            | Register::SelfIpi => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32, now_ns: u64) -> ApicAction {
        match register {
            Register::Id => self.write_id(value),
            Register::TaskPriority => self.write_task_priority(value),
            Register::Eoi => self.end_of_interrupt(),
            Register::LogicalDestination => self.write_logical_id(value),
            Register::DestinationFormat => self.write_destination_format(value),
            Register::SpuriousVector => self.write_spurious(value),
            Register::ErrorStatus => self.latch_errors(),
            Register::IcrLow => self.write_icr(value),
            Register::IcrHigh => self.write_icr_high(value),
            Register::Lvt(entry) => self.write_lvt(entry, value),
            Register::InitialCount => self.write_initial_count(value, now_ns),
            Register::DivideConfig => self.write_divide_config(value, now_ns),
            Register::SelfIpi => self.send_self_ipi(value as u8),
            Register::Version
            | Register::ArbitrationPriority
            | Register::ProcessorPriority
            | Register::RemoteRead
            | Register::InService(_)
            | Register::TriggerMode(_)
            | Register::Request(_)
            | Register::CurrentCount => ApicAction::None,
        }
    }

    fn shown_id(&self) -> u32 {
        match self.state.mode {
            ApicMode::X2Apic => self.state.id,
            ApicMode::XApic | ApicMode::Disabled => self.state.id << 24,
        }
    }

    fn shown_logical_id(&self) -> u32 {
        match self.state.mode {
            ApicMode::X2Apic => x2apic_logical_id(self.state.id),
            ApicMode::XApic | ApicMode::Disabled => u32::from(self.state.logical_id) << 24,
        }
    }

    fn write_id(&mut self, value: u32) -> ApicAction {
        self.state.id = value >> 24;
        ApicAction::RoutingChanged
    }

    fn write_task_priority(&mut self, value: u32) -> ApicAction {
        self.state.task_priority = value as u8;
        ApicAction::None
    }

    fn write_logical_id(&mut self, value: u32) -> ApicAction {
        self.state.logical_id = (value >> 24) as u8;
        ApicAction::RoutingChanged
    }

    fn write_destination_format(&mut self, value: u32) -> ApicAction {
        self.state.destination_format = (value >> DFR_MODEL_SHIFT) as u8;
        ApicAction::RoutingChanged
    }

    /// Disabling by software masks every LVT entry, and they stay masked until
    /// they are written again after enabling.
    fn write_spurious(&mut self, value: u32) -> ApicAction {
        self.state.spurious = value & SVR_WRITABLE;
        if !self.software_enabled() {
            for lvt in &mut self.state.lvt {
                *lvt |= LVT_MASKED;
            }
        }
        ApicAction::RoutingChanged
    }

    fn latch_errors(&mut self) -> ApicAction {
        self.state.error_status = std::mem::take(&mut self.state.error_pending);
        ApicAction::None
    }

    fn write_lvt(&mut self, entry: LvtEntry, value: u32) -> ApicAction {
        let old = self.lvt(entry);
        let forced = if self.software_enabled() { 0 } else { LVT_MASKED };
        self.state.lvt[entry.index()] = value & entry.writable_bits() | forced;
        match entry {
            LvtEntry::Timer => {
                let (before, after) = (TimerMode::from_lvt(old), self.timer_mode());
                if before != after && !(before.counts() && after.counts()) {
                    self.state.timer.stop();
                }
                ApicAction::TimerChanged
            }
            LvtEntry::Lint0 => ApicAction::RoutingChanged,
            LvtEntry::Thermal | LvtEntry::Performance | LvtEntry::Lint1 | LvtEntry::Error => {
                ApicAction::None
            }
        }
    }

    fn write_initial_count(&mut self, value: u32, now_ns: u64) -> ApicAction {
        if !self.timer_mode().counts() {
            return ApicAction::None;
        }
        self.state.timer.start(value, self.config.bus_hz, now_ns);
        ApicAction::TimerChanged
    }

    fn write_divide_config(&mut self, value: u32, now_ns: u64) -> ApicAction {
        self.state.timer.divide(value, self.config.bus_hz, now_ns);
        ApicAction::TimerChanged
    }

    fn end_of_interrupt(&mut self) -> ApicAction {
        let Some(vector) = self.state.in_service.highest() else {
            return ApicAction::None;
        };
        self.state.in_service.remove(vector);
        let level_triggered = self.state.trigger_mode.contains(vector);
        ApicAction::Eoi { vector, level_triggered }
    }

    fn x2apic_register(&self, msr: u32) -> Result<(Register, MsrAccess), Error> {
        match self.state.mode {
            ApicMode::X2Apic => Register::at_msr(msr).ok_or(Error::NoSuchMsr { msr }),
            ApicMode::XApic | ApicMode::Disabled => Err(Error::NoSuchMsr { msr }),
        }
    }
}
