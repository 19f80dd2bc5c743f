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
use crate::decode::Decoded;
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
    /// Instructions that cross into another page, by key and that page's frame.
    crossing: HashMap<(u64, u64), NonNull<Op>, BuildHasherDefault<KeyHasher>>,
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
            crossing: HashMap::default(),
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

    /// The valid block of the instruction with this key whose end is in frame `second`.
    pub fn get_crossing(&self, key: u64, second: u64) -> Option<NonNull<Op>> {
        let head = *self.crossing.get(&(key, second))?;
        // SAFETY: as in `get`.
        is_current(unsafe { head.as_ref() }).then_some(head)
    }

    /// Keeps a decoded row.
    pub fn insert(&mut self, key: u64, row: &mut Vec<Op>) -> NonNull<Op> {
        let head = self.keep(row);
        self.blocks.insert(key, head);
        head
    }

    /// Keeps the row of an instruction whose end is in frame `second`.
    pub fn insert_crossing(&mut self, key: u64, second: u64, row: &mut Vec<Op>) -> NonNull<Op> {
        let head = self.keep(row);
        self.crossing.insert((key, second), head);
        head
    }

    /// Moves a decoded row (head first, ending op last) into the arena.
    fn keep(&mut self, row: &mut Vec<Op>) -> NonNull<Op> {
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
        NonNull::from(&chunk[start])
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

/// A head's heat when its block is not to be translated.
const NEVER: u64 = u64::MAX;
/// Added to the number of a translation.
const TRANSLATED: u64 = 1 << 32;

/// In `next` of a head: another one follows, for another page.
const CROSSES: u8 = 1;
/// In `offset` of a second head: no instruction's.
const NOWHERE: u8 = u8::MAX;

/// How often a block ran, or what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heat {
    /// Not often enough.
    Cold,
    /// It is to be translated.
    Hot,
    /// It stays in the interpreter.
    Never,
    /// Its translation's number.
    Translated(usize),
}

/// The heat of the block behind `head`, where `hot` is enough.
pub fn heat(head: &Op, hot: u64) -> Heat {
    match head.imm.get() {
        NEVER => Heat::Never,
        heat if heat >= TRANSLATED => Heat::Translated((heat - TRANSLATED) as usize),
        heat if heat >= hot => Heat::Hot,
        _ => Heat::Cold,
    }
}

/// Records the translation of the block behind `head`, or that there will be none.
pub fn set_translation(head: &Op, number: Option<usize>) {
    head.imm.set(number.map_or(NEVER, |number| TRANSLATED + number as u64));
}

/// Whether the block behind `head` still is what memory holds.
pub fn is_current(head: &Op) -> bool {
    let is = |head: &Op| version_of(head).load(Ordering::Acquire) == seen_by(head);
    is(head) && second_head(head).is_none_or(is)
}

/// The addresses of the versions of the pages that hold the block, and what they were.
pub fn versions(head: &Op) -> Vec<(u64, u32)> {
    let version = |head: &Op| (version_of(head).as_ptr() as u64, seen_by(head));
    std::iter::once(head).chain(second_head(head)).map(version).collect()
}

/// Whether the block behind `head` is an instruction that crosses into another page.
pub fn crosses(head: &Op) -> bool {
    head.next == CROSSES
}

/// The head behind `head`, for the second page of a block that crosses into it.
fn second_head(head: &Op) -> Option<&Op> {
    // SAFETY: only `finish_crossing_heads` sets the mark, on a row that begins with two heads.
    crosses(head).then(|| unsafe { &*(head as *const Op).add(1) })
}

/// Instructions in the block behind `head`.
pub fn instructions(head: &Op) -> usize {
    usize::from(head.a)
}

/// The row that begins with `head`.
pub fn row(head: &Op) -> &[Op] {
    // SAFETY: a head is followed by the row that it was inserted with, whose length it holds.
    unsafe { std::slice::from_raw_parts(head, usize::from(head.b)) }
}

/// The place, in the row, of the op of each instruction of the block behind `head`, decoded anew.
/// None if it was not decoded to the same.
pub fn places(head: &Op, decoded: &[Decoded]) -> Option<Vec<u8>> {
    if decoded.len() != instructions(head) {
        return None;
    }
    let mut ops = (0..).zip(row(head)).skip(1);
    let place = |one: &Decoded| ops.find(|(_, op)| op.offset == one.offset).map(|(n, _)| n);
    decoded.iter().map(place).collect()
}

fn version_of(head: &Op) -> &AtomicU32 {
    let address = u64::from(head.aux) << 32 | u64::from(head.disp as u32);
    // SAFETY: `head_op` stored a reference to the version in a page's state, which lives as long
    // as the guest's memory, which the vCPU keeps alive.
    unsafe { &*(address as *const AtomicU32) }
}

#[inline(always)]
fn seen_by(head: &Op) -> u32 {
    u32::from_le_bytes([head.base, head.index, head.scale, head.seg])
}

/// The head of a block whose page has `version`. The address of the version is in `disp` and `aux`,
/// what it was in the fields of a memory operand, and the heat in `imm`.
pub fn head_op(version: &AtomicU32, seen: u32) -> Op {
    let address = std::ptr::from_ref(version) as u64;
    let [base, index, scale, seg] = seen.to_le_bytes();
    Op {
        disp: address as u32 as i32,
        aux: (address >> 32) as u32,
        base,
        index,
        scale,
        seg,
        ..Op::new(head)
    }
}

/// Fills in, before the row is kept, how many instructions and ops it has.
pub fn finish_head(row: &mut [Op], instructions: usize) {
    let ops = row.len();
    if let Some(head) = row.first_mut() {
        (head.a, head.b) = (instructions as u8, ops as u8);
    }
}

/// [`finish_head`] for a row that begins with two heads, of one instruction in two pages.
pub fn finish_crossing_heads(row: &mut [Op]) {
    finish_head(row, 1);
    if let [first, second, ..] = row {
        first.next = CROSSES;
        second.offset = NOWHERE;
        second.imm.set(NEVER);
    }
}

/// Enters the block if it is current, the budget lasts, and it is not to run as translated code;
/// otherwise the outer loop goes on, with `RIP` at the block.
extern "C" fn head(op: &Op, cpu: &mut Cpu) {
    let heat = op.imm.get();
    cpu.budget -= i32::from(op.a);
    if version_of(op).load(Ordering::Relaxed) != seen_by(op) || cpu.budget < 0 {
        return;
    }
    if heat < cpu.hot {
        op.imm.set(heat + 1);
    } else if heat != NEVER {
        return;
    }
    next(op, cpu)
}

/// The head of a block that runs once and was just decoded: nothing to check.
pub extern "C" fn head_once(op: &Op, cpu: &mut Cpu) {
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
