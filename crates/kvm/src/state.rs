//! Translation between [`CpuState`] and KVM's structures. Plain functions, no calls to the host.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, kvm_debugregs, kvm_dtable,
    kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs, kvm_xcrs, kvm_xsave,
};
use vcpu::{CpuState, DescriptorTable, MpState, Segment};

/// Where the XSAVE image has its bit map of live components (SDM Vol. 1, 13.4.2), in 32-bit words.
const XSTATE_BV_WORD: usize = 512 / 4;
/// x87 and SSE, the components that the FXSAVE image covers.
const XSTATE_X87_SSE: u32 = 3;

pub(crate) fn regs(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags);
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    }
}

pub(crate) fn read_regs(regs: &kvm_regs, state: &mut CpuState) {
    let r = regs;
    state.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    state.rip = r.rip;
    state.rflags = r.rflags;
}

pub(crate) fn sregs(state: &CpuState) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = state.segments.map(|s| segment(&s));
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: segment(&state.tr),
        ldt: segment(&state.ldtr),
        gdt: table(state.gdtr),
        idt: table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: state.apic_base,
        // Interrupts that are being delivered are not part of the state, and stay as they are.
        interrupt_bitmap: [0; 4],
    }
}

pub(crate) fn read_sregs(sregs: &kvm_sregs, state: &mut CpuState) {
    let s = sregs;
    state.segments = [s.es, s.cs, s.ss, s.ds, s.fs, s.gs].map(|seg| read_segment(&seg));
    state.tr = read_segment(&s.tr);
    state.ldtr = read_segment(&s.ldt);
    state.gdtr = DescriptorTable { base: s.gdt.base, limit: s.gdt.limit };
    state.idtr = DescriptorTable { base: s.idt.base, limit: s.idt.limit };
    (state.cr0, state.cr2, state.cr3, state.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    (state.cr8, state.efer, state.apic_base) = (s.cr8, s.efer, s.apic_base);
}

fn segment(s: &Segment) -> kvm_segment {
    let bits = |at: u16, mask: u16| (s.attributes >> at & mask) as u8;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: bits(0, 0xF),
        s: bits(4, 1),
        dpl: bits(5, 3),
        present: bits(7, 1),
        avl: bits(8, 1),
        l: bits(9, 1),
        db: bits(10, 1),
        g: bits(11, 1),
        unusable: u8::from(s.unusable),
        padding: 0,
    }
}

fn read_segment(s: &kvm_segment) -> Segment {
    let fields = [
        (s.type_, 0),
        (s.s, 4),
        (s.dpl, 5),
        (s.present, 7),
        (s.avl, 8),
        (s.l, 9),
        (s.db, 10),
        (s.g, 11),
    ];
    Segment {
        selector: s.selector,
        base: s.base,
        limit: s.limit,
        attributes: fields.iter().fold(0, |all, &(field, at)| all | u16::from(field) << at),
        unusable: s.unusable != 0,
    }
}

fn table(t: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

/// Puts the FXSAVE image into `xsave` and leaves the other components as they are.
pub(crate) fn write_fxsave(state: &CpuState, xsave: &mut kvm_xsave) {
    let (words, _) = state.fxsave.as_chunks::<4>();
    for (to, from) in xsave.region.iter_mut().zip(words) {
        *to = u32::from_le_bytes(*from);
    }
    xsave.region[XSTATE_BV_WORD] |= XSTATE_X87_SSE;
}

pub(crate) fn read_fxsave(xsave: &kvm_xsave, state: &mut CpuState) {
    let (words, _) = state.fxsave.as_chunks_mut::<4>();
    for (to, from) in words.iter_mut().zip(&xsave.region) {
        *to = from.to_le_bytes();
    }
}

pub(crate) fn xcrs(state: &CpuState) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = state.xcr0;
    xcrs
}

pub(crate) fn read_xcrs(xcrs: &kvm_xcrs, state: &mut CpuState) {
    let listed = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
    state.xcr0 = listed.into_iter().find(|x| x.xcr == 0).map_or(1, |x| x.value);
}

