//! What the kernel finds at its entry: the command line, the memory map, descriptor and page
//! tables.

use memory::{Bytes, GuestAddress, GuestMemory};
use spec::CommandLine;
use spec::limits::COMMAND_LINE_BYTES_MAX;
use vcpu::CpuState;

use crate::bytes::put;
use crate::layout::{
    COMMAND_LINE, GDT, IDT, PAGE_DIRECTORY, PDPT, PML4, PVH_MEMORY_MAP, PVH_MODULES,
    PVH_START_INFO, RSDP, ZERO_PAGE,
};
use crate::{Error, Initrd, Kernel, Protocol, cpu, memory_map};

/// Writes what `kernel` expects at its entry, and says in which state the boot vCPU enters it.
pub fn write_entry(
    memory: &GuestMemory,
    kernel: &Kernel,
    initrd: Option<Initrd>,
    command_line: &CommandLine,
) -> Result<CpuState, Error> {
    let mut line = command_line.as_str().as_bytes().to_vec();
    line.push(0);
    write(memory, COMMAND_LINE, &line)?;
    let gdt: Vec<u8> = cpu::gdt(kernel.protocol).iter().flat_map(|d| d.to_le_bytes()).collect();
    write(memory, GDT, &gdt)?;
    write(memory, IDT, &[0; 8])?;
    match kernel.protocol {
        Protocol::Pvh => write_pvh(memory, initrd)?,
        Protocol::Linux64 => {
            write(memory, ZERO_PAGE, &zero_page(memory, initrd))?;
            write_page_tables(memory)?;
        }
    }
    Ok(cpu::boot_processor(kernel))
}

/// `hvm_start_info` version 1 with its module list and memory map (Xen's
/// public/arch-x86/hvm/start_info.h).
fn write_pvh(memory: &GuestMemory, initrd: Option<Initrd>) -> Result<(), Error> {
    const MAGIC: u32 = 0x336E_C578;
    const VERSION: u32 = 1;
    let map = memory_map(memory);
    let mut info = [0; 56];
    put(&mut info, 0, &MAGIC.to_le_bytes());
    put(&mut info, 4, &VERSION.to_le_bytes());
    if let Some(initrd) = initrd {
        put(&mut info, 12, &1u32.to_le_bytes());
        put(&mut info, 16, &PVH_MODULES.to_le_bytes());
        let mut module = [0; 32];
        put(&mut module, 0, &initrd.address.to_le_bytes());
        put(&mut module, 8, &initrd.len.to_le_bytes());
        write(memory, PVH_MODULES, &module)?;
    }
    put(&mut info, 24, &COMMAND_LINE.to_le_bytes());
    put(&mut info, 32, &RSDP.to_le_bytes());
    put(&mut info, 40, &PVH_MEMORY_MAP.to_le_bytes());
    put(&mut info, 48, &(map.len() as u32).to_le_bytes());
    write(memory, PVH_START_INFO, &info)?;
    for (entry, address) in map.iter().zip((PVH_MEMORY_MAP..).step_by(24)) {
        let mut bytes = [0; 24];
        put(&mut bytes, 0, &entry.start.to_le_bytes());
        put(&mut bytes, 8, &entry.len.to_le_bytes());
        put(&mut bytes, 16, &(entry.kind as u32).to_le_bytes());
        write(memory, address, &bytes)?;
    }
    Ok(())
}

/// `boot_params` (Linux's Documentation/arch/x86/zero-page.rst and boot.rst).
fn zero_page(memory: &GuestMemory, initrd: Option<Initrd>) -> [u8; 4096] {
    const ACPI_RSDP_ADDR: usize = 0x070;
    const E820_ENTRIES: usize = 0x1E8;
    const E820_TABLE: usize = 0x2D0;
    /// Fields of the set-up header, which starts at 0x1F1.
    const BOOT_FLAG: usize = 0x1FE;
    const HEADER_MAGIC: usize = 0x202;
    const TYPE_OF_LOADER: usize = 0x210;
    const RAMDISK_IMAGE: usize = 0x218;
    const RAMDISK_SIZE: usize = 0x21C;
    const CMD_LINE_PTR: usize = 0x228;
    const KERNEL_ALIGNMENT: usize = 0x230;
    const CMDLINE_SIZE: usize = 0x238;

    let mut page = [0; 4096];
    put(&mut page, ACPI_RSDP_ADDR, &RSDP.to_le_bytes());
    put(&mut page, BOOT_FLAG, &0xAA55u16.to_le_bytes());
    put(&mut page, HEADER_MAGIC, b"HdrS");
    put(&mut page, TYPE_OF_LOADER, &[0xFF]);
    put(&mut page, CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());
    put(&mut page, CMDLINE_SIZE, &(COMMAND_LINE_BYTES_MAX as u32).to_le_bytes());
    put(&mut page, KERNEL_ALIGNMENT, &0x100_0000u32.to_le_bytes());
    if let Some(initrd) = initrd {
        // It lies in the first range of RAM, which ends below 4 GiB.
        put(&mut page, RAMDISK_IMAGE, &(initrd.address as u32).to_le_bytes());
        put(&mut page, RAMDISK_SIZE, &(initrd.len as u32).to_le_bytes());
    }
    let map = memory_map(memory);
    put(&mut page, E820_ENTRIES, &[map.len() as u8]);
    for (index, entry) in map.iter().enumerate() {
        let offset = E820_TABLE + index * 20;
        put(&mut page, offset, &entry.start.to_le_bytes());
        put(&mut page, offset + 8, &entry.len.to_le_bytes());
        put(&mut page, offset + 16, &(entry.kind as u32).to_le_bytes());
    }
    page
}

