//! The ACPI tables: hardware-reduced, with just what cannot be probed (ACPI 6.5, chapter 5).
//!
//! ```text
//!   RSDP ──▶ XSDT ──▶ FADT ──▶ DSDT: virtio devices, COM1, keyboard controller, \_S5
//!                └──▶ MADT: local APICs, IO-APIC
//! ```
//!
//! Interrupts are edge-triggered and active-high, and ISA interrupt n is global interrupt n, so
//! the MADT has no overrides. Resetting goes through the keyboard controller's reset command;
//! turning off through the sleep control register.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ONE, Package, Path, ResourceTemplate,
    Scope, ZERO,
};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::layout::{
    COM1_GSI, COM1_PORT, COM1_PORTS, I8042_COMMAND_PORT, I8042_DATA_PORT, I8042_GSI,
    I8042_RESET_COMMAND, IO_APIC, LOCAL_APIC,
};
use crate::{Platform, VirtioMmio};

const OEM_ID: [u8; 6] = *b"SPARKL";
const OEM_TABLE_ID: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;
/// The FADT's name for who virtualises.
const HYPERVISOR_ID: u64 = u64::from_le_bytes(*b"SPARKLER");
/// Revision of the DSDT: integers have 64 bits.
const DSDT_REVISION: u8 = 2;
const TABLE_HEADER_LEN: u32 = 36;

/// IAPC_BOOT_ARCH (ACPI 6.5, table 5.11): there is a keyboard controller, ...
const BOOT_ARCH_8042: u16 = 1 << 1;
/// ... there is no VGA, ...
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// ... and there is no CMOS real-time clock.
const BOOT_ARCH_NO_RTC: u16 = 1 << 5;

/// The first interrupt of virtio devices, from which their names count.
const FIRST_VIRTIO_GSI: u32 = 5;

/// All tables.
pub(crate) struct Acpi {
    /// The root pointer, which has a place of its own.
    pub rsdp: Vec<u8>,
    /// The others, one behind the other.
    pub tables: Vec<u8>,
}

