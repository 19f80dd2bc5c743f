//! The MP table, for kernels that know no ACPI: processors, the IO-APIC, and how interrupts reach
//! it (Intel MultiProcessor Specification 1.4, chapter 4).

use crate::Platform;
use crate::bytes::{checksum, put};
use crate::layout::{GSIS, IO_APIC, LOCAL_APIC};

const SPECIFICATION: u8 = 4;
/// Versions of the controllers, as integrated ones report them.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
const CPU_STEPPING: u32 = 0x600;
const CPU_FEATURES: u32 = 0x201;
const ISA_BUS: u8 = 0;
const ALL_LOCAL_APICS: u8 = 0xFF;

const ENTRY_CPU: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IO_APIC: u8 = 2;
const ENTRY_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;
const INTERRUPT_VECTORED: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTINT: u8 = 3;

const FLOATING_POINTER_LEN: u32 = 16;
const HEADER_LEN: usize = 44;

/// The floating pointer and, behind it, the table, to be put at `address`.
pub(crate) fn build(platform: &Platform, address: u32) -> Vec<u8> {
    let mut bytes = floating_pointer(address + FLOATING_POINTER_LEN).to_vec();
    bytes.extend_from_slice(&table(platform));
    bytes
}

fn floating_pointer(table: u32) -> [u8; 16] {
    let mut pointer = [0; 16];
    put(&mut pointer, 0, b"_MP_");
    put(&mut pointer, 4, &table.to_le_bytes());
    put(&mut pointer, 8, &[(FLOATING_POINTER_LEN / 16) as u8, SPECIFICATION]);
    pointer[10] = checksum(&pointer);
    pointer
}

fn table(platform: &Platform) -> Vec<u8> {
    let io_apic = platform.vcpus;
    let mut table = vec![0; HEADER_LEN];
    let mut entries: u16 = 0;
    let mut push = |entry: &[u8]| {
        table.extend_from_slice(entry);
        entries += 1;
    };
    for id in 0..platform.vcpus {
        let flags = CPU_ENABLED | if id == 0 { CPU_BOOT } else { 0 };
        let mut cpu = [0; 20];
        put(&mut cpu, 0, &[ENTRY_CPU, id, LOCAL_APIC_VERSION, flags]);
        put(&mut cpu, 4, &CPU_STEPPING.to_le_bytes());
        put(&mut cpu, 8, &CPU_FEATURES.to_le_bytes());
        push(&cpu);
    }
    push(&[ENTRY_BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IO_APIC.to_le_bytes();
    push(&[ENTRY_IO_APIC, io_apic, IO_APIC_VERSION, 1, a, b, c, d]);
    for gsi in 0..GSIS as u8 {
        push(&[ENTRY_INTERRUPT, INTERRUPT_VECTORED, 0, 0, ISA_BUS, gsi, io_apic, gsi]);
    }
    push(&[ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTINT, 0, 0, ISA_BUS, 0, 0, 0]);
    push(&[ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);

    let len = table.len() as u16;
    put(&mut table, 0, b"PCMP");
    put(&mut table, 4, &len.to_le_bytes());
    put(&mut table, 6, &[SPECIFICATION]);
    put(&mut table, 8, b"SPARKLERMICROVM     ");
    put(&mut table, 34, &entries.to_le_bytes());
    put(&mut table, 36, &LOCAL_APIC.to_le_bytes());
    table[7] = checksum(&table);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{u16_at, u32_at};
    use crate::testing::platform;

    #[test]
    fn sums_lengths_and_counts_are_right() {
        for vcpus in [1, 2, 32] {
            let bytes = build(&platform(vcpus, 3), 0x9FC00);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!(checksum(pointer), 0);
            assert_eq!(u32_at(pointer, 4), Some(0x9FC10));
            assert_eq!(checksum(table), 0);
            assert_eq!(usize::from(u16_at(table, 4).unwrap()), table.len());
            let (mut at, mut count) = (HEADER_LEN, 0);
            while at < table.len() {
                at += if table[at] == ENTRY_CPU { 20 } else { 8 };
                count += 1;
            }
            assert_eq!((at, Some(count)), (table.len(), u16_at(table, 34)));
            assert_eq!(usize::from(count), usize::from(vcpus) + 1 + 1 + 24 + 2);
        }
    }
}
