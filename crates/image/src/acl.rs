//! Lists of access rights (acl(5)), from their text as archives have it to the attribute's value.
//!
//! GNU tar writes users and groups by name. A name is looked up in the image's own files, as far
//! as they have come, and then in the host's, as tar itself would.

/// The value's version (include/uapi/linux/posix_acl_xattr.h).
const VERSION: u32 = 2;
/// What an entry without a user or group says instead of its number.
const NO_ID: u32 = u32::MAX;

/// Gives the number of a name in a file of users or groups.
pub(crate) type Lookup<'a> = &'a dyn Fn(&[u8], &str) -> Option<u32>;

/// `user::rwx,group::r-x,user:alice:rwx:1000,mask::rwx,other::r--`: the number comes last, or in
/// the place of the name. None if it is damaged, or a name unknown.
pub(crate) fn from_text(text: &[u8], lookup: Lookup<'_>) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let entries = text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
    let mut list = entries.map(|text| entry(text, lookup)).collect::<Option<Vec<_>>>()?;
    // The kernel wants them in the order of their tags and numbers.
    list.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, rights) in list {
        value.extend(tag.to_le_bytes());
        value.extend(rights.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Some(value)
}

/// Whether a list says no more than the mode does: then the kernel keeps no list, either. Owner,
/// group and others are in every list.
pub(crate) fn is_mode(name: &[u8], value: &[u8]) -> bool {
    name == b"system.posix_acl_access" && value.len() <= 4 + 3 * 8
}

/// Tag, number, rights.
fn entry(text: &str, lookup: Lookup<'_>) -> Option<(u16, u32, u16)> {
    let mut parts = text.split(':');
    let (kind, name, rights) = (parts.next()?, parts.next()?, parts.next()?);
    let id = match (name, parts.next()) {
        ("", _) => NO_ID,
        (_, Some(number)) => number.parse().ok()?,
        (name, None) => match (name.parse(), kind.starts_with('u')) {
            (Ok(number), _) => number,
            (Err(_), true) => lookup(b"etc/passwd", name)?,
            (Err(_), false) => lookup(b"etc/group", name)?,
        },
    };
    let tag = match (kind, name.is_empty()) {
        ("user" | "u", true) => 0x01,
        ("user" | "u", false) => 0x02,
        ("group" | "g", true) => 0x04,
        ("group" | "g", false) => 0x08,
        ("mask" | "m", true) => 0x10,
        ("other" | "o", true) => 0x20,
        _ => return None,
    };
    Some((tag, id, bits(rights)?))
}

/// The third field of the line that begins with this name (passwd(5), group(5)).
pub(crate) fn number_of(file: &[u8], name: &str) -> Option<u32> {
    let file = String::from_utf8_lossy(file);
    let mut lines = file.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.first() == Some(&name))?.get(2)?.parse().ok()
}

fn bits(rights: &str) -> Option<u16> {
    rights.chars().try_fold(0, |bits, right| match right {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_a_value() {
        let text = b"user::rw-,mask::r-x,user:alice:r--:1000,group:7:--x,group::r--,other::---";
        let lookup = |file: &[u8], name: &str| {
            number_of(
                if file == b"etc/passwd" { b"root:x:0:0\nbob:x:9:9\n" } else { b"wheel:x:3:" },
                name,
            )
        };
        let value = from_text(text, &lookup).unwrap();
        let tags: Vec<u8> = value[4..].chunks(8).map(|entry| entry[0]).collect();
        assert_eq!(tags, [1, 2, 4, 8, 16, 32]);
        assert_eq!(value[12..20], [2, 0, 4, 0, 0xE8, 3, 0, 0]);
        assert_eq!(value[28..36], [8, 0, 1, 0, 7, 0, 0, 0]);
        for damaged in ["user", "user::q", "nobody::r--", "user:alice:r--", "mask:1:rwx"] {
            assert_eq!(from_text(damaged.as_bytes(), &lookup), None, "{damaged}");
        }
        let named = from_text(b"user:bob:r--,group:wheel:r--", &lookup);
        assert_eq!(named, from_text(b"user:9:r--,group:3:r--", &lookup));
        assert!(named.is_some());
    }
}
