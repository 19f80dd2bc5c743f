//! What CPUID tells the guest: what KVM supports, with the topology of this machine put in.
//!
//! A pure function from KVM's list, some facts of the host, and the vCPU's place in the machine to
//! the vCPU's list, after Intel's and AMD's manuals (SDM Vol. 2A, CPUID; APM Vol. 3, appendix E).

use std::arch::x86_64::__cpuid_count;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use spec::CpuidModifier;
use vcpu::Error;

/// Bits of an APIC id below the package: room for the 32 vCPUs a machine may have.
const PACKAGE_SHIFT: u32 = 5;

/// The place of one vCPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The vCPU's number and APIC id.
    pub id: u8,
    /// vCPUs of the machine.
    pub count: u8,
    /// 1 or 2.
    pub threads_per_core: u8,
    /// The local APIC's timer has a mode that compares with the time-stamp counter.
    pub tsc_deadline: bool,
}

/// One leaf of the host's own CPUID.
type HostLeaf = fn(leaf: u32, subleaf: u32) -> [u32; 4];

/// The host's own CPUID.
pub(crate) fn host_leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// The host's maker, and its signature: EAX of leaf 1.
pub(crate) fn host_cpu() -> ([u8; 12], u32) {
    let [_, ebx, ecx, edx] = host_leaf(0, 0);
    let mut vendor = [0; 12];
    for (bytes, word) in vendor.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    (vendor, host_leaf(1, 0)[0])
}

/// What KVM `supported`, with a template's changes.
///
/// The changes come before [`for_vcpu`], as in Firecracker: what depends on a vCPU's place in the
/// machine is not a template's to say.
pub(crate) fn modified(
    supported: &[kvm_cpuid_entry2],
    modifiers: &[CpuidModifier],
) -> Result<Vec<kvm_cpuid_entry2>, Error> {
    let mut list = List(supported.to_vec());
    modifiers.iter().try_for_each(|m| list.modify(m))?;
    Ok(list.0)
}

/// The list for the vCPU at `place`, made of what all vCPUs share.
pub(crate) fn for_vcpu(
    shared: &[kvm_cpuid_entry2],
    place: Place,
    host: HostLeaf,
) -> Vec<kvm_cpuid_entry2> {
    let mut list = List(shared.to_vec());
    list.common(place, host);
    match list.vendor() {
        Vendor::Intel => list.intel(place, host),
        Vendor::Amd => list.amd(place, host),
        Vendor::Other => {}
    }
    list.0
}

#[derive(Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

struct List(Vec<kvm_cpuid_entry2>);

impl List {
    fn find(&mut self, leaf: u32, subleaf: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.0.iter_mut().find(|e| e.function == leaf && e.index == subleaf)
    }

    /// Changes the entry of a leaf, if KVM gave one.
    fn change(&mut self, leaf: u32, subleaf: u32, change: impl FnOnce(&mut kvm_cpuid_entry2)) {
        if let Some(entry) = self.find(leaf, subleaf) {
            change(entry);
        }
    }

