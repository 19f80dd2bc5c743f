//! The table of cases.
//!
//! Each row: the guest, and the notes that are right, after the manuals. [`fault`] is what
//! `support.s` notes of an exception; behind it comes how far RIP is from the instruction, and for
//! page faults CR2.

use crate::case::{Case, Expect, Guest, Kind, MakeVm};
use crate::contract;
use crate::guests::{self, Blob};
use crate::layout::Entry;

const DE: u64 = 0;
const BP: u64 = 3;
const UD: u64 = 6;
const NM: u64 = 7;
const NP: u64 = 11;
const SS: u64 = 12;
const GP: u64 = 13;
const PF: u64 = 14;
const MF: u64 = 16;

/// The page at 1 GiB, where guests map pages of their own.
const WINDOW: u64 = 0x4000_0000;
/// `hlt` in ring 3, for example: a general protection fault without a selector.
const GP_0: u64 = fault(GP, 0);

/// TCG runs XSETBV without an exit, so that KVM never learns of the guest's XCR0.
const XSETBV: &str = "the interception of XSETBV";

/// All cases.
pub fn all() -> &'static [Case] {
    CASES
}

static CASES: &[Case] = &[
    long("ports", guests::PORTS, PORTS),
    long("ports_string", guests::PORTS_STRING, PORTS_STRING),
    long("mmio", guests::MMIO, MMIO),
    long("apic_one_shot", guests::APIC_ONE_SHOT, &[1, 0, 1]),
    long("apic_periodic", guests::APIC_PERIODIC, &[1]),
    long("apic_deadline", guests::APIC_DEADLINE, &[1, 1, 0, 2])
        .or_skip("the local APIC has no TSC-deadline mode"),
    long("apic_priority", guests::APIC_PRIORITY, &[0x50, 2, 1, 0x61, 2, 0x41, 3, 0x61, 0x41, 0]),
    long("ioapic_edge", guests::IOAPIC_EDGE, &[0x50, 2, 23]),
    long("pic_virtual_wire", guests::PIC_VIRTUAL_WIRE, &[0xEF, 0x10, 0, 1]),
    long("pit_one_shot", guests::PIT_ONE_SHOT, &[1, 0, 2]),
    long("exceptions", guests::EXCEPTIONS, EXCEPTIONS),
    long("exceptions_strict", guests::EXCEPTIONS_STRICT, EXCEPTIONS_STRICT)
        .wrong_on_tcg("lock prefixes, stack faults, IDT error codes and reserved bits"),
    long("fpu_exceptions", guests::FPU_EXCEPTIONS, FPU_EXCEPTIONS),
    // The top of IST1 less six words, then the error code.
    long("double_fault", guests::DOUBLE_FAULT, &[0x6_0000 - 48, 0])
        .wrong_on_tcg("faults while a fault is injected"),
    guest("triple_fault", guests::TRIPLE_FAULT, Entry::Long, Expect::TripleFault),
    long("page_faults", guests::PAGE_FAULTS, PAGE_FAULTS),
    long("page_faults_user", guests::PAGE_FAULTS_USER, PAGE_FAULTS_USER),
    long("reserved_bits", guests::RESERVED_BITS, RESERVED_BITS)
        .wrong_on_tcg("error codes of reserved bits"),
    long("ring3", guests::RING3, RING3),
    long("ring3_strict", guests::RING3_STRICT, &[fault(GP, 0x81 * 8 + 2), 0])
        .wrong_on_tcg("IDT error codes"),
    long("syscall", guests::SYSCALL, SYSCALL),
    long("compat", guests::COMPAT, &[2, 4, 0xABCD, 0x1F_FFFF, fault(UD, 0), 0]),
    guest(
        "protected_entry",
        guests::PROTECTED_ENTRY,
        Entry::Protected,
        Expect::Notes(&[0x11, 0xD00, 0x1_2345_6789]),
    ),
    long("ap_start", guests::AP_START, &[0x700, 1, 0xFEE0_0800, 2]),
    long("smc", guests::SMC, &[500_500, 5050, 5050, 5050 << 16, 0]),
    long("smc_next", guests::SMC_NEXT, &[0x22]).wrong_on_tcg("changes of the next instruction"),
    long("smc_other_vcpu", guests::SMC_OTHER_VCPU, &[5050]),
    long("locked", guests::LOCKED, &[30_000, 10_000, 20_000, 50_000, 10_000, 10_000]),
    long("page_sizes", guests::PAGE_SIZES, PAGE_SIZES),
    long("page_1g", guests::PAGE_1G, &[0x44, 0x55]).or_skip("there are no pages of 1 GiB"),
    long("accessed_dirty", guests::ACCESSED_DIRTY, ACCESSED_DIRTY),
    long("tlb", guests::TLB, TLB),
    long("smep", guests::SMEP, &[1, fault(PF, 0x11), 0, WINDOW]).or_skip("there is no SMEP"),
    long("smap", guests::SMAP, SMAP).or_skip("there is no SMAP"),
    long("rep_fault", guests::REP_FAULT, REP_FAULT),
    long("fs_gs", guests::FS_GS, FS_GS),
    long("fsgsbase", guests::FSGSBASE, FSGSBASE).or_skip("there is no FSGSBASE"),
    // DR7; then twice: how far RIP is, and DR6; then whether DR0 kept its value.
    long("breakpoints", guests::BREAKPOINTS, &[0xD0_040F, 0, 1, 7, 2, 0]),
    // How far RIP is at each trap; then the count that one of the instructions raised.
    long("single_step", guests::SINGLE_STEP, SINGLE_STEP),
    long("rdtsc", guests::RDTSC, &[1]),
    long("cpuid", guests::CPUID, &[1, 0, 0x0780_8371, 0x8080_2001, 1, 0x2010_0800, 1]),
    long("fpu_state", guests::FPU_STATE, FPU_STATE),
    long("xsave", guests::XSAVE, XSAVE).or_skip("there is no AVX").wrong_on_tcg(XSETBV),
    long("xsave_size", guests::XSAVE_SIZE, &[832]).or_skip("there is no AVX").wrong_on_tcg(XSETBV),
    guest("keyboard_reset", guests::KEYBOARD_RESET, Entry::Long, Expect::Code(0xFE)),
    host("kick_before_run", contract::kick_before_run),
    host("regression_a_vcpu_outlives_its_vm", contract::regression_a_vcpu_outlives_its_vm),
    host("kick_while_halted", contract::kick_while_halted),
    host("kick_while_waiting_for_sipi", contract::kick_while_waiting_for_sipi),
    host("kicks_are_never_lost", contract::kicks_are_never_lost),
    host("states_come_back", contract::states_come_back),
    host("registers_reach_the_guest", contract::registers_reach_the_guest),
    host("a_guest_moves_house", contract::a_guest_moves_house),
    host("nonsense_is_refused", contract::nonsense_is_refused),
    host("doorbells", contract::doorbells),
];

