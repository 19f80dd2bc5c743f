//! `--verify`: every translation is run in the interpreter as well, and both results are compared.
//!
//! ```text
//!   predict: the ops, on the state as it is ──▶ registers, flags, x87 and SSE, RIP, what was written
//!   undo:    the state and memory as before
//!   run:     the translation, which leaves at its first edge ──▶ compare
//! ```
//!
//! While it predicts, nothing enters the TLB and every write is noted, so that it can be undone. A
//! block that reaches a device, a page of code or a fault is not compared, and neither is one whose
//! translation leaves early for the interpreter. Other vCPUs and devices may change memory between
//! the two runs: differences are only ours where one vCPU runs alone.

use std::cell::Cell;
use std::ptr::NonNull;

use super::cache::{Entry, Part};
use super::translate::Exit;
use super::{Jit, flags, stop};
use crate::block;
use crate::cpu::{Cpu, Pending, REG_SLOTS, RIP};
use crate::op::Op;
use crate::ops::simd::copy_of;
use crate::tlb::DRY_SET;
use vcpu::Kick;

/// The budget of a translation under comparison: more than a block needs.
const AMPLE: i32 = 1 << 20;
/// The widest write that is noted as one.
const WRITTEN_MAX: usize = 16;

/// What a run that will be undone did to memory.
#[derive(Default)]
pub struct DryRun {
    /// It did what cannot be undone, or would have.
    pub impure: Cell<bool>,
    writes: Vec<Write>,
}

struct Write {
    physical: u64,
    len: usize,
    before: [u8; WRITTEN_MAX],
    after: [u8; WRITTEN_MAX],
}

/// What the interpreter made of a block.
struct Prediction {
    regs: [u64; REG_SLOTS],
    fx: u16,
    fp: simd::FpState,
    writes: Vec<Write>,
}

impl Cpu {
    /// In a dry run, notes what `len` bytes of RAM at `physical` hold, which are about to be written.
    pub fn note_write(&mut self, physical: u64, len: usize) {
        let Some(mut dry) = self.dry.take() else { return };
        let page = self.port.ram.page(physical >> 12);
        let holds_code = page.is_none_or(|p| p.state.code_in(physical & 0xFFF, len as u64));
        if holds_code || len > WRITTEN_MAX {
            dry.impure.set(true);
        }
        let mut before = [0; WRITTEN_MAX];
        self.peek_ram(physical, &mut before[..len.min(WRITTEN_MAX)]);
        let len = len.min(WRITTEN_MAX);
        dry.writes.push(Write { physical, len, before, after: [0; WRITTEN_MAX] });
        self.dry = Some(dry);
    }

    /// In a dry run, says so and gives up what cannot be undone.
    pub fn refuse_in_dry_run(&self) -> bool {
        let Some(dry) = &self.dry else { return false };
        dry.impure.set(true);
        true
    }

    /// Runs a translation and compares it with what the interpreter makes of the same block.
    pub(super) fn run_verified(
        &mut self,
        jit: &mut Jit,
        head: NonNull<Op>,
        entry: Entry,
        stack: (u64, u64),
    ) {
        let start = self.regs[RIP];
        let prediction = self.predict(head, entry.part);
        let jumps = &mut jit.translations.jumps;
        jumps.address(self.cpl == 3, &self.tlb);
        jumps.clear();
        if let Some(prediction) = &prediction {
            jit.predicted = prediction.regs[RIP];
            let arrived = jit.translations.memory.address(jit.arrived);
            jumps.insert(prediction.regs[RIP], self.cpl == 3, arrived);
        }
        let budget = std::mem::replace(&mut self.budget, AMPLE);
        let number = self.enter_translation(jit, entry, stack);
        self.budget = budget - (AMPLE - self.budget);
        // SAFETY: the head is in a live row, as rows are dropped between chains only.
        let current = block::is_current(unsafe { head.as_ref() });
        if let (Some(prediction), true) = (prediction, current) {
            self.compare(jit, entry.part, start, number, &prediction);
        }
        self.take_exit(jit, number);
    }

