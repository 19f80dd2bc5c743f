//! Translated code does what the interpreter does, where that is hard: code that changes, code that
//! lies in two pages, memory for code that runs out.

mod support;

use iced_x86::code_asm::{
    CodeAssembler, al, byte_ptr, cl, eax, ecx, edx, qword_ptr, r10, r11, r15, rax, rbx, rcx, rdx,
    rsp,
};
use sparkler_softcpu::{CACHE_BYTES_MIN, JitOptions, Options};

const EVERY_BLOCK: JitOptions = JitOptions { threshold: 0, ..JitOptions::DEFAULT };
const VERIFIED: JitOptions = JitOptions { verify: true, ..EVERY_BLOCK };

/// The program that `build` makes, and its end.
fn assemble(build: impl Fn(&mut CodeAssembler)) -> Vec<u8> {
    let mut asm = CodeAssembler::new(64).unwrap();
    build(&mut asm);
    asm.out(u32::from(support::END_PORT), al).unwrap();
    asm.hlt().unwrap();
    asm.assemble(support::CODE).unwrap()
}

fn guest(code: &[u8], jit: Option<JitOptions>) -> support::Guest {
    support::Guest::with(code, Options { jit, ..Options::default() })
}

/// Runs a program in every way. All have to end with the same registers, which it gives.
fn check(build: impl Fn(&mut CodeAssembler)) -> [u64; 16] {
    let code = assemble(build);
    let expected = guest(&code, None).run().gpr;
    for jit in [JitOptions::DEFAULT, EVERY_BLOCK, VERIFIED] {
        assert_eq!(guest(&code, Some(jit)).run().gpr, expected, "{jit:?}");
    }
    expected
}

#[test]
fn a_loop_that_changes_its_own_code() {
    let gpr = check(|asm| {
        let mut again = asm.create_label();
        let mut add = asm.create_label();
        asm.xor(eax, eax).unwrap();
        asm.mov(ecx, 1000).unwrap();
        asm.set_label(&mut again).unwrap();
        asm.lea(rbx, qword_ptr(add)).unwrap();
        // The second byte of the immediate is the loop's counter.
        asm.mov(byte_ptr(rbx + 2), cl).unwrap();
        asm.set_label(&mut add).unwrap();
        asm.add(eax, 0x100).unwrap();
        asm.dec(ecx).unwrap();
        asm.jnz(again).unwrap();
    });
    assert_eq!(gpr[0], (1..=1000u64).map(|n| (n & 0xFF) << 8).sum::<u64>());
}

#[test]
fn a_hot_function_is_replaced() {
    let gpr = check(|asm| {
        let (mut again, mut function, mut done) =
            (asm.create_label(), asm.create_label(), asm.create_label());
        asm.xor(eax, eax).unwrap();
        asm.mov(edx, 3).unwrap();
        asm.mov(ecx, 200).unwrap();
        asm.set_label(&mut again).unwrap();
        asm.call(function).unwrap();
        asm.dec(ecx).unwrap();
        asm.jnz(again).unwrap();
        // INC EAX becomes DEC EAX, and back.
        asm.lea(rbx, qword_ptr(function)).unwrap();
        asm.xor(byte_ptr(rbx + 1), 8).unwrap();
        asm.mov(ecx, 150).unwrap();
        asm.dec(edx).unwrap();
        asm.jnz(again).unwrap();
        asm.jmp(done).unwrap();
        asm.set_label(&mut function).unwrap();
        asm.inc(eax).unwrap();
        asm.ret().unwrap();
        asm.set_label(&mut done).unwrap();
        asm.nop().unwrap();
    });
    assert_eq!(gpr[0], 200 - 150 + 150);
}

#[test]
fn loops_lie_across_pages() {
    // Each place of the loop relative to the page's end, so that each instruction crosses it.
    for place in 4096 - 40..4096 - 4 {
        let gpr = check(|asm| {
            let (mut start, mut again) = (asm.create_label(), asm.create_label());
            asm.jmp(start).unwrap();
            asm.db(&vec![0x90; place]).unwrap();
            asm.set_label(&mut start).unwrap();
            asm.mov(rcx, 300u64).unwrap();
            asm.xor(eax, eax).unwrap();
            asm.set_label(&mut again).unwrap();
            asm.add(rax, 0x1234).unwrap();
            asm.mov(qword_ptr(support::DATA), rax).unwrap();
            asm.add(rax, qword_ptr(support::DATA)).unwrap();
            asm.dec(rcx).unwrap();
            asm.jnz(again).unwrap();
        });
        let expected = (0..300).fold(0u64, |sum, _| sum.wrapping_add(0x1234).wrapping_mul(2));
        assert_eq!(gpr[0], expected, "{place}");
    }
}

