//! The vCPU's state as a whole: saved, restored, reset (SDM Vol. 3A, table 10-1).
//!
//! The local APIC's page is left to the owner of the APIC.

use simd::FpState;
use vcpu::{CpuState, DescriptorTable, MpState, Segment};

use crate::cpu::{CS, Cpu, FS, FS_BASE, GS, GS_BASE, Pending, RDX, REG_SLOTS, RIP, rflags};
use crate::system::cpuid::SIGNATURE;
use crate::system::random;
use crate::system::segment::{attributes, system_type};

const CR0_RESET: u64 = 0x6000_0010;
/// CD and NW, which INIT leaves as they are.
const CR0_CACHE: u64 = 0x6000_0000;
const DR6_RESET: u64 = 0xFFFF_0FF0;
const DR7_RESET: u64 = 0x400;
const RIP_RESET: u64 = 0xFFF0;

impl Cpu {
    /// The whole state.
    pub fn save(&mut self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.regs[..16]);
        let mut segments = self.segments;
        segments[FS].base = self.regs[FS_BASE];
        segments[GS].base = self.regs[GS_BASE];
        let [dr0, dr1, dr2, dr3] = self.dr;
        CpuState {
            gpr,
            rip: self.regs[RIP],
            rflags: self.rflags(),
            segments,
            tr: self.tr,
            ldtr: self.ldtr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: u64::from(self.cr8()),
            efer: self.efer,
            apic_base: self.apic_base(),
            xcr0: self.xcr0,
            debug: [dr0, dr1, dr2, dr3, self.dr6, self.dr7],
            fxsave: Box::new(*self.fp.image()),
            msrs: self.save_msrs(),
            lapic: Some(self.save_apic()),
            mp_state: self.mp_state,
        }
    }

    /// Loads a whole state. An FXSAVE image or an APIC base that this
    /// CPU could not have is left out, with a warning.
    pub fn restore(&mut self, state: &CpuState) {
        self.regs = [0; REG_SLOTS];
        self.regs[..16].copy_from_slice(&state.gpr);
        self.regs[RIP] = state.rip;
        self.segments = state.segments;
        self.regs[FS_BASE] = state.segments[FS].base;
        self.regs[GS_BASE] = state.segments[GS].base;
        (self.tr, self.ldtr) = (state.tr, state.ldtr);
        (self.gdtr, self.idtr) = (state.gdtr, state.idtr);
        (self.cr0, self.cr2, self.cr3, self.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        (self.efer, self.xcr0) = (state.efer, state.xcr0);
        let [dr0, dr1, dr2, dr3, dr6, dr7] = state.debug;
        (self.dr, self.dr6, self.dr7) = ([dr0, dr1, dr2, dr3], dr6, dr7);
        self.cpl = current_privilege(state);
        self.forget_progress();
        self.set_rflags(state.rflags);
        *self.fp = FpState::from_image(&state.fxsave).unwrap_or_else(|| {
            log::warn!("vCPU {}: MXCSR has reserved bits; x87 and SSE are reset", self.id);
            FpState::default()
        });
        if self.set_apic_base(state.apic_base).is_err() {
            log::warn!("vCPU {}: APIC base {:#x} is not possible", self.id, state.apic_base);
        }
        if let Some(page) = &state.lapic {
            self.restore_apic(page);
        }
        self.pending = Pending::None;
        self.set_cr8(state.cr8 as u8 & 0xF);
        self.restore_msrs(&state.msrs);
        self.mp_state = state.mp_state;
    }

    /// INIT: the state of power-on, but x87 and SSE, XCR0, the TSC and the other model-specific
    /// registers and the cache bits of CR0 keep their values, and so does `mp_state`. The owner of
    /// the local APIC resets that.
    pub fn reset(&mut self) {
        if !random::prepare() {
            log::warn!("vCPU {}: /dev/urandom cannot be opened; RDRAND will fail", self.id);
        }
        self.regs = [0; REG_SLOTS];
        self.regs[RDX] = u64::from(SIGNATURE);
        self.regs[RIP] = RIP_RESET;
        self.segments = std::array::from_fn(|register| match register {
            CS => real_mode_segment(0xF000, 0xFFFF_0000),
            _ => real_mode_segment(0, 0),
        });
        self.tr = system_segment(system_type::TSS_BUSY);
        self.ldtr = system_segment(system_type::LDT);
        self.gdtr = DescriptorTable { base: 0, limit: 0xFFFF };
        self.idtr = DescriptorTable { base: 0, limit: 0xFFFF };
        self.cr0 = CR0_RESET & !CR0_CACHE | self.cr0 & CR0_CACHE;
        (self.cr2, self.cr3, self.cr4, self.efer) = (0, 0, 0, 0);
        (self.dr, self.dr6, self.dr7) = ([0; 4], DR6_RESET, DR7_RESET);
        self.cpl = 0;
        self.msrs.nmi_blocked = false;
        self.forget_progress();
        self.set_rflags(rflags::FIXED);
    }

    /// SIPI: real mode at `vector` << 12.
    pub fn start_up(&mut self, vector: u8) {
        self.segments[CS] = real_mode_segment(u16::from(vector) << 8, u64::from(vector) << 12);
        self.regs[RIP] = 0;
        self.mp_state = MpState::Runnable;
        self.update_mode();
    }

    /// Nothing is under way, and no translation is known.
    fn forget_progress(&mut self) {
        self.pending = Pending::None;
        self.shadow = false;
        self.debug_hits = 0;
        self.tlb.flush_all();
    }
}

fn real_mode_segment(selector: u16, base: u64) -> Segment {
    Segment { selector, base, limit: 0xFFFF, attributes: attributes::REAL, unusable: false }
}

fn system_segment(kind: u16) -> Segment {
    Segment {
        selector: 0,
        base: 0,
        limit: 0xFFFF,
        attributes: attributes::PRESENT | kind,
        unusable: false,
    }
}

/// The CPL is the RPL of CS; real mode has none.
fn current_privilege(state: &CpuState) -> u8 {
    if state.cr0 & 1 == 0 { 0 } else { (state.segments[CS].selector & 3) as u8 }
}