const PORTS: &[u64] = &[
    0x1122_3344_5566_77A0,
    0x1122_3344_5566_A1A0,
    0xA7A6_A5A4,
    write(1, 1, 0x88),
    write(2, 2, 0x7788),
    write(4, 8, 0x5566_7788),
    0xFFFF,
];

const PORTS_STRING: &[u64] = &[
    write(1, 0, 0x01),
    write(2, 0, 0x0302),
    write(4, 0, 0x0706_0504),
    write(4, 0, 0x0B0A_0908),
    0,
    11,
    0x20_0007,
    0x00A2_A3A2_A3A2_A3A2,
    0x20_00FC,
    0xA5A4_A3A2_A5A4_A3A2,
];

const MMIO: &[u64] = &[
    // Reads.
    0x1122_3344_5566_7710,
    0x1122_3344_5566_1312,
    0x1716_1514,
    0x1F1E_1D1C_1B1A_1918,
    0x91,
    0xFFFF_FFFF_FFFF_FF91,
    0xFFFF_FFFF_9392_9190,
    // Writes: where, then what.
    write(1, 0x20, 0),
    0x88,
    write(2, 0x22, 0),
    0x7788,
    write(4, 0x24, 0),
    0x5566_7788,
    write(8, 0x28, 0),
    0x1122_3344_5566_7788,
    write(4, 0x30, 0),
    0x1234_5678,
    write(8, 0x38, 0),
    0xFFFF_FFFF_FFFF_FFFE,
    // Reads and writes in one: add, or, xchg.
    write(4, 0x40, 0),
    0x5352_5151,
    write(1, 0x41, 0),
    0xD1,
    write(4, 0x44, 0),
    0x55,
    0x5756_5554,
    // setnz; then string instructions.
    1,
    0x6766_6564_6362_6160,
    write(2, 0x60, 0),
    0x6160,
    write(2, 0x62, 0),
    0x6362,
    write(1, 0x64, 0),
    0x77,
    write(1, 0x65, 0),
    0x77,
    0xD000_0066,
    0xFFFF_FFFF,
];

