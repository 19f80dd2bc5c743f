//! The body of `PUT /cpu-config`, and what the software CPU makes of it.
//!
//! The input is taken as a body as it is, and once more as the texts of a well-formed one, which is
//! how it gets further than to the first comma.

use std::sync::Arc;

use api::CpuConfig;
use serde_json::{Value, json};

use crate::source::Source;

/// Letters of which numbers and sets of bits are made, and some that do not belong there.
const LETTERS: &[u8; 16] = b"01x_b!0123479aF ";
/// Leaves that the software CPU has, and one that it has not.
const LEAVES: [&str; 8] = ["0x0", "0x1", "0x4", "0x7", "0xb", "0x15", "0x80000001", "0x1234"];
/// Registers that it has, one that is read only, and one that it has not.
const MSRS: [&str; 8] =
    ["0x10", "0x1a0", "0x10a", "0x277", "0x2ff", "0x800", "0xc0000080", "0x1234"];

/// One body.
pub fn run(data: &[u8]) {
    if let Ok(config) = serde_json::from_slice(data) {
        apply(config);
    }
    if let Ok(config) = serde_json::from_value(body(&mut Source::new(data))) {
        apply(config);
    }
}

fn body(source: &mut Source<'_>) -> Value {
    let registers = ["eax", "ebx", "ecx", "edx"];
    let leaves: Vec<Value> = (0..source.u8() % 4)
        .map(|_| {
            let register = registers[usize::from(source.u8() % 4)];
            json!({
                "leaf": one_of(source, &LEAVES),
                "subleaf": if source.u8() > 8 { "0x0".to_owned() } else { text(source, 8) },
                "flags": source.u8(),
                "modifiers": [{ "register": register, "bitmap": text(source, 36) }],
            })
        })
        .collect();
    let msrs: Vec<Value> = (0..source.u8() % 4)
        .map(|_| json!({ "addr": one_of(source, &MSRS), "bitmap": text(source, 68) }))
        .collect();
    let capabilities: Vec<String> = (0..source.u8() % 2).map(|_| text(source, 4)).collect();
    json!({
        "kvm_capabilities": capabilities,
        "cpuid_modifiers": leaves,
        "msr_modifiers": msrs,
    })
}

fn one_of(source: &mut Source<'_>, texts: &[&'static str; 8]) -> &'static str {
    texts[usize::from(source.u8() % 8)]
}

/// Mostly `x`, so that few bits change and the text is often a good one.
fn text(source: &mut Source<'_>, most: u8) -> String {
    let letter = |byte: u8| match byte {
        0..=239 => {
            if byte % 8 == 0 {
                '0'
            } else {
                'x'
            }
        }
        _ => char::from(LETTERS[usize::from(byte % 16)]),
    };
    (0..source.u8() % most).map(|_| letter(source.u8())).collect()
}

/// What was read says the same when it is written; a CPU takes it or refuses it.
fn apply(config: CpuConfig) {
    let text = serde_json::to_string(&config).expect("a body is JSON");
    let again: CpuConfig = serde_json::from_str(&text).expect("what was written is read");
    assert_eq!(again, config);
    let Ok(cpu_template) = spec::CpuTemplate::try_from(config) else { return };
    let memory = memory::allocate(&memory::ranges(1 << 20)).expect("1 MiB");
    let options = softcpu::Options { cpu_template, ..softcpu::Options::default() };
    if let Ok(vm) = softcpu::SoftVm::new(Arc::new(memory), options)
        && let Ok(mut vcpu) = vm.vcpu(0)
    {
        vcpu.state().expect("a new vCPU has a state");
    }
}
