//! The instructions, a row for each opcode or family of opcodes.

use std::sync::OnceLock;

/// What stands before the opcode byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    /// Nothing.
    One,
    /// 0F.
    Two,
    /// 0F 38.
    Three38,
    /// 0F 3A.
    Three3A,
}

/// The ModRM byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModRm {
    /// There is none.
    Absent,
    /// Any.
    Any,
    /// Any memory operand.
    Memory,
    /// Any, with these digits in the place of the register.
    Digits(&'static [u8]),
    /// Memory, with these digits.
    MemoryDigits(&'static [u8]),
    /// A register, with these digits.
    RegisterDigits(&'static [u8]),
}

/// What follows the operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Imm {
    /// Nothing.
    None,
    /// A byte.
    Byte,
    /// A byte that counts bits.
    Count,
    /// 2 or 4 bytes, by operand size.
    Word,
    /// 2, 4 or 8 bytes, by operand size.
    Full,
    /// Two bytes and a byte: ENTER.
    Enter,
    /// Two bytes.
    Two,
    /// An address: MOV of the accumulator.
    Address,
    /// A branch displacement of 1 byte.
    Near,
    /// A branch displacement of 4 bytes.
    Far,
}

/// Which prefixes make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefixes {
    /// 66 and REX.W choose the operand size.
    pub(crate) size: bool,
    /// LOCK is allowed, for memory.
    pub(crate) lock: bool,
    /// F2 and F3 repeat.
    pub(crate) repeat: bool,
    /// A prefix that belongs to the opcode, or 0.
    pub(crate) mandatory: u8,
}

/// An opcode, or `count` in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) map: Map,
    pub(crate) first: u8,
    pub(crate) count: u8,
    pub(crate) modrm: ModRm,
    pub(crate) imm: Imm,
    pub(crate) prefixes: Prefixes,
    /// How often it is taken, compared with others.
    pub(crate) weight: u16,
}

const fn new(map: Map, first: u8, modrm: ModRm, imm: Imm) -> Row {
    let prefixes = Prefixes { size: false, lock: false, repeat: false, mandatory: 0 };
    Row { map, first, count: 1, modrm, imm, prefixes, weight: 4 }
}

const fn one(first: u8, modrm: ModRm, imm: Imm) -> Row {
    new(Map::One, first, modrm, imm)
}

const fn two(first: u8, modrm: ModRm, imm: Imm) -> Row {
    new(Map::Two, first, modrm, imm)
}

impl Row {
    const fn count(self, count: u8) -> Self {
        Self { count, ..self }
    }
    const fn size(self) -> Self {
        Self { prefixes: Prefixes { size: true, ..self.prefixes }, ..self }
    }
    const fn lock(self) -> Self {
        Self { prefixes: Prefixes { lock: true, ..self.prefixes }, ..self }
    }
    const fn repeat(self) -> Self {
        Self { prefixes: Prefixes { repeat: true, ..self.prefixes }, ..self }
    }
    const fn with(self, mandatory: u8) -> Self {
        Self { prefixes: Prefixes { mandatory, ..self.prefixes }, ..self }
    }
    const fn weight(self, weight: u16) -> Self {
        Self { weight, ..self }
    }
}

use Imm::{Address, Byte, Count, Enter, Far, Full, Near, None as No, Two, Word};
use ModRm::{Absent, Any, Digits, Memory, MemoryDigits, RegisterDigits};

const ALL: ModRm = Digits(&[0, 1, 2, 3, 4, 5, 6, 7]);

