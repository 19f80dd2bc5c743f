//! The system's instructions on a whole vCPU with a small machine around it.

use std::sync::Arc;

use memory::RamView;
use vcpu::{DescriptorTable, MpState, Segment};

use crate::cpu::{
    CS, CodeSize, Cpu, DS, ES, Exception, FS, FS_BASE, GS, GS_BASE, Pending, R11, RAX, RCX, RDX,
    REG_SLOTS, RIP, RSP, SS, Trap, rflags, vector,
};
use crate::system::exception::Shutdown;
use crate::system::segment::attributes;
use crate::vm::{Options, Shared};

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const PAGE_TABLES: u64 = 0x4000;
const KERNEL_STACK: u64 = 0x9000;
const IST1: u64 = 0xA000;
const USER_STACK: u64 = 0xB000;
const HANDLER: u64 = 0xC000;
const USER_CODE: u64 = 0xD000;

const KERNEL_CS: u16 = 0x08;
const KERNEL_DS: u16 = 0x10;
const USER_CS32: u16 = 0x1B;
const USER_DS: u16 = 0x23;
const USER_CS64: u16 = 0x2B;
const TSS_SELECTOR: u16 = 0x30;
const KERNEL_CS32: u16 = 0x40;
const ABSENT_DS: u16 = 0x48;
const CALL_GATE: u16 = 0x50;
const GDT_ENTRIES: [u64; 13] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_FB00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
    0x0000_8900_3000_0067,
    0,
    0x00CF_9B00_0000_FFFF,
    0x00CF_1300_0000_FFFF,
    0x0000_EC00_0008_C000,
    0,
    // Data with a base, not yet accessed.
    0x00CF_9212_3456_FFFF,
];
const BASED_DS: u16 = 0x60;

fn new_cpu() -> Cpu {
    let ram = memory::allocate(&memory::ranges(16 << 20)).expect("RAM");
    Cpu::new(0, RamView::new(Arc::new(ram)), Arc::new(Shared::new(Options::default())))
}

fn poke<const N: usize>(cpu: &mut Cpu, address: u64, bytes: [u8; N]) {
    cpu.write_physical(address, &bytes);
}

