//! Handlers hand over to one another by jumps, not by calls: a long chain needs hardly any stack.

mod support;

use sparkler_softcpu::Options;

use iced_x86::code_asm::{CodeAssembler, ecx, rax, rcx};

/// Far less than a chain of calls would need: 256 blocks of 32 ops in frames of 16 bytes or more.
const STACK: usize = 96 << 10;

#[test]
fn a_chain_of_blocks_runs_in_a_small_stack() {
    let mut asm = CodeAssembler::new(64).unwrap();
    let mut again = asm.create_label();
    asm.mov(ecx, 100_000).unwrap();
    asm.set_label(&mut again).unwrap();
    for _ in 0..28 {
        asm.add(rax, 1).unwrap();
    }
    asm.dec(rcx).unwrap();
    asm.jnz(again).unwrap();
    asm.out(support::END_PORT as u32, iced_x86::code_asm::al).unwrap();
    asm.hlt().unwrap();
    let code = asm.assemble(support::CODE).unwrap();

    let run = move || {
        let interpreted = Options { jit: None, ..Options::default() };
        support::Guest::with(&code, interpreted).run()
    };
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(run).unwrap();
    assert_eq!(thread.join().unwrap().gpr[0], 28 * 100_000);
}
