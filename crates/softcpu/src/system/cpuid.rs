//! What CPUID answers: an Intel CPU of the x86-64-v2 level that does not speculate.
//!
//! Family 6, model 0x1C is an in-order Atom, which Linux knows to be free of every speculation
//! bug; with the capabilities of `msr::ARCH_CAPABILITIES` it applies no mitigation at all. Bit
//! numbers are those of SDM Vol. 2, CPUID; leaves from 0x4000_0000 are KVM's. Not offered: machine
//! checks, PCID, VME, performance counters, MONITOR, AVX, BMI, MOVBE, LZCNT.
//!
//! [`cpuid`] is a pure function of what the guest asks and of a [`CpuidContext`]. A CPU template
//! may hide features and change names; [`check_template`] refuses one that offers what is not
//! there, or that changes what this CPU works by.

use spec::{Bits, CPUID_REGISTERS, CpuTemplate, CpuidModifier};

/// Ticks of the time stamp counter a second; the local APIC's timer has the same clock.
pub const TSC_HZ: u32 = 1_000_000_000;
/// What EAX of leaf 1 holds, and EDX after a reset: family 6, model 0x1C, stepping 10.
pub const SIGNATURE: u32 = 0x0001_06CA;

const LEAF_MAX: u32 = 0x16;
const HYPERVISOR_LEAF_MAX: u32 = 0x4000_0010;
const EXTENDED_LEAF_MAX: u32 = 0x8000_0008;
/// Linear address width.
const LINEAR_BITS: u32 = 48;
const BRAND: &[u8; 48] =
    b"sparkler software CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const CR4_OSXSAVE: u64 = 1 << 18;
/// Bytes of an XSAVE area for x87 and SSE: the FXSAVE image and the header.
const XSAVE_BYTES: u32 = 576;
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
const VENDOR: &[u8; 12] = b"GenuineIntel";

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Leaf 1, ECX: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, x2APIC, POPCNT, TSC-deadline, XSAVE, RDRAND,
/// hypervisor.
const FEATURES_ECX: u32 = bits(&[0, 9, 13, 19, 20, 21, 23, 24, 26, 30, 31]);
const FEATURE_TSC_DEADLINE: u32 = 1 << 24;
const FEATURE_HYPERVISOR: u32 = 1 << 31;
/// OSXSAVE, which follows CR4.
const FEATURE_OSXSAVE: u32 = 1 << 27;
/// Leaf 1, EDX: FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, PSE-36, CLFSH,
/// MMX, FXSR, SSE, SSE2.
const FEATURES_EDX: u32 =
    bits(&[0, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 19, 23, 24, 25, 26]);
/// Several logical processors in the package.
const FEATURE_HTT: u32 = 1 << 28;
/// Leaf 6, EAX: the APIC timer runs always.
const ARAT: u32 = 1 << 2;
/// Leaf 7, EBX: FSGSBASE, IA32_TSC_ADJUST, SMEP, ERMS, RDSEED, SMAP.
const STRUCTURED_EBX: u32 = bits(&[0, 1, 7, 9, 18, 20]);
/// Leaf 7, EDX: fast short REP MOVSB, IA32_ARCH_CAPABILITIES.
const STRUCTURED_EDX: u32 = bits(&[4, 29]);
/// Leaf 0x4000_0001, EAX: no delay needed behind port I/O, clock by MSR, and a stable one.
const KVM_FEATURES: u32 = bits(&[1, 3, 24]);
/// Leaf 0x8000_0001, ECX: LAHF and SAHF in 64-bit mode.
const EXTENDED_ECX: u32 = bits(&[0]);
/// Leaf 0x8000_0001, EDX: SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 = bits(&[11, 20, 26, 27, 29]);
/// Leaf 0x8000_0007, EDX: the TSC runs at one rate always.
const INVARIANT_TSC: u32 = 1 << 8;

/// What an answer depends on.
#[derive(Debug, Clone, Copy)]
pub struct CpuidContext<'a> {
    /// The vCPU's number, and its APIC id.
    pub vcpu_id: u8,
    /// vCPUs of the machine, at least one.
    pub vcpu_count: u8,
    /// CR4, for OSXSAVE.
    pub cr4: u64,
    /// Changes that the machine's CPU template makes.
    pub changes: &'a [CpuidModifier],
}

/// EAX, EBX, ECX and EDX for a leaf and subleaf; zeros for those that do not exist.
pub fn cpuid(leaf: u32, subleaf: u32, context: &CpuidContext<'_>) -> [u32; 4] {
    let mut answer = table(leaf, subleaf, context);
    let asked = |change: &&CpuidModifier| {
        change.leaf == leaf && (change.subleaf == subleaf || !has_subleaves(leaf))
    };
    for change in context.changes.iter().filter(asked) {
        for (register, (word, bits)) in answer.iter_mut().zip(change.registers).enumerate() {
            *word = changeable(leaf, register, bits).apply(*word);
        }
    }
    answer
}

