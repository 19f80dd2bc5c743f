//! Compares the software CPU with the host's own on random sequences of user-mode instructions.
//!
//! ```text
//!                    ┌─▶ Native: the bytes themselves, on this machine ──▶ Outcome ─┐
//!   seed ─▶ Case ────┤                                                              ├─▶ differences
//!                    └─▶ Soft: through the contract, ring 3 of a guest ──▶ Outcome ─┘
//! ```
//!
//! A [`Case`] is registers, flags, x87 and SSE state, three pages of data, and one to eight
//! instructions. Both sides hold the same pages at the same addresses (see [`layout`]), with
//! nothing mapped around them, so that a fault in the middle of an instruction is compared as well:
//! vector, error code, address, and the registers and the memory as the fault left them.
//!
//! Nothing about the host is assumed but that it is an x86-64 Linux. What is not compared, and why,
//! is in [`compare`]. System instructions, I/O, FS, alignment checks, and loads of x87 control state
//! are not generated; the guest suite has those that matter.

pub mod case;
pub mod compare;
pub mod generate;
pub mod layout;
mod native;
mod opcodes;
mod operand;
mod random;
mod soft;
#[cfg(test)]
mod tests;
mod watchdog;

pub use case::{Case, End, Outcome};
pub use native::Native;
pub use soft::Soft;

use anyhow::Result;

/// Both sides, ready to run cases.
pub struct Oracle {
    native: Native,
    soft: Soft,
}

/// What came of one case.
#[derive(Debug)]
pub enum Verdict {
    /// Both sides agree.
    Same(End),
    /// The host did not finish in time, or did what is not compared.
    Skipped,
    /// They differ: a report with the smallest case that still does.
    Different(String),
}

impl Oracle {
    /// Maps the pages and makes the guest, whose blocks are translated as `jit` says. There can be
    /// one oracle in a process at a time.
    pub fn new(jit: Option<softcpu::JitOptions>) -> Result<Self> {
        Ok(Self { native: Native::new()?, soft: Soft::new(jit)? })
    }

    /// Puts another software CPU in place, whose blocks are translated as `jit` says.
    pub fn set_jit(&mut self, jit: Option<softcpu::JitOptions>) -> Result<()> {
        self.soft = Soft::new(jit)?;
        Ok(())
    }

    /// Generates case `number` of `seed` and runs it on both sides.
    pub fn check(&mut self, seed: u64, number: u64) -> Result<Verdict> {
        let case = generate::case(seed, number);
        match self.differences(&case)? {
            Found::Skipped => Ok(Verdict::Skipped),
            Found::Same(end) => Ok(Verdict::Same(end)),
            Found::Different => {
                let small = compare::shrink(case, |c| {
                    Ok(matches!(self.differences(c)?, Found::Different))
                })?;
                let (native, soft) = (self.native.run(&small)?, self.soft.run(&small)?);
                let head = format!("seed {seed}, case {number}\n");
                Ok(Verdict::Different(head + &compare::report(&small, &native, &soft)))
            }
        }
    }

    fn differences(&mut self, case: &Case) -> Result<Found> {
        let native = self.native.run(case)?;
        if !compare::is_comparable(&native) {
            return Ok(Found::Skipped);
        }
        let soft = self.soft.run(case)?;
        let same = compare::differences(case, &native, &soft).is_empty();
        Ok(if same { Found::Same(native.end) } else { Found::Different })
    }
}

enum Found {
    Same(End),
    Skipped,
    Different,
}