#[test]
fn the_registers_in_slots_keep_their_values() {
    let gpr = check(|asm| {
        let mut again = asm.create_label();
        asm.mov(ecx, 500).unwrap();
        asm.mov(r10, 1u64).unwrap();
        asm.mov(r11, 2u64).unwrap();
        asm.mov(r15, 3u64).unwrap();
        asm.set_label(&mut again).unwrap();
        asm.push(r10).unwrap();
        asm.add(r10, r11).unwrap();
        asm.xchg(r11, r15).unwrap();
        asm.add(qword_ptr(rsp), r15).unwrap();
        asm.pop(r15).unwrap();
        asm.lea(rdx, qword_ptr(r10 + r11 * 4 + 7)).unwrap();
        asm.imul_3(r11, r15, 3).unwrap();
        asm.dec(rcx).unwrap();
        asm.jnz(again).unwrap();
    });
    let (mut a, mut b, mut c, mut d) = (1u64, 2u64, 3u64, 0);
    for _ in 0..500 {
        let pushed = a;
        a = a.wrapping_add(b);
        (b, c) = (c, b);
        c = pushed.wrapping_add(c);
        d = a.wrapping_add(b.wrapping_mul(4)).wrapping_add(7);
        b = c.wrapping_mul(3);
    }
    assert_eq!([gpr[10], gpr[11], gpr[15], gpr[2]], [a, b, c, d]);
}

#[test]
fn full_memory_for_code_is_emptied() {
    let code = assemble(|asm| {
        let mut all = asm.create_label();
        asm.mov(edx, 3).unwrap();
        asm.xor(eax, eax).unwrap();
        asm.set_label(&mut all).unwrap();
        // Far more blocks than there is room for.
        for _ in 0..30_000 {
            let mut next = asm.create_label();
            asm.add(rax, 1).unwrap();
            asm.jmp(next).unwrap();
            asm.set_label(&mut next).unwrap();
        }
        asm.dec(edx).unwrap();
        asm.jnz(all).unwrap();
    });
    let small = JitOptions { cache_bytes: CACHE_BYTES_MIN, ..EVERY_BLOCK };
    assert_eq!(guest(&code, Some(small)).run().gpr[0], 90_000);
}

#[test]
fn no_memory_is_writable_and_executable() {
    let mut guest = guest(&assemble(|_| {}), Some(EVERY_BLOCK));
    guest.run();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_code = maps.lines().filter(|line| line.contains("sparkler-code")).count();
    assert!(of_code >= 2, "{maps}");
    assert_eq!(maps.lines().find(|line| line.contains(" rwx")), None);
}

#[test]
fn regression_hints_of_what_is_not_offered_do_nothing() {
    let hints: [&[u8]; 7] = [
        &[0xF3, 0x48, 0x0F, 0x1E, 0xC8], // RDSSPQ RAX, as in libgcc's unwinder
        &[0xF3, 0x0F, 0x1E, 0xC8],       // RDSSPD EAX
        &[0xF3, 0x0F, 0x1E, 0xFA],       // ENDBR64
        &[0xF3, 0x0F, 0x1B, 0xC0],       // BNDMK's opcode with a register
        &[0x66, 0x0F, 0x1A, 0x00],       // BNDMOV BND0, [RAX]
        &[0x0F, 0x1C, 0x00],             // CLDEMOTE [RAX]
        &[0x0F, 0x18, 0x08],             // PREFETCHT0 [RAX]
    ];
    let gpr = check(|asm| {
        // Not canonical: an access would end the test.
        asm.mov(rax, 0x1234_5678_9ABC_DEF0_u64).unwrap();
        for hint in hints {
            asm.db(hint).unwrap();
        }
    });
    assert_eq!(gpr[0], 0x1234_5678_9ABC_DEF0);
}
