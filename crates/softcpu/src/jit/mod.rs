//! Translation of hot blocks to host code.
//!
//! ```text
//!   interpreter ──a block has run often──▶ translate ──▶ cache (code memory, entries, exits)
//!        ▲                                                 │
//!        └──────────── leave, with an Exit ◀── runtime ◀───┘ enter
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | `translate` | from a block to code; `encoding`, `emit`, `regs` and `flags` are its tools |
//! | `cache`, `memory` | where code lies, and how it is found |
//! | `runtime` | the way in and out |
//! | `verify` | the comparison of each run with the interpreter |
//!
//! The interpreter stays the reference, and does all that is rare: whatever the translator does not
//! know, every access that is not in the TLB, every fault. Translated code only ever runs to the
//! next such point, where the guest's state is exactly that between two instructions. Without
//! executable memory, or with [`Options::jit`](crate::Options::jit) off, it does everything.
//!
//! Three rules keep a guest inside of its memory:
//!
//! - every access goes through the TLB's tags, and nothing is executed that accesses memory without
//!   naming it in ModRM;
//! - every instruction is on a list of those that cannot fault on the host beyond that access:
//!   alignment is checked, SSE's exceptions are masked, divisions that may fault are left to the
//!   interpreter;
//! - code is produced only in this module, and no page of it is writable where it is executable.

mod cache;
mod emit;
mod encoding;
mod flags;
mod memory;
mod regs;
mod runtime;
mod translate;
mod verify;

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::block::{self, Heat};
use crate::cpu::{CodeSize, Cpu, RIP, RSP};
use crate::decode::{BYTES_MAX, Context, decode};
use crate::op::{Op, next_rip};
use crate::ops::simd::copy_of;

use ::memory::{LINE_SIZE, PAGE_SIZE};

use cache::{Entry, Part, Translations};
pub use runtime::Gate;
use translate::{Exit, Source, translate};
pub use verify::DryRun;

/// Bytes of code looked at behind a jump, to learn which flags matter there.
const PEEK_BYTES: usize = 48;
/// CR0.EM and CR0.TS.
const CR0_NO_FP: u64 = 3 << 2;
const CR4_OSFXSR: u64 = 1 << 9;
/// MXCSR's exception masks.
const MXCSR_MASKS: u32 = 0x1F80;

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { translated, translating, .. } = self;
        write!(f, "{translated} blocks translated in {translating:.1?}; left ")?;
        write!(
            f,
            "{} times to link a jump, {} at an unknown ",
            self.left_to_link, self.left_to_go
        )?;
        write!(f, "address or for want of budget, {} for the ", self.left_to_interpret)?;
        write!(f, "interpreter, {} for one instruction", self.left_to_step)?;
        match self.verified {
            0 => Ok(()),
            verified => write!(f, "; {verified} runs verified"),
        }
    }
}

/// How blocks are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JitOptions {
    /// How often a block runs in the interpreter before it is translated.
    pub threshold: u32,
    /// Bytes of translated code that each vCPU keeps at most, [`CACHE_BYTES_MIN`] to
    /// [`CACHE_BYTES_MAX`].
    pub cache_bytes: usize,
    /// List translations for `perf` in /tmp/perf-PID.map.
    pub perf_map: bool,
    /// Run every translation in the interpreter as well, and compare.
    pub verify: bool,
}

/// The least room for translated code that makes sense: a thousand blocks.
pub const CACHE_BYTES_MIN: usize = 1 << 20;
/// The most: jumps reach no further.
pub const CACHE_BYTES_MAX: usize = 1 << 30;

impl JitOptions {
    /// What machines have: blocks that ran 64 times are translated, into 32 MiB for each vCPU.
    pub const DEFAULT: Self =
        Self { threshold: 64, cache_bytes: 32 << 20, perf_map: false, verify: false };
}

impl Default for JitOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bits of a page's address that is not canonical: the two highest differ.
const NOT_CANONICAL: u64 = 1 << 63;
const ANY_PAGE: u64 = (1 << 62) - 4096;

