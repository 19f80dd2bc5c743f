//! Blocks of decoded code: where they live, how they are found, and when they die.
//!
//! A block is keyed by the physical address of its first byte and by the code size, so that one
//! copy serves every address it is mapped at. It is a row of ops (see `op.rs`) in an arena that
//! only grows; when it reaches its limit everything is dropped at once, between two chains.
//!
//! A block is valid while the version of its page (`memory::PageState`) is what it was when the
//! block was decoded; every head checks that. Found blocks are also remembered by RIP in the jump
//! cache, which is valid while no mapping changed that it may rest on (`Tlb::*_generation`).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::Cpu;
use crate::op::{Op, next};
use crate::tlb::Tlb;

const JUMP_ENTRIES: usize = 4096;
const FETCH_ENTRIES: usize = 256;
/// Ops in a chunk of the arena.
const CHUNK: usize = 8192;
/// Ops after which all blocks are dropped: 32 MiB.
const OPS_MAX: usize = (32 << 20) / size_of::<Op>();

/// Plans after which all blocks are dropped, as rows that run once keep theirs.
const PLANS_MAX: usize = 1 << 18;

#[derive(Clone, Copy)]
struct JumpEntry {
    key: u64,
    generation: u32,
    head: NonNull<Op>,
}

#[derive(Clone, Copy)]
struct FetchEntry {
    key: u64,
    generation: u32,
    frame: u64,
}

/// The decoded code of one vCPU.
pub struct CodeCache {
    jumps: Box<[JumpEntry; JUMP_ENTRIES]>,
    fetches: Box<[FetchEntry; FETCH_ENTRIES]>,
    blocks: HashMap<u64, NonNull<Op>, BuildHasherDefault<KeyHasher>>,
    chunks: Vec<Vec<Op>>,
    ops: usize,
    /// The row of a block that runs once.
    once: Vec<Op>,
    /// What SSE and x87 instructions in the rows need to run.
    plans: Vec<simd::Plan>,
    /// Blocks decoded since the start.
    pub decoded: u64,
}

// SAFETY: the pointers are into the cache's own chunks, which move with it; only the owner of the
// `Cpu` that holds the cache reaches them.
unsafe impl Send for CodeCache {}

impl Default for CodeCache {
    fn default() -> Self {
        let no_jump = JumpEntry { key: 0, generation: 0, head: NonNull::dangling() };
        let no_fetch = FetchEntry { key: 0, generation: 0, frame: 0 };
        Self {
            jumps: boxed(no_jump),
            fetches: boxed(no_fetch),
            blocks: HashMap::default(),
            chunks: Vec::new(),
            ops: 0,
            once: Vec::new(),
            plans: Vec::new(),
            decoded: 0,
        }
    }
}

fn boxed<T: Copy, const N: usize>(value: T) -> Box<[T; N]> {
    let boxed = vec![value; N].into_boxed_slice();
    boxed.try_into().unwrap_or_else(|_| unreachable!("the length is N"))
}

/// The generation that entries for `address` must carry.
#[inline(always)]
fn generation(address: u64, tlb: &Tlb) -> u32 {
    if address >> 63 == 0 { tlb.low_generation } else { tlb.high_generation }
}

#[inline(always)]
fn jump_slot(key: u64) -> usize {
    (key ^ key >> 12) as usize & (JUMP_ENTRIES - 1)
}

impl CodeCache {
    /// The block at `rip`, if it is in the jump cache.
    #[inline(always)]
    pub fn known(&self, rip: u64, mode_key: u64, tlb: &Tlb) -> Option<NonNull<Op>> {
        let key = rip ^ mode_key;
        let entry = &self.jumps[jump_slot(key)];
        (entry.key == key && entry.generation == generation(rip, tlb)).then_some(entry.head)
    }

    /// Remembers the block at `rip`.
    pub fn remember(&mut self, rip: u64, mode_key: u64, tlb: &Tlb, head: NonNull<Op>) {
        let key = rip ^ mode_key;
        self.jumps[jump_slot(key)] = JumpEntry { key, generation: generation(rip, tlb), head };
    }