/// The integer instructions. ADD to CMP, opcodes 00 to 3D, are added by [`integer`].
const INTEGER: &[Row] = &[
    one(0x80, ALL, Byte).lock().weight(10),
    one(0x81, ALL, Word).size().lock().weight(10),
    one(0x83, ALL, Byte).size().lock().weight(10),
    one(0x84, Any, No).weight(6),
    one(0x85, Any, No).size().weight(6),
    one(0x86, Any, No).lock(),
    one(0x87, Any, No).size().lock(),
    one(0x88, Any, No).weight(6),
    one(0x89, Any, No).size().weight(6),
    one(0x8A, Any, No).weight(6),
    one(0x8B, Any, No).size().weight(6),
    one(0x8D, Memory, No).size().weight(12),
    one(0x8F, Digits(&[0]), No).size(),
    one(0xFE, Digits(&[0, 1]), No).lock().weight(6),
    one(0xFF, Digits(&[0, 1]), No).size().lock().weight(8),
    one(0xFF, Digits(&[2, 4]), No).weight(1),
    one(0xFF, Digits(&[6]), No).size(),
    one(0xF6, Digits(&[0, 1]), Byte),
    one(0xF7, Digits(&[0, 1]), Word).size(),
    one(0xF6, Digits(&[2, 3]), No).lock().weight(6),
    one(0xF7, Digits(&[2, 3]), No).size().lock().weight(8),
    one(0xF6, Digits(&[4, 5]), No).weight(6),
    one(0xF7, Digits(&[4, 5]), No).size().weight(8),
    one(0xF6, Digits(&[6, 7]), No).weight(3),
    one(0xF7, Digits(&[6, 7]), No).size().weight(5),
    one(0x50, Absent, No).count(16).size().weight(8),
    one(0x63, Any, No).size(),
    one(0x68, Absent, Word).size().weight(2),
    one(0x6A, Absent, Byte).size().weight(2),
    one(0x69, Any, Word).size().weight(6),
    one(0x6B, Any, Byte).size().weight(6),
    one(0x90, Absent, No).count(8).size().weight(6),
    one(0x98, Absent, No).count(2).size().weight(6),
    one(0x9C, Absent, No).size().weight(3),
    one(0x9D, Absent, No).size().weight(3),
    one(0x9E, Absent, No).count(2).weight(6),
    one(0xA0, Absent, Address),
    one(0xA1, Absent, Address).size(),
    one(0xA2, Absent, Address),
    one(0xA3, Absent, Address).size(),
    one(0xA4, Absent, No).repeat().weight(5),
    one(0xA5, Absent, No).size().repeat().weight(6),
    one(0xA6, Absent, No).repeat().weight(5),
    one(0xA7, Absent, No).size().repeat().weight(6),
    one(0xAA, Absent, No).repeat().weight(5),
    one(0xAB, Absent, No).size().repeat().weight(6),
    one(0xAC, Absent, No).repeat().weight(5),
    one(0xAD, Absent, No).size().repeat().weight(6),
    one(0xAE, Absent, No).repeat().weight(5),
    one(0xAF, Absent, No).size().repeat().weight(6),
    one(0xA8, Absent, Byte),
    one(0xA9, Absent, Word).size(),
    one(0xB0, Absent, Byte).count(8),
    one(0xB8, Absent, Full).count(8).size(),
    one(0xC0, ALL, Count).weight(10),
    one(0xC1, ALL, Count).size().weight(14),
    one(0xD0, ALL, No).weight(6),
    one(0xD1, ALL, No).size().weight(8),
    one(0xD2, ALL, No).weight(8),
    one(0xD3, ALL, No).size().weight(12),
    one(0xC2, Absent, Two).weight(1),
    one(0xC3, Absent, No).weight(1),
    one(0xC6, Digits(&[0]), Byte),
    one(0xC7, Digits(&[0]), Word).size(),
    one(0xC8, Absent, Enter).size(),
    one(0xC9, Absent, No).size().weight(2),
    one(0xD7, Absent, No),
    one(0xE0, Absent, Near).count(4).weight(8),
    one(0x70, Absent, Near).count(16).weight(40),
    one(0xE8, Absent, Far).weight(3),
    one(0xE9, Absent, Far).weight(2),
    one(0xEB, Absent, Near).weight(2),
    one(0xF5, Absent, No).weight(2),
    one(0xF8, Absent, No).count(2).weight(2),
    one(0xFC, Absent, No).count(2).weight(3),
    two(0x0B, Absent, No).weight(1),
    two(0x0D, MemoryDigits(&[0, 1]), No).weight(1),
    two(0x18, MemoryDigits(&[0, 1, 2, 3]), No).weight(1),
    two(0x1F, Any, No).size().weight(2),
    two(0x40, Any, No).count(16).size().weight(16),
    two(0x80, Absent, Far).count(16).weight(8),
    two(0x90, Any, No).count(16).weight(12),
    two(0xA3, Any, No).size().weight(5),
    two(0xAB, Any, No).size().lock().weight(5),
    two(0xB3, Any, No).size().lock().weight(5),
    two(0xBB, Any, No).size().lock().weight(5),
    two(0xBA, ALL, Count).size().lock().weight(12),
    two(0xA4, Any, Count).size().weight(6),
    two(0xA5, Any, No).size().weight(6),
    two(0xAC, Any, Count).size().weight(6),
    two(0xAD, Any, No).size().weight(6),
    two(0xAE, RegisterDigits(&[5, 6, 7]), No).weight(1),
    two(0xAF, Any, No).size().weight(10),
    two(0xB0, Any, No).lock().weight(5),
    two(0xB1, Any, No).size().lock().weight(8),
    two(0xB6, Any, No).count(2).size().weight(8),
    two(0xBE, Any, No).count(2).size().weight(8),
    two(0xBC, Any, No).count(2).size().weight(10),
    two(0xB8, Any, No).size().with(0xF3).weight(5),
    two(0xC0, Any, No).lock().weight(5),
    two(0xC1, Any, No).size().lock().weight(8),
    two(0xC3, Memory, No).weight(2),
    two(0xC7, MemoryDigits(&[1]), No).size().lock().weight(6),
    two(0xC8, Absent, No).count(8).size().weight(8),
    new(Map::Three38, 0xF0, Any, No).count(2).size().with(0xF2).weight(6),
];

