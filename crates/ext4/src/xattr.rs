//! Extended attributes: in the inode as far as they fit, the others in a block
//! (Documentation/filesystems/ext4/attributes.rst).

pub(crate) mod read;

use crate::builder::Xattrs;
use crate::checksum::Crc;
use crate::put::{Put, high16, low16};

/// Bytes for attributes behind an inode's fields.
pub(crate) const INODE_AREA: usize = 256 - 128 - 32;
const BLOCK: usize = crate::BLOCK_SIZE as usize;
const MAGIC: u32 = 0xEA02_0000;
const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
const ENTRY_LEN: usize = 16;
/// Zeros behind the last entry.
const END_LEN: usize = 4;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// Namespaces, with their numbers. The lists of access rights are whole names.
const NAMESPACES: [(u8, &[u8]); 6] = [
    (2, ACL_ACCESS),
    (3, ACL_DEFAULT),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];

/// Why an attribute cannot be stored.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) name: Vec<u8>,
    pub(crate) why: &'static str,
}

/// Attributes as they are stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// What is in the inode, [`INODE_AREA`] bytes or none.
    pub(crate) inode: Vec<u8>,
    /// What is in a block, if anything; its checksum is set by [`finish`].
    pub(crate) block: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    // In the order in which a block has them.
    namespace: u8,
    name_len: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    fn len(&self) -> usize {
        ENTRY_LEN + self.name.len().next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }
}

/// Whether ext4 has a namespace for this attribute.
pub fn is_xattr(name: &[u8]) -> bool {
    namespace(name).is_some()
}

/// Lays the attributes out.
pub(crate) fn store(xattrs: &Xattrs) -> Result<Stored, Refused> {
    let mut attributes = Vec::with_capacity(xattrs.len());
    for (name, value) in xattrs {
        attributes.push(attribute(name, value)?);
    }
    attributes.sort();
    let mut room = INODE_AREA - INODE_HEADER - END_LEN;
    let mut inner = Vec::new();
    let mut outer = Vec::new();
    for attribute in attributes {
        match room.checked_sub(attribute.len()) {
            Some(rest) => {
                room = rest;
                inner.push(attribute);
            }
            None => outer.push(attribute),
        }
    }
    let mut needed = BLOCK_HEADER + END_LEN;
    for attribute in &outer {
        needed += attribute.len();
        if needed > BLOCK {
            let name = full_name(attribute);
            return Err(Refused { name, why: "an inode's attributes must fit in 4 KiB" });
        }
    }
    Ok(Stored { inode: in_inode(&inner), block: (!outer.is_empty()).then(|| in_block(&outer)) })
}

/// Sets the checksum of a block, which depends on where it is.
pub(crate) fn finish(block: &mut [u8], place: u64, filesystem: Crc) {
    let sum = filesystem.then(&place.to_le_bytes()).then(block).value();
    block.put32(16, sum);
}

fn attribute(name: &[u8], value: &[u8]) -> Result<Attribute, Refused> {
    let refused = |why| Refused { name: name.to_vec(), why };
    let (namespace, rest) = namespace(name).ok_or_else(|| refused("ext4 has no such namespace"))?;
    if rest.len() > 255 {
        return Err(refused("its name is too long"));
    }
    let value = match name {
        ACL_ACCESS | ACL_DEFAULT => {
            acl(value).ok_or_else(|| refused("it is no list of access rights"))?
        }
        _ => value.to_vec(),
    };
    Ok(Attribute { namespace, name_len: rest.len(), name: rest.to_vec(), value })
}

fn namespace(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.iter().find_map(|(number, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        // A namespace alone is no name; a list of access rights is nothing but.
        (rest.is_empty() != prefix.ends_with(b".")).then_some((*number, rest))
    })
}

fn full_name(attribute: &Attribute) -> Vec<u8> {
    let known = NAMESPACES.iter().find(|(number, _)| *number == attribute.namespace);
    [known.map_or(&b""[..], |(_, prefix)| prefix), &attribute.name].concat()
}

