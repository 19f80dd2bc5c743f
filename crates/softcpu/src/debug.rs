//! Hardware breakpoints (SDM Vol. 3B, chapter 17): on code, by running one instruction at a time
//! while any is enabled; on data, by keeping watched pages out of the TLB.

use crate::cpu::{Cpu, Exception, Pending, RIP, rflags, vector};
use crate::paging::Access;

/// R/W field of DR7 for one breakpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    /// I/O breakpoints need CR4.DE, which is offered, but no port is watched.
    Port,
    ReadWrite,
}

struct Breakpoint {
    number: usize,
    kind: Kind,
    address: u64,
    len: u64,
}

impl Cpu {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> + use<> {
        let (dr, dr7) = (self.dr, self.dr7);
        (0..4).filter(move |i| dr7 >> (2 * i) & 3 != 0).map(move |i| {
            let field = dr7 >> (16 + 4 * i);
            let kind = match field & 3 {
                0 => Kind::Execute,
                1 => Kind::Write,
                2 => Kind::Port,
                _ => Kind::ReadWrite,
            };
            let len = [1, 2, 8, 4][(field >> 2 & 3) as usize];
            Breakpoint { number: i, kind, address: dr[i], len }
        })
    }

    /// Whether any breakpoint on code is enabled.
    pub fn code_breakpoints(&self) -> bool {
        self.breakpoints().any(|b| b.kind == Kind::Execute)
    }

    /// Leaves #DB pending if a breakpoint is on the instruction at RIP (unless RF is set).
    pub fn instruction_breakpoint(&mut self) -> bool {
        if self.eflags & rflags::RF != 0 {
            return false;
        }
        let rip = self.regs[RIP];
        let hits = self
            .breakpoints()
            .filter(|b| b.kind == Kind::Execute && b.address == rip)
            .fold(0, |hits, b| hits | 1 << b.number);
        if hits == 0 {
            return false;
        }
        self.dr6 = self.dr6 & !0xF | hits;
        self.pending = Pending::Fault(Exception::plain(vector::DB));
        true
    }

    /// Whether accesses to the page of `va` must be looked at one by one.
    pub fn watches_page(&self, va: u64) -> bool {
        self.dr7 & 0xFF != 0
            && self.breakpoints().any(|b| b.kind != Kind::Execute && (b.address ^ va) & !0xFFF == 0)
    }

    /// Notes the breakpoints that an access of `len` bytes at `va` meets.
    pub fn watch(&mut self, va: u64, len: u64, access: Access) {
        if self.dr7 & 0xFF == 0 {
            return;
        }
        for b in self.breakpoints() {
            let kind_fits =
                b.kind == Kind::ReadWrite || b.kind == Kind::Write && access == Access::Write;
            let start = b.address & !(b.len - 1);
            if kind_fits && start < va.wrapping_add(len) && va < start + b.len {
                self.debug_hits |= 1 << b.number;
                self.look_up_soon();
            }
        }
    }

    /// Delivers the #DB trap for what [`Cpu::watch`] and single-stepping noted.
    pub fn deliver_debug_trap(&mut self) -> bool {
        let conditions = std::mem::take(&mut self.debug_hits);
        self.deliver_debug(conditions).is_ok()
    }
}