    /// What the interpreter makes of the translated part of the block; None if that cannot be undone.
    fn predict(&mut self, head: NonNull<Op>, part: Part) -> Option<Prediction> {
        // SAFETY: as in `run_verified`.
        let row = block::row(unsafe { head.as_ref() });
        let mut copy: Vec<Op> = row
            .get(usize::from(part.first)..usize::from(part.behind))?
            .iter()
            .map(copy_of)
            .collect();
        let last = copy.last()?;
        copy.push(Op { offset: last.offset, next: part.end, ..Op::new(stop) });
        let before =
            Prediction { regs: self.regs, fx: self.fx, fp: (*self.fp).clone(), writes: Vec::new() };
        let (budget, set, hits, cr2) = (self.budget, self.tlb_set, self.debug_hits, self.cr2);
        (self.budget, self.tlb_set, self.dry) = (0, DRY_SET, Some(Box::default()));
        (copy[0].run)(&copy[0], self);
        let ended = std::mem::replace(&mut self.pending, Pending::None);
        let trapped = self.trap_offset != 0 || ended != Pending::None;
        let impure = self.debug_hits != hits || self.cr2 != cr2;
        let dry = self.dry.take()?;
        (self.budget, self.tlb_set, self.debug_hits, self.cr2) = (budget, set, hits, cr2);
        (self.trap_offset, self.not_canonical, self.link_from.0) = (0, false, None);
        let mut after = Prediction {
            regs: std::mem::replace(&mut self.regs, before.regs),
            fx: std::mem::replace(&mut self.fx, before.fx),
            fp: std::mem::replace(&mut *self.fp, before.fp),
            writes: dry.writes,
        };
        self.undo(&mut after.writes);
        (!trapped && !impure && !dry.impure.get()).then_some(after)
    }

    /// Notes what was written, and takes it back.
    fn undo(&mut self, writes: &mut [Write]) {
        for write in writes.iter_mut() {
            self.peek_ram(write.physical, &mut write.after[..write.len]);
        }
        for write in writes.iter().rev() {
            self.poke_ram(write.physical, &write.before[..write.len]);
        }
    }

    fn compare(&mut self, jit: &mut Jit, part: Part, start: u64, number: u32, wanted: &Prediction) {
        let page = self.regs[RIP];
        let rip = match jit.translations.exit(number) {
            Exit::Link { offset, .. } => page + u64::from(offset),
            Exit::Go { offset } => page.wrapping_add(offset as i64 as u64),
            Exit::Arrived => page | jit.predicted & 0xFFF,
            // The instruction behind the translated part, which both stopped before.
            Exit::Interpret { op, .. } | Exit::Step { op, .. } if Some(op) == part.unknown => {
                wanted.regs[RIP]
            }
            Exit::Interpret { .. } | Exit::Step { .. } => return,
        };
        jit.stats.verified += 1;
        let mut found = Vec::new();
        for n in 0..16 {
            if self.regs[n] != wanted.regs[n] {
                found.push(format!("r{n} {:#x}, not {:#x}", self.regs[n], wanted.regs[n]));
            }
        }
        if rip != wanted.regs[RIP] {
            found.push(format!("rip {rip:#x}, not {:#x}", wanted.regs[RIP]));
        }
        // In the middle of a block the interpreter leaves out flags that its end sets anew.
        let matter = if part.unknown.is_none() { part.matter } else { 0 };
        if (self.fx ^ wanted.fx) & flags::in_frame(matter) != 0 {
            found.push(format!("flags {:#x}, not {:#x}", self.fx, wanted.fx));
        }
        if *self.fp != wanted.fp {
            found.push(format!("{:?}, not {:?}", self.fp, wanted.fp));
        }
        for write in &wanted.writes {
            let mut now = [0; WRITTEN_MAX];
            self.peek_ram(write.physical, &mut now[..write.len]);
            if now[..write.len] != write.after[..write.len] {
                found.push(format!("memory at {:#x}", write.physical));
            }
        }
        if !found.is_empty() {
            let found = found.join("; ");
            jit.difference = Some(format!("the translation of {start:#x} has {found}"));
            self.port.waker.kick();
        }
    }
}
