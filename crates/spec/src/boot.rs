//! What a machine boots.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Error;
use crate::error::{check_characters, check_length};
use crate::limits::{COMMAND_LINE_BYTES_MAX, INITRD_PARTS_MAX, PATH_BYTES_MAX};

/// The command line of a kernel that is given none: the console and probing for PC hardware that
/// is not there are off, and a panic reboots through the keyboard controller, which ends the VM.
pub const DEFAULT_COMMAND_LINE: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux \
     i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// The kernel, its initial RAM disk and its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSource {
    kernel: PathBuf,
    initrd: Vec<InitrdPart>,
    command_line: CommandLine,
}

impl BootSource {
    /// A kernel (an ELF `vmlinux` or a `bzImage`) with no initial RAM disk.
    pub fn new(kernel: impl Into<PathBuf>, command_line: CommandLine) -> Result<Self, Error> {
        let kernel = kernel.into();
        check_path("kernel_image_path", &kernel)?;
        Ok(Self { kernel, initrd: Vec::new(), command_line })
    }

    /// Appends a part to the initial RAM disk.
    pub fn push_initrd(&mut self, part: InitrdPart) -> Result<(), Error> {
        if let InitrdPart::File(path) = &part {
            check_path("initrd_path", path)?;
        }
        let (field, value) = ("number of initrd parts", self.initrd.len() as u64 + 1);
        let max = INITRD_PARTS_MAX as u64;
        if value > max {
            return Err(Error::Range { field, value, min: 0, max });
        }
        self.initrd.push(part);
        Ok(())
    }

    /// The kernel's file.
    pub fn kernel(&self) -> &PathBuf {
        &self.kernel
    }

    /// The parts of the initial RAM disk, in the order in which the kernel unpacks them.
    pub fn initrd(&self) -> &[InitrdPart] {
        &self.initrd
    }

    /// The command line as it was asked for, without what the machine appends.
    pub fn command_line(&self) -> &CommandLine {
        &self.command_line
    }
}

/// One archive of an initial RAM disk. Later parts add to and replace files of earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitrdPart {
    /// A file on the host.
    File(PathBuf),
    /// Bytes made by whoever starts the machine.
    Bytes(Arc<[u8]>),
}

/// A kernel command line: printable ASCII, at most 2047 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// Takes `text` if the kernel can.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        check_length("boot_args", text.len(), 0, COMMAND_LINE_BYTES_MAX - 1)?;
        check_characters("boot_args", &text, "printable ASCII", |c| matches!(c, ' '..='~'))?;
        Ok(Self(text))
    }

    /// The text, without the final NUL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CommandLine {
    fn default() -> Self {
        Self(DEFAULT_COMMAND_LINE.to_owned())
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks that `path` is one that the host's kernel can be asked for.
pub(crate) fn check_path(field: &'static str, path: &std::path::Path) -> Result<(), Error> {
    let bytes = path.as_os_str().as_encoded_bytes();
    check_length(field, bytes.len(), 1, PATH_BYTES_MAX - 1)?;
    if bytes.contains(&0) {
        let value = path.to_string_lossy().into_owned();
        return Err(Error::Form { field, value, form: "a path without NUL bytes" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        for (text, expected) in [
            ("", Ok(())),
            ("console=ttyS0 -- a", Ok(())),
            (&"x".repeat(2047), Ok(())),
            (&"x".repeat(2048), Err("boot_args is 2048 bytes long; it must be from 0 to 2047")),
            ("a\0b", Err("boot_args \"a\\0b\" contains '\\0'; it may contain printable ASCII")),
            ("a\nb", Err("boot_args \"a\\nb\" contains '\\n'; it may contain printable ASCII")),
        ] {
            let got = CommandLine::new(text).map(drop).map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned));
        }
        assert!(CommandLine::new(DEFAULT_COMMAND_LINE).is_ok());
    }

    #[test]
    fn boot_sources() {
        let line = CommandLine::default;
        assert!(BootSource::new("", line()).is_err());
        assert!(BootSource::new("a\0", line()).is_err());
        assert!(BootSource::new("x/".repeat(2048), line()).is_err());
        let mut boot = BootSource::new("/vmlinux", line()).unwrap();
        assert!(boot.push_initrd(InitrdPart::File(PathBuf::new())).is_err());
        for _ in 0..INITRD_PARTS_MAX {
            boot.push_initrd(InitrdPart::Bytes(Arc::new([1]))).unwrap();
        }
        let error = boot.push_initrd(InitrdPart::Bytes(Arc::new([1]))).unwrap_err();
        assert_eq!(error.to_string(), "number of initrd parts is 17; it must be from 0 to 16");
    }
}
