//! Kernel modules, inserted only where a device asks for them.
//!
//! The initramfs of a kernel with modules has the file [`LIST`], one module a
//! line in the order of their dependencies: `STAGE MATCH FILE`.
//!
//! - `early` modules are inserted before the root disk and the command, `late`
//!   ones after the command has started.
//! - The match is `always`; `virtio:N`, only if a virtio device with that number
//!   (virtio specification, section 5) was found; or `virtio-pci`, only if there
//!   is one on the PCI bus.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::sys;

/// The list of modules in the initramfs.
pub const LIST: &str = "/sparkler/modules";
const DEVICES: &str = "/sys/bus/virtio/devices";
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// When a module is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the root disk and the command.
    Early,
    /// After the command has started.
    Late,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    stage: Stage,
    trigger: Trigger,
    file: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Always,
    Virtio(u32),
    VirtioPci,
}

/// Whether the initramfs has modules at all.
pub fn present() -> bool {
    Path::new(LIST).exists()
}

/// Inserts the modules of one stage; says on the console what failed.
pub fn insert(stage: Stage) {
    let Ok(list) = fs::read_to_string(LIST) else { return };
    let mut found: Option<HashSet<u32>> = None;
    for entry in list.lines().filter_map(parse).filter(|entry| entry.stage == stage) {
        let wanted = match entry.trigger {
            Trigger::Always => true,
            Trigger::VirtioPci => pci_has_virtio(),
            // The bus is there, and complete, once the modules before are.
            Trigger::Virtio(number) => found.get_or_insert_with(devices).contains(&number),
        };
        if wanted && let Err(error) = insert_file(entry.file) {
            eprintln!("init: cannot insert the module {}: {error}", entry.file);
        }
    }
}

fn parse(line: &str) -> Option<Entry<'_>> {
    let mut words = line.split_whitespace();
    let stage = match words.next()? {
        "early" => Stage::Early,
        "late" => Stage::Late,
        _ => return None,
    };
    let trigger = match words.next()? {
        "always" => Trigger::Always,
        "virtio-pci" => Trigger::VirtioPci,
        other => Trigger::Virtio(other.strip_prefix("virtio:")?.parse().ok()?),
    };
    Some(Entry { stage, trigger, file: words.next()? })
}

fn insert_file(file: &str) -> io::Result<()> {
    let path = Path::new(LIST).with_file_name(file);
    match sys::insert_module(File::open(path)?.as_fd()) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// The numbers of the virtio devices that the kernel has found.
fn devices() -> HashSet<u32> {
    let entries = fs::read_dir(DEVICES).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("device")).ok()?;
            u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        })
        .collect()
}

/// Whether a virtio device is on the PCI bus, by its vendor.
fn pci_has_virtio() -> bool {
    let entries = fs::read_dir(PCI_DEVICES).into_iter().flatten().flatten();
    let mut vendors = entries.map(|entry| fs::read_to_string(entry.path().join("vendor")));
    vendors.any(|vendor| vendor.is_ok_and(|vendor| vendor.trim() == "0x1af4"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let entry = |stage, trigger, file| Some(Entry { stage, trigger, file });
        assert_eq!(parse("early always a.ko"), entry(Stage::Early, Trigger::Always, "a.ko"));
        assert_eq!(parse("late virtio:4 b.ko"), entry(Stage::Late, Trigger::Virtio(4), "b.ko"));
        assert_eq!(parse("early virtio-pci c.ko"), entry(Stage::Early, Trigger::VirtioPci, "c.ko"));
        for refused in ["", "early", "early always", "soon always a.ko", "early pci:4 a.ko"] {
            assert_eq!(parse(refused), None, "{refused}");
        }
    }
}
