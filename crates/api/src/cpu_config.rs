//! `cpu-config`: changes to the CPU that the guest sees.
//!
//! Numbers are texts with a prefix (`"0x10a"`, `"0b11"`), and so are sets of bits: `1` sets a bit,
//! `0` clears it, `x` leaves it alone, `_` is for the eye. What is for other processors
//! (`reg_modifiers`, `vcpu_features`) is refused as an unknown field, as Firecracker does here.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::CpuTemplate;

/// `cpu-config`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CpuConfig {
    /// Capabilities of KVM that are asked for (`"121"`), or waived (`"!121"`).
    #[serde(default)]
    pub kvm_capabilities: Vec<KvmCapability>,
    /// Changes to CPUID.
    #[serde(default)]
    pub cpuid_modifiers: Vec<CpuidLeafModifier>,
    /// Changes to model-specific registers.
    #[serde(default)]
    pub msr_modifiers: Vec<MsrModifier>,
}

/// A capability of KVM by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmCapability {
    /// The host must have it.
    Add(u32),
    /// The host need not have it.
    Remove(u32),
}

/// Changes to one leaf of CPUID.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct CpuidLeafModifier {
    /// EAX on input.
    #[serde(with = "number")]
    pub leaf: u32,
    /// ECX on input.
    #[serde(with = "number")]
    pub subleaf: u32,
    /// KVM's flags of the leaf.
    pub flags: u32,
    /// The changes.
    pub modifiers: Vec<CpuidRegisterModifier>,
}

/// A change to an output register of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct CpuidRegisterModifier {
    /// Which one.
    pub register: CpuidRegister,
    /// The bits that change.
    pub bitmap: Bitmap<u32>,
}

/// An output register of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuidRegister {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// A change to a model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct MsrModifier {
    /// Its index.
    #[serde(with = "number")]
    pub addr: u32,
    /// The bits that change.
    pub bitmap: Bitmap<u64>,
}

/// The bits of a register that change, as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bitmap<T>(pub spec::Bits<T>);

impl TryFrom<CpuConfig> for spec::CpuTemplate {
    type Error = spec::Error;

    fn try_from(config: CpuConfig) -> Result<Self, spec::Error> {
        let capability = |capability| match capability {
            KvmCapability::Add(number) => spec::Capability::Required(number),
            KvmCapability::Remove(number) => spec::Capability::Waived(number),
        };
        Self::new(
            config.kvm_capabilities.into_iter().map(capability).collect(),
            config.cpuid_modifiers.into_iter().map(Into::into).collect(),
            config
                .msr_modifiers
                .into_iter()
                .map(|msr| spec::MsrModifier { index: msr.addr, bits: msr.bitmap.0 })
                .collect(),
        )
    }
}

impl TryFrom<CpuTemplate> for spec::CpuTemplate {
    type Error = spec::Error;

    /// The template of this name. `V1N1` is for processors of another kind.
    fn try_from(name: CpuTemplate) -> Result<Self, spec::Error> {
        let name = match name {
            CpuTemplate::C3 => spec::NamedTemplate::C3,
            CpuTemplate::T2 => spec::NamedTemplate::T2,
            CpuTemplate::T2S => spec::NamedTemplate::T2S,
            CpuTemplate::T2CL => spec::NamedTemplate::T2CL,
            CpuTemplate::T2A => spec::NamedTemplate::T2A,
            CpuTemplate::V1N1 => return Err(spec::Error::CpuVendor),
            CpuTemplate::None => return Ok(Self::default()),
        };
        Ok(name.into())
    }
}

impl From<CpuidLeafModifier> for spec::CpuidModifier {
    fn from(leaf: CpuidLeafModifier) -> Self {
        let mut registers = [spec::Bits::default(); 4];
        for change in leaf.modifiers {
            let register = &mut registers[change.register as usize];
            *register = register.then(change.bitmap.0);
        }
        Self { leaf: leaf.leaf, subleaf: leaf.subleaf, flags: leaf.flags, registers }
    }
}