#[rustfmt::skip]
const EXCEPTIONS: &[u64] = &[
    fault(DE, 0), 0,
    fault(DE, 0), 0,
    fault(BP, 0), 1,
    fault(UD, 0), 0,
    fault(UD, 0), 0,
    fault(UD, 0), 0,
    GP_0, 0, // not canonical
    GP_0, 0, // push of it
    GP_0, 0, // rdmsr
    fault(GP, 0x1000), 0,
    fault(NP, 0x48), 0,
    fault(SS, 0x48), 0,
    GP_0, 0, // CR0
    GP_0, 0, // CR4
    fault(GP, 0x08), 0,
    fault(GP, 0x10), 0,
];

#[rustfmt::skip]
const EXCEPTIONS_STRICT: &[u64] = &[
    fault(UD, 0), 0,
    fault(SS, 0), 0,
    fault(GP, 0x41 * 8 + 2), 0,
    fault(NP, 0x42 * 8 + 2), 0,
    GP_0, 0,
    GP_0, 0,
];

const FPU_EXCEPTIONS: &[u64] =
    &[fault(NM, 0), 0, fault(NM, 0), 0, fault(MF, 0), 0, fault(UD, 0), 0];

#[rustfmt::skip]
const PAGE_FAULTS: &[u64] = &[
    fault(PF, 0), 0, WINDOW + 0x10,
    fault(PF, 2), 0, WINDOW + 0xFFE,
    fault(PF, 3), 0, WINDOW + 8,
    fault(PF, 3), 0, WINDOW + 8,
    0x1234,
    fault(PF, 0x11), 0, WINDOW + 0x1000,
    fault(PF, 0x10), 0, WINDOW + 0x3000,
    fault(PF, 0), 0, WINDOW + 0x5000,
    fault(PF, 2), 0, WINDOW + 0x5000,
    fault(PF, 0), 0, 0x50_0000_0000,
];

#[rustfmt::skip]
const PAGE_FAULTS_USER: &[u64] = &[
    fault(PF, 5), 0, WINDOW,
    fault(PF, 7), 0, WINDOW,
    fault(PF, 7), 0, WINDOW + 0x1000,
    fault(PF, 4), 0, WINDOW + 0x3000,
    fault(PF, 6), 0, WINDOW + 0x3000,
    fault(PF, 0x15), 0, WINDOW + 0x2000,
    fault(PF, 0x14), 0, WINDOW + 0x3000,
    fault(PF, 5), 0, 0x10_0000,
];

#[rustfmt::skip]
const RESERVED_BITS: &[u64] = &[
    fault(PF, 9), 0, WINDOW + 0x2000,
    fault(PF, 0xB), 0, WINDOW + 0x2000,
    fault(PF, 9), 0, WINDOW + 0x1000,
    fault(PF, 9), 0, WINDOW + 0x20_0000,
];

#[rustfmt::skip]
const RING3: &[u64] = &[
    0x2B,
    0x23, // CS and SS
    GP_0, 0,
    GP_0, 0,
    GP_0, 0,
    GP_0, 0,
    GP_0, 0,
    fault(BP, 0), 1,
    0, // IF
    0x123,
    0x2B,
    0x23,
    0x08,
    0,
    0x456,
];

#[rustfmt::skip]
const SYSCALL: &[u64] = &[
    fault(UD, 0), 0,
    0x203,
    0x2B,
    0x23, // after sysret: flags, CS, SS
    0x002,
    0x203,
    0,
    0x08,
    0x10,  // after syscall: flags, R11, RCX, CS, SS
    0x203, // after sysret
];

#[rustfmt::skip]
const PAGE_SIZES: &[u64] = &[
    0x11,
    0x22,
    0x22,
    0x33,
    fault(PF, 3), 0, WINDOW + 0x20_0000,
    0x22,
    fault(PF, 3), 0, WINDOW + 0x1000,
];

const ACCESSED_DIRTY: &[u64] =
    &[0, 0x20, 0x20, 0x60, 0x60, 0x20, 0x60, fault(PF, 3), 0, WINDOW + 0x2000, 0];

#[rustfmt::skip]
const TLB: &[u64] = &[
    fault(PF, 0), 0, WINDOW,
    0x11,
    0x22,
    0x11,
    0x22,
    0x11,
    0x22,
    1000 * (0x22 - 0x11),
    fault(PF, 3), 0, WINDOW,
    fault(PF, 0), 0, WINDOW,
];

const SMAP: &[u64] =
    &[fault(PF, 1), 0, WINDOW, fault(PF, 3), 0, WINDOW, fault(PF, 1), 0, WINDOW + 8, 1];

