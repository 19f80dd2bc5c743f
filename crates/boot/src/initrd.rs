//! Loading the initial RAM disk.
//!
//! Linux takes a sequence of cpio archives, each plain or compressed, with zeros between them
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Parts are put one behind the
//! other, 4-byte aligned. Compressed archives are unpacked here, since the host does it faster
//! than a guest (much faster than one on a software CPU); a plain archive in front, such as one
//! with microcode, is stepped over. What is unpacked here takes no more than a quarter of the room;
//! archives beyond that are left for the guest, which then holds them only once unpacked.

use std::io;

use memory::{GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion, PAGE_SIZE};

use crate::error::InflateFault;
use crate::inflate::{self, Compression};
use crate::{Error, InitrdFault, Input, Source};

/// Unpacked archives may take this part of the room between the kernel and the end of memory.
const INFLATED_SHARE: u64 = 4;
/// Alignment of an archive, and of the parts of one.
const ALIGN: u64 = 4;
/// A cpio entry's header: "newc" with or without checksum (cpio(5)).
const CPIO_HEADER_LEN: u64 = 110;
const CPIO_MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
const CPIO_FILE_SIZE: usize = 54;
const CPIO_NAME_SIZE: usize = 94;

/// An initial RAM disk in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd {
    /// Physical address, a multiple of the page size and below 4 GiB.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// Loads the archives `parts` at the top of the first range of RAM, above `kernel_end`. None if
/// there are no parts.
pub fn load_initrd(
    memory: &GuestMemory,
    parts: &[Input<'_>],
    kernel_end: u64,
) -> Result<Option<Initrd>, Error> {
    let Some(first) = memory.iter().next().filter(|_| !parts.is_empty()) else { return Ok(None) };
    let top = first.last_addr().0 + 1;
    let room = top.saturating_sub(kernel_end.next_multiple_of(PAGE_SIZE));
    let mut budget = room / INFLATED_SHARE;
    let mut pieces = Vec::new();
    let mut len = 0u64;
    for part in parts {
        let named = |fault| Error::Initrd { file: part.name.to_owned(), fault };
        for piece in pieces_of(part.source, room, &mut budget).map_err(named)? {
            let start = len.next_multiple_of(ALIGN);
            len = start + piece.len();
            if len.next_multiple_of(PAGE_SIZE) > room {
                return Err(named(InitrdFault::TooBig { needed: len, room }));
            }
            pieces.push((start, part, piece));
        }
    }
    let address = top - len.next_multiple_of(PAGE_SIZE);
    for (start, part, piece) in pieces {
        let named = |e| Error::Initrd { file: part.name.to_owned(), fault: InitrdFault::Read(e) };
        let at = GuestAddress(address + start);
        match piece {
            Piece::Verbatim { offset, len } => part.source.copy_to(offset, len, memory, at),
            Piece::Unpacked(bytes) => (&bytes[..]).copy_to(0, bytes.len() as u64, memory, at),
        }
        .map_err(named)?;
    }
    Ok(Some(Initrd { address, len }))
}

/// One archive, as it goes to the guest.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// Bytes of the source.
    Verbatim { offset: u64, len: u64 },
    /// What such bytes unpack to.
    Unpacked(Vec<u8>),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Verbatim { len, .. } => *len,
            Self::Unpacked(bytes) => bytes.len() as u64,
        }
    }
}

/// The archives of `source`, unpacked where they are compressed, which takes from the `budget`.
fn pieces_of(source: &dyn Source, room: u64, budget: &mut u64) -> Result<Vec<Piece>, InitrdFault> {
    let size = source.size();
    if size == 0 {
        return Err(InitrdFault::Empty);
    }
    if size > room {
        return Err(InitrdFault::TooBig { needed: size, room });
    }
    let plain = plain_len(source)?;
    let mut pieces = Vec::new();
    if plain > 0 {
        pieces.push(Piece::Verbatim { offset: 0, len: plain });
    }
    if plain == size {
        return Ok(pieces);
    }
    let mut rest = vec![0; (size - plain) as usize];
    source.read_at(plain, &mut rest)?;
    unpack_all(&rest, plain, budget, &mut pieces)?;
    Ok(pieces)
}