/// Whether this CPU can tell what a template wants it to tell; the reason if not.
pub fn check_template(template: &CpuTemplate) -> Result<(), String> {
    template.check_cpu(VENDOR, SIGNATURE).map_err(|error| error.to_string())?;
    let context = CpuidContext { vcpu_id: 0, vcpu_count: 1, cr4: 0, changes: &[] };
    for &CpuidModifier { leaf, subleaf, registers, .. } in template.cpuid() {
        let told = table(leaf, subleaf, &context);
        for (register, (word, bits)) in told.into_iter().zip(registers).enumerate() {
            let changed = word ^ changeable(leaf, register, bits).apply(word);
            let (wrong, why) = match kind(leaf, register) {
                Kind::Description => continue,
                Kind::Features => (changed & !word, "does not have"),
                Kind::Fact => (changed, "works by"),
            };
            if wrong != 0 {
                let (bit, register) = (wrong.trailing_zeros(), CPUID_REGISTERS[register]);
                return Err(format!(
                    "the CPU template changes CPUID leaf {leaf:#x}, subleaf {subleaf:#x}, \
                     register {register}, bit {bit}, which the software CPU {why}; leave that \
                     bit alone, or use KVM"
                ));
            }
        }
    }
    Ok(())
}

/// What a template may do to a register.
enum Kind {
    /// Describes the CPU to people; anything may stand there.
    Description,
    /// Each bit offers a feature, which may be hidden.
    Features,
    /// Must stay, because this CPU does what it says.
    Fact,
}

fn kind(leaf: u32, register: usize) -> Kind {
    match (leaf, register) {
        (1, EAX | EBX) | (2 | 4, _) | (0x8000_0002..=0x8000_0006, _) => Kind::Description,
        (0 | 0xB | 0x15 | 0x16 | 0x4000_0000 | 0x4000_0010 | 0x8000_0000, _)
        | (0xD, EBX | ECX)
        | (0x8000_0008, EAX) => Kind::Fact,
        _ => Kind::Features,
    }
}

/// The changes to a register, without those bits that follow from the vCPU's place in the machine
/// and its state, or that each guest relies on: they stay, as on KVM.
fn changeable(leaf: u32, register: usize, bits: Bits<u32>) -> Bits<u32> {
    let stays = match (leaf, register) {
        // All but the brand index.
        (1, EBX) => !0xFF,
        (1, ECX) => FEATURE_TSC_DEADLINE | FEATURE_OSXSAVE | FEATURE_HYPERVISOR,
        (1, EDX) => FEATURE_HTT,
        // How many share the cache, and the package.
        (4, EAX) => !0x3FFF,
        (0xB, _) => u32::MAX,
        _ => 0,
    };
    Bits::new(bits.mask() & !stays, bits.value())
}

fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xB | 0xD)
}

fn table(leaf: u32, subleaf: u32, context: &CpuidContext<'_>) -> [u32; 4] {
    match leaf {
        0 => [LEAF_MAX, word(b"Genu"), word(b"ntel"), word(b"ineI")],
        1 => features(context),
        // All cache information is in leaf 4.
        2 => [0xFF01, 0, 0, 0],
        4 => cache(subleaf, context),
        6 => [ARAT, 0, 0, 0],
        7 if subleaf == 0 => [0, STRUCTURED_EBX, 0, STRUCTURED_EDX],
        0xB => topology(subleaf, context),
        0xD if subleaf == 0 => [3, XSAVE_BYTES, XSAVE_BYTES, 0],
        0x15 => [1, 1, TSC_HZ, 0],
        0x16 => [TSC_HZ / 1_000_000, TSC_HZ / 1_000_000, 100, 0],
        0x4000_0000 => [HYPERVISOR_LEAF_MAX, word(b"KVMK"), word(b"VMKV"), word(b"M\0\0\0")],
        0x4000_0001 => [KVM_FEATURES, 0, 0, 0],
        0x4000_0010 => [TSC_HZ / 1000, TSC_HZ / 1000, 0, 0],
        0x8000_0000 => [EXTENDED_LEAF_MAX, 0, 0, 0],
        0x8000_0001 => [0, 0, EXTENDED_ECX, EXTENDED_EDX],
        0x8000_0002..=0x8000_0004 => brand((leaf - 0x8000_0002) as usize),
        // L2: 1 MiB, 16 ways, lines of 64 bytes.
        0x8000_0006 => [0, 0, 1024 << 16 | 8 << 12 | 64, 0],
        0x8000_0007 => [0, 0, 0, INVARIANT_TSC],
        0x8000_0008 => [crate::paging::PHYSICAL_BITS | LINEAR_BITS << 8, 0, 0, 0],
        _ => [0; 4],
    }
}