/// Maps the first GiB to itself with 2 MiB pages (SDM Vol. 3A, 4.5).
fn write_page_tables(memory: &GuestMemory) -> Result<(), Error> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    write(memory, PML4, &(PDPT | PRESENT_WRITABLE).to_le_bytes())?;
    write(memory, PDPT, &(PAGE_DIRECTORY | PRESENT_WRITABLE).to_le_bytes())?;
    let directory: Vec<u8> =
        (0..512u64).flat_map(|n| (n << 21 | LARGE | PRESENT_WRITABLE).to_le_bytes()).collect();
    write(memory, PAGE_DIRECTORY, &directory)
}

fn write(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<(), Error> {
    Ok(memory.write_slice(bytes, GuestAddress(address))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::bytes::{u32_at, u64_at};
    use crate::testing::ram;

    fn enter(protocol: Protocol) -> GuestMemory {
        let memory = ram(4096);
        let kernel = Kernel { format: Format::Elf, protocol, entry: 0x100_0000, end: 0x200_0000 };
        let initrd = Some(Initrd { address: 0xBFFF_0000, len: 0xFFFF });
        let line = CommandLine::new("console=ttyS0").unwrap();
        let state = write_entry(&memory, &kernel, initrd, &line).unwrap();
        assert_eq!(state.rip, kernel.entry);
        assert_eq!(read(&memory, 0x20000, 14), b"console=ttyS0\0");
        assert_eq!(u64_at(&read(&memory, 0x508, 8), 0), Some(cpu::gdt(protocol)[1]));
        memory
    }

    fn read(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn pvh_start_info() {
        let memory = enter(Protocol::Pvh);
        let info = read(&memory, 0x6000, 56);
        for (offset, expected) in
            [(0, 0x336E_C578), (4, 1), (8, 0), (12, 1), (16, 0x6040), (24, 0x20000)]
        {
            assert_eq!(u32_at(&info, offset), Some(expected), "{offset}");
        }
        for (offset, expected) in [(32, 0xE0000), (40, 0x7000), (48, 5)] {
            assert_eq!(u64_at(&info, offset), Some(expected), "{offset}");
        }
        let module = read(&memory, 0x6040, 16);
        assert_eq!(u64_at(&module, 0), Some(0xBFFF_0000));
        assert_eq!(u64_at(&module, 8), Some(0xFFFF));
        let last = read(&memory, 0x7000 + 4 * 24, 24);
        assert_eq!((u64_at(&last, 0), u64_at(&last, 16)), (Some(1 << 32), Some(1)));
    }

    #[test]
    fn linux_zero_page_and_page_tables() {
        let memory = enter(Protocol::Linux64);
        let page = read(&memory, 0x7000, 4096);
        for (offset, expected) in [
            (0x070, 0xE0000),
            (0x202, 0x5372_6448),
            (0x218, 0xBFFF_0000),
            (0x21C, 0xFFFF),
            (0x228, 0x20000),
            (0x230, 0x100_0000),
        ] {
            assert_eq!(u32_at(&page, offset), Some(expected), "{offset:#x}");
        }
        assert_eq!((page[0x1E8], page[0x210]), (5, 0xFF));
        assert_eq!(u64_at(&page, 0x2D0 + 4 * 20), Some(1 << 32));
        assert_eq!(u64_at(&read(&memory, 0x9000, 8), 0), Some(0xA003));
        assert_eq!(u64_at(&read(&memory, 0xA000, 8), 0), Some(0xB003));
        assert_eq!(u64_at(&read(&memory, 0xB000 + 511 * 8, 8), 0), Some(0x3FE0_0083));
    }
}
