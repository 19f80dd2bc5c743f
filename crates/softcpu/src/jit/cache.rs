//! The translations of one vCPU, and how jumps find them by address.

use std::ptr::NonNull;

use super::memory::CodeMemory;
use super::translate::{Exit, Translation, leave_by};
use crate::op::Op;
use crate::tlb::Tlb;

const JUMP_SLOTS: usize = 4096;
/// The index of an address's slot: its bits from 0 and from 12 on, mixed.
pub const JUMP_INDEX_MASK: i32 = JUMP_SLOTS as i32 - 1;
/// Log2 of a slot's bytes.
pub const JUMP_SLOT_SHIFT: u8 = 4;
/// Exits after which everything is dropped.
const EXITS_MAX: usize = 1 << 22;

/// What an address's translation is, if it is that address.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct JumpSlot {
    /// The address.
    pub key: u64,
    /// Where its translation starts.
    pub code: u64,
}

const _: () = assert!(size_of::<JumpSlot>() == 1 << JUMP_SLOT_SHIFT);

fn slot_of(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (JUMP_SLOTS - 1)
}

/// Addresses whose translations are known, of one privilege.
struct Table {
    slots: Box<[JumpSlot; JUMP_SLOTS]>,
    /// The slots in use.
    used: Vec<u16>,
}

impl Default for Table {
    fn default() -> Self {
        let slots: Vec<_> = (0..JUMP_SLOTS).map(Self::empty).collect();
        let slots = slots.into_boxed_slice();
        Self {
            slots: slots.try_into().unwrap_or_else(|_| unreachable!("the length is JUMP_SLOTS")),
            used: Vec::new(),
        }
    }
}

impl Table {
    /// An address whose slot is another one: none that is looked up here.
    fn empty(index: usize) -> JumpSlot {
        JumpSlot { key: index as u64 ^ 1, code: 0 }
    }

    fn insert(&mut self, rip: u64, code: u64) {
        let index = slot_of(rip);
        if self.slots[index].code == 0 {
            self.used.push(index as u16);
        }
        self.slots[index] = JumpSlot { key: rip, code };
    }

    fn clear(&mut self) {
        for index in self.used.drain(..) {
            self.slots[usize::from(index)] = Self::empty(usize::from(index));
        }
    }
}

/// Addresses whose translations are known, for indirect jumps and those into other pages. They are
/// forgotten when a mapping may have changed that they rest on.
#[derive(Default)]
pub struct Jumps {
    kernel: Table,
    user: Table,
    /// The TLB's generations when the tables were last looked at.
    seen: (u32, u32),
    /// The kernel runs code in the lower half of the address space.
    low_kernel: bool,
}

impl Jumps {
    /// The table for code of this privilege, as mappings are now.
    pub fn address(&mut self, user: bool, tlb: &Tlb) -> u64 {
        let now = (tlb.low_generation, tlb.high_generation);
        if now != self.seen {
            self.user.clear();
            if now.1 != self.seen.1 || self.low_kernel {
                self.kernel.clear();
                self.low_kernel = false;
            }
            self.seen = now;
        }
        let table = if user { &self.user } else { &self.kernel };
        table.slots.as_ptr() as u64
    }

    /// Remembers the translation of `rip`. The tables are as mappings are now.
    pub fn insert(&mut self, rip: u64, user: bool, code: u64) {
        if user {
            return self.user.insert(rip, code);
        }
        self.low_kernel |= rip >> 63 == 0;
        self.kernel.insert(rip, code);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.user.clear();
        self.kernel.clear();
    }
}

/// Where a translation is, and what it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Offset in the code memory of the entry that checks the page's version.
    pub checked: u32,
    /// Of the entry behind that check.
    pub linked: u32,
    /// The part that is translated.
    pub part: Part,
}

