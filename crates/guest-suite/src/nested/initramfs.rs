//! The initramfs of the nested machine: busybox, modules, the caller's files, and an init script.
//!
//! In the "newc" format of cpio, which Linux unpacks (Documentation/driver-api/early-userspace).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{BEGIN, BUSYBOX, NestedError, STATUS};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// The archive, uncompressed.
pub(super) fn build(
    command: &str,
    files: &[(&Path, &str)],
    modules: &[PathBuf],
) -> Result<Vec<u8>, NestedError> {
    let mut archive = Archive::default();
    archive.add("bin/busybox", &read(Path::new(BUSYBOX))?);
    let mut names = Vec::new();
    for module in modules {
        let name = module.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        archive.add(&format!("modules/{name}"), &read(module)?);
        names.push(name);
    }
    for (from, to) in files {
        archive.add(to.trim_start_matches('/'), &read(from)?);
    }
    archive.add("command", command.as_bytes());
    archive.add("init", init(&names).as_bytes());
    Ok(archive.finish())
}

/// The command's output goes to the console, where it is told apart by the lines around it.
fn init(modules: &[String]) -> String {
    let insert: String = modules.iter().map(|m| format!("insmod /modules/{m}\n")).collect();
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /sbin /usr/bin /usr/sbin\n\
         /bin/busybox --install -s\n\
         export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t tmpfs tmp /tmp\n\
         {insert}\
         cd /root\n\
         echo '{BEGIN}'\n\
         sh /command 2>&1 </dev/null\n\
         echo \"{STATUS}$?\"\n\
         poweroff -f\n"
    )
}

fn read(path: &Path) -> Result<Vec<u8>, NestedError> {
    std::fs::read(path)
        .map_err(|source| NestedError::Host { what: format!("read {}", path.display()), source })
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a program at `path`, and the folders above it. Every file may be executed.
    fn add(&mut self, path: &str, data: &[u8]) {
        let above: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        for folder in above {
            if self.folders.insert(folder.to_string()) {
                self.entry(folder, FOLDER, &[]);
            }
        }
        self.entry(path, PROGRAM, data);
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let name_len = path.len() as u32 + 1;
        // Inode, mode, user, group, links, time, length, device and its device, name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_folders_and_ends() {
        let mut archive = Archive::default();
        archive.add("a/b/c", b"12345");
        archive.add("a/d", b"");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.contains("a/b/c\0") && text.contains("12345\0\0\x00070701"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
