//! The kernel inside a bzImage.
//!
//! Distributions ship a kernel as a program that uncompresses the real one.
//! Doing that on the host instead saves the guest up to a billion
//! instructions. The header is that of Documentation/arch/x86/boot.rst.

use std::io::Read;

use crate::decompress::Method;
use crate::{Error, Result};

/// Number of setup sectors, one byte.
const SETUP_SECTORS: usize = 0x1F1;
/// The bytes `HdrS`.
const MAGIC: usize = 0x202;
/// The boot protocol's version, two bytes.
const VERSION: usize = 0x206;
/// Where the payload begins, from the end of the setup code, four bytes.
const PAYLOAD_OFFSET: usize = 0x248;
/// The payload's length, four bytes.
const PAYLOAD_LENGTH: usize = 0x24C;
/// The first version that has the payload fields.
const VERSION_MIN: u16 = 0x0208;
const SECTOR: usize = 512;
/// The largest kernel that is unpacked.
const KERNEL_LEN_MAX: u64 = 1 << 30;

/// Whether these are the bytes of a bzImage.
pub fn is_bzimage(image: &[u8]) -> bool {
    image.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// Takes the ELF vmlinux out of a bzImage; `what` names it in errors.
pub fn unpack(image: &[u8], what: &str) -> Result<Vec<u8>> {
    let payload = payload(image).map_err(|why| Error::format(what, why))?;
    let kernel = match Method::of(payload) {
        Some(method) => {
            let mut kernel = Vec::new();
            let mut reader = method.reader(payload, what)?.take(KERNEL_LEN_MAX);
            let result = reader.read_to_end(&mut kernel);
            // After the stream may come the length of the uncompressed kernel,
            // which some formats take for a damaged second stream.
            if let Err(error) = result
                && !is_whole(payload, &kernel)
            {
                return Err(Error::format(what, format!("its payload is damaged: {error}")));
            }
            kernel
        }
        None => payload.to_vec(),
    };
    if !kernel.starts_with(b"\x7FELF") {
        return Err(Error::format(what, "its payload is no ELF kernel"));
    }
    Ok(kernel)
}

/// Whether the payload ends with the length of this kernel, as all but gzip's
/// own trailer are made to (scripts/Makefile.lib, `size_append`).
fn is_whole(payload: &[u8], kernel: &[u8]) -> bool {
    let length = payload.last_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    length.is_some_and(|length| length as usize == kernel.len())
}

fn payload(image: &[u8]) -> std::result::Result<&[u8], &'static str> {
    if !is_bzimage(image) {
        return Err("it has no bzImage header");
    }
    let version = number::<2>(image, VERSION).ok_or("its header is cut short")?;
    if version < usize::from(VERSION_MIN) {
        return Err("its boot protocol is older than 2.08 and does not say where the kernel is");
    }
    let sectors = number::<1>(image, SETUP_SECTORS).ok_or("its header is cut short")?;
    // Zero stands for four (boot.rst, setup_sects).
    let setup = (if sectors == 0 { 4 } else { sectors } + 1) * SECTOR;
    let offset = number::<4>(image, PAYLOAD_OFFSET).ok_or("its header is cut short")?;
    let length = number::<4>(image, PAYLOAD_LENGTH).ok_or("its header is cut short")?;
    let start = setup + offset;
    image.get(start..start + length).ok_or("its payload is cut short")
}

/// A little-endian number of N bytes.
fn number<const N: usize>(image: &[u8], at: usize) -> Option<usize> {
    let bytes = image.get(at..at + N)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x20F_u16.to_le_bytes());
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4]
            .copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    fn with_length(mut stream: Vec<u8>, data: &[u8]) -> Vec<u8> {
        stream.extend((data.len() as u32).to_le_bytes());
        stream
    }

    #[test]
    fn kernels_come_out() {
        let kernel: Vec<u8> =
            b"\x7FELF".iter().copied().chain((0..99_999).map(|i| i as u8)).collect();
        let lz4 = crate::decompress::tests::lz4_legacy(&kernel);
        let zstd = zstd::encode_all(kernel.as_slice(), 1).unwrap();
        let payloads = [kernel.clone(), with_length(lz4, &kernel), with_length(zstd, &kernel)];
        for payload in payloads {
            assert!(unpack(&image(&payload), "vmlinuz").unwrap() == kernel);
        }
    }

    fn check(image: &[u8], why: &str) {
        let error = unpack(image, "vmlinuz").unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        check(b"", "no bzImage header");
        check(&image(b"")[..0x207], "cut short");
        check(&image(b"\x7FELF")[..1030], "payload is cut short");
        check(&image(b"no kernel"), "no ELF");
        check(&image(b"\x89LZO"), "LZO");
        check(&image(b"\x28\xB5\x2F\xFDdamaged"), "damaged");
        let mut old = image(b"\x7FELF");
        old[VERSION] = 7;
        check(&old, "older than 2.08");
    }
}
