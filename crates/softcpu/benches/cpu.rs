//! How fast the interpreter and translated code are, and how fast code is decoded.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iced_x86::code_asm::{
    CodeAssembler, al, eax, ebx, ecx, edx, qword_ptr, rax, rbx, rcx, rdx, rsi,
};
use memory::{Bytes, GuestAddress};
use sparkler_softcpu::{JitOptions, Options};

const ROUNDS: u32 = 1_000_000;

fn end(asm: &mut CodeAssembler) -> Vec<u8> {
    asm.out(u32::from(support::END_PORT), al).unwrap();
    asm.hlt().unwrap();
    asm.assemble(support::CODE).unwrap()
}

/// Register arithmetic with a fused compare and jump: 8 instructions a round.
fn arithmetic() -> Vec<u8> {
    let mut asm = CodeAssembler::new(64).unwrap();
    let mut again = asm.create_label();
    asm.mov(ecx, ROUNDS).unwrap();
    asm.set_label(&mut again).unwrap();
    asm.add(rax, rcx).unwrap();
    asm.xor(rdx, rax).unwrap();
    asm.lea(rbx, qword_ptr(rax + rdx * 4 + 5)).unwrap();
    asm.shr(rdx, 3).unwrap();
    asm.and(ebx, 0xFFFF).unwrap();
    asm.sub(rcx, 1).unwrap();
    asm.cmp(rcx, 0).unwrap();
    asm.jne(again).unwrap();
    end(&mut asm)
}

/// Loads, stores, a call and a return: 8 instructions a round.
fn memory_and_calls() -> Vec<u8> {
    let mut asm = CodeAssembler::new(64).unwrap();
    let mut again = asm.create_label();
    let mut function = asm.create_label();
    let mut done = asm.create_label();
    asm.mov(ecx, ROUNDS).unwrap();
    asm.mov(rsi, support::DATA).unwrap();
    asm.set_label(&mut again).unwrap();
    asm.mov(rax, qword_ptr(rsi)).unwrap();
    asm.call(function).unwrap();
    asm.mov(qword_ptr(rsi + 8), rax).unwrap();
    asm.dec(ecx).unwrap();
    asm.test(ecx, ecx).unwrap();
    asm.jne(again).unwrap();
    asm.jmp(done).unwrap();
    asm.set_label(&mut function).unwrap();
    asm.add(eax, edx).unwrap();
    asm.ret().unwrap();
    asm.set_label(&mut done).unwrap();
    end(&mut asm)
}

/// Code that runs once: 16,000 instructions without a branch.
fn straight() -> Vec<u8> {
    let mut asm = CodeAssembler::new(64).unwrap();
    for i in 0..4000 {
        asm.add(rax, i).unwrap();
        asm.mov(rdx, rax).unwrap();
        asm.lea(rbx, qword_ptr(rax + rdx * 2 + i)).unwrap();
        asm.xor(rcx, rbx).unwrap();
    }
    end(&mut asm)
}

fn guest(code: &[u8], jit: Option<JitOptions>) -> support::Guest {
    support::Guest::with(code, Options { jit, ..Options::default() })
}

fn dispatch(c: &mut Criterion) {
    let mut group = c.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(u64::from(ROUNDS) * 8)).sample_size(10);
    for (name, code) in [("arithmetic", arithmetic()), ("memory and calls", memory_and_calls())] {
        for (how, jit) in [("interpreted", None), ("translated", Some(JitOptions::DEFAULT))] {
            let mut guest = guest(&code, jit);
            group.bench_function(format!("{name}, {how}"), |b| b.iter(|| guest.run()));
        }
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(16_000)).sample_size(10);
    let code = straight();
    let mut guest = guest(&code, None);
    group.bench_function("and run once", |b| {
        b.iter(|| {
            // Writing the code makes what was decoded of it stale.
            guest.memory.write_slice(&code, GuestAddress(support::CODE)).unwrap();
            guest.run()
        });
    });
    group.finish();
}

criterion_group!(benches, dispatch, decode);
criterion_main!(benches);