/// Unpacks the compressed archives at the start of `rest`, which lies at `offset` of its source.
/// From the first thing on that is not compressed, or is too big, all goes to the guest as it is.
fn unpack_all(
    rest: &[u8],
    offset: u64,
    budget: &mut u64,
    pieces: &mut Vec<Piece>,
) -> Result<(), InitrdFault> {
    let mut input = rest;
    loop {
        let zeros = input.iter().take_while(|b| **b == 0).count();
        input = &input[zeros..];
        if input.is_empty() {
            return Ok(());
        }
        let at = offset + (rest.len() - input.len()) as u64;
        let verbatim = Piece::Verbatim { offset: at, len: input.len() as u64 };
        let Ok(compression) = Compression::detect(input) else {
            pieces.push(verbatim);
            return Ok(());
        };
        match inflate::inflate(compression, &mut input, *budget, 0) {
            Ok(bytes) => {
                *budget -= bytes.len() as u64;
                pieces.push(Piece::Unpacked(bytes));
            }
            // The guest's kernel may know more compressions, and has more room once it runs.
            Err(InflateFault::TooBig { .. } | InflateFault::Unsupported { .. }) => {
                pieces.push(verbatim);
                return Ok(());
            }
            Err(fault @ (InflateFault::Corrupt { .. } | InflateFault::Unknown { .. })) => {
                return Err(fault.into());
            }
        }
    }
}

/// How many bytes of `source` are to be taken as they are, before a compressed archive starts.
fn plain_len(source: &dyn Source) -> io::Result<u64> {
    let size = source.size();
    let mut at = 0;
    while at < size {
        if let Some(end) = cpio_entry_end(source, at)? {
            at = end.next_multiple_of(ALIGN);
            continue;
        }
        let mut window = [0; PAGE_SIZE as usize];
        let window = &mut window[..(size - at).min(PAGE_SIZE) as usize];
        source.read_at(at, window)?;
        match window.iter().take_while(|b| **b == 0).count() as u64 {
            0 if Compression::detect(window).is_ok() => return Ok(at),
            0 => return Ok(size),
            // An archive after zeros is aligned, but a compressed one need not be.
            zeros => at += zeros,
        }
    }
    Ok(size)
}

/// Where the cpio entry at `at` ends, if there is one that lies inside of the source.
fn cpio_entry_end(source: &dyn Source, at: u64) -> io::Result<Option<u64>> {
    if source.size() - at < CPIO_HEADER_LEN {
        return Ok(None);
    }
    let mut header = [0; CPIO_HEADER_LEN as usize];
    source.read_at(at, &mut header)?;
    if !CPIO_MAGICS.contains(&&header[..6]) {
        return Ok(None);
    }
    let (Some(name_len), Some(file_len)) =
        (hex_at(&header, CPIO_NAME_SIZE), hex_at(&header, CPIO_FILE_SIZE))
    else {
        return Ok(None);
    };
    let name_end = (at + CPIO_HEADER_LEN + name_len).next_multiple_of(ALIGN);
    let end = name_end + file_len;
    Ok((end <= source.size()).then_some(end))
}

