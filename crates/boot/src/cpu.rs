//! The first state of each vCPU.

use vcpu::{CpuState, DescriptorTable, MpState, Segment};

use crate::layout::{BOOT_STACK, GDT, IDT, PML4, PVH_START_INFO, ZERO_PAGE};
use crate::{Kernel, Protocol};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The local APIC enabled at its default address, and this is the boot processor (SDM Vol. 3A,
/// 11.4.4).
const APIC_BASE_BOOT_PROCESSOR: u64 = 0xFEE0_0900;

/// Indices into [`CpuState::gpr`].
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
/// Indices into [`CpuState::segments`].
const CS: usize = 1;

/// Model-specific registers that every vCPU starts with (SDM Vol. 4).
const MSRS: [(u32, u64); 11] = [
    (0x010, 0),       // IA32_TIME_STAMP_COUNTER
    (0x174, 0),       // IA32_SYSENTER_CS
    (0x175, 0),       // IA32_SYSENTER_ESP
    (0x176, 0),       // IA32_SYSENTER_EIP
    (0x1A0, 1),       // IA32_MISC_ENABLE: fast strings
    (0x2FF, 0x806),   // IA32_MTRR_DEF_TYPE: enabled, write-back
    (0xC000_0081, 0), // IA32_STAR
    (0xC000_0082, 0), // IA32_LSTAR
    (0xC000_0083, 0), // IA32_CSTAR
    (0xC000_0084, 0), // IA32_FMASK
    (0xC000_0102, 0), // IA32_KERNEL_GS_BASE
];

/// Flat segments, and the selectors that both protocols' tables give them.
const CODE32: Segment = flat(0x08, 0xC9B);
const CODE64: Segment = flat(0x08, 0xA9B);
const DATA: Segment = flat(0x10, 0xC93);
/// An empty task state segment that is busy, as both protocols and VMX want it.
const TASK: Segment =
    Segment { selector: 0x18, base: 0, limit: 0x67, attributes: 0x8B, unusable: false };

const fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes, unusable: false }
}

/// The state in which the boot vCPU enters `kernel`, whose tables are in place.
pub(crate) fn boot_processor(kernel: &Kernel) -> CpuState {
    let mut state = CpuState {
        rip: kernel.entry,
        segments: [DATA; 6],
        tr: TASK,
        ldtr: Segment { unusable: true, ..Segment::default() },
        gdtr: DescriptorTable { base: GDT, limit: (gdt(kernel.protocol).len() * 8 - 1) as u16 },
        idtr: DescriptorTable { base: IDT, limit: 7 },
        apic_base: APIC_BASE_BOOT_PROCESSOR,
        msrs: MSRS.to_vec(),
        ..CpuState::default()
    };
    match kernel.protocol {
        Protocol::Pvh => {
            state.segments[CS] = CODE32;
            state.cr0 = CR0_PE | CR0_ET;
            state.gpr[RBX] = PVH_START_INFO;
        }
        Protocol::Linux64 => {
            state.segments[CS] = CODE64;
            state.cr0 = CR0_PE | CR0_ET | CR0_PG;
            state.cr3 = PML4;
            state.cr4 = CR4_PAE;
            state.efer = EFER_LME | EFER_LMA;
            state.gpr[RSI] = ZERO_PAGE;
            state.gpr[RSP] = BOOT_STACK;
            state.gpr[RBP] = BOOT_STACK;
        }
    }
    state
}

/// The state in which every other vCPU waits for INIT and SIPI: a processor's after power-on (SDM
/// Vol. 3A, table 10-1).
pub fn application_processor() -> CpuState {
    let data = Segment { limit: 0xFFFF, attributes: 0x93, ..Segment::default() };
    let mut segments = [data; 6];
    segments[CS] = Segment { selector: 0xF000, base: 0xFFFF_0000, attributes: 0x9B, ..data };
    let table = DescriptorTable { base: 0, limit: 0xFFFF };
    CpuState {
        segments,
        tr: Segment { attributes: 0x8B, ..data },
        ldtr: Segment { attributes: 0x82, ..data },
        gdtr: table,
        idtr: table,
        msrs: MSRS.to_vec(),
        mp_state: MpState::Uninitialized,
        ..CpuState::default()
    }
}

/// The global descriptor table that goes with [`boot_processor`].
pub(crate) fn gdt(protocol: Protocol) -> [u64; 4] {
    let code = match protocol {
        Protocol::Pvh => CODE32,
        Protocol::Linux64 => CODE64,
    };
    [0, descriptor(&code), descriptor(&DATA), descriptor(&TASK)]
}

/// A segment as its 8 bytes in a table (SDM Vol. 3A, figure 3-8).
fn descriptor(segment: &Segment) -> u64 {
    let (base, attributes) = (segment.base, u64::from(segment.attributes));
    let granular = attributes & 1 << 11 != 0;
    let limit = u64::from(if granular { segment.limit >> 12 } else { segment.limit });
    limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | (attributes & 0xFF) << 40
        | (limit >> 16 & 0xF) << 48
        | (attributes >> 8 & 0xF) << 52
        | (base >> 24 & 0xFF) << 56
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    #[test]
    fn descriptors() {
        let linux = [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067];
        assert_eq!(gdt(Protocol::Linux64), linux);
        assert_eq!(gdt(Protocol::Pvh)[1], 0x00CF_9B00_0000_FFFF);
    }

    #[test]
    fn entry_states() {
        let kernel =
            |protocol| Kernel { format: Format::Elf, protocol, entry: 0x100_0000, end: 0x200_0000 };
        let pvh = boot_processor(&kernel(Protocol::Pvh));
        assert_eq!((pvh.rip, pvh.cr0, pvh.cr4, pvh.efer), (0x100_0000, 0x11, 0, 0));
        assert_eq!(pvh.gpr[RBX], 0x6000);
        let linux = boot_processor(&kernel(Protocol::Linux64));
        assert_eq!((linux.cr0, linux.cr3, linux.cr4), (0x8000_0011, 0x9000, 0x20));
        assert_eq!((linux.efer, linux.gpr[RSI], linux.gpr[RSP]), (0x500, 0x7000, 0x8FF0));
        assert_eq!((linux.gdtr.base, linux.gdtr.limit), (0x500, 31));
        assert_eq!(linux.mp_state, MpState::Runnable);
        let ap = application_processor();
        assert_eq!((ap.mp_state, ap.apic_base), (MpState::Uninitialized, 0xFEE0_0800));
        assert!(ap.msrs.contains(&(0x2FF, 0x806)));
    }
}