fn features(context: &CpuidContext<'_>) -> [u32; 4] {
    let id = u32::from(context.vcpu_id);
    let osxsave = if context.cr4 & CR4_OSXSAVE != 0 { FEATURE_OSXSAVE } else { 0 };
    let htt = if context.vcpu_count > 1 { FEATURE_HTT } else { 0 };
    const CLFLUSH_QUADWORDS: u32 = 8;
    let ids = package_ids(context).min(128);
    let ebx = id << 24 | ids << 16 | CLFLUSH_QUADWORDS << 8;
    [SIGNATURE, ebx, FEATURES_ECX | osxsave, FEATURES_EDX | htt]
}

/// The deterministic caches: L1 data and code and L2 for each core, L3 for the package.
fn cache(subleaf: u32, context: &CpuidContext<'_>) -> [u32; 4] {
    const DATA: u32 = 1;
    const CODE: u32 = 2;
    const UNIFIED: u32 = 3;
    let ids = package_ids(context);
    let (kind, level, sharing, ways, sets) = match subleaf {
        0 => (DATA, 1, 1, 8, 64),
        1 => (CODE, 1, 1, 8, 64),
        2 => (UNIFIED, 2, 1, 16, 1024),
        3 => (UNIFIED, 3, ids, 16, 16_384),
        _ => return [0; 4],
    };
    const SELF_INITIALISING: u32 = 1 << 8;
    const LINE: u32 = 64;
    let cores = ids.min(64) - 1;
    let eax = kind | level << 5 | SELF_INITIALISING | (sharing - 1) << 14 | cores << 26;
    [eax, (ways - 1) << 22 | (LINE - 1), sets - 1, 0]
}

/// One thread a core, and one package.
fn topology(subleaf: u32, context: &CpuidContext<'_>) -> [u32; 4] {
    let id = u32::from(context.vcpu_id);
    match subleaf {
        0 => [0, 1, LEVEL_SMT, id],
        1 => {
            let shift = package_ids(context).trailing_zeros();
            [shift, u32::from(context.vcpu_count), LEVEL_CORE | 1, id]
        }
        _ => [0, 0, subleaf & 0xFF, id],
    }
}

/// APIC ids that the package spans: a power of two.
fn package_ids(context: &CpuidContext<'_>) -> u32 {
    u32::from(context.vcpu_count.max(1)).next_power_of_two()
}

fn brand(part: usize) -> [u32; 4] {
    let text = &BRAND[part * 16..part * 16 + 16];
    std::array::from_fn(|i| word(&[text[4 * i], text[4 * i + 1], text[4 * i + 2], text[4 * i + 3]]))
}

const fn word(text: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*text)
}

