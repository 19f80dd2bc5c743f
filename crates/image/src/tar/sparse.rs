//! Files with holes: which ranges have data (the GNU tar manual, "Storing Sparse Files").

use std::ops::Range;

use super::header::{BLOCK, number};
use super::pax::decimal;
use crate::tree::Segment;

/// Most ranges of one file.
pub(super) const SEGMENTS_MAX: usize = 1 << 20;
const ENTRY_LEN: usize = 24;

/// Where the old form has ranges: offset of the first, how many, and what says that more follow.
pub(super) struct OldMap(usize, usize, usize);

/// In the header.
pub(super) const IN_HEADER: OldMap = OldMap(386, 4, 482);
/// In the blocks behind it.
pub(super) const IN_BLOCK: OldMap = OldMap(0, 21, 504);

/// Adds the ranges of a header or block of the old form; whether more follow. None: damaged.
pub(super) fn old_map(block: &[u8], place: &OldMap, map: &mut Vec<Range<u64>>) -> Option<bool> {
    let OldMap(first, count, more) = *place;
    for entry in block.get(first..)?.chunks_exact(ENTRY_LEN).take(count) {
        if entry[0] == 0 {
            break;
        }
        let start = u64::try_from(number(&entry[..12])?).ok()?;
        let len = u64::try_from(number(&entry[12..])?).ok()?;
        map.push(start..start.checked_add(len)?);
    }
    Some(*block.get(more)? != 0)
}

/// The map in front of the data in POSIX form 1.0: the number of ranges, then offsets and lengths,
/// each on a line; and its length with padding.
pub(super) fn map_in_data(data: &[u8]) -> Option<(Vec<Range<u64>>, u64)> {
    let mut used = 0;
    let mut line = || {
        let rest = data.get(used..)?;
        let len = rest.iter().take(32).position(|byte| *byte == b'\n')?;
        used += len + 1;
        decimal(&rest[..len])
    };
    let count = usize::try_from(line()?).ok().filter(|count| *count <= SEGMENTS_MAX)?;
    let mut map = Vec::new();
    for _ in 0..count {
        let (start, len) = (line()?, line()?);
        map.push(start..start.checked_add(len)?);
    }
    Some((map, used.next_multiple_of(BLOCK) as u64))
}

/// The size and the segments of a file with these ranges, whose data is one after another from
/// `data` on. None: the ranges are not in order, or there is not as much data.
pub(super) fn segments(
    size: u64,
    map: &[Range<u64>],
    data: u64,
    stored: u64,
) -> Option<(u64, Vec<Segment>)> {
    let (mut at, mut end) = (data, 0);
    let mut segments = Vec::with_capacity(map.len());
    for range in map {
        if range.start < end || range.end > size {
            return None;
        }
        end = range.end;
        // Old tools end with an empty range, which says the size.
        if !range.is_empty() {
            segments.push(Segment { range: range.clone(), at });
            at = at.checked_add(range.end - range.start)?;
        }
    }
    (at - data <= stored).then_some((size, segments))
}