fn peek(cpu: &mut Cpu, address: u64) -> u64 {
    let mut bytes = [0; 8];
    cpu.read_physical(address, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// Slot `i` of the frame on the 64-bit stack.
fn pushed(cpu: &mut Cpu, i: u64) -> u64 {
    let address = cpu.regs[RSP] + 8 * i;
    peek(cpu, address)
}

/// A gate of 16 bytes: `kind` with its P and DPL bits, `ist` its stack.
fn set_gate64(cpu: &mut Cpu, vector: u64, kind: u64, ist: u64) {
    let low = HANDLER & 0xFFFF
        | u64::from(KERNEL_CS) << 16
        | ist << 32
        | kind << 40
        | (HANDLER >> 16 & 0xFFFF) << 48;
    poke(cpu, IDT + 16 * vector, low.to_le_bytes());
}

/// CPL 0 in 32-bit protected mode without paging, with the tables in place.
fn protected_cpu() -> Cpu {
    let mut cpu = new_cpu();
    for (i, entry) in (0u64..).zip(GDT_ENTRIES) {
        poke(&mut cpu, GDT + 8 * i, entry.to_le_bytes());
    }
    cpu.gdtr = DescriptorTable { base: GDT, limit: 8 * 13 - 1 };
    cpu.idtr = DescriptorTable { base: IDT, limit: 0xFFF };
    cpu.regs = [0; REG_SLOTS];
    cpu.write_cr(0, 0x11).expect("PE");
    cpu.far_jump(KERNEL_CS32, 0x7000).expect("CS");
    for register in [ES, SS, DS, FS, GS] {
        cpu.load_segment(register, KERNEL_DS).expect("data");
    }
    cpu.regs[RSP] = KERNEL_STACK;
    cpu
}

/// CPL 0 in 64-bit mode, with 16 MiB mapped one to one for everybody.
fn long_cpu() -> Cpu {
    let mut cpu = protected_cpu();
    poke(&mut cpu, PAGE_TABLES, ((PAGE_TABLES + 0x1000) | 7).to_le_bytes());
    poke(&mut cpu, PAGE_TABLES + 0x1000, ((PAGE_TABLES + 0x2000) | 7).to_le_bytes());
    for i in 0..8u64 {
        poke(&mut cpu, PAGE_TABLES + 0x2000 + 8 * i, (i << 21 | 0x87).to_le_bytes());
    }
    poke(&mut cpu, TSS + 4, KERNEL_STACK.to_le_bytes());
    poke(&mut cpu, TSS + 36, IST1.to_le_bytes());
    poke(&mut cpu, TSS + 0x66, 0x67u16.to_le_bytes());
    cpu.write_cr(4, 1 << 5).expect("PAE");
    cpu.write_cr(3, PAGE_TABLES).expect("CR3");
    cpu.wrmsr(0xC000_0080, 0x901).expect("LME, NXE, SCE");
    cpu.write_cr(0, 0x8001_0031).expect("PG");
    assert_eq!((cpu.long_mode(), cpu.code_size), (true, CodeSize::Bits32));
    cpu.far_jump(KERNEL_CS, 0x7000).expect("CS");
    assert_eq!(cpu.code_size, CodeSize::Bits64);
    cpu.ltr(TSS_SELECTOR).expect("TR");
    cpu
}

/// [`long_cpu`] gone to CPL 3 through SYSRET.
fn user_cpu() -> Cpu {
    let mut cpu = long_cpu();
    let star = u64::from(USER_CS32) << 48 | u64::from(KERNEL_CS) << 32;
    cpu.wrmsr(0xC000_0081, star).expect("STAR");
    cpu.wrmsr(0xC000_0082, HANDLER).expect("LSTAR");
    cpu.wrmsr(0xC000_0084, rflags::IF | rflags::TF).expect("FMASK");
    cpu.regs[RCX] = USER_CODE;
    cpu.regs[R11] = rflags::IF | rflags::FIXED;
    cpu.sysret(true).expect("SYSRET");
    cpu.regs[RSP] = USER_STACK;
    for register in [ES, DS, FS, GS] {
        cpu.load_segment(register, USER_DS).expect("data");
    }
    assert_eq!((cpu.cpl, cpu.segments[CS].selector), (3, USER_CS64));
    assert_eq!(cpu.segments[SS].selector, USER_DS);
    cpu
}

fn assert_fault<T: std::fmt::Debug>(cpu: &Cpu, result: Result<T, Trap>, vector: u8, error: u32) {
    assert!(result.is_err(), "{result:?}");
    assert_eq!(cpu.pending, Pending::Fault(Exception::with(vector, error)));
}

#[test]
fn interrupts_switch_stacks_and_return() {
    let mut cpu = user_cpu();
    set_gate64(&mut cpu, 0x40, 0x8E, 0);
    let before = cpu.save();
    cpu.deliver_interrupt(0x40).expect("delivered");
    assert_eq!((cpu.cpl, cpu.regs[RIP]), (0, HANDLER));
    assert!(cpu.segments[SS].unusable && cpu.eflags & rflags::IF == 0);
    assert_eq!(cpu.regs[RSP], KERNEL_STACK - 40);
    let frame: Vec<u64> = (0..5).map(|i| peek(&mut cpu, KERNEL_STACK - 40 + 8 * i)).collect();
    let expected = [USER_CODE, u64::from(USER_CS64), before.rflags, USER_STACK, u64::from(USER_DS)];
    assert_eq!(frame, expected);
    cpu.iret(64).expect("IRET");
    let mut after = cpu.save();
    // Only time went on.
    after.msrs.clone_from(&before.msrs);
    assert_eq!(after, before);
}

#[test]
fn faults_push_rf_and_error_code_on_their_own_stack() {
    let mut cpu = long_cpu();
    set_gate64(&mut cpu, 13, 0x8F, 1);
    cpu.regs[RSP] = 0x8FF7;
    cpu.regs[RIP] = 0x7123;
    cpu.set_rflags(rflags::IF | rflags::TF | rflags::CF);
    cpu.deliver_fault(Exception::with(vector::GP, 0x18)).expect("delivered");
    assert_eq!(cpu.regs[RSP], IST1 - 48);
    let frame: Vec<u64> = (0..6).map(|i| peek(&mut cpu, IST1 - 48 + 8 * i)).collect();
    let image = rflags::IF | rflags::TF | rflags::CF | rflags::FIXED | rflags::RF;
    assert_eq!(frame[..5], [0x18, 0x7123, u64::from(KERNEL_CS), image, 0x8FF7]);
    assert_eq!(frame[5], u64::from(KERNEL_DS));
    assert_eq!(cpu.rflags() & (rflags::IF | rflags::TF | rflags::RF), rflags::IF);
}

#[test]
fn software_interrupts_obey_the_gate() {
    let mut cpu = user_cpu();
    set_gate64(&mut cpu, 0x80, 0x8E, 0);
    set_gate64(&mut cpu, 0x81, 0xEE, 0);
    set_gate64(&mut cpu, 13, 0x8E, 0);
    cpu.regs[RIP] = USER_CODE + 2;
    cpu.deliver_software(0x80, USER_CODE).expect("#GP delivered");
    assert_eq!(pushed(&mut cpu, 0), 0x80 * 8 + 2);
    assert_eq!(pushed(&mut cpu, 1), USER_CODE);

    let mut cpu = user_cpu();
    set_gate64(&mut cpu, 0x81, 0xEE, 0);
    cpu.regs[RIP] = USER_CODE + 2;
    cpu.deliver_software(0x81, USER_CODE).expect("delivered");
    assert_eq!(pushed(&mut cpu, 0), USER_CODE + 2);
}

#[test]
fn failed_deliveries_become_double_and_triple_faults() {
    let mut cpu = long_cpu();
    set_gate64(&mut cpu, 8, 0x8E, 0);
    cpu.deliver_fault(Exception::with(vector::GP, 0)).expect("#DF delivered");
    assert_eq!(pushed(&mut cpu, 0), 0);
    assert_eq!(cpu.pending, Pending::None);

    let mut cpu = long_cpu();
    assert_eq!(cpu.deliver_fault(Exception::with(vector::GP, 0)), Err(Shutdown));
    assert_eq!(cpu.pending, Pending::Shutdown);

    // An interrupt without a gate is #NP of that gate, caused from outside.
    let mut cpu = long_cpu();
    set_gate64(&mut cpu, 11, 0x8E, 0);
    set_gate64(&mut cpu, 0x50, 0x0E, 0);
    cpu.deliver_interrupt(0x50).expect("#NP delivered");
    assert_eq!(pushed(&mut cpu, 0), 0x50 * 8 + 3);
}

#[test]
fn system_calls_go_and_come() {
    let mut cpu = user_cpu();
    cpu.syscall(USER_CODE + 2).expect("SYSCALL");
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RCX]), (0, HANDLER, USER_CODE + 2));
    assert_eq!(cpu.regs[R11], rflags::IF | rflags::FIXED);
    assert_eq!(cpu.rflags(), rflags::FIXED);
    assert_eq!(cpu.segments[CS].selector, KERNEL_CS);
    assert_eq!(cpu.segments[SS].selector, KERNEL_DS);
    cpu.regs[RCX] = 1 << 47;
    let result = cpu.sysret(true);
    assert_fault(&cpu, result, vector::GP, 0);
    cpu.regs[RCX] = 0x1_0000_D000;
    cpu.sysret(false).expect("to 32-bit code");
    assert_eq!((cpu.code_size, cpu.regs[RIP]), (CodeSize::Bits32, USER_CODE));
    assert!(cpu.syscall(0).is_err());
    assert_eq!(cpu.pending, Pending::Fault(Exception::plain(vector::UD)));

    let mut cpu = user_cpu();
    let result = cpu.sysenter();
    assert_fault(&cpu, result, vector::GP, 0);
    cpu.msrs.sysenter_cs = u64::from(KERNEL_CS);
    cpu.msrs.sysenter_eip = HANDLER;
    cpu.sysenter().expect("SYSENTER");
    assert_eq!((cpu.cpl, cpu.code_size, cpu.regs[RIP]), (0, CodeSize::Bits64, HANDLER));
    (cpu.regs[RDX], cpu.regs[RCX]) = (USER_CODE, USER_STACK);
    cpu.sysexit(true).expect("SYSEXIT");
    assert_eq!((cpu.cpl, cpu.segments[CS].selector), (3, 0x2B));
    assert_eq!(cpu.segments[SS].selector, 0x33);
}