const fn bits(numbers: &[u32]) -> u32 {
    let mut all = 0;
    let mut i = 0;
    while i < numbers.len() {
        all |= 1 << numbers[i];
        i += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: CpuidContext<'static> =
        CpuidContext { vcpu_id: 0, vcpu_count: 1, cr4: 0, changes: &[] };

    fn text(words: &[u32]) -> String {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        bytes.take_while(|byte| *byte != 0).map(char::from).collect()
    }

    #[test]
    fn names_are_spelt() {
        let [_, b, c, d] = cpuid(0, 0, &ONE);
        assert_eq!(text(&[b, d, c]), "GenuineIntel");
        let [_, b, c, d] = cpuid(0x4000_0000, 0, &ONE);
        assert_eq!(text(&[b, c, d]), "KVMKVMKVM");
        let brand: Vec<u32> =
            (0x8000_0002..=0x8000_0004).flat_map(|leaf| cpuid(leaf, 0, &ONE)).collect();
        assert_eq!(text(&brand), "sparkler software CPU");
    }

    #[test]
    fn linux_finds_an_atom_at_one_gigahertz() {
        let eax = cpuid(1, 0, &ONE)[0];
        let model = eax >> 4 & 0xF | eax >> 12 & 0xF0;
        assert_eq!((eax >> 8 & 0xF, model), (6, 0x1C));
        let [denominator, numerator, crystal_hz, _] = cpuid(0x15, 0, &ONE);
        assert_eq!(crystal_hz / 1000 * numerator / denominator, 1_000_000);
    }

    #[test]
    fn the_level_is_v2_and_not_v3() {
        let check = |leaf, register: usize, bit: u32, offered: bool| {
            let found = cpuid(leaf, 0, &ONE)[register] >> bit & 1 != 0;
            assert_eq!(found, offered, "leaf {leaf:#x}, register {register}, bit {bit}");
        };
        for bit in [0, 9, 13, 19, 20, 23] {
            check(1, 2, bit, true);
        }
        for bit in [1, 3, 12, 17, 22, 28, 29] {
            check(1, 2, bit, false);
        }
        for bit in [1, 7, 14, 28] {
            check(1, 3, bit, false);
        }
        for bit in [3, 5, 8, 10] {
            check(7, 1, bit, false);
        }
        check(0x8000_0001, 2, 0, true);
        check(0x8000_0001, 2, 5, false);
    }

    #[test]
    fn answers_follow_the_context() {
        let three = CpuidContext { vcpu_id: 2, vcpu_count: 3, cr4: CR4_OSXSAVE, changes: &[] };
        let [_, ebx, ecx, edx] = cpuid(1, 0, &three);
        assert_eq!(ebx, 0x0204_0800);
        assert!(ecx & FEATURE_OSXSAVE != 0 && edx & FEATURE_HTT != 0);
        assert_eq!(cpuid(0xB, 0, &three), [0, 1, 0x100, 2]);
        assert_eq!(cpuid(0xB, 1, &three), [2, 3, 0x201, 2]);
        assert_eq!(cpuid(0xB, 2, &three), [0, 0, 2, 2]);
        assert_eq!(cpuid(4, 3, &three)[0] >> 14 & 0xFFF, 3);
        assert_eq!(cpuid(4, 4, &three), [0; 4]);
    }

    fn change(leaf: u32, subleaf: u32, register: usize, mask: u32, value: u32) -> CpuidModifier {
        let mut registers = [Bits::default(); 4];
        registers[register] = Bits::new(mask, value);
        CpuidModifier { leaf, subleaf, flags: 0, registers }
    }

    #[test]
    fn a_template_changes_what_is_told() {
        let check = |change: CpuidModifier, subleaf, expected: fn([u32; 4]) -> [u32; 4]| {
            let context = CpuidContext { changes: &[change], ..ONE };
            let (leaf, told) = (change.leaf, cpuid(change.leaf, subleaf, &ONE));
            assert_eq!(cpuid(leaf, subleaf, &context), expected(told), "leaf {leaf:#x}");
        };
        check(change(7, 0, EBX, 1 << 20, 0), 0, |[a, b, c, d]| [a, b & !(1 << 20), c, d]);
        check(change(7, 0, EBX, 1 << 20, 0), 1, |told| told);
        check(change(1, 0, EAX, u32::MAX, 0x306F2), 0, |[_, b, c, d]| [0x306F2, b, c, d]);
        // Leaf 1 has no sub-leaves, so that ECX is not looked at.
        check(change(1, 0, EAX, u32::MAX, 0x306F2), 9, |[_, b, c, d]| [0x306F2, b, c, d]);
        check(change(1, 0, EBX, u32::MAX, 0xFFFF_FF05), 0, |[a, b, c, d]| [a, b | 5, c, d]);
        check(change(1, 0, ECX, FEATURE_HYPERVISOR, 0), 0, |told| told);
        check(change(0xB, 1, EDX, u32::MAX, 7), 1, |told| told);
    }

    #[test]
    fn what_is_not_there_cannot_be_offered() {
        let check = |changes: &[CpuidModifier], expected: &str| {
            let template = CpuTemplate::new(Vec::new(), changes.to_vec(), Vec::new()).unwrap();
            let text = check_template(&template).err().unwrap_or_default();
            assert!(text.contains(expected) && text.is_empty() == expected.is_empty(), "{text}");
        };
        let avx = change(1, 0, ECX, 1 << 28, 1 << 28);
        check(&[], "");
        check(&[avx], "leaf 0x1, subleaf 0x0, register ecx, bit 28, which the software CPU does n");
        check(&[change(1, 0, ECX, 1 << 28, 0), change(1, 0, ECX, 1, 1)], "");
        check(&[change(7, 1, EAX, 1 << 4, 1 << 4)], "leaf 0x7, subleaf 0x1, register eax, bit 4");
        check(&[change(0x1234, 0, EAX, 1, 0)], "");
        check(&[change(0x15, 0, ECX, 1 << 9, 1 << 9)], "");
        check(&[change(0x15, 0, ECX, 1 << 9, 0)], "leaf 0x15, subleaf 0x0, register ecx, bit 9");
        check(&[change(0x8000_0002, 0, EAX, u32::MAX, 7)], "");
        check(&[change(0xB, 0, EAX, u32::MAX, 7)], "");
    }

    #[test]
    fn named_templates_are_for_other_processors() {
        use spec::NamedTemplate::{T2, T2A};
        let text = |name: spec::NamedTemplate| check_template(&name.into()).unwrap_err();
        assert!(text(T2).contains("CPU model is not permitted"));
        assert!(text(T2A).contains("CPU vendor mismatched"));
    }
}
