//! Finding the compressed kernel inside a `bzImage`.
//!
//! A `bzImage` is real-mode set-up code, then protected-mode code that carries the compressed ELF
//! kernel. Its header says where that is (Linux's Documentation/arch/x86/boot.rst, "The Real-Mode
//! Kernel Header"): `payload_offset` counts from the protected-mode code, which starts after the
//! boot sector and `setup_sects` sectors.

use crate::bytes::{u16_at, u32_at};
use crate::inflate::{self, Compression};
use crate::{KernelFault, Source, elf};

/// How much of a file is needed to tell a `bzImage`, and to find its payload.
pub(crate) const HEADER_LEN: usize = 0x250;

const SETUP_SECTS: usize = 0x1F1;
const BOOT_FLAG: usize = 0x1FE;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24C;

/// The first protocol that has `payload_offset`: Linux 2.6.26.
const VERSION_MIN: u16 = 0x208;
const SECTOR: u64 = 512;
/// Set-up sectors where the header says 0.
const SETUP_SECTS_DEFAULT: u8 = 4;

/// Whether a file that begins with `header` is a `bzImage`.
pub(crate) fn is_bzimage(header: &[u8]) -> bool {
    u16_at(header, BOOT_FLAG) == Some(0xAA55) && header.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// Unpacks the ELF kernel that `source` carries, if it has no more than `limit` bytes. `header` is
/// the file's beginning, of which [`is_bzimage`] was true.
pub(crate) fn unpack(
    source: &dyn Source,
    header: &[u8],
    limit: u64,
) -> Result<Vec<u8>, KernelFault> {
    let version = u16_at(header, VERSION).unwrap_or(0);
    if version < VERSION_MIN {
        return Err(KernelFault::OldProtocol { version });
    }
    let payload = read_payload(source, header)?;
    if payload.starts_with(&elf::MAGIC) {
        return Ok(payload);
    }
    let compression = Compression::detect(&payload)?;
    // The build appends the unpacked size as 4 bytes; gzip has it there by itself.
    let hint = u32_at(&payload, payload.len().saturating_sub(4)).unwrap_or(0);
    let unpacked = inflate::inflate(compression, &mut &payload[..], limit, hint.into())?;
    if unpacked.starts_with(&elf::MAGIC) { Ok(unpacked) } else { Err(KernelFault::PayloadNotElf) }
}

fn read_payload(source: &dyn Source, header: &[u8]) -> Result<Vec<u8>, KernelFault> {
    let (offset, len) = match (u32_at(header, PAYLOAD_OFFSET), u32_at(header, PAYLOAD_LENGTH)) {
        (Some(offset), Some(len)) => (u64::from(offset), u64::from(len)),
        _ => {
            let (what, needed) = ("the set-up header", HEADER_LEN as u64);
            return Err(KernelFault::Truncated { what, needed, size: source.size() });
        }
    };
    if offset == 0 || len == 0 {
        return Err(KernelFault::NoPayload);
    }
    let sectors = match header[SETUP_SECTS] {
        0 => SETUP_SECTS_DEFAULT,
        sectors => sectors,
    };
    let start = (u64::from(sectors) + 1) * SECTOR + offset;
    let (needed, size) = (start + len, source.size());
    if needed > size {
        return Err(KernelFault::Truncated { what: "the payload", needed, size });
    }
    let mut payload = vec![0; len as usize];
    source.read_at(start, &mut payload)?;
    Ok(payload)
}