/// From the form of getxattr(2), version 2 with a number in every entry, to that on disk, version
/// 1 with numbers for named users and groups only (include/uapi/linux/posix_acl_xattr.h and
/// fs/ext4/acl.h).
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    const NAMED_USER: u16 = 2;
    const NAMED_GROUP: u16 = 8;
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    if !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut stored = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        stored.extend(&entry[..4]);
        if [NAMED_USER, NAMED_GROUP].contains(&u16::from_le_bytes([entry[0], entry[1]])) {
            stored.extend(&entry[4..]);
        }
    }
    Some(stored)
}

fn in_inode(attributes: &[Attribute]) -> Vec<u8> {
    if attributes.is_empty() {
        return Vec::new();
    }
    let mut area = vec![0; INODE_AREA];
    area.put32(0, MAGIC);
    // Values are found from the first entry on.
    fill(&mut area[INODE_HEADER..], 0, attributes);
    area
}

fn in_block(attributes: &[Attribute]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block.put32(0, MAGIC);
    // One inode uses it, and it is one block.
    block.put32(4, 1);
    block.put32(8, 1);
    let hashes = fill(&mut block, BLOCK_HEADER, attributes);
    let hash = hashes.iter().fold(0u32, |hash, entry| hash.rotate_left(16) ^ entry);
    block.put32(12, hash);
    block
}

/// Entries from `at` on, values from the end backwards; the hashes of the entries.
fn fill(to: &mut [u8], mut at: usize, attributes: &[Attribute]) -> Vec<u32> {
    let mut end = to.len();
    let mut hashes = Vec::with_capacity(attributes.len());
    for attribute in attributes {
        end -= attribute.value.len().next_multiple_of(4);
        let hash = hash(attribute);
        to.put8(at, attribute.name.len() as u8);
        to.put8(at + 1, attribute.namespace);
        to.put16(at + 2, if attribute.value.is_empty() { 0 } else { end as u16 });
        to.put32(at + 8, attribute.value.len() as u32);
        to.put32(at + 12, hash);
        to.put_bytes(at + ENTRY_LEN, &attribute.name);
        to.put_bytes(end, &attribute.value);
        at += ENTRY_LEN + attribute.name.len().next_multiple_of(4);
        hashes.push(hash);
    }
    hashes
}

fn hash(attribute: &Attribute) -> u32 {
    let hash =
        attribute.name.iter().fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    attribute.value.chunks(4).fold(hash, |hash, part| {
        let mut word = [0; 4];
        word[..part.len()].copy_from_slice(part);
        let word = u32::from_le_bytes(word);
        // Rotated by 16: the upper half comes down.
        (u32::from(low16(hash)) << 16 | u32::from(high16(hash))) ^ word
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &[u8], why: &str) {
        let xattrs = Xattrs::from([(name.as_bytes().to_vec(), value.to_vec())]);
        let refused = store(&xattrs).unwrap_err();
        assert!(refused.why.contains(why), "{name}: {}", refused.why);
        assert_eq!(refused.name, name.as_bytes());
    }

    #[test]
    fn what_ext4_has_no_place_for_is_refused() {
        check("com.example", b"", "no such namespace");
        check("user.", b"", "no such namespace");
        check("system.posix_acl_access", b"\x02\0\0\0\x01", "no list");
        check("system.posix_acl_access", b"\x01\0\0\0", "no list");
        check("user.large", &[7; 4096], "4 KiB");
        check(&format!("user.{}", "n".repeat(256)), b"", "too long");
    }

    #[test]
    fn access_rights_lose_the_numbers_that_mean_nothing() {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, id) in [(1u16, u32::MAX), (2, 1000), (4, u32::MAX), (8, 5)] {
            value.extend(tag.to_le_bytes());
            value.extend(6u16.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        assert_eq!(acl(&value).unwrap().len(), 4 + 4 + 8 + 4 + 8);
    }
}