impl<'de> Deserialize<'de> for KvmCapability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (kind, digits): (fn(u32) -> Self, _) = match text.strip_prefix('!') {
            Some(digits) => (Self::Remove, digits),
            None => (Self::Add, text.as_str()),
        };
        digits.parse().map(kind).map_err(|error| {
            D::Error::custom(format!(
                "Failed to parse string [{text}] as a kvm capability - can not convert to \
                 numeric: {error}"
            ))
        })
    }
}

impl Serialize for KvmCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Add(number) => serializer.collect_str(number),
            Self::Remove(number) => serializer.collect_str(&format_args!("!{number}")),
        }
    }
}

impl<'de> Deserialize<'de> for CpuidRegister {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const ALL: [CpuidRegister; 4] =
            [CpuidRegister::Eax, CpuidRegister::Ebx, CpuidRegister::Ecx, CpuidRegister::Edx];
        let text = String::deserialize(deserializer)?;
        let found = ALL.into_iter().find(|register| register.name() == text);
        found.ok_or_else(|| {
            D::Error::custom("Invalid CPUID register. Must be one of [eax, ebx, ecx, edx]")
        })
    }
}

impl Serialize for CpuidRegister {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl CpuidRegister {
    fn name(self) -> &'static str {
        spec::CPUID_REGISTERS[self as usize]
    }
}

/// The width of a register that a [`Bitmap`] is for.
trait Register: Copy {
    const BITS: u32;
    fn bits(mask: u64, value: u64) -> spec::Bits<Self>;
    fn wide(bits: spec::Bits<Self>) -> (u64, u64);
}

macro_rules! register {
    ($($width:ident)+) => {$(
        impl Register for $width {
            const BITS: u32 = $width::BITS;

            fn bits(mask: u64, value: u64) -> spec::Bits<Self> {
                // A text of more bits was refused before.
                spec::Bits::new(mask as $width, value as $width)
            }

            fn wide(bits: spec::Bits<Self>) -> (u64, u64) {
                (bits.mask().into(), bits.value().into())
            }
        }
    )+};
}
register!(u32 u64);

impl<'de, T: Register> Deserialize<'de> for Bitmap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let failed = |why: &str| {
            D::Error::custom(format!("Failed to parse string [{text}] as a bitmap - {why}"))
        };
        let (mut mask, mut value, mut bit) = (0, 0, 0);
        for letter in text.strip_prefix("0b").unwrap_or(&text).bytes().rev() {
            if bit == T::BITS {
                return Err(failed("string is too long"));
            }
            match letter {
                b'_' => continue,
                b'x' => {}
                b'0' => mask |= 1u64 << bit,
                b'1' => {
                    mask |= 1 << bit;
                    value |= 1 << bit;
                }
                other => return Err(failed(&format!("unknown character: {other}"))),
            }
            bit += 1;
        }
        Ok(Self(T::bits(mask, value)))
    }
}

impl<T: Register> Serialize for Bitmap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mask, value) = T::wide(self.0);
        let letter = |bit| match (mask >> bit & 1, value >> bit & 1) {
            (0, _) => 'x',
            (_, 0) => '0',
            _ => '1',
        };
        let text: String = (0..T::BITS).rev().map(letter).collect();
        serializer.collect_str(&format_args!("0b{text}"))
    }
}

