//! The tables in which a PC's firmware describes the machine: all of them, in their area.

use memory::{Bytes, GuestAddress, GuestMemory};

use crate::layout::{RSDP, SYSTEM_AREA, SYSTEM_AREA_END};
use crate::{Error, acpi, mptable};

/// What the tables say about a machine, beyond what [`crate::layout`] says of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Virtual CPUs, 1 to 32; their local APIC ids count from 0.
    pub vcpus: u8,
    /// The virtio devices.
    pub virtio: Vec<VirtioMmio>,
    /// How the guest turns itself off.
    pub sleep: SleepRegisters,
    /// Whether there is a CMOS real-time clock at I/O ports 0x70 and 0x71. Where there is none, a
    /// guest that is not told so waits a second for its first tick.
    pub real_time_clock: bool,
}

/// A virtio device's registers and interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Physical address of its registers.
    pub address: u32,
    /// Length of its registers in bytes.
    pub len: u32,
    /// Its interrupt: 5 to 23.
    pub gsi: u32,
}

/// The registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7), each an I/O port of 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepRegisters {
    /// SLEEP_CONTROL_REG.
    pub control_port: u16,
    /// SLEEP_STATUS_REG.
    pub status_port: u16,
    /// The value of SLP_TYP that turns the machine off, 0 to 7.
    pub off_type: u8,
}

/// Writes the MP table and the ACPI tables.
pub fn write_tables(memory: &GuestMemory, platform: &Platform) -> Result<(), Error> {
    let mp_table = mptable::build(platform, SYSTEM_AREA as u32);
    let acpi_start = (SYSTEM_AREA + mp_table.len() as u64).next_multiple_of(16);
    let acpi = acpi::build(platform, acpi_start as u32);
    let end = acpi_start + acpi.tables.len() as u64;
    if end > SYSTEM_AREA_END {
        let room = (SYSTEM_AREA_END - SYSTEM_AREA) as usize;
        return Err(Error::Tables { needed: (end - SYSTEM_AREA) as usize, room });
    }
    memory.write_slice(&mp_table, GuestAddress(SYSTEM_AREA))?;
    memory.write_slice(&acpi.tables, GuestAddress(acpi_start))?;
    memory.write_slice(&acpi.rsdp, GuestAddress(RSDP))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{platform, ram};

    #[test]
    fn tables_stay_in_their_area() {
        let memory = ram(1);
        write_tables(&memory, &platform(32, 17)).unwrap();
        let mut around = [1; 16];
        memory.read_slice(&mut around, GuestAddress(SYSTEM_AREA - 16)).unwrap();
        assert_eq!(around, [0; 16]);
        let mut rsdp = [0; 8];
        memory.read_slice(&mut rsdp, GuestAddress(RSDP)).unwrap();
        assert_eq!(&rsdp, b"RSD PTR ");
    }

    #[test]
    fn too_many_devices_are_refused() {
        let error = write_tables(&ram(1), &platform(1, 10_000)).unwrap_err().to_string();
        assert!(error.ends_with("and there are 263168: use fewer devices"), "{error}");
    }
}