    /// Sets an entry, and adds it if KVM gave none.
    fn put(&mut self, leaf: u32, subleaf: u32, flags: u32, [eax, ebx, ecx, edx]: [u32; 4]) {
        let entry = kvm_cpuid_entry2 {
            function: leaf,
            index: subleaf,
            flags,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        match self.find(leaf, subleaf) {
            Some(old) => *old = entry,
            None => self.0.push(entry),
        }
    }

    /// The highest leaf of the range that `base` (0 or 0x8000_0000) starts.
    fn max_leaf(&mut self, base: u32) -> u32 {
        self.find(base, 0).map_or(0, |e| e.eax)
    }

    fn vendor(&mut self) -> Vendor {
        match self.find(0, 0).map(|e| [e.ebx, e.edx, e.ecx].map(u32::to_le_bytes).concat()) {
            Some(name) if name == b"GenuineIntel" => Vendor::Intel,
            Some(name) if name == b"AuthenticAMD" || name == b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        }
    }

    /// The error's text is Firecracker's.
    fn modify(&mut self, m: &CpuidModifier) -> Result<(), Error> {
        let Some(e) = self.find(m.leaf, m.subleaf) else {
            return Err(Error::Unsupported(format!(
                "Template changes a CPUID entry not supported by KVM: Leaf: {:0x}, Subleaf: {:0x}",
                m.leaf, m.subleaf
            )));
        };
        e.flags = m.flags;
        let registers = [&mut e.eax, &mut e.ebx, &mut e.ecx, &mut e.edx];
        for (register, bits) in registers.into_iter().zip(m.registers) {
            *register = bits.apply(*register);
        }
        Ok(())
    }

    fn common(&mut self, place: Place, host: HostLeaf) {
        let ids = u32::from(place.count).next_power_of_two();
        self.change(1, 0, |e| {
            // Brand index stays; cache line of 64 bytes; number of APIC ids; APIC id.
            e.ebx = (e.ebx & 0xFF) | 8 << 8 | ids << 16 | u32::from(place.id) << 24;
            set_bit(&mut e.ecx, 15, false); // PDCM
            set_bit(&mut e.ecx, 24, place.tsc_deadline);
            set_bit(&mut e.ecx, 31, true); // a hypervisor is present
            set_bit(&mut e.edx, 28, place.count > 1); // HTT
        });
        if self.max_leaf(0) >= 0xB {
            self.topology(0xB, place);
        }
        // L1, L2 and L3 as the host has them: KVM leaves out what it deems uninteresting.
        for leaf in [0x8000_0005, 0x8000_0006] {
            if self.max_leaf(0x8000_0000) >= leaf && host(0x8000_0000, 0)[0] >= leaf {
                self.put(leaf, 0, 0, host(leaf, 0));
            }
        }
    }

    /// Extended topology: threads of a core, cores of the package.
    fn topology(&mut self, leaf: u32, place: Place) {
        self.0.retain(|e| e.function != leaf);
        let (id, flags) = (u32::from(place.id), KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        let threads = u32::from(place.threads_per_core);
        let count = u32::from(place.count);
        self.put(leaf, 0, flags, [threads.ilog2(), threads, 1 << 8, id]);
        self.put(leaf, 1, flags, [PACKAGE_SHIFT, count, 2 << 8 | 1, id]);
        self.put(leaf, 2, flags, [0, 0, 2, id]);
    }

    fn intel(&mut self, place: Place, host: HostLeaf) {
        let threads = u32::from(place.threads_per_core);
        let count = u32::from(place.count);
        for e in self.0.iter_mut().filter(|e| e.function == 4 && e.eax & 0x1F != 0) {
            let sharing = if e.eax >> 5 & 7 >= 3 { count } else { threads };
            let cores = (count / threads).next_power_of_two();
            e.eax = (e.eax & 0x3FFF) | (sharing - 1) << 14 | (cores - 1) << 26;
        }
        self.change(6, 0, |e| {
            set_bit(&mut e.eax, 1, false); // turbo
            set_bit(&mut e.ecx, 3, false); // performance-energy bias
        });
        self.change(7, 0, |e| {
            set_bit(&mut e.ebx, 6, true); // the x87 data pointer is only updated on exceptions
            set_bit(&mut e.ebx, 13, true); // x87 CS and DS are gone
            set_bit(&mut e.ecx, 5, false); // WAITPKG
        });
        self.change(0xA, 0, |e| (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0)); // no counters
        if self.max_leaf(0) >= 0x1F {
            self.topology(0x1F, place);
        }
        let brand = match frequency(&host_brand(host)) {
            Some(frequency) => format!("Intel(R) Xeon(R) Processor @ {frequency}"),
            None => "Intel(R) Xeon(R) Processor".to_string(),
        };
        self.brand(&brand);
    }

    fn amd(&mut self, place: Place, host: HostLeaf) {
        let threads = u32::from(place.threads_per_core);
        let (id, count) = (u32::from(place.id), u32::from(place.count));
        self.change(7, 0, |e| set_bit(&mut e.edx, 29, false)); // IA32_ARCH_CAPABILITIES is Intel's
        self.change(0x8000_0008, 0, |e| {
            // Number of threads; bits of the APIC id that count them.
            e.ecx = (e.ecx & !0xF0FF) | (count - 1) | count.next_power_of_two().ilog2() << 12;
        });
        self.brand("AMD EPYC");
        if host(0x8000_0000, 0)[0] < 0x8000_001E || host(0x8000_0001, 0)[2] >> 22 & 1 == 0 {
            return; // the host has no topology extensions to pass on
        }
        self.change(0x8000_0000, 0, |e| e.eax = e.eax.max(0x8000_001E));
        self.change(0x8000_0001, 0, |e| set_bit(&mut e.ecx, 22, true));
        self.0.retain(|e| !matches!(e.function, 0x8000_001D | 0x8000_001E));
        for subleaf in 0..8 {
            let [eax, ebx, ecx, edx] = host(0x8000_001D, subleaf);
            let sharing = if eax >> 5 & 7 >= 3 { count } else { threads };
            let eax = (eax & 0x3FFF) | (sharing - 1) << 14;
            let values = if eax & 0x1F == 0 { [0; 4] } else { [eax, ebx, ecx, edx] };
            self.put(0x8000_001D, subleaf, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, values);
            if values == [0; 4] {
                break;
            }
        }
        self.put(0x8000_001E, 0, 0, [id, (id / threads) | (threads - 1) << 8, 0, 0]);
    }

    /// The name that `/proc/cpuinfo` shows: 48 bytes in three leaves.
    fn brand(&mut self, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(48, 0);
        for (leaf, part) in (0x8000_0002..).zip(bytes.chunks(16)) {
            let word = |n: usize| u32::from_le_bytes(std::array::from_fn(|i| part[n * 4 + i]));
            if self.max_leaf(0x8000_0000) >= leaf {
                self.put(leaf, 0, 0, std::array::from_fn(word));
            }
        }
    }
}

fn set_bit(register: &mut u32, bit: u32, on: bool) {
    *register = (*register & !(1 << bit)) | u32::from(on) << bit;
}

fn host_brand(host: HostLeaf) -> String {
    if host(0x8000_0000, 0)[0] < 0x8000_0004 {
        return String::new();
    }
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|leaf| host(leaf, 0))
        .flat_map(u32::to_le_bytes)
        .take_while(|b| *b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The frequency that a brand string ends in, for example `2.90GHz`.
fn frequency(brand: &str) -> Option<&str> {
    let end = ["GHz", "MHz", "THz"].iter().find_map(|unit| Some(brand.find(unit)? + 3))?;
    let start = brand[..end].rfind(' ').map_or(0, |at| at + 1);
    Some(&brand[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: [u32; 3] = [0x756E_6547, 0x6C65_746E, 0x4965_6E69];
    const AMD: [u32; 3] = [0x6874_7541, 0x444D_4163, 0x6974_6E65];

    fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn supported([ebx, ecx, edx]: [u32; 3]) -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0, [0x1F, ebx, ecx, edx]),
            entry(1, 0, [0, 0x55, 1 << 15, 0]),
            entry(4, 0, [1 | 1 << 5, 1, 2, 3]),
            entry(4, 1, [3 | 3 << 5, 1, 2, 3]),
            entry(6, 0, [2, 0, 8, 0]),
            entry(7, 0, [0, 0, 1 << 5, 1 << 29]),
            entry(0xA, 0, [1, 2, 3, 4]),
            entry(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
            entry(0x8000_0001, 0, [0; 4]),
            entry(0x8000_0008, 0, [0; 4]),
        ]
    }

    fn host(leaf: u32, subleaf: u32) -> [u32; 4] {
        let text = |s: &[u8; 16]| {
            std::array::from_fn(|n| u32::from_le_bytes(std::array::from_fn(|i| s[n * 4 + i])))
        };
        match (leaf, subleaf) {
            (0x8000_0000, _) => [0x8000_001E, 0, 0, 0],
            (0x8000_0001, _) => [0, 0, 1 << 22, 0],
            (0x8000_0002, _) => text(b"Some CPU @ 2.90G"),
            (0x8000_0003, _) => text(b"Hz\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            (0x8000_0005, _) => [5; 4],
            (0x8000_0006, _) => [6; 4],
            (0x8000_001D, 0) => [1 | 1 << 5, 0, 0, 0],
            (0x8000_001D, 1) => [3 | 3 << 5, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Each row: a leaf and subleaf, and what it must be.
    fn check(vendor: [u32; 3], modifiers: &[CpuidModifier], rows: &[(u32, u32, [u32; 4])]) {
        let place = Place { id: 2, count: 4, threads_per_core: 2, tsc_deadline: true };
        let shared = modified(&supported(vendor), modifiers).unwrap();
        let list = for_vcpu(&shared, place, host);
        for &(leaf, subleaf, expected) in rows {
            let found: Vec<[u32; 4]> = list
                .iter()
                .filter(|e| (e.function, e.index) == (leaf, subleaf))
                .map(|e| [e.eax, e.ebx, e.ecx, e.edx])
                .collect();
            assert_eq!(found, [expected], "leaf {leaf:#x}.{subleaf}");
        }
    }

    const LEAF_1: [u32; 4] = [0, 0x0204_0855, 1 << 24 | 1 << 31, 1 << 28];

    #[test]
    fn intel() {
        let brand = |s: &[u8]| u32::from_le_bytes(s.try_into().unwrap());
        check(
            INTEL,
            &[],
            &[
                (1, 0, LEAF_1),
                (4, 0, [1 | 1 << 5 | 1 << 14 | 1 << 26, 1, 2, 3]),
                (4, 1, [3 | 3 << 5 | 3 << 14 | 1 << 26, 1, 2, 3]),
                (6, 0, [0; 4]),
                (7, 0, [0, 1 << 6 | 1 << 13, 0, 1 << 29]),
                (0xA, 0, [0; 4]),
                (0xB, 0, [1, 2, 0x100, 2]),
                (0xB, 1, [5, 4, 0x201, 2]),
                (0xB, 2, [0, 0, 2, 2]),
                (0x1F, 1, [5, 4, 0x201, 2]),
                (0x8000_0004, 0, [brand(b"0GHz"), 0, 0, 0]),
                (0x8000_0005, 0, [5; 4]),
                (0x8000_0006, 0, [6; 4]),
            ],
        );
    }

    #[test]
    fn amd() {
        check(
            AMD,
            &[],
            &[
                (1, 0, LEAF_1),
                (7, 0, [0, 0, 1 << 5, 0]),
                (0x8000_0000, 0, [0x8000_001E, 0, 0, 0]),
                (0x8000_0001, 0, [0, 0, 1 << 22, 0]),
                (0x8000_0002, 0, [0x2044_4D41, 0x4359_5045, 0, 0]),
                (0x8000_0008, 0, [0, 0, 3 | 2 << 12, 0]),
                (0x8000_001D, 0, [1 | 1 << 5 | 1 << 14, 0, 0, 0]),
                (0x8000_001D, 1, [3 | 3 << 5 | 3 << 14, 0, 0, 0]),
                (0x8000_001D, 2, [0; 4]),
                (0x8000_001E, 0, [2, 1 | 1 << 8, 0, 0]),
            ],
        );
    }

    fn modifier(leaf: u32, subleaf: u32, register: usize, mask: u32, value: u32) -> CpuidModifier {
        let mut registers = [spec::Bits::default(); 4];
        registers[register] = spec::Bits::new(mask, value);
        CpuidModifier { leaf, subleaf, flags: 0, registers }
    }

    #[test]
    fn templates_change_what_does_not_depend_on_the_place() {
        let modifiers = [
            modifier(6, 0, 2, 0xFF, 0x31),
            modifier(7, 0, 3, u32::MAX, 1 << 4),
            // The number of APIC ids is the machine's to say.
            modifier(1, 0, 1, u32::MAX, 0),
        ];
        let leaf_1 = [LEAF_1[0], LEAF_1[1] & !0xFF, LEAF_1[2], LEAF_1[3]];
        let leaf_7 = [0, 1 << 6 | 1 << 13, 0, 1 << 4];
        check(INTEL, &modifiers, &[(6, 0, [0, 0, 0x31, 0]), (7, 0, leaf_7), (1, 0, leaf_1)]);
    }

    #[test]
    fn leaves_that_kvm_lacks_are_refused() {
        for (leaf, subleaf, expected) in
            [(0x9999, 0, "Leaf: 9999, Subleaf: 0"), (7, 2, "Leaf: 7, Subleaf: 2")]
        {
            let modifiers = [modifier(leaf, subleaf, 0, 0, 0)];
            let error = modified(&supported(INTEL), &modifiers).unwrap_err().to_string();
            assert!(error.starts_with("Template changes a CPUID entry not supported by KVM: "));
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn frequencies() {
        for (brand, expected) in [
            ("Intel(R) Xeon(R) Platinum 8275CL CPU @ 3.00GHz", Some("3.00GHz")),
            ("866MHz", Some("866MHz")),
            ("AMD EPYC 7R13 Processor", None),
        ] {
            assert_eq!(frequency(brand), expected, "{brand}");
        }
    }
}
