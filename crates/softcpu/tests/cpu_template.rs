//! What a CPU template changes, as a guest sees it.

mod support;

use iced_x86::code_asm::{CodeAssembler, al, eax, ecx, registers};
use sparkler_softcpu::{Options, SoftVm};
use spec::{Bits, CpuTemplate, CpuidModifier, MsrModifier};
use support::{CODE, END_PORT, Guest};

const IA32_MISC_ENABLE: u32 = 0x1A0;
const IA32_ARCH_CAPABILITIES: u32 = 0x10A;

fn options(cpuid: Vec<CpuidModifier>, msrs: Vec<MsrModifier>) -> Options {
    let cpu_template = CpuTemplate::new(Vec::new(), cpuid, msrs).unwrap();
    Options { cpu_template, ..Options::default() }
}

fn assemble(body: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut code = CodeAssembler::new(64).unwrap();
    body(&mut code);
    code.out(u32::from(END_PORT), al).unwrap();
    code.assemble(CODE).unwrap()
}

/// EBX of leaf 7, and EAX of leaf 1 with a value in ECX that means nothing there.
#[test]
fn cpuid_tells_what_the_template_says() {
    let mut smap_off = [Bits::default(); 4];
    smap_off[1] = Bits::new(1 << 20, 0);
    let mut haswell = [Bits::default(); 4];
    haswell[0] = Bits::new(u32::MAX, 0x306F2);
    let modifier = |leaf, registers| CpuidModifier { leaf, subleaf: 0, flags: 0, registers };
    let code = assemble(|code| {
        code.mov(eax, 1u32).unwrap();
        code.mov(ecx, 9u32).unwrap();
        code.cpuid().unwrap();
        code.mov(registers::esi, eax).unwrap();
        code.mov(eax, 7u32).unwrap();
        code.xor(ecx, ecx).unwrap();
        code.cpuid().unwrap();
    });
    let plain = Guest::new(&code).run();
    let template = options(vec![modifier(7, smap_off), modifier(1, haswell)], Vec::new());
    let changed = Guest::with(&code, template).run();
    assert_eq!(plain.gpr[3] ^ changed.gpr[3], 1 << 20, "EBX of leaf 7");
    assert_eq!(changed.gpr[6], 0x306F2, "EAX of leaf 1");
}

#[test]
fn msrs_start_with_what_the_template_says() {
    let msr = |index, mask, value| MsrModifier { index, bits: Bits::new(mask, value) };
    for index in [IA32_MISC_ENABLE, IA32_ARCH_CAPABILITIES] {
        let code = assemble(|code| {
            code.mov(ecx, index).unwrap();
            code.rdmsr().unwrap();
        });
        let plain = Guest::new(&code).run().gpr[0];
        let template = options(Vec::new(), vec![msr(index, 1, !plain & 1)]);
        let changed = Guest::with(&code, template).run().gpr[0];
        assert_eq!(plain ^ changed, 1, "MSR {index:#x}");
    }
}

#[test]
fn what_this_cpu_cannot_do_is_refused() {
    let ram = || std::sync::Arc::new(memory::allocate(&memory::ranges(1 << 20)).unwrap());
    let msr = |index, mask, value| MsrModifier { index, bits: Bits::new(mask, value) };
    let refused = |msr: MsrModifier| {
        let vm = SoftVm::new(ram(), options(Vec::new(), vec![msr])).unwrap();
        vm.vcpu(0).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused(msr(0x1234, 1, 1)).contains("MSR 0x1234"), "no such register");
    assert!(refused(msr(IA32_MISC_ENABLE, 1 << 7, 1 << 7)).contains("MSR 0x1a0"), "no such bit");
    let mut avx = [Bits::default(); 4];
    avx[2] = Bits::new(1 << 28, 1 << 28);
    let avx = CpuidModifier { leaf: 1, subleaf: 0, flags: 0, registers: avx };
    let error = SoftVm::new(ram(), options(vec![avx], Vec::new())).err().unwrap().to_string();
    assert!(error.contains("leaf 0x1, subleaf 0x0, register ecx, bit 28"), "{error}");
}
