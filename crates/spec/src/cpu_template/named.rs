//! The named templates of Firecracker: what hides the differences of a family of processors, so
//! that a snapshot of one resumes on another.
//!
//! Each makes its processors look like a Haswell (C3: an Ivy Bridge) with the features that all of
//! them have. A row is a register of a CPUID leaf, the bits that change, and their values; the
//! features behind the bits are in SDM Vol. 2A, CPUID, and APM Vol. 3, appendix E.

use super::{Bits, CpuTemplate, CpuidModifier, MsrModifier};
use crate::Error;

/// A template that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedTemplate {
    /// Like an EC2 C3 instance.
    C3,
    /// Like an EC2 T2 instance.
    T2,
    /// Like T2, and the mitigations that Skylake and Cascade Lake both need.
    T2S,
    /// Like T2, with the instructions of T2A, on Intel's processors.
    T2CL,
    /// The instructions of T2CL on AMD's.
    T2A,
}

const INTEL: &[u8; 12] = b"GenuineIntel";
const AMD: &[u8; 12] = b"AuthenticAMD";

/// Signatures of processors: family, model and stepping as EAX of leaf 1 has them.
const SKYLAKE: u32 = 0x0005_0654;
const CASCADE_LAKE: u32 = 0x0005_0657;
const ICE_LAKE: u32 = 0x0006_06A6;
const MILAN: u32 = 0x00A0_0F11;
/// The bits of EAX that make a signature; the others are reserved, or say what socket it is.
const SIGNATURE: u32 = 0x0FFF_0FFF;

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the leaf has sub-leaves.
const HAS_SUBLEAVES: u32 = 1;

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Leaf, sub-leaf, register, bits that change, values.
type Row = (u32, u32, usize, u32, u32);

/// What T2, T2S, T2CL and T2A share.
const T2_COMMON: [Row; 8] = [
    (0x1, 0, EAX, 0x0FFF_3FFF, 0x0003_06F2),
    (0x1, 0, ECX, 0x0004_CDFC, 0),
    (0x1, 0, EDX, 0xE864_1080, 0x0000_1080),
    (0x7, 0, EBX, 0xFFEF_DA14, 0x0000_0200),
    (0x7, 0, ECX, 0x4041_5F5E, 0),
    (0x7, 0, EDX, 0x0000_011C, 0),
    (0xD, 0, EAX, 0x0000_02F8, 0),
    (0xD, 1, EAX, 0x0000_000E, 0),
];

const T2: [Row; 3] = [
    (0x8000_0001, 0, ECX, 0x2000_0100, 0),
    (0x8000_0001, 0, EDX, 0x0400_0000, 0),
    (0x8000_0008, 0, EBX, 0x0000_0200, 0),
];

const T2CL: [Row; 3] = [
    (0x8000_0001, 0, ECX, 0x2000_01C0, 0),
    (0x8000_0001, 0, EDX, 0x07C0_0000, 0),
    (0x8000_0008, 0, EBX, 0x0000_0200, 0),
];

const T2A: [Row; 3] = [
    (0x8000_0001, 0, ECX, 0x2000_01C4, 0),
    (0x8000_0001, 0, EDX, 0x0640_0000, 0),
    (0x8000_0008, 0, EBX, 0x001C_0205, 0x001C_0004),
];

const C3: [Row; 10] = [
    (0x1, 0, EAX, 0x0FFF_3FFF, 0x0003_06E4),
    (0x1, 0, ECX, 0x0040_DD3C, 0),
    (0x1, 0, EDX, 0xA864_1080, 0x0000_1080),
    (0x7, 0, EBX, 0xFFAF_DD3C, 0),
    (0x7, 0, ECX, 0x4041_481E, 0),
    (0x7, 0, EDX, 0x0000_000C, 0),
    (0xD, 0, EAX, 0x0000_02F8, 0),
    (0xD, 1, EAX, 0x0000_000E, 0),
    (0x8000_0001, 0, ECX, 0x0000_0120, 0),
    (0x8000_0001, 0, EDX, 0x0400_0000, 0),
];

const IA32_ARCH_CAPABILITIES: u32 = 0x10A;
/// T2S: RSBA, SKIP_L1DFL_VMENTRY, IF_PSCHANGE_MC_NO, MISC_PACKAGE_CTLS, ENERGY_FILTERING_CTL,
/// FB_CLEAR, RRSBA, GDS_NO and RFDS_NO, and nothing else.
const T2S_CAPABILITIES: (u64, u64) = (u64::MAX, 0x0C0A_0C4C);
/// T2CL: what is no property of the processor's speculation is hidden.
const T2CL_CAPABILITIES: (u64, u64) = (0xFFFF_FFFF_E2F5_1E00, 0);

