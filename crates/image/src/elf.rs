//! What is needed of kernel modules, which are relocatable ELF files (elf(5)):
//! what they depend on, and taking away what makes inserting them slow.
//!
//! - The signature at the end: with it, the kernel computes RSA; without it,
//!   it marks itself as tainted and goes on.
//! - The section `.BTF`, types for BPF programs: because of it the first
//!   module makes the kernel read all of its own types.

/// Marks a signature at a module's end (include/linux/module_signature.h).
const SIGNED: &[u8] = b"~Module signature appended~\n";
/// struct module_signature, between the signature and the mark.
const SIGNATURE_INFO_LEN: usize = 12;
const SECTION_HEADER_LEN: usize = 64;

/// A module made light, or none if it is no 64-bit little-endian ELF file.
pub(crate) fn lighten(module: &[u8]) -> Option<Vec<u8>> {
    let mut module = without_signature(module).to_vec();
    let types = sections(&module)?.filter(|section| section.name == b".BTF");
    let headers: Vec<usize> = types.map(|section| section.header).collect();
    for header in headers {
        // A section of no length is one that the kernel does not look for.
        module.get_mut(header + 32..header + 40)?.fill(0);
    }
    Some(module)
}

/// The modules that a module depends on, as its `.modinfo` says.
pub(crate) fn dependencies(module: &[u8]) -> Option<Vec<String>> {
    let info = sections(module)?.find(|section| section.name == b".modinfo")?;
    let text = module.get(info.start..info.start.checked_add(info.length)?)?;
    let depends = text.split(|&b| b == 0).find_map(|entry| entry.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(depends).ok()?.split(',');
    Some(names.filter(|name| !name.is_empty()).map(normal_name).collect())
}

/// A module's name as the kernel knows it: hyphens are underscores.
pub(crate) fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

fn without_signature(module: &[u8]) -> &[u8] {
    let Some(rest) = module.strip_suffix(SIGNED) else { return module };
    let Some(info) = rest.len().checked_sub(SIGNATURE_INFO_LEN) else { return module };
    // The last four bytes are the signature's length, big-endian.
    let length = rest.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
    info.checked_sub(length).map_or(module, |end| &module[..end])
}

struct Section<'a> {
    name: &'a [u8],
    header: usize,
    start: usize,
    length: usize,
}

fn sections(module: &[u8]) -> Option<impl Iterator<Item = Section<'_>>> {
    // ELFCLASS64, little-endian.
    if module.get(..6)? != b"\x7FELF\x02\x01" {
        return None;
    }
    let table = number::<8>(module, 40)?;
    let count = number::<2>(module, 60)?;
    let names = header(module, table, number::<2>(module, 62)?)?;
    let names = number::<8>(module, names + 24)?;
    Some((0..count).filter_map(move |index| {
        let header = header(module, table, index)?;
        let name = module.get(names.checked_add(number::<4>(module, header)?)?..)?;
        Some(Section {
            name: name.split(|&b| b == 0).next()?,
            header,
            start: number::<8>(module, header + 24)?,
            length: number::<8>(module, header + 32)?,
        })
    }))
}

/// Where a section's header is, if all of it is in the file.
fn header(module: &[u8], table: usize, index: usize) -> Option<usize> {
    let at = table.checked_add(index.checked_mul(SECTION_HEADER_LEN)?)?;
    module.get(at..at.checked_add(SECTION_HEADER_LEN)?).map(|_| at)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(N)?)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A module that depends on others, with types and a signature.
    pub(crate) fn module(depends: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7FELF\x02\x01");
        let names = b"\0.modinfo\0.BTF\0.shstrtab\0";
        let info = format!("license=GPL\0depends={depends}\0");
        let mut section = |data: &[u8]| {
            let start = bytes.len() as u64;
            bytes.extend(data);
            (start, data.len() as u64)
        };
        let sections = [
            (0u32, (0, 0)),
            (1, section(info.as_bytes())),
            (10, section(b"types")),
            (15, section(names)),
        ];
        let table = bytes.len() as u64;
        for (name, (start, length)) in sections {
            let mut header = [0; SECTION_HEADER_LEN];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&start.to_le_bytes());
            header[32..40].copy_from_slice(&length.to_le_bytes());
            bytes.extend(header);
        }
        bytes[40..48].copy_from_slice(&table.to_le_bytes());
        bytes[60] = 4;
        bytes[62] = 3;
        bytes.extend(b"signature");
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(9u32.to_be_bytes());
        bytes.extend(SIGNED);
        bytes
    }

    #[test]
    fn dependencies_are_read() {
        let check = |depends: &str, expected: &[&str]| {
            assert_eq!(dependencies(&module(depends)).unwrap(), expected, "{depends}");
        };
        check("", &[]);
        check("virtio", &["virtio"]);
        check("virtio_ring,net-failover", &["virtio_ring", "net_failover"]);
    }

    #[test]
    fn a_light_module_has_neither_signature_nor_types() {
        let light = lighten(&module("virtio")).unwrap();
        assert_eq!(dependencies(&light).unwrap(), ["virtio"]);
        assert!(!light.ends_with(SIGNED));
        assert!(!light.windows(9).any(|part| part == b"signature"));
        let types = sections(&light).unwrap().find(|section| section.name == b".BTF").unwrap();
        assert_eq!(types.length, 0);
    }

    #[test]
    fn damaged_modules_are_refused_and_never_panic() {
        assert!(lighten(b"no module").is_none());
        let whole = module("virtio");
        for length in 0..whole.len() {
            let _ = (lighten(&whole[..length]), dependencies(&whole[..length]));
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] = 0xFF;
            let _ = (lighten(&bent), dependencies(&bent));
        }
    }
}
