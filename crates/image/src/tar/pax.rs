//! Extension headers: keys with values that replace what a header says, and attributes that a
//! header has no room for (POSIX.1-2017, pax, "pax Extended Header").

use std::collections::BTreeMap;
use std::ops::Range;

use base64ct::{Base64Unpadded, Encoding};

use ::ext4::builder::Xattrs;
use ::ext4::{Attributes, Time, is_xattr};

use super::header::{Header, text};
use super::sparse::SEGMENTS_MAX;
use crate::{Error, Result};

/// Extended attributes: star's prefix, which GNU tar and container tools share.
const STAR_XATTR: &[u8] = b"SCHILY.xattr.";
/// BSD tar's, with the value in base 64.
const BSD_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
/// Lists of access rights as text, and the attributes that they are.
const ACLS: [(&[u8], &[u8]); 2] = [
    (b"SCHILY.acl.access", b"system.posix_acl_access"),
    (b"SCHILY.acl.default", b"system.posix_acl_default"),
];

/// What extension headers said about the next entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Time>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// With holes, the file's size.
    pub(super) real_size: Option<u64>,
    /// What is no hole.
    pub(super) sparse_map: Option<Vec<Range<u64>>>,
    /// What is no hole is said in front of the data.
    pub(super) sparse_in_data: bool,
    /// The beginning of a range whose length comes next.
    sparse_offset: Option<u64>,
}

impl Extensions {
    /// Adds the records of a header: each its length in decimal, a space, key=value, a newline.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<()> {
        let damaged = || Error::format("the archive", "an extension header is damaged");
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let len = decimal(&records[..space]).ok_or_else(damaged)?;
            let len = usize::try_from(len).ok().filter(|len| *len > space + 1);
            let (record, rest) =
                len.and_then(|len| records.split_at_checked(len)).ok_or_else(damaged)?;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            self.set(key, value).ok_or_else(|| {
                let key = String::from_utf8_lossy(key).into_owned();
                Error::format(
                    "the archive",
                    format!("the value of {key} in an extension header is damaged"),
                )
            })?;
            records = rest;
        }
        Ok(())
    }

    /// A path from a header of GNU's.
    pub(super) fn set_path(&mut self, bytes: Vec<u8>) {
        self.path = Some(text(&bytes).to_vec());
    }

    /// A link's target from a header of GNU's.
    pub(super) fn set_link(&mut self, bytes: Vec<u8>) {
        self.link = Some(text(&bytes).to_vec());
    }

    pub(super) fn path(&self, header: &Header) -> Vec<u8> {
        self.path.clone().unwrap_or_else(|| header.path.clone())
    }

    pub(super) fn link(&self, header: &Header) -> Vec<u8> {
        self.link.clone().unwrap_or_else(|| header.link.clone())
    }

    pub(super) fn attributes(
        &self,
        header: &Header,
    ) -> std::result::Result<Attributes, &'static str> {
        let id = |number: u64| u32::try_from(number).map_err(|_| "its owner's number is too large");
        let seconds = header.modified;
        Ok(Attributes {
            mode: (header.mode & 0o7777) as u16,
            uid: id(self.uid.unwrap_or(header.uid))?,
            gid: id(self.gid.unwrap_or(header.gid))?,
            modified: self.modified.unwrap_or(Time { seconds, nanoseconds: 0 }),
        })
    }

    /// Extended attributes that Linux has; others, such as those of macOS, are left out.
    pub(super) fn xattrs(&self) -> Xattrs {
        let known = self.xattrs.iter().filter(|(name, _)| is_xattr(name));
        known.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Lists of access rights that came as text, by their attributes' names.
    pub(super) fn acls(&self) -> Vec<(&'static [u8], Vec<u8>)> {
        let text = |key: &[u8]| self.xattrs.get(key).cloned();
        ACLS.iter().filter_map(|(key, name)| Some((*name, text(key)?))).collect()
    }

    /// Nothing if the value is damaged; what is not known is no matter.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            // An empty value takes back what a global header said.
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.modified = Some(time(value)?),
            b"GNU.sparse.name" => self.path = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.real_size = Some(decimal(value)?),
            b"GNU.sparse.major" => self.sparse_in_data = decimal(value)? == 1,
            b"GNU.sparse.map" => self.sparse_map = Some(sparse_map(value)?),
            b"GNU.sparse.numblocks" => self.sparse_map = Some(Vec::new()),
            b"GNU.sparse.offset" => self.sparse_offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let start = self.sparse_offset.take()?;
                let range = start..start.checked_add(decimal(value)?)?;
                let map = self.sparse_map.get_or_insert_default();
                map.push(range);
                return (map.len() <= SEGMENTS_MAX).then_some(());
            }
            _ => self.set_xattr(key, value)?,
        }
        Some(())
    }

    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(STAR_XATTR) {
            self.xattrs.insert(name.to_vec(), value.to_vec());
        } else if let Some(name) = key.strip_prefix(BSD_XATTR) {
            let digits = std::str::from_utf8(value).ok()?.trim_end_matches('=');
            let value = Base64Unpadded::decode_vec(digits).ok()?;
            self.xattrs.entry(name.to_vec()).or_insert(value);
        } else if ACLS.iter().any(|(acl, _)| *acl == key) && !value.is_empty() {
            self.xattrs.insert(key.to_vec(), value.to_vec());
        }
        Some(())
    }
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, before or after 1970.
fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => {
            Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds }
        }
        _ => Time { seconds, nanoseconds },
    })
}

/// Offsets and lengths with commas between.
fn sparse_map(text: &[u8]) -> Option<Vec<Range<u64>>> {
    let mut map = Vec::new();
    let mut numbers = text.split(|byte| *byte == b',').map(decimal);
    while let Some(start) = numbers.next() {
        let (start, len) = (start?, numbers.next()??);
        map.push(start..start.checked_add(len)?);
    }
    (map.len() <= SEGMENTS_MAX).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let time_of = |text: &str| time(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time_of("12"), Some((12, 0)));
        assert_eq!(time_of("12.5"), Some((12, 500_000_000)));
        assert_eq!(time_of("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time_of("1.1234567891"), Some((1, 123_456_789)));
        assert_eq!(time_of("1.x"), None);
        assert_eq!(time_of(""), None);
    }

    #[test]
    fn damaged_records() {
        for records in ["5", "x a=b\n", "99 a=b\n", "6 a=b\nz", "5 ab\n", "2 ", "0 ", "9 size=x\n"]
        {
            assert!(Extensions::default().add(records.as_bytes()).is_err(), "{records:?}");
        }
        let mut extensions = Extensions::default();
        extensions.add(b"9 path=b\n7 no=w\n").unwrap();
        assert_eq!(extensions.path.as_deref(), Some(&b"b"[..]));
    }
}