/// The tables of a machine, to be put at `address`.
pub(crate) fn build(platform: &Platform, address: u32) -> Acpi {
    let mut tables = Vec::new();
    let mut place = |table: &dyn Aml| {
        let at = u64::from(address) + tables.len() as u64;
        table.to_aml_bytes(&mut tables);
        tables.resize(tables.len().next_multiple_of(16), 0);
        at
    };
    let dsdt = place(&dsdt(platform));
    let fadt = place(&fadt(platform, dsdt));
    let madt = place(&madt(platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    Acpi { rsdp, tables }
}

fn fadt(platform: &Platform, dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    let no_clock = if platform.real_time_clock { 0 } else { BOOT_ARCH_NO_RTC };
    fadt.iapc_boot_arch = (BOOT_ARCH_8042 | BOOT_ARCH_NO_VGA | no_clock).into();
    fadt.reset_reg = port(I8042_COMMAND_PORT);
    fadt.reset_value = I8042_RESET_COMMAND;
    fadt.sleep_control_reg = port(platform.sleep.control_port);
    fadt.sleep_status_reg = port(platform.sleep.status_port);
    fadt.hypervisor_vendor_identity = HYPERVISOR_ID.into();
    fadt.finalize()
}

/// An I/O port of 8 bits.
fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn madt(platform: &Platform) -> MADT {
    let local = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local);
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    for id in 0..platform.vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt
}

fn dsdt(platform: &Platform) -> Sdt {
    let mut aml = Vec::new();
    for device in &platform.virtio {
        virtio(device, &mut aml);
    }
    com1(&mut aml);
    keyboard(&mut aml);
    let scope = Scope::raw(Path::new("_SB_"), aml);
    let mut sleep = Vec::new();
    let off = platform.sleep.off_type;
    Name::new(Path::new("_S5_"), &Package::new(vec![&off, &ZERO, &ZERO, &ZERO]))
        .to_aml_bytes(&mut sleep);
    let mut dsdt =
        Sdt::new(*b"DSDT", TABLE_HEADER_LEN, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&[scope, sleep].concat());
    dsdt
}

/// A virtio device: Linux's virtio-mmio driver looks for `LNRO0005`.
fn virtio(device: &VirtioMmio, aml: &mut Vec<u8>) {
    let number = device.gsi.saturating_sub(FIRST_VIRTIO_GSI);
    Device::new(
        Path::new(&format!("V{number:03}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &number),
            &Name::new(Path::new("_CCA"), &ONE),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, device.address, device.len),
                    &interrupt(device.gsi),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn com1(aml: &mut Vec<u8>) {
    Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_DDN"), &"COM1"),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &interrupt(COM1_GSI),
                    &IO::new(COM1_PORT, COM1_PORT, 1, COM1_PORTS),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn keyboard(aml: &mut Vec<u8>) {
    Device::new(
        Path::new("PS2_"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0303")),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(I8042_DATA_PORT, I8042_DATA_PORT, 1, 1),
                    &IO::new(I8042_COMMAND_PORT, I8042_COMMAND_PORT, 1, 1),
                    &interrupt(I8042_GSI),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// An edge-triggered, active-high interrupt that is not shared.
fn interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{checksum, u32_at, u64_at};
    use crate::testing::platform;

    const BASE: u32 = 0xA0000;

    /// The table that starts at guest address `at`.
    fn table(acpi: &Acpi, at: u64, signature: &[u8; 4]) -> Vec<u8> {
        let start = (at - u64::from(BASE)) as usize;
        let bytes = &acpi.tables[start..];
        assert_eq!(&bytes[..4], signature);
        let bytes = &bytes[..u32_at(bytes, 4).unwrap() as usize];
        assert_eq!(checksum(bytes), 0, "{signature:?}");
        bytes.to_vec()
    }

    fn count(bytes: &[u8], needle: &[u8]) -> usize {
        bytes.windows(needle.len()).filter(|w| *w == needle).count()
    }

    #[test]
    fn tables_link_and_sum_up() {
        for (vcpus, devices) in [(1, 0), (2, 3), (32, 19)] {
            let acpi = build(&platform(vcpus, devices), BASE);
            assert_eq!(checksum(&acpi.rsdp[..20]), 0);
            assert_eq!((checksum(&acpi.rsdp), acpi.rsdp.len()), (0, 36));
            let xsdt = table(&acpi, u64_at(&acpi.rsdp, 24).unwrap(), b"XSDT");
            let fadt = table(&acpi, u64_at(&xsdt, 36).unwrap(), b"FACP");
            let madt = table(&acpi, u64_at(&xsdt, 44).unwrap(), b"APIC");
            let dsdt = table(&acpi, u64_at(&fadt, 140).unwrap(), b"DSDT");
            assert_eq!(madt.len(), 44 + 12 + 8 * usize::from(vcpus));
            assert_eq!(count(&dsdt, b"LNRO0005"), devices as usize);
            assert_eq!(count(&dsdt, b"_S5_"), 1);
        }
    }

    #[test]
    fn fadt_fields() {
        let fadt = |real_time_clock| {
            let acpi = build(&Platform { real_time_clock, ..platform(1, 0) }, BASE);
            let xsdt = table(&acpi, u64_at(&acpi.rsdp, 24).unwrap(), b"XSDT");
            table(&acpi, u64_at(&xsdt, 36).unwrap(), b"FACP")
        };
        assert_eq!(fadt(true)[109], 0b00_0110);
        let fadt = fadt(false);
        assert_eq!(fadt[109], 0b10_0110);
        // Flags: PWR_BUTTON, SLP_BUTTON, RESET_REG_SUP, HW_REDUCED_ACPI.
        assert_eq!(u32_at(&fadt, 112), Some(1 << 4 | 1 << 5 | 1 << 10 | 1 << 20));
        assert_eq!(fadt[116..129], [1, 8, 0, 1, 0x64, 0, 0, 0, 0, 0, 0, 0, 0xFE]);
        assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x00, 0x06, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fadt[256..268], [1, 8, 0, 1, 0x01, 0x06, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&fadt[268..276], b"SPARKLER");
    }

    /// Writes the tables to the folder `SPARKLER_ACPI_DUMP`, for `iasl -d`; else it does nothing.
    #[test]
    fn dump() {
        let Some(folder) = std::env::var_os("SPARKLER_ACPI_DUMP") else { return };
        let acpi = build(&platform(4, 3), BASE);
        let xsdt = table(&acpi, u64_at(&acpi.rsdp, 24).unwrap(), b"XSDT");
        let fadt = table(&acpi, u64_at(&xsdt, 36).unwrap(), b"FACP");
        let madt = table(&acpi, u64_at(&xsdt, 44).unwrap(), b"APIC");
        let dsdt = table(&acpi, u64_at(&fadt, 140).unwrap(), b"DSDT");
        for (name, bytes) in [
            ("rsdp", &acpi.rsdp),
            ("xsdt", &xsdt),
            ("fadt", &fadt),
            ("madt", &madt),
            ("dsdt", &dsdt),
        ] {
            let path = std::path::Path::new(&folder).join(format!("{name}.aml"));
            std::fs::write(path, bytes).unwrap();
        }
    }
}