/// Numbers as texts with a prefix.
mod number {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (digits, radix) = if let Some(digits) = text.strip_prefix("0b") {
            (digits, 2)
        } else if let Some(digits) = text.strip_prefix("0x") {
            (digits, 16)
        } else {
            return Err(D::Error::custom(format!(
                "No supported number system prefix found in value [{text}]. Make sure to prefix \
                 the number with '0x' for hexadecimal numbers or '0b' for binary numbers."
            )));
        };
        u32::from_str_radix(digits, radix).map_err(|error| {
            D::Error::custom(format!(
                "Failed to parse string [{text}] as a number for CPU template - {error:?}"
            ))
        })
    }

    pub fn serialize<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body, and the end of the error's text; "" if it is taken.
    fn check(body: &str, expected: &str) {
        let found = serde_json::from_str::<CpuConfig>(body);
        let text = found.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            text.contains(expected) && text.is_empty() == expected.is_empty(),
            "{body}: {text}"
        );
    }

    #[test]
    fn what_is_refused_is_named() {
        let leaf = |leaf: &str, register: &str, bitmap: &str| {
            format!(
                r#"{{"cpuid_modifiers": [{{"leaf": "{leaf}", "subleaf": "0x0", "flags": 0,
                    "modifiers": [{{"register": "{register}", "bitmap": "{bitmap}"}}]}}]}}"#
            )
        };
        check("{}", "");
        check(r#"{"kvm_capabilities": ["121", "!122"], "msr_modifiers": []}"#, "");
        check(&leaf("0x1", "eax", "0b1"), "");
        check(&leaf("0b111", "edx", "0bx_0_1"), "");
        check(&leaf("0x1", "ekx", "0b1"), "Must be one of [eax, ebx, ecx, edx]");
        check(&leaf("1", "eax", "0b1"), "No supported number system prefix found in value [1].");
        check(&leaf("0xg", "eax", "0b1"), "Failed to parse string [0xg] as a number for CPU temp");
        check(&leaf("0x1", "eax", &"1".repeat(33)), "as a bitmap - string is too long");
        check(&leaf("0x1", "eax", "0b2"), "[0b2] as a bitmap - unknown character: 50");
        check(r#"{"kvm_capabilities": ["a"]}"#, "Failed to parse string [a] as a kvm capability");
        check(
            r#"{"reg_modifiers": []}"#,
            "unknown field `reg_modifiers`, expected one of `kvm_capabilities`, \
             `cpuid_modifiers`, `msr_modifiers`",
        );
        check(r#"{"vcpu_features": []}"#, "unknown field `vcpu_features`");
    }

    #[test]
    fn a_template_goes_there_and_back() {
        let body = serde_json::json!({
            "kvm_capabilities": ["121", "!122"],
            "cpuid_modifiers": [{
                "leaf": "0x7", "subleaf": "0x1", "flags": 1,
                "modifiers": [
                    { "register": "ebx", "bitmap": "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx01" },
                ],
            }],
            "msr_modifiers": [{ "addr": "0x10a", "bitmap": format!("0b1{}", "x".repeat(63)) }],
        });
        let config: CpuConfig = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap(), body);
        let template = spec::CpuTemplate::try_from(config).unwrap();
        let capabilities = [spec::Capability::Required(121), spec::Capability::Waived(122)];
        assert_eq!(template.capabilities(), capabilities);
        let mut registers = [spec::Bits::default(); 4];
        registers[1] = spec::Bits::new(3, 1);
        let leaf = spec::CpuidModifier { leaf: 7, subleaf: 1, flags: 1, registers };
        assert_eq!(template.cpuid(), [leaf]);
        let bits = spec::Bits::new(1 << 63, 1 << 63);
        assert_eq!(template.msrs(), [spec::MsrModifier { index: 0x10A, bits }]);
    }

    #[test]
    fn the_last_change_of_a_register_counts() {
        let change = |bitmap: &str| CpuidRegisterModifier {
            register: CpuidRegister::Ecx,
            bitmap: serde_json::from_value(bitmap.into()).unwrap(),
        };
        let modifiers = vec![change("0b11"), change("0b0x")];
        let leaf = CpuidLeafModifier { leaf: 1, subleaf: 0, flags: 0, modifiers };
        let modifier = spec::CpuidModifier::from(leaf);
        assert_eq!(modifier.registers[2].apply(0xF0), 0xF1);
    }
}