/// The part of a block that is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Place of its first op in the block's row.
    pub first: u8,
    /// Place of the op behind it.
    pub behind: u8,
    /// Offset of the instruction behind it from the block's start.
    pub end: u8,
    /// The first op that is not translated, if any.
    pub unknown: Option<NonNull<Op>>,
    /// The flags that are put away at its end.
    pub matter: u32,
}

/// The code memory and what belongs to the code in it.
pub struct Translations {
    /// The code.
    pub memory: CodeMemory,
    /// Addresses whose translations are known.
    pub jumps: Jumps,
    entries: Vec<Entry>,
    exits: Vec<Exit>,
    full: bool,
}

impl Translations {
    /// Nothing translated yet, with room for `bytes` of code.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        Ok(Self {
            memory: CodeMemory::new(bytes)?,
            jumps: Jumps::default(),
            entries: Vec::new(),
            exits: Vec::new(),
            full: false,
        })
    }

    /// Number of the next exit.
    pub fn next_exit(&self) -> u32 {
        self.exits.len() as u32
    }

    /// Whether there was no room for a translation.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Keeps a translation that was made for this place, and gives its number.
    pub fn keep(&mut self, translation: &Translation, part: Part) -> Option<usize> {
        let checked = self.memory.next();
        if self.exits.len() > EXITS_MAX || !self.memory.append(&translation.code) {
            self.full = true;
            return None;
        }
        self.exits.extend_from_slice(&translation.exits);
        self.entries.push(Entry { checked, linked: checked + translation.linked, part });
        Some(self.entries.len() - 1)
    }

    /// The translation with this number.
    pub fn entry(&self, number: usize) -> Entry {
        self.entries[number]
    }

    /// Adds a piece of code that leaves by `exit`, and gives its offset; 0 if there is no room.
    pub fn keep_exit(&mut self, exit: Exit) -> u32 {
        let at = self.memory.next();
        let code = leave_by(self.next_exit());
        self.full |= !self.memory.append(&code);
        self.exits.push(exit);
        at
    }

    /// The exit with this number.
    pub fn exit(&self, number: u32) -> Exit {
        self.exits[number as usize]
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.jumps.clear();
        self.entries.clear();
        self.exits.clear();
        self.full = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(jumps: &mut Jumps, rip: u64, user: bool, tlb: &Tlb) -> bool {
        jumps.address(user, tlb);
        let table = if user { &jumps.user } else { &jumps.kernel };
        table.slots[slot_of(rip)].key == rip
    }

    #[test]
    fn a_flush_forgets_what_it_may_have_unmapped() {
        const USER: u64 = 0x40_1000;
        const KERNEL: u64 = 0xFFFF_FFFF_8100_0010;
        const LOW_KERNEL: u64 = 0x10_0020;
        let (mut jumps, mut tlb) = (Jumps::default(), Tlb::default());
        let all = [(USER, true), (KERNEL, false), (LOW_KERNEL, false)];
        let mut check = |low_kernel: bool, flush: &dyn Fn(&mut Tlb), expected: [bool; 3]| {
            for (rip, user) in all.into_iter().filter(|(rip, _)| low_kernel || *rip != LOW_KERNEL) {
                jumps.address(user, &tlb);
                jumps.insert(rip, user, 1);
                assert!(found(&mut jumps, rip, user, &tlb));
            }
            flush(&mut tlb);
            assert_eq!(all.map(|(rip, user)| found(&mut jumps, rip, user, &tlb)), expected);
        };
        check(false, &|_| {}, [true, true, false]);
        check(false, &Tlb::flush_non_global, [false, true, false]);
        check(true, &Tlb::flush_non_global, [false, false, false]);
        check(false, &Tlb::flush_all, [false, false, false]);
        check(false, &|tlb| tlb.flush_page(KERNEL), [false, false, false]);
    }

    #[test]
    fn no_address_is_found_in_an_empty_slot() {
        let table = Table::default();
        for (index, slot) in table.slots.iter().enumerate() {
            assert_ne!(slot_of(slot.key), index);
        }
    }
}