impl NamedTemplate {
    fn vendor(self) -> &'static [u8; 12] {
        match self {
            Self::C3 | Self::T2 | Self::T2S | Self::T2CL => INTEL,
            Self::T2A => AMD,
        }
    }

    fn signatures(self) -> &'static [u32] {
        match self {
            Self::C3 | Self::T2 => &[SKYLAKE, CASCADE_LAKE, ICE_LAKE],
            Self::T2S => &[SKYLAKE, CASCADE_LAKE],
            Self::T2CL => &[CASCADE_LAKE, ICE_LAKE],
            Self::T2A => &[MILAN],
        }
    }

    pub(super) fn check_cpu(self, vendor: &[u8; 12], signature: u32) -> Result<(), Error> {
        if vendor != self.vendor() {
            return Err(Error::CpuVendor);
        }
        if !self.signatures().contains(&(signature & SIGNATURE)) {
            return Err(Error::CpuModel);
        }
        Ok(())
    }

    fn rows(self) -> impl Iterator<Item = &'static Row> {
        let (first, rest): (&[Row], &[Row]) = match self {
            Self::C3 => (&C3, &[]),
            Self::T2 | Self::T2S => (&T2_COMMON, &T2),
            Self::T2CL => (&T2_COMMON, &T2CL),
            Self::T2A => (&T2_COMMON, &T2A),
        };
        first.iter().chain(rest)
    }

    fn arch_capabilities(self) -> Option<(u64, u64)> {
        match self {
            Self::C3 | Self::T2 | Self::T2A => None,
            Self::T2S => Some(T2S_CAPABILITIES),
            Self::T2CL => Some(T2CL_CAPABILITIES),
        }
    }
}

impl From<NamedTemplate> for CpuTemplate {
    fn from(name: NamedTemplate) -> Self {
        let mut cpuid: Vec<CpuidModifier> = Vec::new();
        for &(leaf, subleaf, register, mask, value) in name.rows() {
            let same = |last: &&mut CpuidModifier| (last.leaf, last.subleaf) == (leaf, subleaf);
            let bits = Bits::new(mask, value);
            match cpuid.last_mut().filter(same) {
                Some(last) => last.registers[register] = bits,
                None => {
                    let flags = if matches!(leaf, 0x7 | 0xD) { HAS_SUBLEAVES } else { 0 };
                    let mut registers = [Bits::default(); 4];
                    registers[register] = bits;
                    cpuid.push(CpuidModifier { leaf, subleaf, flags, registers });
                }
            }
        }
        let msr = |(mask, value)| MsrModifier {
            index: IA32_ARCH_CAPABILITIES,
            bits: Bits::new(mask, value),
        };
        let msrs = name.arch_capabilities().map(msr).into_iter().collect();
        Self { capabilities: Vec::new(), cpuid, msrs, name: Some(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NamedTemplate; 5] = [
        NamedTemplate::C3,
        NamedTemplate::T2,
        NamedTemplate::T2S,
        NamedTemplate::T2CL,
        NamedTemplate::T2A,
    ];

    #[test]
    fn rows_of_a_leaf_stand_together_and_set_only_what_they_mask() {
        for name in ALL {
            let template = CpuTemplate::from(name);
            let leaves: Vec<_> = template.cpuid().iter().map(|m| (m.leaf, m.subleaf)).collect();
            let mut sorted = leaves.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(leaves, sorted, "{name:?}");
            for (leaf, subleaf, _, mask, value) in name.rows() {
                assert_eq!(value & !mask, 0, "{name:?}, leaf {leaf:#x}.{subleaf}");
            }
        }
    }

    #[test]
    fn the_guest_sees_a_haswell_without_avx_512() {
        let template = CpuTemplate::from(NamedTemplate::T2);
        let apply = |leaf, register: usize, old| {
            let modifier = template.cpuid().iter().find(|m| m.leaf == leaf).unwrap();
            modifier.registers[register].apply(old)
        };
        assert_eq!(apply(1, EAX, CASCADE_LAKE), 0x0003_06F2);
        assert_eq!(apply(7, EBX, u32::MAX) >> 16 & 1, 0, "AVX512F");
        assert_eq!(apply(7, EBX, 0) >> 9 & 1, 1, "ERMS");
    }

    #[test]
    fn each_has_its_processors() {
        use NamedTemplate::{C3, T2, T2A, T2CL, T2S};
        let vendor = Some("CPU vendor mismatched between actual CPU and CPU template.");
        let model = Some("The current CPU model is not permitted to apply the CPU template.");
        for (name, cpu, signature, expected) in [
            (T2, INTEL, SKYLAKE, None),
            (T2, INTEL, SKYLAKE | 1 << 12, None),
            (C3, INTEL, ICE_LAKE, None),
            (T2S, INTEL, ICE_LAKE, model),
            (T2CL, INTEL, SKYLAKE, model),
            (T2CL, INTEL, CASCADE_LAKE, None),
            (T2A, AMD, MILAN, None),
            (T2A, INTEL, SKYLAKE, vendor),
            (T2, AMD, MILAN, vendor),
        ] {
            let found = CpuTemplate::from(name).check_cpu(cpu, signature);
            let text = found.err().map(|error| error.to_string());
            assert_eq!(text.as_deref(), expected, "{name:?} {signature:#x}");
        }
        assert_eq!(CpuTemplate::default().check_cpu(AMD, 0), Ok(()));
    }
}
