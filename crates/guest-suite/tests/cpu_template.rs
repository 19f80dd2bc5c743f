//! What a CPU template changes is what the guest sees, on every back end.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bus::{Device, IoSpace};
use guest_suite::nested::{self, NestedError};
use memory::{Bytes, GuestAddress, GuestMemory};
use spec::{Bits, CpuTemplate, CpuidModifier, MsrModifier};
use vcpu::{CpuState, Error, Exit, Kick, Segment, Vm};

type MakeVm = fn(Arc<GuestMemory>, CpuTemplate) -> Result<Arc<dyn Vm>, Error>;

const CODE: u64 = 0x10_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const RAM: u64 = 4 << 20;
const END_PORT: u64 = 0x10;

/// mov eax, 7; xor ecx, ecx; cpuid; out 0x10, al
const ASK_LEAF_7: [u8; 11] = [0xB8, 7, 0, 0, 0, 0x31, 0xC9, 0x0F, 0xA2, 0xE6, 0x10];
const RBX: usize = 3;
/// EBX of leaf 7.
const SMAP: u32 = 1 << 20;
const IA32_PAT: u32 = 0x277;

fn soft(memory: Arc<GuestMemory>, cpu_template: CpuTemplate) -> Result<Arc<dyn Vm>, Error> {
    softcpu::SoftVm::new(memory, softcpu::Options { cpu_template, ..Default::default() })
}

fn kvm(memory: Arc<GuestMemory>, cpu_template: CpuTemplate) -> Result<Arc<dyn Vm>, Error> {
    kvm::KvmVm::new(memory, kvm::Options { cpu_template, ..Default::default() })
}

#[test]
fn on_the_software_cpu() {
    check(soft);
}

/// On the host's own KVM if that is fit, else in a machine inside QEMU that has a fit one.
#[test]
fn on_kvm() {
    let fitness = kvm::probe::probe();
    if fitness.usable {
        return on_this_kvm();
    }
    say(&format!("KVM runs in a nested machine, not on the host's: {}", fitness.reason));
    let program = std::env::current_exe().unwrap();
    let libraries = nested::libraries(&program).unwrap();
    let mut files: Vec<(&Path, &str)> =
        libraries.iter().map(|path| (path.as_path(), path.to_str().unwrap())).collect();
    files.push((&program, "/cpu-template"));
    match nested::run("/cpu-template --ignored --exact on_this_kvm", &files) {
        Ok(output) => assert_eq!(output.status, 0, "{}", output.text),
        Err(missing @ NestedError::Missing(_)) => say(&format!("SKIPPED on_kvm: {missing}")),
        Err(error) => panic!("{error}"),
    }
}

/// The probe is no judge inside of QEMU, where time is slow.
#[test]
#[ignore = "run by on_kvm, where KVM is fit for it"]
fn on_this_kvm() {
    check(kvm);
    what_kvm_lacks_is_named();
}

/// A feature that is hidden is not told; a register starts with the value that it is given.
fn check(make_vm: MakeVm) {
    let mut no_smap = [Bits::default(); 4];
    no_smap[1] = Bits::new(SMAP, 0);
    let no_smap = CpuidModifier { leaf: 7, subleaf: 0, flags: 1, registers: no_smap };
    // The last of the eight memory types: write-through.
    let pat = MsrModifier { index: IA32_PAT, bits: Bits::new(7 << 56, 4 << 56) };
    let template = CpuTemplate::new(Vec::new(), vec![no_smap], vec![pat]).unwrap();
    let (plain, plain_pat) = run(make_vm, CpuTemplate::default());
    let (changed, changed_pat) = run(make_vm, template);
    assert_eq!(plain & u64::from(SMAP), u64::from(SMAP), "there is something to hide");
    assert_eq!(plain ^ changed, u64::from(SMAP), "EBX of leaf 7");
    assert_eq!(plain_pat ^ changed_pat, 4 << 56, "IA32_PAT");
}

/// EBX of leaf 7 as a guest reads it, and the first value of IA32_PAT.
fn run(make_vm: MakeVm, template: CpuTemplate) -> (u64, u64) {
    let memory = Arc::new(memory::allocate(&memory::ranges(RAM)).unwrap());
    memory.write_obj(PDPT | 7, GuestAddress(PML4)).unwrap();
    // One page of 1 GiB maps everything onto itself.
    memory.write_obj(0x87u64, GuestAddress(PDPT)).unwrap();
    memory.write_slice(&ASK_LEAF_7, GuestAddress(CODE)).unwrap();
    let vm = make_vm(memory, template).unwrap();
    let mut vcpu = vm.vcpu(0).unwrap();
    let msrs = vcpu.state().unwrap().msrs;
    let pat = msrs.iter().find(|(index, _)| *index == IA32_PAT).unwrap().1;
    let mut io = IoSpace::default();
    io.ports.insert(END_PORT, 1, Arc::new(End(vcpu.kicker()))).unwrap();
    vcpu.set_state(&first_state()).unwrap();
    assert_eq!(vcpu.run(&Arc::new(io)).unwrap(), Exit::Kicked);
    (vcpu.state().unwrap().gpr[RBX] & 0xFFFF_FFFF, pat)
}

fn what_kvm_lacks_is_named() {
    let refused = |template: CpuTemplate| {
        let memory = Arc::new(memory::allocate(&memory::ranges(RAM)).unwrap());
        let made = kvm(memory, template).and_then(|vm| vm.vcpu(0).map(|_| ()));
        made.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let msr = MsrModifier { index: 0x1234, bits: Bits::default() };
    assert_eq!(
        refused(CpuTemplate::new(Vec::new(), Vec::new(), vec![msr]).unwrap()),
        "Template changes an MSR entry not supported by KVM: Register Address: 1234"
    );
    let registers = [Bits::default(); 4];
    let leaf = CpuidModifier { leaf: 0x1234_5678, subleaf: 0, flags: 0, registers };
    assert_eq!(
        refused(CpuTemplate::new(Vec::new(), vec![leaf], Vec::new()).unwrap()),
        "Template changes a CPUID entry not supported by KVM: Leaf: 12345678, Subleaf: 0"
    );
    let capability = vec![spec::Capability::Required(99_999)];
    let error = refused(CpuTemplate::new(capability, Vec::new(), Vec::new()).unwrap());
    assert!(error.contains("capability 99999"), "{error}");
}

/// Kicks the vCPU that writes to it.
struct End(Arc<dyn Kick>);

impl Device for End {
    fn read(&self, _: u64, _: &mut [u8]) {}

    fn write(&self, _: u64, _: &[u8]) {
        self.0.kick();
    }
}

/// 64-bit code at [`CODE`], in ring 0, with interrupts off.
fn first_state() -> CpuState {
    let code =
        Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xA9B, unusable: false };
    let data = Segment { selector: 16, attributes: 0xC93, ..code };
    CpuState {
        rip: CODE,
        segments: [data, code, data, data, data, data],
        cr0: 0x8000_0011,
        cr3: PML4,
        cr4: 0x620,
        efer: 0x500,
        ..CpuState::default()
    }
}

/// Past the test harness, which hides what tests print.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}
