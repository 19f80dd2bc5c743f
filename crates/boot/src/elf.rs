//! Reading an ELF kernel: which bytes go where, and where to start.
//!
//! The parser is our own: a kernel needs the file header, the program headers and one note, and
//! the general-purpose ELF crates either want the whole file in memory or trust it more than a
//! hostile file deserves. Layouts are those of the System V ABI, chapters 4 and 5.

use std::io;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{KernelFault, Source};

/// What every ELF file starts with.
pub(crate) const MAGIC: [u8; 4] = *b"\x7fELF";

/// Program headers of one kernel: Linux has 5.
const PROGRAM_HEADERS_MAX: usize = 64;
/// Bytes of notes that are searched for the PVH entry: Linux has 512.
const NOTES_BYTES_MAX: u64 = 64 << 10;

const FILE_HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// The note's owner, with its NUL.
const NOTE_OWNER: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen's public/elfnote.h).
const NOTE_PHYS32_ENTRY: u32 = 18;

/// A kernel that has been read but not placed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    /// Physical address of the 64-bit entry.
    pub entry: u64,
    /// Physical address of the PVH entry, if the kernel has one.
    pub pvh_entry: Option<u32>,
    /// What is to be loaded: at least one, each inside of the file and free of overflows.
    pub segments: Vec<Segment>,
}

/// A piece of the file and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its number among the program headers.
    pub index: usize,
    /// Where it is in the file.
    pub offset: u64,
    /// How much of it is in the file; the rest is zeros.
    pub file_len: u64,
    /// Physical address.
    pub address: u64,
    /// Bytes in memory, greater than 0.
    pub memory_len: u64,
}

/// Reads the headers of `source`, which starts with [`MAGIC`].
pub(crate) fn parse(source: &dyn Source) -> Result<Elf, KernelFault> {
    let header = read(source, 0, FILE_HEADER_LEN as u64, "the ELF header")?;
    check_kind(&header)?;
    let half = |offset| u16_at(&header, offset).unwrap_or(0);
    let word = |offset| u64_at(&header, offset).unwrap_or(0);
    let (entry, table_offset, count) = (word(24), word(32), usize::from(half(56)));
    if count > PROGRAM_HEADERS_MAX {
        return Err(KernelFault::TooManySegments { count, max: PROGRAM_HEADERS_MAX });
    }
    let table_len = (count * PROGRAM_HEADER_LEN) as u64;
    let table = read(source, table_offset, table_len, "the table of program headers")?;

    let mut elf = Elf { entry, pvh_entry: None, segments: Vec::new() };
    for (index, header) in table.chunks_exact(PROGRAM_HEADER_LEN).enumerate() {
        match u32_at(header, 0) {
            Some(PT_LOAD) => elf.segments.extend(segment(source, index, header)?),
            Some(PT_NOTE) if elf.pvh_entry.is_none() => elf.pvh_entry = notes(source, header)?,
            _ => (),
        }
    }
    if elf.segments.is_empty() { Err(KernelFault::NoSegments) } else { Ok(elf) }
}

/// Checks that the file is for a 64-bit x86 CPU.
fn check_kind(header: &[u8]) -> Result<(), KernelFault> {
    let half = |offset| u64::from(u16_at(header, offset).unwrap_or(0));
    for (field, value, allowed, expected) in [
        ("class", header[4].into(), &[2u64][..], "64-bit (2)"),
        ("byte order", header[5].into(), &[1], "little-endian (1)"),
        ("type", half(16), &[2, 3], "an executable (2 or 3)"),
        ("machine", half(18), &[62], "x86-64 (62)"),
        ("size of a program header", half(54), &[PROGRAM_HEADER_LEN as u64], "56"),
    ] {
        if !allowed.contains(&value) {
            return Err(KernelFault::ElfKind { field, value, expected });
        }
    }
    Ok(())
}

/// Reads one PT_LOAD header. None if it takes no memory.
fn segment(
    source: &dyn Source,
    index: usize,
    header: &[u8],
) -> Result<Option<Segment>, KernelFault> {
    let word = |offset| u64_at(header, offset).unwrap_or(0);
    let (offset, address, file_len, memory_len) = (word(8), word(24), word(32), word(40));
    let malformed = |reason| KernelFault::Segment { index, reason };
    if file_len > memory_len {
        return Err(malformed("it is longer in the file than in memory"));
    }
    let file_end = offset.checked_add(file_len).ok_or(malformed("its place in the file wraps"))?;
    address.checked_add(memory_len).ok_or(malformed("its address wraps"))?;
    check_size(source, "a segment", file_end)?;
    let segment = Segment { index, offset, file_len, address, memory_len };
    Ok((memory_len > 0).then_some(segment))
}

/// Searches one PT_NOTE segment for the PVH entry. Notes that make no sense end the search.
fn notes(source: &dyn Source, header: &[u8]) -> Result<Option<u32>, KernelFault> {
    let word = |offset| u64_at(header, offset).unwrap_or(0);
    let (offset, len) = (word(8), word(32).min(NOTES_BYTES_MAX));
    let align = if word(48) == 8 { 8 } else { 4 };
    let notes = read(source, offset, len, "a note segment")?;
    Ok(find_entry_note(&notes, align))
}

/// Walks notes: three words (name length, value length, type), name and value, both padded.
fn find_entry_note(mut notes: &[u8], align: usize) -> Option<u32> {
    loop {
        let name_len = u32_at(notes, 0)? as usize;
        let value_len = u32_at(notes, 4)? as usize;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..)?.get(..name_len)?;
        let value_start = (12 + name_len).next_multiple_of(align);
        let value = notes.get(value_start..)?.get(..value_len)?;
        if name == NOTE_OWNER && kind == NOTE_PHYS32_ENTRY {
            // Kernels write it with 4 or with 8 bytes.
            return match value_len {
                4 => u32_at(value, 0),
                8 => u64_at(value, 0)?.try_into().ok(),
                _ => None,
            };
        }
        notes = notes.get((value_start + value_len).next_multiple_of(align)..)?;
    }
}

/// Reads `len` bytes at `offset`; a caller's own limit bounds `len`.
fn read(
    source: &dyn Source,
    offset: u64,
    len: u64,
    what: &'static str,
) -> Result<Vec<u8>, KernelFault> {
    check_size(source, what, offset.saturating_add(len))?;
    let mut bytes = vec![0; len as usize];
    source.read_at(offset, &mut bytes).map_err(|e: io::Error| KernelFault::Read(e))?;
    Ok(bytes)
}

fn check_size(source: &dyn Source, what: &'static str, needed: u64) -> Result<(), KernelFault> {
    let size = source.size();
    if needed <= size { Ok(()) } else { Err(KernelFault::Truncated { what, needed, size }) }
}