#[test]
fn segment_loads_are_checked() {
    let check = |user: bool, register, selector, expected: Result<(), (u8, u32)>| {
        let mut cpu = if user { user_cpu() } else { long_cpu() };
        let result = cpu.load_segment(register, selector);
        match expected {
            Ok(()) => assert_eq!((result, cpu.segments[register].selector), (Ok(()), selector)),
            Err((vector, error)) => assert_fault(&cpu, result, vector, error),
        }
    };
    let gp = |error| Err((vector::GP, error));
    check(false, DS, 0, Ok(()));
    check(false, DS, KERNEL_DS, Ok(()));
    check(false, ES, KERNEL_CS, Ok(()));
    check(false, DS, USER_DS, Ok(()));
    check(false, DS, KERNEL_DS | 3, gp(0x10));
    check(false, DS, ABSENT_DS, Err((vector::NP, 0x48)));
    check(false, DS, TSS_SELECTOR, gp(0x30));
    check(false, DS, 0x68, gp(0x68));
    check(false, DS, 0x0C, gp(0x0C));
    check(false, SS, 0, Ok(()));
    check(false, SS, KERNEL_CS, gp(8));
    check(false, SS, USER_DS, gp(0x20));
    check(false, SS, ABSENT_DS, Err((vector::SS, 0x48)));
    check(true, SS, 3, gp(0));
    check(true, SS, USER_DS, Ok(()));
    check(true, DS, KERNEL_DS, gp(0x10));
}