/// The 8 hexadecimal digits at `offset`.
fn hex_at(header: &[u8], offset: usize) -> Option<u64> {
    let digits = std::str::from_utf8(header.get(offset..offset + 8)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use memory::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{COMPRESSIONS, compress, cpio, ram};

    const MIB: u64 = 1 << 20;

    fn load(parts: &[&[u8]], mib: u64) -> Result<Vec<u8>, String> {
        let memory = ram(mib);
        let inputs: Vec<_> =
            parts.iter().map(|p| Input { name: "part", source: p as &dyn Source }).collect();
        let initrd = load_initrd(&memory, &inputs, MIB).map_err(|e| e.to_string())?.unwrap();
        assert_eq!(initrd.address % PAGE_SIZE, 0);
        assert_eq!((initrd.address + initrd.len).next_multiple_of(PAGE_SIZE), mib * MIB);
        let mut bytes = vec![0; initrd.len as usize];
        memory.read_slice(&mut bytes, GuestAddress(initrd.address)).unwrap();
        Ok(bytes)
    }

    #[test]
    fn no_parts_is_no_initrd() {
        assert!(load_initrd(&ram(2), &[], MIB).unwrap().is_none());
    }

    #[test]
    fn parts_are_aligned_and_unpacked() {
        let (one, two) = (cpio(&[("a", b"12345")]), cpio(&[("b", b"x")]));
        assert_eq!(load(&[&one], 2).unwrap(), one);
        assert_eq!(load(&[b"abcde", b"fg"], 2).unwrap(), b"abcde\0\0\0fg");
        let both = [&one[..], &two].concat();
        assert_eq!(load(&[&one, &two], 2).unwrap(), both);
        for compression in COMPRESSIONS {
            let packed = compress(compression, &two);
            assert_eq!(load(&[&packed], 2).unwrap(), two, "{compression:?}");
            // One file: a plain archive, padding, a compressed one, and one more.
            for pad in [0, 1, 512, 5000] {
                let mut file = [&one[..], &vec![0; pad], &packed].concat();
                let trailing = [&vec![0; 8][..], &packed].concat();
                if compression == Compression::Lz4 && pad == 0 {
                    // Nothing tells lz4's end from padding.
                    file.extend_from_slice(&trailing);
                } else if compression != Compression::Lz4 {
                    file.extend_from_slice(&trailing);
                }
                let got = load(&[&file], 2).unwrap();
                let found = got.windows(two.len()).filter(|w| *w == two).count();
                let expected = if compression == Compression::Lz4 && pad != 0 { 1 } else { 2 };
                assert_eq!(found, expected, "{compression:?} {pad}");
                assert!(got.starts_with(&one));
            }
        }
    }

    #[test]
    fn what_is_too_big_to_unpack_goes_as_it_is() {
        let packed = compress(Compression::Gzip, &vec![7; 300 << 10]);
        assert_eq!(load(&[&packed], 2).unwrap(), packed);
        assert_eq!(load(&[&packed], 4).unwrap(), vec![7; 300 << 10]);
        assert_eq!(load(&[b"BZh91AY and so on"], 2).unwrap(), b"BZh91AY and so on");
        // The budget is one for all archives, of all parts.
        let twice = load(&[&[&packed[..], &packed].concat(), &packed], 4).unwrap();
        assert_eq!(twice.len().div_ceil(1024), 600 + packed.len().div_ceil(1024));
    }

    proptest! {
        #[test]
        fn arbitrary_parts_never_panic(
            start in prop::sample::select(vec![&b""[..], b"070701", b"\x1F\x8B\x08", b"\x02\x21\x4C\x18"]),
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let _ = load(&[&[start, &bytes].concat()], 2);
        }

        #[test]
        fn damaged_archives_never_panic(
            compression in prop::sample::select(COMPRESSIONS.to_vec()),
            patches in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        ) {
            let plain = cpio(&[("a", b"12345"), ("b", &[7; 300])]);
            let mut file = [&plain[..], &compress(compression, &plain)].concat();
            for (at, byte) in patches {
                let at = at % file.len();
                file[at] = byte;
            }
            let _ = load(&[&file], 2);
        }
    }

    #[test]
    fn refusals_name_the_part() {
        let damaged = &compress(Compression::Gzip, &[7; 5000])[..20];
        let big = vec![1; (MIB + 1) as usize];
        for (parts, expected) in [
            (&[&b""[..]][..], "initrd part: is empty"),
            (
                &[&big[..]],
                "initrd part: does not fit: the initial RAM disk has 1048577 bytes so far, and \
                 between the kernel and the end of memory there are 1048576: give the machine \
                 more memory",
            ),
            (
                &[&big[..600_000], &big[..500_000]],
                "initrd part: does not fit: the initial RAM disk has 1100000 bytes so far, and \
                 between the kernel and the end of memory there are 1048576: give the machine \
                 more memory",
            ),
        ] {
            assert_eq!(load(parts, 2).unwrap_err(), expected);
        }
        let error = load(&[damaged], 2).unwrap_err();
        assert!(error.starts_with("initrd part: cannot be unpacked: damaged gzip data"), "{error}");
        assert!(load(&[&[1; 10]], 1).is_err());
    }

    #[test]
    fn cpio_headers_that_lie_are_plain_bytes() {
        let mut lie = cpio(&[("a", b"12345")]);
        lie[CPIO_FILE_SIZE..CPIO_FILE_SIZE + 8].copy_from_slice(b"FFFFFFFF");
        assert_eq!(load(&[&lie], 2).unwrap(), lie);
        lie[CPIO_FILE_SIZE..CPIO_FILE_SIZE + 8].copy_from_slice(b"+FFFFFFF");
        assert_eq!(load(&[&lie], 2).unwrap(), lie);
    }
}
