//! Debug registers (SDM Vol. 3B, 19.2). Matching them against what runs is the business of the
//! fetch and of the memory accesses.

use crate::cpu::{Cpu, Exception, Step, Trap, vector};
use crate::system::control::cr4;

/// Bits of DR6 that software may write: B0 to B3, BD, BS and BT.
const DR6_WRITABLE: u64 = 0xE00F;
/// Bits of DR6 that read as one.
const DR6_FIXED: u64 = 0xFFFF_0FF0;
/// DR6.BD: a debug register was about to be accessed.
const DR6_BD: u64 = 1 << 13;
/// Bits of DR7 that software may write: enables, LE, GE, GD, and the conditions.
const DR7_WRITABLE: u64 = 0xFFFF_23FF;
/// The bit of DR7 that reads as one.
const DR7_FIXED: u64 = 1 << 10;
const DR7_GD: u64 = 1 << 13;
/// The local and global enables of all four breakpoints.
const DR7_ENABLES: u64 = 0xFF;

impl Cpu {
    /// MOV from a debug register.
    pub fn read_dr(&mut self, number: u8) -> Result<u64, Trap> {
        Ok(match self.check_debug_access(number)? {
            i @ 0..=3 => self.dr[usize::from(i)],
            6 => self.dr6,
            _ => self.dr7,
        })
    }

    /// MOV to a debug register. Pages that breakpoints watch are kept out of the TLB, so it is
    /// flushed whenever the set of them may change.
    pub fn write_dr(&mut self, number: u8, value: u64) -> Step {
        let number = self.check_debug_access(number)?;
        let armed = self.dr7 & DR7_ENABLES != 0;
        match number {
            i @ 0..=3 => self.dr[usize::from(i)] = value,
            6 => {
                self.refuse_bits(value, !0xFFFF_FFFF)?;
                self.dr6 = value & DR6_WRITABLE | DR6_FIXED;
                return Ok(());
            }
            _ => {
                self.refuse_bits(value, !0xFFFF_FFFF)?;
                self.dr7 = value & DR7_WRITABLE | DR7_FIXED;
            }
        }
        if armed || self.dr7 & DR7_ENABLES != 0 {
            self.tlb.flush_all();
        }
        Ok(())
    }

    /// The register that `number` names, after all checks: DR4 and DR5 are DR6 and DR7 unless
    /// CR4.DE is set, and DR7.GD makes any access a #DB.
    fn check_debug_access(&mut self, number: u8) -> Result<u8, Trap> {
        let number = match number {
            0..=3 | 6 | 7 => number,
            4 | 5 if self.cr4 & cr4::DE == 0 => number + 2,
            _ => return Err(self.ud()),
        };
        self.require_cpl0()?;
        if self.dr7 & DR7_GD != 0 {
            self.dr6 |= DR6_BD;
            return Err(self.raise(Exception::plain(vector::DB)));
        }
        Ok(number)
    }
}
