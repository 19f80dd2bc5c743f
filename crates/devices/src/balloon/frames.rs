//! Page frame numbers as the driver lists them (virtio 1.2, 5.5.6): little-endian, 32 bits each,
//! in units of 4096 bytes whatever the guest's page size.

use std::ops::Range;

/// Most page frame numbers in one request, as Linux sends and Firecracker takes them.
pub const FRAMES_MAX: usize = 256;
/// Bytes of a page frame number.
pub const FRAME_LEN: usize = 4;

/// The frames that `list` names, as ranges in ascending order that neither overlap nor touch;
/// those that `is_ram` refuses are left out. What does not make a whole number at the end of the
/// list is ignored.
pub fn ranges(list: &[u8], is_ram: impl Fn(u64) -> bool) -> Vec<Range<u64>> {
    let (numbers, _) = list.as_chunks::<FRAME_LEN>();
    let numbers = numbers.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
    let mut frames: Vec<u64> = numbers.filter(|frame| is_ram(*frame)).collect();
    frames.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for frame in frames {
        match ranges.last_mut() {
            Some(last) if frame <= last.end => last.end = frame + 1,
            _ => ranges.push(frame..frame + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frames: &[u32], expected: &[(u64, u64)]) {
        let list: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        let ranges = ranges(&list, |frame| frame != 666);
        let ranges: Vec<_> = ranges.iter().map(|range| (range.start, range.end)).collect();
        assert_eq!(ranges, expected, "{frames:?}");
    }

    #[test]
    fn frames_make_ranges() {
        check(&[], &[]);
        check(&[7], &[(7, 8)]);
        check(&[3, 4, 5], &[(3, 6)]);
        check(&[5, 4, 3], &[(3, 6)]);
        check(&[5, 3, 5, 4, 3], &[(3, 6)]);
        check(&[9, 3, 8, 4], &[(3, 5), (8, 10)]);
        check(&[665, 666, 667], &[(665, 666), (667, 668)]);
        check(&[u32::MAX, 0], &[(0, 1), (0xFFFF_FFFF, 0x1_0000_0000)]);
    }

    #[test]
    fn half_a_number_is_none() {
        assert_eq!(ranges(&[1, 0, 0, 0, 2], |_| true).len(), 1);
        assert!(ranges(&[1, 0, 0], |_| true).is_empty());
    }
}
