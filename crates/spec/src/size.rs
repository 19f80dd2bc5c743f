//! How big a machine is.

use crate::Error;
use crate::limits::{MEMORY_MIB_MAX, VCPUS_MAX};

/// A number of virtual CPUs, 1 to 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// Takes `count` if it is within the limits.
    pub fn new(count: u64) -> Result<Self, Error> {
        let (field, max) = ("vcpu_count", u64::from(VCPUS_MAX));
        match u8::try_from(count) {
            Ok(fits) if (1..=VCPUS_MAX).contains(&fits) => Ok(Self(fits)),
            _ => Err(Error::Range { field, value: count, min: 1, max }),
        }
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for VcpuCount {
    fn default() -> Self {
        Self(1)
    }
}

/// An amount of RAM in MiB, greater than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryMib(u64);

impl MemoryMib {
    /// Takes `mib` if it is within the limits.
    pub fn new(mib: u64) -> Result<Self, Error> {
        if (1..=MEMORY_MIB_MAX).contains(&mib) {
            return Ok(Self(mib));
        }
        Err(Error::Range { field: "mem_size_mib", value: mib, min: 1, max: MEMORY_MIB_MAX })
    }

    /// The amount in MiB.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The amount in bytes.
    pub fn bytes(self) -> u64 {
        self.0 << 20
    }
}

impl Default for MemoryMib {
    fn default() -> Self {
        Self(128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (count, passes) in [(0, false), (1, true), (32, true), (33, false), (257, false)] {
            assert_eq!(VcpuCount::new(count).is_ok(), passes, "{count} vCPUs");
        }
        for (mib, passes) in
            [(0, false), (1, true), (261_120, true), (261_121, false), (u64::MAX, false)]
        {
            assert_eq!(MemoryMib::new(mib).is_ok(), passes, "{mib} MiB");
        }
        assert_eq!(MemoryMib::new(MEMORY_MIB_MAX).map(MemoryMib::bytes), Ok(255 << 30));
        let error = VcpuCount::new(33).unwrap_err().to_string();
        assert_eq!(error, "vcpu_count is 33; it must be from 1 to 32");
    }
}