#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// The translator of one vCPU.
pub struct Jit {
    translations: Translations,
    /// A jump that wants to be linked with the block that is found next.
    link_from: Option<u32>,
    /// Where translations are listed for `perf`.
    perf_map: Option<File>,
    /// What differed, since it was last taken.
    difference: Option<String>,
    /// See [`Jit::nowhere`].
    nowhere: Box<Page>,
    /// Every translation is compared with the interpreter.
    verify: bool,
    /// Offset of the code that leaves by [`Exit::Arrived`].
    arrived: u32,
    /// Where [`Exit::Arrived`] is expected.
    predicted: u64,
    /// One op to be run alone, and [`stop`] behind it.
    step: Box<[Op; 2]>,
    /// What was done since the start.
    pub stats: Stats,
}

/// What a translator did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks translated.
    pub translated: u64,
    /// Time that it took.
    pub translating: Duration,
    /// Times that translated code was left at a jump to be linked.
    pub left_to_link: u64,
    /// At a jump whose target was not known by its address, for want of budget, or as stale.
    pub left_to_go: u64,
    /// For the interpreter to run the rest of a block: accesses not in the TLB, faults, returns and
    /// indirect jumps to unknown targets, system instructions.
    pub left_to_interpret: u64,
    /// For the interpreter to run one instruction.
    pub left_to_step: u64,
    /// Runs of translations that were compared with the interpreter.
    pub verified: u64,
}

// SAFETY: the pointers to ops are into the `CodeCache` of the same `Cpu`, and are followed by the
// thread that owns both.
unsafe impl Send for Jit {}

impl Jit {
    /// A translator, or why there cannot be one.
    pub fn new(options: JitOptions) -> std::io::Result<Self> {
        let cache_bytes = options.cache_bytes.clamp(CACHE_BYTES_MIN, CACHE_BYTES_MAX);
        let mut translations = Translations::new(cache_bytes)?;
        let arrived = translations.keep_exit(Exit::Arrived);
        Ok(Self {
            translations,
            perf_map: options.perf_map.then(open_perf_map).transpose()?,
            difference: None,
            nowhere: Box::new(Page([0; 4096])),
            verify: options.verify,
            arrived,
            predicted: 0,
            link_from: None,
            step: Box::new([Op::new(stop), Op::new(stop)]),
            stats: Stats::default(),
        })
    }

    /// Whether everything must be dropped before more is translated.
    pub fn is_full(&self) -> bool {
        self.translations.is_full()
    }

    /// Bytes of code.
    pub fn bytes(&self) -> usize {
        self.translations.memory.used()
    }

    /// Drops all code. Only together with the blocks it was translated from.
    pub fn clear(&mut self) {
        self.translations.clear();
        self.arrived = self.translations.keep_exit(Exit::Arrived);
        self.link_from = None;
    }

    /// The page that stands for the stack's while no page is known to be writable, and what lies
    /// there. Its address is not canonical, and scattered like the host's; a guest that hit upon it
    /// with its stack pointer would find a page of its own there instead of a fault.
    fn nowhere(&mut self) -> (u64, u64) {
        let host = self.nowhere.0.as_mut_ptr() as u64;
        (NOT_CANONICAL | host.wrapping_mul(0x9E37_79B9_7F4A_7C15) & ANY_PAGE, host)
    }

    /// Takes what a translation differed in from the interpreter.
    pub fn take_difference(&mut self) -> Option<String> {
        self.difference.take()
    }

    /// Takes the jump that wants to be linked with the block that is found next.
    pub fn take_link(&mut self) -> Option<u32> {
        self.link_from.take()
    }
}