pub(crate) fn debug_regs(state: &CpuState) -> kvm_debugregs {
    let [d0, d1, d2, d3, dr6, dr7] = state.debug;
    kvm_debugregs { db: [d0, d1, d2, d3], dr6, dr7, ..Default::default() }
}

pub(crate) fn read_debug_regs(regs: &kvm_debugregs, state: &mut CpuState) {
    let [d0, d1, d2, d3] = regs.db;
    state.debug = [d0, d1, d2, d3, regs.dr6, regs.dr7];
}

pub(crate) fn lapic(bytes: &[u8; 1024]) -> kvm_lapic_state {
    kvm_lapic_state { regs: bytes.map(|b| b as _) }
}

pub(crate) fn read_lapic(lapic: &kvm_lapic_state) -> Box<[u8; 1024]> {
    Box::new(lapic.regs.map(|b| b as u8))
}

pub(crate) fn mp_state(state: MpState) -> kvm_mp_state {
    let mp_state = match state {
        MpState::Runnable => KVM_MP_STATE_RUNNABLE,
        MpState::Halted => KVM_MP_STATE_HALTED,
        MpState::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
        MpState::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    };
    kvm_mp_state { mp_state }
}

pub(crate) fn read_mp_state(state: kvm_mp_state) -> MpState {
    match state.mp_state {
        KVM_MP_STATE_HALTED => MpState::Halted,
        KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
        KVM_MP_STATE_INIT_RECEIVED => MpState::WaitForSipi,
        // A SIPI that was received sets the vCPU running at its next entry.
        KVM_MP_STATE_RUNNABLE | KVM_MP_STATE_SIPI_RECEIVED => MpState::Runnable,
        _ => MpState::Runnable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state whose every field has a value of its own.
    fn distinct() -> CpuState {
        let segment = |n: u16| Segment {
            selector: n << 3,
            base: 0x1000 * u64::from(n),
            limit: 0xFFF0 + u32::from(n),
            attributes: 0xA93 | n << 5 & 0x60 | (n & 1) << 10,
            unusable: n == 3,
        };
        let mut fxsave = Box::new([0; 512]);
        fxsave.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        CpuState {
            gpr: std::array::from_fn(|i| 100 + i as u64),
            rip: 7,
            rflags: 0x202,
            segments: std::array::from_fn(|i| segment(i as u16 + 1)),
            tr: segment(8),
            ldtr: segment(9),
            gdtr: DescriptorTable { base: 1, limit: 2 },
            idtr: DescriptorTable { base: 3, limit: 4 },
            cr0: 11,
            cr2: 12,
            cr3: 13,
            cr4: 14,
            cr8: 15,
            efer: 16,
            apic_base: 17,
            xcr0: 7,
            debug: [1, 2, 3, 4, 5, 6],
            fxsave,
            msrs: vec![],
            lapic: Some(Box::new(std::array::from_fn(|i| i as u8))),
            mp_state: MpState::WaitForSipi,
        }
    }

    #[test]
    fn every_field_comes_back() {
        let state = distinct();
        let mut back = CpuState::default();
        read_regs(&regs(&state), &mut back);
        read_sregs(&sregs(&state), &mut back);
        read_xcrs(&xcrs(&state), &mut back);
        read_debug_regs(&debug_regs(&state), &mut back);
        let mut xsave = kvm_xsave::default();
        write_fxsave(&state, &mut xsave);
        read_fxsave(&xsave, &mut back);
        back.lapic = state.lapic.as_ref().map(|l| read_lapic(&lapic(l)));
        back.mp_state = read_mp_state(mp_state(state.mp_state));
        assert_eq!(back, state);
    }

    #[test]
    fn writing_the_fxsave_image_keeps_the_other_components() {
        let mut xsave = kvm_xsave::default();
        xsave.region[XSTATE_BV_WORD] = 4;
        xsave.region[144] = 0xABCD;
        write_fxsave(&distinct(), &mut xsave);
        assert_eq!((xsave.region[XSTATE_BV_WORD], xsave.region[144]), (7, 0xABCD));
    }

    #[test]
    fn mp_states_come_back() {
        for state in
            [MpState::Runnable, MpState::Halted, MpState::Uninitialized, MpState::WaitForSipi]
        {
            assert_eq!(read_mp_state(mp_state(state)), state);
        }
    }
}