#[test]
fn loads_of_fs_set_its_base_and_the_accessed_bit() {
    let mut cpu = long_cpu();
    cpu.load_segment(FS, BASED_DS).expect("FS");
    assert_eq!(cpu.regs[FS_BASE], 0x12_3456);
    assert_eq!(peek(&mut cpu, GDT + u64::from(BASED_DS)), 0x00CF_9312_3456_FFFF);
    assert_eq!(cpu.segments[FS].attributes, 0xC93);
    cpu.load_segment(FS, 0).expect("FS");
    assert_eq!(cpu.regs[FS_BASE], 0);
}

#[test]
fn legacy_addresses_are_checked() {
    let mut cpu = protected_cpu();
    let data =
        |base, limit, attributes| Segment { selector: 8, base, limit, attributes, unusable: false };
    let mut check = |segment, offset, bytes, write, expected: Option<u64>| {
        cpu.segments[DS] = segment;
        let result = cpu.linear_legacy(DS, offset, bytes, write);
        assert_eq!(result.ok(), expected, "{segment:x?} {offset:#x}");
    };
    check(data(0x100, 0xFF, 0x93), 0xFC, 4, true, Some(0x1FC));
    check(data(0x100, 0xFF, 0x93), 0xFD, 4, true, None);
    check(data(0x100, 0xFF, 0x91), 0, 1, true, None);
    check(data(0x100, 0xFF, 0x91), 0, 1, false, Some(0x100));
    check(data(0x100, 0xFF, 0x99), 0, 1, false, None);
    check(data(0xFFFF_FFF0, 0xFF, 0x93), 0x20, 1, false, Some(0x10));
    check(data(0, 0xFFF, 0x97), 0xFFF, 1, true, None);
    check(data(0, 0xFFF, 0x97), 0x1000, 1, true, Some(0x1000));
    check(data(0, 0xFFF, 0x97), 0xFFFE, 4, true, None);
    check(data(0, 0xFFF, 0x97 | attributes::BIG), 0xFFFE, 4, true, Some(0xFFFE));
    check(Segment { unusable: true, ..Segment::default() }, 0, 1, false, None);
}

