//! A header: 512 bytes of fields with numbers in octal text (POSIX.1-2017, pax, "ustar
//! Interchange Format"), or in binary where GNU tar had none that fit.

/// Bytes of a header, and what everything is padded to.
pub(super) const BLOCK: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Behind the magic, in archives that have the fields behind it.
const MAGIC: std::ops::Range<usize> = 257..262;
/// GNU's form has other fields where the path's prefix is.
const GNU_MAGIC: &[u8] = b"ustar  \0";

/// What is read from a header.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) bytes: [u8; BLOCK],
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) flag: u8,
    pub(super) size: u64,
    pub(super) mode: u64,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) modified: i64,
}

impl Header {
    /// Reads a header; none if it is not one.
    pub(super) fn parse(block: &[u8]) -> Option<Self> {
        let bytes: [u8; BLOCK] = block.try_into().ok()?;
        if number(&bytes[CHECKSUM])? != i64::from(checksum(&bytes)) {
            return None;
        }
        let unsigned = |range| u64::try_from(number(&bytes[range])?).ok();
        Some(Header {
            path: path(&bytes),
            link: text(&bytes[157..257]).to_vec(),
            flag: bytes[156],
            size: unsigned(124..136)?,
            mode: unsigned(100..108)?,
            uid: unsigned(108..116)?,
            gid: unsigned(116..124)?,
            modified: number(&bytes[136..148])?,
            bytes,
        })
    }

    /// A device's major and minor number, if Linux can have such.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        let part = |range, max| {
            let number = number(self.bytes.get::<std::ops::Range<usize>>(range)?)?;
            u32::try_from(number).ok().filter(|number| *number <= max)
        };
        Some((part(329..337, 0xFFF)?, part(337..345, 0xF_FFFF)?))
    }

    /// The size of a sparse file with its holes, in GNU's old form.
    pub(super) fn real_size(&self) -> Option<u64> {
        u64::try_from(number(&self.bytes[483..495])?).ok()
    }
}

/// The sum of all bytes, with those of the sum itself as spaces.
fn checksum(bytes: &[u8; BLOCK]) -> u32 {
    let all: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = bytes[CHECKSUM].iter().map(|byte| u32::from(*byte)).sum();
    all - own + 8 * u32::from(b' ')
}

fn path(bytes: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&bytes[..100]);
    let posix = &bytes[MAGIC] == b"ustar" && bytes[257..265] != *GNU_MAGIC;
    match text(&bytes[345..500]) {
        prefix if posix && !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal text, or in binary, big-endian, if the first bit says so.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The second bit is the sign.
        let start = i64::from(first & 0x7F) - if first & 0x40 != 0 { 0x80 } else { 0 };
        return rest.iter().try_fold(start, |number, byte| {
            number.checked_mul(256)?.checked_add(i64::from(*byte))
        });
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |number, byte| match byte {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_text_and_in_binary() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"0000648\0", None),
            (b"-1\0", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\0\0\x20\0\0", Some(1 << 21)),
            (b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE", Some(-2)),
            (b"\x80\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
