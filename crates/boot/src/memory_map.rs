//! Which physical addresses the guest may use: what a PC's firmware calls "e820".

use memory::{GuestMemory, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout::{HIGH_MEMORY, PCI_CONFIG, PCI_CONFIG_LEN, SYSTEM_AREA, SYSTEM_AREA_END};

/// A range of physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// What it may be used for.
    pub kind: MapKind,
}

/// What a range may be used for; the numbers are those of both boot protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// As memory.
    Ram = 1,
    /// Not at all.
    Reserved = 2,
}

/// The map of a machine with this memory.
pub fn memory_map(memory: &GuestMemory) -> Vec<MapEntry> {
    let mut map = vec![
        MapEntry { start: 0, len: SYSTEM_AREA, kind: MapKind::Ram },
        MapEntry {
            start: SYSTEM_AREA,
            len: SYSTEM_AREA_END - SYSTEM_AREA,
            kind: MapKind::Reserved,
        },
        MapEntry { start: PCI_CONFIG, len: PCI_CONFIG_LEN, kind: MapKind::Reserved },
    ];
    for region in memory.iter() {
        let end = region.last_addr().0 + 1;
        let start = region.start_addr().0.max(HIGH_MEMORY);
        if start < end {
            map.push(MapEntry { start, len: end - start, kind: MapKind::Ram });
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ram;

    fn check(mib: u64, expected: &[(u64, u64)]) {
        let map = memory_map(&ram(mib));
        let fixed: Vec<_> = map[..3].iter().map(|e| (e.start, e.len, e.kind as u32)).collect();
        assert_eq!(
            fixed,
            [(0, 0x9FC00, 1), (0x9FC00, 0x40400, 2), (0xEEC0_0000, 0x1000_0000, 2)],
            "{mib} MiB"
        );
        let rest: Vec<_> = map[3..].iter().map(|e| (e.start, e.len)).collect();
        assert_eq!(rest, expected, "{mib} MiB");
        assert!(map[3..].iter().all(|e| e.kind == MapKind::Ram));
    }

    #[test]
    fn maps() {
        check(1, &[]);
        check(128, &[(0x10_0000, 127 << 20)]);
        check(3072, &[(0x10_0000, 3071 << 20)]);
        check(4096, &[(0x10_0000, 3071 << 20), (1 << 32, 1 << 30)]);
    }
}