#[test]
fn real_mode_interrupts_and_returns() {
    let mut cpu = new_cpu();
    cpu.start_up(0x9A);
    assert_eq!((cpu.segments[CS].base, cpu.regs[RIP]), (0x9_A000, 0));
    assert_eq!(cpu.mp_state, MpState::Runnable);
    poke(&mut cpu, 0x21 * 4, 0x1234_5678u32.to_le_bytes());
    cpu.load_segment(SS, 0x800).expect("SS");
    cpu.regs[RSP] = 0xAAAA_0100;
    cpu.regs[RIP] = 0x42;
    cpu.set_rflags(rflags::IF);
    cpu.deliver_software(0x21, 0x40).expect("delivered");
    assert_eq!((cpu.segments[CS].base, cpu.regs[RIP]), (0x1_2340, 0x5678));
    assert_eq!((cpu.regs[RSP], cpu.eflags & rflags::IF), (0xAAAA_00FA, 0));
    assert_eq!(peek(&mut cpu, 0x80FA) & 0xFFFF_FFFF_FFFF, 0x0202_9A00_0042);
    cpu.iret(16).expect("IRET");
    assert_eq!((cpu.segments[CS].base, cpu.regs[RIP]), (0x9_A000, 0x42));
    assert_eq!((cpu.regs[RSP], cpu.eflags & rflags::IF), (0xAAAA_0100, rflags::IF));
}

#[test]
fn protected_mode_interrupts_and_returns() {
    let mut cpu = protected_cpu();
    let gate = HANDLER & 0xFFFF | u64::from(KERNEL_CS32) << 16 | 0xEE << 40;
    poke(&mut cpu, IDT + 8 * 0x30, gate.to_le_bytes());
    poke(&mut cpu, TSS + 4, (KERNEL_STACK as u32).to_le_bytes());
    poke(&mut cpu, TSS + 8, u32::from(KERNEL_DS).to_le_bytes());
    cpu.ltr(TSS_SELECTOR).expect("TR");
    let frame = [USER_CODE as u32, u32::from(USER_CS32), 0x202, USER_STACK as u32, 0x23];
    for (i, word) in (0u64..).zip(frame) {
        poke(&mut cpu, KERNEL_STACK - 20 + 4 * i, word.to_le_bytes());
    }
    cpu.regs[RSP] = KERNEL_STACK - 20;
    cpu.iret(32).expect("to user code");
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RSP]), (3, USER_CODE, USER_STACK));
    assert!(cpu.segments[DS].unusable, "kernel data is not for user code");
    cpu.deliver_software(0x30, USER_CODE - 2).expect("delivered");
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RSP]), (0, HANDLER, KERNEL_STACK - 20));
    let read: Vec<u32> = (0..5).map(|i| peek(&mut cpu, KERNEL_STACK - 20 + 4 * i) as u32).collect();
    assert_eq!(read, frame);
    assert_eq!(cpu.segments[SS].selector, KERNEL_DS);
}

