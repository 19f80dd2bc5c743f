//! The command line that the kernel gets: what the user wrote, and what the machine adds.

use spec::limits::COMMAND_LINE_BYTES_MAX;
use spec::{CommandLine, Drive};

use crate::{Error, VirtioMmio};

/// Where the kernel finds its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root<'a> {
    /// The device of this name, for example `/dev/vda`.
    Device(&'a str),
    /// The partition with this UUID.
    PartUuid(&'a str),
}

impl<'a> Root<'a> {
    /// The root on the drive that the guest finds first.
    pub fn of(drive: &'a Drive) -> Self {
        match drive.partuuid() {
            Some(partuuid) => Self::PartUuid(partuuid),
            None => Self::Device("/dev/vda"),
        }
    }
}

/// Adds to `base` that there is no PCI, the root with its read-only flag, and each device.
///
/// What follows a lone `--` is for the guest's init; the additions go before it.
pub fn command_line(
    base: &CommandLine,
    root: Option<(Root<'_>, bool)>,
    devices: &[VirtioMmio],
) -> Result<CommandLine, Error> {
    let (kernel, init) = split(base.as_str());
    let mut line = kernel.to_owned();
    if !kernel.split(' ').any(|word| word == "pci=off") {
        append(&mut line, "pci=off");
    }
    if let Some((root, read_only)) = root {
        let value = match root {
            Root::Device(path) => format!("root={path}"),
            Root::PartUuid(partuuid) => format!("root=PARTUUID={partuuid}"),
        };
        append(&mut line, &value);
        append(&mut line, if read_only { "ro" } else { "rw" });
    }
    for device in devices {
        let (kib, address, gsi) = (device.len >> 10, device.address, device.gsi);
        append(&mut line, &format!("virtio_mmio.device={kib}K@{address:#x}:{gsi}"));
    }
    if !init.is_empty() {
        append(&mut line, init);
    }
    let (len, max) = (line.len(), COMMAND_LINE_BYTES_MAX - 1);
    CommandLine::new(line).map_err(|_| Error::CommandLine { len, max })
}

/// Cuts before the first lone `--`.
fn split(line: &str) -> (&str, &str) {
    if line.starts_with("-- ") || line == "--" {
        return ("", line);
    }
    let cut = line.find(" -- ").or_else(|| line.ends_with(" --").then(|| line.len() - 3));
    match cut {
        Some(cut) => (&line[..cut], &line[cut + 1..]),
        None => (line, ""),
    }
}

fn append(line: &mut String, word: &str) {
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(word);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(base: &str, root: Option<(Root<'_>, bool)>, devices: u32, expected: &str) {
        let base = CommandLine::new(base).unwrap();
        let devices: Vec<_> = (0..devices)
            .map(|i| VirtioMmio { address: 0xC000_1000 + i * 0x1000, len: 0x1000, gsi: 5 + i })
            .collect();
        let got = match command_line(&base, root, &devices) {
            Ok(line) => line.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn additions() {
        let vda = Some((Root::Device("/dev/vda"), false));
        check("", None, 0, "pci=off");
        check("quiet", None, 0, "quiet pci=off");
        check("pci=off quiet", None, 0, "pci=off quiet");
        check("xpci=off pci=offx", None, 0, "xpci=off pci=offx pci=off");
        check("a", vda, 0, "a pci=off root=/dev/vda rw");
        check(
            "a",
            Some((Root::PartUuid("0eaa91a0-01"), true)),
            0,
            "a pci=off root=PARTUUID=0eaa91a0-01 ro",
        );
        check(
            "a",
            vda,
            2,
            "a pci=off root=/dev/vda rw virtio_mmio.device=4K@0xc0001000:5 \
             virtio_mmio.device=4K@0xc0002000:6",
        );
        check("a -- b -- c", vda, 0, "a pci=off root=/dev/vda rw -- b -- c");
        check("-- b", None, 0, "pci=off -- b");
        check("a --", None, 0, "a pci=off --");
        check("--a", None, 0, "--a pci=off");
        check("a -- pci=off", None, 0, "a pci=off -- pci=off");
    }

    #[test]
    fn the_limit_counts_additions() {
        let fits = "x".repeat(2047 - " pci=off".len());
        check(&fits, None, 0, &format!("{fits} pci=off"));
        check(
            &format!("{fits}x"),
            None,
            0,
            "the kernel command line is 2048 bytes long with what the machine appends for its \
             devices; at most 2047 fit: shorten boot_args",
        );
    }
}