/// The list in which `perf` looks translated code of this process up.
fn open_perf_map() -> std::io::Result<File> {
    let path = format!("/tmp/perf-{}.map", std::process::id());
    // Nobody else's file: /tmp is everybody's.
    File::options().create(true).append(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Ends a row of one op: the next instruction is the one behind it.
extern "C" fn stop(op: &Op, cpu: &mut Cpu) {
    cpu.regs[RIP] = next_rip(op, cpu);
}

impl Cpu {
    /// Runs the block behind `head` as translated code, if it is hot; `RIP` is its address, and
    /// `from` the jump by which it was reached. Says whether anything ran; the chain has then ended
    /// as the interpreter's do.
    pub fn run_translated(&mut self, head: NonNull<Op>, from: Option<u32>) -> bool {
        let Some(mut jit) = self.jit.take() else { return false };
        let number = self.translation(&mut jit, head);
        let stack = self.tlb.writable_page(self.tlb_set, self.regs[RSP]);
        let stack = stack.unwrap_or_else(|| jit.nowhere());
        match number {
            None => {}
            Some(number) if jit.verify => {
                let entry = jit.translations.entry(number);
                self.run_verified(&mut jit, head, entry, stack);
            }
            Some(number) => self.run_translation(&mut jit, number, from, stack),
        }
        self.jit = Some(jit);
        number.is_some()
    }

    /// The translation of the block behind `head`, made now if it is due.
    fn translation(&mut self, jit: &mut Jit, head: NonNull<Op>) -> Option<usize> {
        // SAFETY: heads that are found are in live rows of this vCPU's code cache.
        let op = unsafe { head.as_ref() };
        match block::heat(op, self.hot) {
            Heat::Cold | Heat::Never => None,
            Heat::Translated(number) => Some(number),
            Heat::Hot => {
                let number = self.translate_block(jit, head);
                if number.is_some() || !jit.is_full() {
                    block::set_translation(op, number);
                }
                number
            }
        }
    }

    fn translate_block(&mut self, jit: &mut Jit, head: NonNull<Op>) -> Option<usize> {
        if self.code_size != CodeSize::Bits64 {
            return None;
        }
        let started = Instant::now();
        let rip = self.regs[RIP];
        let frame = self.fetch_frame(rip).ok()?;
        let offset = (rip & 0xFFF) as u32;
        // SAFETY: as in `translation`.
        let op = unsafe { head.as_ref() };
        let second = match block::crosses(op) {
            true => Some(self.fetch_frame((rip | 0xFFF).wrapping_add(1)).ok()?),
            false => None,
        };
        let peek = |offset: u32, len: usize| {
            let mut bytes = vec![0; len.min(4096 - offset as usize)];
            self.peek_ram(frame << 12 | u64::from(offset), &mut bytes);
            bytes
        };
        let bytes = match second {
            Some(second) => self.crossing_bytes(frame << 12 | u64::from(offset), second).to_vec(),
            None => peek(offset, BYTES_MAX),
        };
        let context = Context { bits: 64, page_offset: u64::from(offset) };
        let decoded = decode(&bytes, context, block::instructions(op));
        let places = block::places(op, &decoded)?;
        let row = block::row(op);
        let ops: Vec<_> = places.iter().map(|n| NonNull::from(&row[usize::from(*n)])).collect();
        let source = Source {
            instructions: &decoded,
            bytes: &bytes,
            ops: &ops,
            offset,
            versions: &block::versions(op),
            base: jit.translations.memory.next(),
            first_exit: jit.translations.next_exit(),
            peek: &|offset| match self.is_claimed(frame, offset) {
                true => peek(offset, PEEK_BYTES),
                false => Vec::new(),
            },
            loops: second.is_none() && !jit.verify,
        };
        let translation = translate(&source)?;
        let unknown = places.get(translation.count).copied();
        let part = Part {
            first: places[0],
            behind: unknown.unwrap_or(row.len() as u8),
            end: decoded[translation.count - 1].end() as u8,
            unknown: unknown.and_then(|_| ops.get(translation.count).copied()),
            matter: translation.matter,
        };
        let kept = jit.translations.keep(&translation, part);
        jit.stats.translated += u64::from(kept.is_some());
        if let (Some(number), Some(map)) = (kept, &mut jit.perf_map) {
            let code = jit.translations.memory.address(jit.translations.entry(number).checked);
            // A list that cannot be written is not worth a guest.
            let _ = writeln!(map, "{code:x} {:x} guest_{rip:x}", translation.code.len());
        }
        jit.stats.translating += started.elapsed();
        kept
    }

    /// Whether a write to any of the bytes looked at from `offset` on makes the page's blocks stale:
    /// only then may a translation rest on them.
    fn is_claimed(&self, frame: u64, offset: u32) -> bool {
        let first = u64::from(offset) & !(LINE_SIZE - 1);
        let end = (u64::from(offset) + PEEK_BYTES as u64).min(PAGE_SIZE);
        self.port.ram.page(frame).is_some_and(|page| {
            (first..end).step_by(LINE_SIZE as usize).all(|line| page.state.code_in(line, 1))
        })
    }

    fn run_translation(
        &mut self,
        jit: &mut Jit,
        number: usize,
        from: Option<u32>,
        stack: (u64, u64),
    ) {
        let user = self.cpl == 3;
        let translations = &mut jit.translations;
        let entry = translations.entry(number);
        // The table must know of changed mappings before anything is put in.
        translations.jumps.address(user, &self.tlb);
        match from {
            Some(site) => translations.memory.link(site, entry.linked),
            None => {
                let code = translations.memory.address(entry.checked);
                translations.jumps.insert(self.regs[RIP], user, code);
            }
        }
        let number = self.enter_translation(jit, entry, stack);
        self.take_exit(jit, number);
    }

    /// Runs a translation until it leaves, and gives the number of the exit.
    /// `stack` is a page that may be written.
    fn enter_translation(&mut self, jit: &mut Jit, entry: Entry, stack: (u64, u64)) -> u32 {
        let (stack_page, stack_host) = stack;
        self.gate = Gate {
            stack_page,
            stack_host,
            tlb: self.tlb.set_address(self.tlb_set),
            jumps: jit.translations.jumps.address(self.cpl == 3, &self.tlb),
            fp_usable: u64::from(self.fp_is_plain()),
        };
        let code = jit.translations.memory.address(entry.checked);
        // SAFETY: the entry is of a block that was just found at RIP, and it checks the page's
        // version itself; the gate's tables are this vCPU's, and nothing moves them while it runs.
        unsafe { runtime::enter(self, code) }
    }

    fn take_exit(&mut self, jit: &mut Jit, number: u32) {
        let page = self.regs[RIP];
        match jit.translations.exit(number) {
            Exit::Link { site, offset } => {
                jit.stats.left_to_link += 1;
                self.regs[RIP] = page + u64::from(offset);
                jit.link_from = Some(site);
            }
            Exit::Arrived => self.regs[RIP] = page | jit.predicted & 0xFFF,
            Exit::Go { offset } => {
                jit.stats.left_to_go += 1;
                self.regs[RIP] = page.wrapping_add(offset as i64 as u64);
            }
            Exit::Interpret { op, block } => {
                jit.stats.left_to_interpret += 1;
                self.regs[RIP] = page + u64::from(block);
                // SAFETY: translations live no longer than the rows that they were made from.
                let op = unsafe { op.as_ref() };
                (op.run)(op, self);
            }
            Exit::Step { op, block } => {
                jit.stats.left_to_step += 1;
                self.regs[RIP] = page + u64::from(block);
                // SAFETY: as above.
                let op = unsafe { op.as_ref() };
                jit.step[0] = copy_of(op);
                (jit.step[1].offset, jit.step[1].next) = (op.offset, op.next);
                (op.run)(&jit.step[0], self);
            }
        }
    }

    /// Whether SSE instructions may run on the host as they are: the control registers allow them,
    /// and every exception is masked.
    fn fp_is_plain(&self) -> bool {
        let allowed = self.cr0 & CR0_NO_FP == 0 && self.cr4 & CR4_OSFXSR != 0;
        allowed && self.fp.mxcsr() & MXCSR_MASKS == MXCSR_MASKS
    }
}
