//! Extended attributes from a disk that is not trusted.

use super::{BLOCK, BLOCK_HEADER, ENTRY_LEN, INODE_HEADER, MAGIC, NAMESPACES};
use crate::builder::Xattrs;

const BAD: &str = "extended attributes are damaged";
/// Lists of access rights, by their namespaces.
const ACCESS_RIGHTS: [u8; 2] = [2, 3];

/// Those behind an inode's fields, if there are any.
pub(crate) fn inode(area: &[u8], to: &mut Xattrs) -> Result<(), &'static str> {
    match area.split_at_checked(INODE_HEADER) {
        // Values are found from the first entry on.
        Some((header, entries)) if header == MAGIC.to_le_bytes() => read(entries, 0, to),
        Some(_) | None => Ok(()),
    }
}

/// Those in a block.
pub(crate) fn block(block: &[u8; BLOCK], to: &mut Xattrs) -> Result<(), &'static str> {
    match block.starts_with(&MAGIC.to_le_bytes()) {
        true => read(block, BLOCK_HEADER, to),
        false => Err(BAD),
    }
}

/// Entries from `at` on, up to four zeros; their values are anywhere in `area`.
fn read(area: &[u8], mut at: usize, to: &mut Xattrs) -> Result<(), &'static str> {
    loop {
        let left = area.get(at..).unwrap_or_default();
        if left.len() < 4 || left.starts_with(&[0; 4]) {
            return Ok(());
        }
        let entry = left.get(..ENTRY_LEN).ok_or(BAD)?;
        let (name_len, namespace) = (usize::from(entry[0]), entry[1]);
        let offset = usize::from(u16::from_le_bytes([entry[2], entry[3]]));
        let len = u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]);
        let name = left.get(ENTRY_LEN..ENTRY_LEN + name_len).ok_or(BAD)?;
        let value = match usize::try_from(len) {
            Ok(0) => &[],
            Ok(len) if len <= BLOCK => area.get(offset..offset + len).ok_or(BAD)?,
            Ok(_) | Err(_) => return Err(BAD),
        };
        let known = NAMESPACES.iter().find(|(number, _)| *number == namespace);
        // What is of a namespace that the kernel has no name for, nobody can see.
        if let Some((_, prefix)) = known {
            let value = match ACCESS_RIGHTS.contains(&namespace) {
                true => access_rights(value).ok_or(BAD)?,
                false => value.to_vec(),
            };
            to.insert([prefix, name].concat(), value);
        }
        at += ENTRY_LEN + name_len.next_multiple_of(4);
    }
}

/// The way back of what `super::acl` does.
fn access_rights(stored: &[u8]) -> Option<Vec<u8>> {
    let mut left = stored.strip_prefix(&1u32.to_le_bytes())?;
    let mut value = 2u32.to_le_bytes().to_vec();
    while !left.is_empty() {
        let (entry, rest) = left.split_at_checked(4)?;
        value.extend(entry);
        // Named users and groups have a number.
        let named = [2, 8].contains(&u16::from_le_bytes([entry[0], entry[1]]));
        let (id, rest) = match named {
            true => rest.split_at_checked(4)?,
            false => (&[0xFF; 4][..], rest),
        };
        value.extend(id);
        left = rest;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::super::store;
    use super::*;

    #[test]
    fn what_was_stored_is_read() {
        let mut rights = 2u32.to_le_bytes().to_vec();
        for (tag, id) in [(1u16, u32::MAX), (2, 1000), (4, u32::MAX), (8, 5)] {
            rights.extend(tag.to_le_bytes());
            rights.extend(6u16.to_le_bytes());
            rights.extend(id.to_le_bytes());
        }
        let xattrs = Xattrs::from([
            (b"user.a".to_vec(), b"1".to_vec()),
            (b"user.none".to_vec(), vec![]),
            (b"security.capability".to_vec(), vec![7; 20]),
            (b"system.posix_acl_access".to_vec(), rights),
            (b"user.large".to_vec(), vec![9; 2000]),
        ]);
        let stored = store(&xattrs).unwrap();
        let mut found = Xattrs::new();
        inode(&stored.inode, &mut found).unwrap();
        let bytes: [u8; BLOCK] = stored.block.unwrap().try_into().unwrap();
        block(&bytes, &mut found).unwrap();
        assert_eq!(found, xattrs);
    }

    #[test]
    fn damage_is_no_panic() {
        for seed in 0..=255u8 {
            let mut bytes = [seed; BLOCK];
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            // Whether it is refused depends on the bytes.
            let _ = block(&bytes, &mut Xattrs::new());
            let _ = inode(&bytes[..96], &mut Xattrs::new());
        }
    }
}