#[test]
fn call_gates_lead_inwards_and_back() {
    let mut cpu = user_cpu();
    cpu.far_call(CALL_GATE | 3, 0xDEAD, 64, USER_CODE + 7).expect("CALL");
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RSP]), (0, HANDLER, KERNEL_STACK - 32));
    cpu.far_return(64, 0).expect("RET");
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RSP]), (3, USER_CODE + 7, USER_STACK));
    assert_eq!(cpu.segments[SS].selector, USER_DS);
    let result = cpu.far_jump(KERNEL_CS, HANDLER);
    assert_fault(&cpu, result, vector::GP, 8);
    cpu.far_call(USER_CS32, USER_CODE, 32, 0x77).expect("to 32-bit code");
    assert_eq!((cpu.code_size, cpu.regs[RSP]), (CodeSize::Bits32, USER_STACK - 8));
    cpu.far_return(32, 4).expect("RET");
    assert_eq!((cpu.code_size, cpu.regs[RIP]), (CodeSize::Bits64, 0x77));
    assert_eq!(cpu.regs[RSP], USER_STACK + 4);
}

#[test]
fn control_registers_are_checked() {
    let check = |number, value, accepted: bool| {
        let mut cpu = long_cpu();
        let result = cpu.write_cr(number, value);
        assert_eq!(result.is_ok(), accepted, "CR{number} = {value:#x}");
    };
    check(0, 0x8001_0033, true);
    check(0, 0x8001_0032, false);
    check(0, 0x1_8001_0033, false);
    check(0, 0xA001_0033, false);
    check(0, 0x0001_0033, false);
    check(3, 1 << 46, false);
    check(4, 0, false);
    check(4, 1 << 5 | 1 << 21, true);
    check(4, 1 << 5 | 1 << 17, false);
    check(4, 1 << 5 | 1 << 6, false);
    check(8, 15, true);
    check(8, 16, false);
    check(1, 0, false);
    let mut cpu = user_cpu();
    let result = cpu.read_cr(0);
    assert_fault(&cpu, result, vector::GP, 0);
}

#[test]
fn debug_registers_alias_and_are_guarded() {
    let mut cpu = long_cpu();
    cpu.write_dr(5, 0x2001).expect("DR7 by its other name");
    assert_eq!(cpu.dr7, 0x2401);
    assert!(cpu.read_dr(0).is_err());
    assert_eq!(cpu.pending, Pending::Fault(Exception::plain(vector::DB)));
    assert!(cpu.dr6 & 1 << 13 != 0);
    set_gate64(&mut cpu, 1, 0x8E, 0);
    cpu.deliver_fault(Exception::plain(vector::DB)).expect("delivered");
    assert_eq!(cpu.dr7, 0x401);
    cpu.cr4 |= 1 << 3;
    assert!(cpu.read_dr(4).is_err());
    assert_eq!(cpu.pending, Pending::Fault(Exception::plain(vector::UD)));
}

#[test]
fn ports_and_flags_obey_iopl() {
    let mut cpu = user_cpu();
    let result = cpu.check_io(0x60, 1);
    assert_fault(&cpu, result, vector::GP, 0);
    let result = cpu.cli();
    assert_fault(&cpu, result, vector::GP, 0);
    cpu.popf(rflags::IOPL | rflags::DF, 8).expect("POPF");
    assert_eq!(cpu.rflags(), rflags::DF | rflags::FIXED | rflags::IF);
    cpu.tr.limit = 0x100;
    poke(&mut cpu, TSS + 0x66, 0x68u16.to_le_bytes());
    poke(&mut cpu, TSS + 0x68 + 0xC, 0xFFF1u16.to_le_bytes());
    assert_eq!(cpu.check_io(0x61, 2), Ok(()));
    let result = cpu.check_io(0x62, 4);
    assert_fault(&cpu, result, vector::GP, 0);
    cpu.eflags |= rflags::IOPL;
    assert_eq!(cpu.check_io(0x62, 4), Ok(()));
    cpu.popf(0, 2).expect("POPF");
    assert_eq!(cpu.rflags(), rflags::IOPL | rflags::FIXED);
    cpu.sti().expect("STI");
    assert!(cpu.shadow && cpu.eflags & rflags::IF != 0);
}

