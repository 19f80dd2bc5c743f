//! Where things lie in the guest's physical memory. The same addresses as Firecracker's, so that
//! kernels and tools that know its machine know ours.

/// The global descriptor table of the first instructions.
pub const GDT: u64 = 0x500;
/// The (empty) interrupt descriptor table of the first instructions.
pub const IDT: u64 = 0x520;
/// PVH: `hvm_start_info`.
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH: the list of modules, whose only entry is the initial RAM disk.
pub const PVH_MODULES: u64 = 0x6040;
/// PVH: the memory map.
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// Linux 64-bit boot: `boot_params`, the "zero page".
pub const ZERO_PAGE: u64 = 0x7000;
/// Linux 64-bit boot: the first stack grows down from here.
pub const BOOT_STACK: u64 = 0x8FF0;
/// Linux 64-bit boot: the level 4 page table.
pub const PML4: u64 = 0x9000;
/// Linux 64-bit boot: the level 3 page table.
pub const PDPT: u64 = 0xA000;
/// Linux 64-bit boot: the level 2 page table, which maps [`IDENTITY_MAP_END`] bytes.
pub const PAGE_DIRECTORY: u64 = 0xB000;
/// Linux 64-bit boot: virtual addresses below this one equal physical ones.
pub const IDENTITY_MAP_END: u64 = 1 << 30;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x20000;

/// Start of the area for firmware tables; usable RAM ends here ("639 KiB of base memory").
pub const SYSTEM_AREA: u64 = 0x9_FC00;
/// End of the area for firmware tables.
pub const SYSTEM_AREA_END: u64 = 0xE_0000;
/// ACPI's root pointer, in the area that is searched for it (ACPI 6.5, 5.2.5.1).
pub const RSDP: u64 = SYSTEM_AREA_END;
/// Kernels are loaded from here on.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// The window of PCI's memory-mapped configuration space: reserved, whether there is PCI or not.
pub const PCI_CONFIG: u64 = 0xEEC0_0000;
/// Length of the window: 256 buses of 1 MiB.
pub const PCI_CONFIG_LEN: u64 = 256 << 20;
/// The IO-APIC's registers.
pub const IO_APIC: u32 = 0xFEC0_0000;
/// The local APIC's registers.
pub const LOCAL_APIC: u32 = 0xFEE0_0000;

/// COM1's first I/O port.
pub const COM1_PORT: u16 = 0x3F8;
/// COM1's I/O ports.
pub const COM1_PORTS: u8 = 8;
/// COM1's interrupt.
pub const COM1_GSI: u32 = 4;
/// The keyboard controller's data port.
pub const I8042_DATA_PORT: u16 = 0x60;
/// The keyboard controller's command port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// The keyboard controller's command that resets the machine.
pub const I8042_RESET_COMMAND: u8 = 0xFE;
/// The keyboard's interrupt.
pub const I8042_GSI: u32 = 1;
/// Pins of the IO-APIC, and so the number of global system interrupts.
pub const GSIS: u32 = 24;
