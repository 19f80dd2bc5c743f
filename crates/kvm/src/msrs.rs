//! Reading and writing a vCPU's model-specific registers, and their values at boot.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use spec::MsrModifier;
use vcpu::Error;

use crate::failed;

const IA32_TSC: u32 = 0x10;
const IA32_APIC_BASE: u32 = 0x1B;
const IA32_TSC_DEADLINE: u32 = 0x6E0;
const EFER: u32 = 0xC000_0080;
const FS_BASE: u32 = 0xC000_0100;
const GS_BASE: u32 = 0xC000_0101;

/// MSRs that [`vcpu::CpuState`] names in fields of their own.
const NAMED: [u32; 4] = [IA32_APIC_BASE, EFER, FS_BASE, GS_BASE];

/// MSRs of an interface that CPUID does not offer to our guests (Hyper-V's), among them a clock.
const NOT_OFFERED: std::ops::Range<u32> = 0x4000_0000..0x4000_0200;

/// (index, value) of the MSRs whose value at boot is not the one KVM starts with.
const BOOT: [(u32, u64); 11] = [
    (0x174, 0),       // IA32_SYSENTER_CS
    (0x175, 0),       // IA32_SYSENTER_ESP
    (0x176, 0),       // IA32_SYSENTER_EIP
    (0xC000_0081, 0), // STAR
    (0xC000_0082, 0), // LSTAR
    (0xC000_0083, 0), // CSTAR
    (0xC000_0084, 0), // SFMASK
    (0xC000_0102, 0), // KERNEL_GS_BASE
    (IA32_TSC, 0),
    (0x1A0, 1),     // IA32_MISC_ENABLE: fast strings
    (0x2FF, 0x806), // IA32_MTRR_DEF_TYPE: MTRRs on, write-back by default
];

/// Gives a new vCPU its MSRs: what the template makes of KVM's values, then those of every boot,
/// which count more, as in Firecracker.
pub(crate) fn set_up(fd: &VcpuFd, modifiers: &[MsrModifier]) -> Result<(), Error> {
    for modifier in modifiers {
        let found = get(fd, &[modifier.index])?;
        let Some(&(index, old)) = found.first() else {
            // The text is Firecracker's.
            return Err(Error::Unsupported(format!(
                "Template changes an MSR entry not supported by KVM: Register Address: {:0x}",
                modifier.index
            )));
        };
        set(fd, &[(index, modifier.bits.apply(old))])?;
    }
    set(fd, &BOOT)
}

/// The MSRs among `indices` that this vCPU has, that its guest knows of, and that no field of the
/// state names.
pub(crate) fn readable(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<u32>, Error> {
    let saved = |i: &u32| !NAMED.contains(i) && !NOT_OFFERED.contains(i);
    let wanted: Vec<u32> = indices.iter().copied().filter(saved).collect();
    Ok(get(fd, &wanted)?.into_iter().map(|(index, _)| index).collect())
}

/// Reads `indices`; those that KVM refuses are left out.
pub(crate) fn get(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, Error> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
        let mut msrs = wrap(&batch.iter().map(|&index| (index, 0)).collect::<Vec<_>>())?;
        let done = fd.get_msrs(&mut msrs).map_err(|e| failed("KVM_GET_MSRS", e))?;
        found.extend(msrs.as_slice().iter().take(done).map(|m| (m.index, m.data)));
        // KVM stops at the first register that it cannot read.
        rest = &rest[(done + usize::from(done < batch.len())).min(rest.len())..];
    }
    Ok(found)
}

/// Writes `values`, the deadline of the timer last: it only counts once the local APIC's timer is
/// in its mode, and once the time-stamp counter has its value.
pub(crate) fn set(fd: &VcpuFd, values: &[(u32, u64)]) -> Result<(), Error> {
    let mut ordered: Vec<(u32, u64)> =
        values.iter().copied().filter(|(index, _)| !NAMED.contains(index)).collect();
    ordered.sort_by_key(|&(index, _)| index == IA32_TSC_DEADLINE);
    for batch in ordered.chunks(KVM_MAX_MSR_ENTRIES) {
        let done = fd.set_msrs(&wrap(batch)?).map_err(|e| failed("KVM_SET_MSRS", e))?;
        if let Some((index, value)) = batch.get(done) {
            let text = format!("KVM refuses MSR {index:#x} = {value:#x}: this host's CPU lacks it");
            return Err(Error::Unsupported(text));
        }
    }
    Ok(())
}

fn wrap(values: &[(u32, u64)]) -> Result<Msrs, Error> {
    let entry = |&(index, data): &(u32, u64)| kvm_msr_entry { index, data, ..Default::default() };
    let entries: Vec<kvm_msr_entry> = values.iter().map(entry).collect();
    Msrs::from_entries(&entries)
        .map_err(|_| Error::Unsupported("too many MSRs for one call".to_string()))
}