/// A few of the SSE and x87 instructions: the crate they are in has a test of its own.
const FLOATING: &[Row] = &[
    two(0x10, Any, No).count(2).with(0x66),
    two(0x10, Any, No).count(2).with(0xF2),
    two(0x10, Any, No).count(2).with(0xF3),
    two(0x10, Any, No).count(2),
    two(0x14, Any, No).count(2),
    two(0x28, Any, No).count(2).weight(6),
    two(0x28, Any, No).count(2).with(0x66).weight(6),
    two(0x2A, Any, No).size().with(0xF2),
    two(0x2A, Any, No).size().with(0xF3),
    two(0x2C, Any, No).count(2).size().with(0xF2),
    two(0x2C, Any, No).count(2).size().with(0xF3),
    two(0x2E, Any, No).count(2).with(0x66).weight(6),
    two(0x2E, Any, No).count(2).weight(6),
    two(0x51, Any, No),
    two(0x51, Any, No).with(0xF2),
    two(0x54, Any, No).count(12).weight(6),
    two(0x58, Any, No).count(8).with(0xF2).weight(6),
    two(0x58, Any, No).count(8).with(0xF3).weight(6),
    two(0x60, Any, No).count(12).weight(4),
    two(0x60, Any, No).count(16).with(0x66).weight(6),
    two(0x6F, Any, No).with(0xF3),
    two(0x7E, Any, No).count(2).with(0x66),
    two(0x7E, Any, No).with(0xF3),
    two(0x7F, Any, No).with(0xF3),
    two(0x70, Any, Byte).with(0x66),
    two(0x74, Any, No).count(3),
    two(0x77, Absent, No).weight(2),
    two(0xC2, Any, Byte),
    two(0xC6, Any, Byte).with(0x66),
    two(0xD1, Any, No).count(5),
    two(0xD1, Any, No).count(5).with(0x66),
    two(0xD8, Any, No).count(14).weight(6),
    two(0xD8, Any, No).count(14).with(0x66).weight(8),
    two(0xEF, Any, No).with(0x66).weight(6),
    two(0xF8, Any, No).count(7).with(0x66).weight(6),
    new(Map::Three38, 0x00, Any, No).with(0x66),
    new(Map::Three38, 0x17, Any, No).with(0x66),
    new(Map::Three3A, 0x0F, Any, Byte).with(0x66),
    one(0xD8, Digits(&[0, 1, 2, 3, 4, 5, 6, 7]), No).weight(6),
    one(0xD9, MemoryDigits(&[0, 2, 3, 7]), No).weight(4),
    one(0xD9, RegisterDigits(&[0, 1, 4, 5]), No).weight(6),
    one(0xDA, Digits(&[0, 1, 2, 3, 4, 5, 6, 7]), No).weight(4),
    one(0xDB, MemoryDigits(&[0, 1, 2, 3, 5, 7]), No).weight(4),
    one(0xDB, RegisterDigits(&[0, 1, 2, 3, 5, 6]), No).weight(4),
    one(0xDC, Digits(&[0, 1, 2, 3, 4, 5, 6, 7]), No).weight(4),
    one(0xDD, MemoryDigits(&[0, 1, 2, 3, 7]), No).weight(4),
    one(0xDD, RegisterDigits(&[0, 2, 3, 4, 5]), No).weight(4),
    one(0xDE, MemoryDigits(&[0, 1, 2, 3, 4, 5, 6, 7]), No).weight(4),
    one(0xDF, MemoryDigits(&[0, 1, 2, 3, 5, 7]), No).weight(4),
    one(0xDF, RegisterDigits(&[5, 6]), No).weight(2),
];

/// Rows, to be drawn by weight.
pub(crate) struct Table {
    rows: Vec<Row>,
    /// For each unit of weight, the row.
    tickets: Vec<u16>,
}

impl Table {
    fn new(rows: Vec<Row>) -> Self {
        let of_row =
            |(n, row): (usize, &Row)| std::iter::repeat_n(n as u16, usize::from(row.weight));
        let tickets = rows.iter().enumerate().flat_map(of_row).collect();
        Self { rows, tickets }
    }

    /// The row of ticket `number`.
    pub(crate) fn row(&self, number: u64) -> &Row {
        let ticket = self.tickets[(number % self.tickets.len() as u64) as usize];
        &self.rows[usize::from(ticket)]
    }
}

/// The integer instructions.
pub(crate) fn integer() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rows = INTEGER.to_vec();
        for family in 0..8 {
            let first = family * 8;
            rows.push(one(first, Any, No).lock().weight(4));
            rows.push(one(first + 1, Any, No).size().lock().weight(6));
            rows.push(one(first + 2, Any, No).weight(3));
            rows.push(one(first + 3, Any, No).size().weight(5));
            rows.push(one(first + 4, Absent, Byte).weight(2));
            rows.push(one(first + 5, Absent, Word).size().weight(2));
        }
        Table::new(rows)
    })
}

/// The SSE and x87 instructions.
pub(crate) fn floating() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::new(FLOATING.to_vec()))
}