    /// The frame that code at linear address `linear` was last fetched from.
    pub fn frame(&self, linear: u64, mode_key: u64, tlb: &Tlb) -> Option<u64> {
        let key = linear >> 12 ^ mode_key;
        let entry = &self.fetches[key as usize & (FETCH_ENTRIES - 1)];
        (entry.key == key && entry.generation == generation(linear, tlb)).then_some(entry.frame)
    }

    /// Remembers where code at `linear` is fetched from.
    pub fn remember_frame(&mut self, linear: u64, mode_key: u64, tlb: &Tlb, frame: u64) {
        let key = linear >> 12 ^ mode_key;
        let entry = FetchEntry { key, generation: generation(linear, tlb), frame };
        self.fetches[key as usize & (FETCH_ENTRIES - 1)] = entry;
    }

    /// The valid block with this key.
    pub fn get(&self, key: u64) -> Option<NonNull<Op>> {
        let head = *self.blocks.get(&key)?;
        // SAFETY: heads in the map are in live chunks.
        is_current(unsafe { head.as_ref() }).then_some(head)
    }

    /// Moves a decoded row (head first, ending op last) into the arena.
    pub fn insert(&mut self, key: u64, row: &mut Vec<Op>) -> NonNull<Op> {
        self.decoded += 1;
        let full = self.chunks.last().is_none_or(|c| c.len() + row.len() > CHUNK);
        if full {
            self.chunks.push(Vec::with_capacity(CHUNK.max(row.len())));
        }
        self.ops += row.len();
        let chunk = self.chunks.last_mut().expect("one was just made sure of");
        let start = chunk.len();
        chunk.append(row);
        // The chunk never grows beyond its capacity, so its ops never move.
        let head = NonNull::from(&chunk[start]);
        self.blocks.insert(key, head);
        head
    }

    /// Keeps a plan, and gives the number by which ops name it.
    pub fn keep_plan(&mut self, plan: simd::Plan) -> u32 {
        self.plans.push(plan);
        (self.plans.len() - 1) as u32
    }

    /// The plan with this number.
    #[inline]
    pub fn plan(&self, number: u32) -> simd::Plan {
        self.plans[number as usize]
    }

    /// Keeps a row to be run once, until the next such row.
    pub fn keep_once(&mut self, row: Vec<Op>) -> NonNull<Op> {
        self.once = row;
        NonNull::from(&self.once[0])
    }

    /// Whether the arena is at its limit, so that [`CodeCache::flush`] is due.
    pub fn is_full(&self) -> bool {
        self.ops > OPS_MAX || self.plans.len() > PLANS_MAX
    }

    /// Bytes held in decoded code.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Op>()
    }

    /// Drops every block. Only between chains: no handler runs, and the caller drops
    /// `Cpu::link_from`.
    pub fn flush(&mut self) {
        let fresh = Self { decoded: self.decoded, ..Self::default() };
        *self = fresh;
    }
}

/// Whether the block behind `head` still is what memory holds.
pub fn is_current(head: &Op) -> bool {
    version_of(head).load(Ordering::Acquire) == head.aux
}

fn version_of(head: &Op) -> &AtomicU32 {
    // SAFETY: `head_op` stored a reference to the version in a page's state, which lives as long
    // as the guest's memory, which the vCPU keeps alive.
    unsafe { &*(head.imm.get() as *const AtomicU32) }
}

/// The head of a block of `instructions` instructions whose page has `version`.
pub fn head_op(version: &AtomicU32, seen: u32, instructions: usize) -> Op {
    let op = Op { aux: seen, disp: instructions as i32, ..Op::new(head) };
    op.imm.set(std::ptr::from_ref(version) as u64);
    op
}

/// Enters the block if it is current and the budget lasts; otherwise the outer loop goes on, with
/// `RIP` at the block.
extern "C" fn head(op: &Op, cpu: &mut Cpu) {
    cpu.budget -= 1;
    if version_of(op).load(Ordering::Relaxed) != op.aux || cpu.budget < 0 {
        return;
    }
    cpu.instructions += op.disp as u64;
    next(op, cpu)
}

/// The head of a block that runs once and was just decoded: nothing to check.
pub extern "C" fn head_once(op: &Op, cpu: &mut Cpu) {
    cpu.instructions += op.disp as u64;
    next(op, cpu)
}

/// Multiplies by a large odd number: keys are addresses.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ mixed >> 32;
    }
}
