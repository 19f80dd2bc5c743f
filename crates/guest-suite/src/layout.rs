//! The guest's memory and first registers: the same small PC for every case.
//!
//! | physical | what |
//! | --- | --- |
//! | 0x1000 | GDT, see [`GDT`] |
//! | 0x2000 | IDT: vectors 0 to 31 lead to the stubs of `support.s` |
//! | 0x3000 | TSS: RSP0 0x70000, IST1 0x60000 |
//! | 0x7000 | where a second vCPU starts, in real mode (`trampoline.s`) |
//! | 0x10000 to 0x16FFF | page tables |
//! | 0x20000 | `support.s` |
//! | below 0x80000 | the stack |
//! | 0x100000 | the guest's code |
//! | 0x200000 to 0x1000000 | free |
//!
//! Linear addresses: the first 16 MiB are RAM as it is, for ring 0 only; at 1 GiB a window whose
//! page table (0x14000) is empty; at 2 GiB the first 2 MiB again, for ring 3; from 3 GiB devices.

use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};
use vcpu::{CpuState, DescriptorTable, Segment};

use crate::guests;

/// RAM of the suite's machine.
pub(crate) const RAM_LEN: u64 = 16 << 20;

const GDT_BASE: u64 = 0x1000;
const IDT_BASE: u64 = 0x2000;
const TSS_BASE: u64 = 0x3000;
const TRAMPOLINE: u64 = 0x7000;
const PML4: u64 = 0x1_0000;
const SUPPORT: u64 = 0x2_0000;
const STACK_TOP: u64 = 0x8_0000;
const CODE: u64 = 0x10_0000;

/// Selector 0x08 on: kernel code (64), kernel data, user code (32), user data, user code (64), TSS
/// in two words, kernel code (32), data that is not present, data with the base 0x123456.
const GDT: [u64; 11] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_FB00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
    0x0000_8B00_3000_0067,
    0,
    0x00CF_9B00_0000_FFFF,
    0x00CF_1300_0000_FFFF,
    0x00CF_9312_3456_FFFF,
];

/// In which mode a guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode in ring 0, with paging, GDT, IDT and TSS as above.
    Long,
    /// 32-bit protected mode without paging, as a PVH kernel is entered.
    Protected,
}

/// Puts the tables, the support code and `code` into memory.
pub(crate) fn load(memory: &GuestMemory, code: &[u8]) -> Result<(), GuestMemoryError> {
    let put = |at: u64, word: u64| memory.write_obj(word, GuestAddress(at));
    for (at, word) in (GDT_BASE..).step_by(8).zip(GDT) {
        put(at, word)?;
    }
    for vector in 0..32 {
        let handler = SUPPORT + vector * 16;
        // An interrupt gate for ring 0; a breakpoint or overflow may come from ring 3.
        let kind = if vector == 3 || vector == 4 { 0xEE } else { 0x8E };
        put(IDT_BASE + vector * 16, handler & 0xFFFF | 8 << 16 | kind << 40 | handler >> 16 << 48)?;
    }
    put(TSS_BASE + 4, 0x7_0000)?;
    put(TSS_BASE + 0x24, 0x6_0000)?;
    // No I/O permission map: its offset is beyond the limit.
    memory.write_obj(0x68u16, GuestAddress(TSS_BASE + 0x66))?;
    page_tables(&put)?;
    memory.write_slice(guests::SUPPORT.code(), GuestAddress(SUPPORT))?;
    memory.write_slice(guests::TRAMPOLINE.code(), GuestAddress(TRAMPOLINE))?;
    memory.write_slice(code, GuestAddress(CODE))
}

fn page_tables(
    put: &dyn Fn(u64, u64) -> Result<(), GuestMemoryError>,
) -> Result<(), GuestMemoryError> {
    const PRESENT_WRITE: u64 = 3;
    const USER: u64 = 4;
    const LARGE: u64 = 0x80;
    let [pdpt, low, window, window_table, user, devices] =
        [0x1_1000, 0x1_2000, 0x1_3000, 0x1_4000, 0x1_5000, 0x1_6000];
    put(PML4, pdpt | PRESENT_WRITE | USER)?;
    for (index, table) in [low, window, user, devices].into_iter().enumerate() {
        put(pdpt + index as u64 * 8, table | PRESENT_WRITE | USER)?;
    }
    for n in 0..RAM_LEN >> 21 {
        put(low + n * 8, n << 21 | LARGE | PRESENT_WRITE)?;
    }
    put(window, window_table | PRESENT_WRITE | USER)?;
    put(user, LARGE | PRESENT_WRITE | USER)?;
    for n in 0..512 {
        const UNCACHED: u64 = 0x10;
        put(devices + n * 8, (0xC000_0000 + (n << 21)) | LARGE | UNCACHED | PRESENT_WRITE)?;
    }
    Ok(())
}

/// The first vCPU's registers.
pub(crate) fn first_state(entry: Entry) -> CpuState {
    let code64 = Segment { selector: 8, base: 0, limit: !0, attributes: 0xA9B, unusable: false };
    let code32 = Segment { selector: 0x40, attributes: 0xC9B, ..code64 };
    let data = Segment { selector: 0x10, attributes: 0xC93, ..code64 };
    let common = CpuState {
        rip: CODE,
        segments: [data; 6],
        tr: Segment {
            selector: 0x30,
            base: TSS_BASE,
            limit: 0x67,
            attributes: 0x8B,
            unusable: false,
        },
        ldtr: Segment { attributes: 0x82, unusable: true, ..Segment::default() },
        gdtr: DescriptorTable { base: GDT_BASE, limit: (GDT.len() * 8 - 1) as u16 },
        idtr: DescriptorTable { base: IDT_BASE, limit: 0xFFF },
        apic_base: 0xFEE0_0900,
        ..CpuState::default()
    };
    let mut state = match entry {
        Entry::Long => CpuState {
            cr0: 0x8005_0033, // PG, AM, WP, NE, ET, MP, PE
            cr3: PML4,
            cr4: 0x6A0,  // OSXMMEXCPT, OSFXSR, PGE, PAE
            efer: 0xD00, // NXE, LMA, LME
            ..common
        },
        Entry::Protected => CpuState { cr0: 0x11, ..common },
    };
    state.segments[1] = if entry == Entry::Long { code64 } else { code32 };
    state.gpr[4] = STACK_TOP;
    state
}