/// For each instruction: error code, RCX, RSI, RDI and CR2 at the fault; RCX, RSI and RDI at the
/// end; for some, what is in memory then.
#[rustfmt::skip]
const REP_FAULT: &[u64] = &[
    // rep movsb
    2, 0x20, 0x30_0010, WINDOW + 0x1000, WINDOW + 0x1000,
    0, 0x30_0030, WINDOW + 0x1020,
    0x0F0E_0D0C_0B0A_0908, 0x2F2E_2D2C_2B2A_2928,
    // rep movsq
    2, 4, 0x30_0020, WINDOW + 0x1000, WINDOW + 0x1000,
    0, 0x30_0040, WINDOW + 0x1020,
    // rep stosq
    2, 0x18, 0x30_0040, WINDOW + 0x1000, WINDOW + 0x1000,
    0, 0x30_0040, WINDOW + 0x10C0,
    0x4142_4344_4546_4748,
    // rep lodsb
    0, 4, WINDOW + 0x1000, WINDOW + 0x10C0, WINDOW + 0x1000,
    0, WINDOW + 0x1004, WINDOW + 0x10C0,
    // rep movsb, downwards
    2, 8, 0x30_0010, WINDOW + 0x1003, WINDOW + 0x1003,
    0, 0x30_0008, WINDOW + 0xFFB,
    // repe cmpsb
    0, 0xE, WINDOW + 0x1000, WINDOW + 0x1000, WINDOW + 0x1000,
    0, WINDOW + 0x100E, WINDOW + 0x100E,
    // repne scasb
    0, 0x18, WINDOW + 0x100E, WINDOW + 0x1000, WINDOW + 0x1000,
    0, WINDOW + 0x100E, WINDOW + 0x1018,
];

const FS_GS: &[u64] = &[
    0x11,
    0x22,
    0x11, // fs, gs, fs with a displacement that wraps
    0x11,
    0x20_1000,
    0x20_0000, // after swapgs
    0x12_3456,
    0xFFFF_8000_0000_0000,
    0x11,
];

const FSGSBASE: &[u64] = &[fault(UD, 0), 0, 0x1234_5678_9ABC, 0x5678_9ABC, 0x1234_5678_9ABC];

const SINGLE_STEP: &[u64] = &[1, 3, 8, 0xA, 0xF, 0x14, 0x14, 0x16, 0x17, 0x1F, 0x20, 1];

const FPU_STATE: &[u64] = &[
    0x37F,
    0x1F80,
    6 << 11,
    0xC0,
    0xC90F_DAA2_2168_C235,
    0x0123_4567_89AB_CDEF,
    0x0123_4567_89AB_CDEF,
    1,
];

#[rustfmt::skip]
const XSAVE: &[u64] = &[
    0,
    fault(UD, 0), 0,
    1,
    1,
    576,
    GP_0, 0,
    GP_0, 0,
    7,
    6,
    0x1122_3344_5566_7788,
    0,
    0x1122_3344_5566_7788,
];

/// What `support.s` notes first of an exception.
const fn fault(vector: u64, error_code: u64) -> u64 {
    vector << 32 | error_code
}

/// What the scratch devices note of a write; MMIO notes the value behind it.
const fn write(len: u64, offset: u64, value: u64) -> u64 {
    len << 56 | offset << 32 | value
}

const fn long(name: &'static str, blob: Blob, notes: &'static [u64]) -> Case {
    guest(name, blob, Entry::Long, Expect::Notes(notes))
}

const fn guest(name: &'static str, blob: Blob, entry: Entry, expect: Expect) -> Case {
    let skip = "the guest gave up, which it should not";
    Case { name, tcg_flaw: None, kind: Kind::Guest(Guest { blob, entry, expect, skip }) }
}

const fn host(name: &'static str, test: fn(MakeVm<'_>) -> Result<(), String>) -> Case {
    Case { name, tcg_flaw: None, kind: Kind::Host(test) }
}

impl Case {
    /// The guest may give up, for this reason.
    const fn or_skip(mut self, reason: &'static str) -> Self {
        if let Kind::Guest(guest) = &mut self.kind {
            guest.skip = reason;
        }
        self
    }

    const fn wrong_on_tcg(mut self, what: &'static str) -> Self {
        self.tcg_flaw = Some(what);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = all().iter().map(|c| c.name).collect();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn every_guest_has_code() {
        for case in all() {
            if let Kind::Guest(guest) = &case.kind {
                let len = guest.blob.code().len();
                assert!((5..4096).contains(&len), "{} has {len} bytes", case.name);
            }
        }
    }
}