#[test]
fn selectors_are_looked_into() {
    let mut cpu = user_cpu();
    assert_eq!(cpu.lar(KERNEL_DS), Ok(None));
    assert_eq!(cpu.lar(USER_DS), Ok(Some(0x00C0_F300)));
    assert_eq!(cpu.lsl(USER_DS), Ok(Some(u32::MAX)));
    assert_eq!(cpu.lsl(CALL_GATE | 3), Ok(None));
    assert_eq!((cpu.verr(USER_CS64), cpu.verw(USER_CS64)), (Ok(true), Ok(false)));
    assert_eq!((cpu.verw(USER_DS), cpu.verr(0xFFF8)), (Ok(true), Ok(false)));
    assert_eq!(cpu.pending, Pending::None);
}

#[test]
fn model_specific_registers_are_checked() {
    let check = |index, value, accepted: bool| {
        let mut cpu = long_cpu();
        let result = cpu.wrmsr(index, value);
        assert_eq!(result.is_ok(), accepted, "{index:#x} = {value:#x}");
        if accepted {
            assert_eq!(cpu.rdmsr(index), Ok(value), "{index:#x}");
        }
    };
    check(0xC000_0080, 0xD01, true);
    check(0xC000_0080, 0xC01, false);
    check(0xC000_0080, 0x1D01, false);
    check(0xC000_0101, 0xFFFF_8000_0000_0000, true);
    check(0xC000_0101, 0x0000_8000_0000_0000, false);
    check(0xC000_0102, 0x1234, true);
    check(0x277, 0x0007_0106_0007_0106, true);
    check(0x277, 2, false);
    check(0x2FF, 0xC06, true);
    check(0x10A, 0, false);
    check(0x48, 0, false);
    check(0x3B, 0x1_0000_0000, true);
    let mut cpu = long_cpu();
    cpu.wrmsr(0xC000_0101, 5).expect("GS base");
    cpu.swapgs().expect("SWAPGS");
    assert_eq!((cpu.regs[GS_BASE], cpu.msrs.kernel_gs_base), (0, 5));
    cpu.wrmsr(0x10, 1 << 40).expect("TSC");
    cpu.rdtsc().expect("RDTSC");
    assert_eq!(cpu.regs[RDX], 1 << 8);
    assert!(cpu.regs[RAX] < 1 << 31);
}

#[test]
fn the_clock_structures_are_written() {
    let mut cpu = long_cpu();
    cpu.wrmsr(0x4B56_4D01, 0x1_0041).expect("system time");
    let version = peek(&mut cpu, 0x1_0040) as u32;
    assert!(version != 0 && version.is_multiple_of(2));
    assert_eq!(peek(&mut cpu, 0x1_0048), peek(&mut cpu, 0x1_0050));
    assert_eq!(peek(&mut cpu, 0x1_0058), 0x0101_8000_0000);
    cpu.wrmsr(0x4B56_4D00, 0x1_0080).expect("wall clock");
    assert_eq!(peek(&mut cpu, 0x1_0080) as u32, 2);
    assert!(peek(&mut cpu, 0x1_0084) as u32 > 1_600_000_000);
    let result = cpu.wrmsr(0x4B56_4D01, 0x1_0FF1);
    assert_fault(&cpu, result, vector::GP, 0);
}

#[test]
fn states_survive_a_move() {
    let mut cpu = user_cpu();
    cpu.regs[FS_BASE] = 0x7000_0000_1000;
    cpu.regs[3] = 77;
    cpu.set_rflags(rflags::IF | rflags::ZF | rflags::OF);
    let saved = cpu.save();
    let mut other = new_cpu();
    other.restore(&saved);
    assert_eq!((other.cpl, other.code_size), (3, CodeSize::Bits64));
    let mut again = other.save();
    assert_eq!(again.msrs.len(), saved.msrs.len());
    again.msrs.clone_from(&saved.msrs);
    assert_eq!(again, saved);
    other.reset();
    assert_eq!((other.cpl, other.regs[RIP], other.regs[RDX]), (0, 0xFFF0, 0x106CA));
    assert_eq!(other.code_size, CodeSize::Bits16);
    assert_eq!(other.msrs.lstar, HANDLER, "INIT leaves model-specific registers alone");
}
