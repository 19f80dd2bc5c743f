//! Which CPU runs the guest: the one place that knows both back ends.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use memory::GuestMemory;
use softcpu::JitOptions;
use spec::VmSpec;
use vcpu::Vm;

use crate::Error;

/// What was asked for with `--cpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuChoice {
    /// KVM if it runs guests at hardware speed here, else the software CPU.
    #[default]
    Auto,
    /// KVM, whatever the probe would say.
    Kvm,
    /// The software CPU.
    Soft,
}

/// All choices by name.
pub const CHOICES: [(&str, CpuChoice); 3] =
    [("auto", CpuChoice::Auto), ("kvm", CpuChoice::Kvm), ("soft", CpuChoice::Soft)];

impl FromStr for CpuChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = CHOICES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, choice)| *choice)
            .ok_or_else(|| format!("`{text}` is no CPU: use `auto`, `kvm` or `soft`"))
    }
}

/// What runs the guest's code, and how the software CPU does, should it be that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Which CPU.
    pub choice: CpuChoice,
    /// How the software CPU translates hot code; None leaves all of it to the interpreter.
    pub jit: Option<JitOptions>,
    /// Log what the software CPU did, at the end.
    pub stats: bool,
}

impl From<CpuChoice> for CpuOptions {
    fn from(choice: CpuChoice) -> Self {
        Self { choice, jit: Some(JitOptions::DEFAULT), stats: false }
    }
}

/// Bytes of a size in MiB from the command line, within what the software CPU takes.
pub fn parse_code_cache(text: &str) -> Result<usize, String> {
    let (min, max) = (softcpu::CACHE_BYTES_MIN >> 20, softcpu::CACHE_BYTES_MAX >> 20);
    match text.parse::<usize>() {
        Ok(mib) if (min..=max).contains(&mib) => Ok(mib << 20),
        _ => Err(format!("`{text}` is no size of translated code: give {min} to {max} MiB")),
    }
}

/// Which back end it became, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// KVM, with what the probe found, if it was asked.
    Kvm(Option<String>),
    /// The software CPU because it was asked for.
    Soft,
    /// The software CPU because KVM will not do, for this reason.
    SoftInstead(String),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm(None) => write!(f, "CPU: KVM, as asked"),
            Self::Kvm(Some(found)) => write!(f, "CPU: KVM ({found})"),
            Self::Soft => write!(f, "CPU: software, as asked"),
            Self::SoftInstead(reason) => {
                write!(f, "CPU: software, because KVM will not do: {reason}")
            }
        }
    }
}

impl Decision {
    /// Whether the back end brings the clock that PCs have at ports 0x70 and 0x71.
    pub(crate) fn has_real_time_clock(&self) -> bool {
        match self {
            Self::Kvm(_) => false,
            Self::Soft | Self::SoftInstead(_) => true,
        }
    }
}

/// Decides, measuring if need be.
pub fn decide(choice: CpuChoice) -> Decision {
    match choice {
        CpuChoice::Kvm => Decision::Kvm(None),
        CpuChoice::Soft => Decision::Soft,
        CpuChoice::Auto => {
            let fitness = kvm::probe::probe();
            match fitness.usable {
                true => Decision::Kvm(Some(fitness.reason)),
                false => Decision::SoftInstead(fitness.reason),
            }
        }
    }
}

/// Makes the virtual machine that was decided on.
pub(crate) fn open(
    decision: &Decision,
    cpu: CpuOptions,
    memory: Arc<GuestMemory>,
    spec: &VmSpec,
) -> Result<Arc<dyn Vm>, Error> {
    let (vcpu_count, cpu_template) = (spec.vcpus.get(), spec.cpu_template.clone());
    let vm = match decision {
        Decision::Kvm(_) => {
            let &VmSpec { smt, track_dirty_pages, .. } = spec;
            let options = kvm::Options { vcpu_count, smt, track_dirty_pages, cpu_template };
            kvm::KvmVm::new(memory, options)?
        }
        Decision::Soft | Decision::SoftInstead(_) => {
            let CpuOptions { jit, stats, .. } = cpu;
            let options = softcpu::Options { vcpus: vcpu_count, cpu_template, jit, stats };
            softcpu::SoftVm::new(memory, options)?
        }
    };
    Ok(vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_parsed() {
        for (name, choice) in CHOICES {
            assert_eq!(name.parse(), Ok(choice));
        }
        assert!("hard".parse::<CpuChoice>().unwrap_err().contains("`auto`, `kvm` or `soft`"));
    }
}
