//! Changes to what the host's CPU offers its guests, as the machine's configuration asks for them.

/// Changes to CPUID, MSRs and required capabilities, applied to every vCPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTemplate {
    /// Capability numbers (`KVM_CAP_*`) that the host must have besides the built-in ones.
    pub required_capabilities: Vec<u32>,
    /// Capability numbers of the built-in list that need not be there.
    pub waived_capabilities: Vec<u32>,
    /// Changes to CPUID, applied before the topology is filled in.
    pub cpuid: Vec<CpuidModifier>,
    /// Changes to MSRs, applied before the machine's first state.
    pub msrs: Vec<MsrModifier>,
}

/// One register of one CPUID leaf: `new = (old & !filter) | value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidModifier {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; 0 for leaves without sub-leaves.
    pub subleaf: u32,
    /// KVM's flags of the entry (`KVM_CPUID_FLAG_*`), used if the entry must be added.
    pub flags: u32,
    /// The output register.
    pub register: CpuidRegister,
    /// The bits that change.
    pub filter: u32,
    /// Their new values.
    pub value: u32,
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

/// One MSR: `new = (old & !filter) | value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrModifier {
    /// ECX of RDMSR.
    pub index: u32,
    /// The bits that change.
    pub filter: u64,
    /// Their new values.
    pub value: u64,
}
