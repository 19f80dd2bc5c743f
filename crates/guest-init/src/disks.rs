//! Finding the root disk by device name, partition or file system.
//!
//! | form | found by |
//! | --- | --- |
//! | `/dev/vda1` | the node in /dev |
//! | `PARTUUID=` | the disk's GPT entry, or MBR signature and partition number |
//! | `UUID=`, `LABEL=` | the ext4 superblock |
//!
//! Everything read here comes from a disk and is not trusted: what does not
//! parse is simply no match.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK: &str = "/sys/class/block";
const SECTOR: u64 = 512;
/// Most GPT entries looked at; the usual table has 128.
const GPT_ENTRIES_MAX: u32 = 256;

/// The device that `root=` names, if it is there.
pub fn find(root: &str) -> Option<PathBuf> {
    match root.split_once('=') {
        None => Some(PathBuf::from(root)).filter(|path| path.exists()),
        Some(("PARTUUID", id)) => find_partition(&id.to_ascii_lowercase()),
        Some(("UUID", id)) => find_superblock(|sb| sb.uuid() == id.to_ascii_lowercase()),
        Some(("LABEL", label)) => find_superblock(|sb| sb.label() == label.as_bytes()),
        Some(_) => None,
    }
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(BLOCK).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn number(name: &str, attribute: &str) -> Option<u32> {
    fs::read_to_string(Path::new(BLOCK).join(name).join(attribute)).ok()?.trim().parse().ok()
}

/// The disk that a partition is on: the folder above its own in sysfs.
fn disk_of(partition: &str) -> Option<PathBuf> {
    let folder = fs::canonicalize(Path::new(BLOCK).join(partition)).ok()?;
    Some(Path::new("/dev").join(folder.parent()?.file_name()?))
}

fn find_partition(id: &str) -> Option<PathBuf> {
    names().into_iter().find_map(|name| {
        let partition = number(&name, "partition")?;
        let disk = File::open(disk_of(&name)?).ok()?;
        (partition_id(&disk, partition)? == id).then(|| Path::new("/dev").join(name))
    })
}

/// The PARTUUID of a disk's partition (UEFI specification, section 5.3).
fn partition_id(disk: &File, partition: u32) -> Option<String> {
    let header: [u8; 92] = read(disk, SECTOR)?;
    if !header.starts_with(b"EFI PART") {
        let signature: [u8; 4] = read(disk, 440)?;
        return Some(format!("{:08x}-{partition:02x}", u32::from_le_bytes(signature)));
    }
    let table = u64::from_le_bytes(header[72..80].try_into().ok()?);
    let count = u32::from_le_bytes(header[80..84].try_into().ok()?);
    let size = u32::from_le_bytes(header[84..88].try_into().ok()?);
    if partition == 0 || partition > count.min(GPT_ENTRIES_MAX) {
        return None;
    }
    let entry =
        table.checked_mul(SECTOR)?.checked_add(u64::from(partition - 1) * u64::from(size))?;
    let guid: [u8; 16] = read(disk, entry.checked_add(16)?)?;
    // The first three fields of a GUID are little-endian on disk.
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    Some(hyphenated(&order.map(|at| guid[at])))
}

fn find_superblock(wanted: impl Fn(&Superblock) -> bool) -> Option<PathBuf> {
    names().into_iter().map(|name| Path::new("/dev").join(name)).find(|device| {
        let disk = File::open(device).ok();
        disk.and_then(|disk| Superblock::read(&disk)).is_some_and(|sb| wanted(&sb))
    })
}

/// The ext4 superblock's identity (Documentation/filesystems/ext4/super.rst).
struct Superblock([u8; 0x88]);

impl Superblock {
    fn read(disk: &File) -> Option<Self> {
        let bytes: [u8; 0x88] = read(disk, 1024)?;
        (bytes[0x38..0x3A] == [0x53, 0xEF]).then_some(Superblock(bytes))
    }

    fn uuid(&self) -> String {
        hyphenated(&self.0[0x68..0x78])
    }

    fn label(&self) -> &[u8] {
        let label = &self.0[0x78..0x88];
        &label[..label.iter().position(|&b| b == 0).unwrap_or(label.len())]
    }
}

fn hyphenated(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn read<const N: usize>(disk: &File, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    disk.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(pieces: &[(u64, &[u8])]) -> File {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("init-disk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        fs::remove_file(path).expect("just made");
        let file = file.expect("the temporary folder is writable");
        file.set_len(64 * 1024).expect("room");
        pieces.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).expect("room"));
        file
    }

    #[test]
    fn partitions_of_an_mbr() {
        let disk = disk(&[(440, &[0x78, 0x56, 0x34, 0x12])]);
        assert_eq!(partition_id(&disk, 1).as_deref(), Some("12345678-01"));
    }

    #[test]
    fn partitions_of_a_gpt() {
        let mut header = [0u8; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[72] = 2;
        header[80] = 4;
        header[84] = 128;
        let guid: Vec<u8> = (0..16).collect();
        let disk = disk(&[(512, &header), (1024 + 128 + 16, &guid)]);
        let expected = "03020100-0504-0706-0809-0a0b0c0d0e0f";
        assert_eq!(partition_id(&disk, 2).as_deref(), Some(expected));
        assert_eq!(partition_id(&disk, 5), None);
    }

    #[test]
    fn a_superblock() {
        let id: Vec<u8> = (16..32).collect();
        let disk =
            disk(&[(1024 + 0x38, &[0x53, 0xEF]), (1024 + 0x68, &id), (1024 + 0x78, b"root")]);
        let sb = Superblock::read(&disk).expect("has the magic number");
        assert_eq!(sb.uuid(), "10111213-1415-1617-1819-1a1b1c1d1e1f");
        assert_eq!(sb.label(), b"root");
    }
}
