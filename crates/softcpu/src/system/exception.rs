//! Delivery of exceptions and interrupts (SDM Vol. 3A, chapter 7).
//!
//! ```text
//!   event ──▶ IVT (real mode) | gate of 16, 32 bits | gate of 64 bits ──▶ handler
//!     ▲                    │ fault on the way
//!     └── the two combined ◀┘ ──▶ double fault ──▶ shutdown
//! ```
//!
//! A delivery that faults has changed nothing. Task gates and interrupts out of virtual-8086 mode
//! are refused with #GP.

use vcpu::Segment;

use crate::cpu::{CS, Cpu, Exception, Pending, RIP, RSP, SS, Step, Trap, rflags, vector};
use crate::paging::canonical;
use crate::system::segment::{Descriptor, attributes, is_null, null_segment, rpl};
use crate::system::stack::{Frame, Stack, slot_width};

/// Error code: the event came from outside of the program.
const EXT: u32 = 1 << 0;
/// Error code: the index is one of the IDT.
const IDT: u32 = 1 << 1;
const DR7_GD: u64 = 1 << 13;
const DR6_CONDITIONS: u64 = 0xF;
/// Offset of RSP0 in a 64-bit TSS.
const TSS64_RSP: u64 = 4;
/// Offset of IST1 in a 64-bit TSS.
const TSS64_IST: u64 = 36;

/// The vCPU met a triple fault; `Cpu::pending` says so too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// A fault, trap or abort of the program.
    Exception,
    /// An interrupt or NMI.
    External,
    /// INT n, INT3 or INTO: subject to the gate's DPL.
    Software,
    /// INT1.
    Icebp,
}

/// Something on its way through the IDT.
#[derive(Debug, Clone, Copy)]
struct Event {
    vector: u8,
    error: Option<u32>,
    cause: Cause,
    /// RIP in the pushed frame.
    return_rip: u64,
    /// RIP in the frame of a fault on the way.
    restart_rip: u64,
}

impl Event {
    /// Faults are pushed with RF set, so that returning to the instruction meets no instruction
    /// breakpoint again (SDM Vol. 3B, 19.3.1.1).
    fn pushes_rf(&self) -> bool {
        let trap = matches!(self.vector, vector::DB | vector::BP | vector::OF | vector::DF);
        self.cause == Cause::Exception && !trap
    }

    fn ext(&self) -> u32 {
        if self.cause == Cause::Software { 0 } else { EXT }
    }
}

/// A gate of the IDT.
struct Gate {
    selector: u16,
    offset: u64,
    /// Interrupt gate, not trap gate: IF is cleared.
    masks: bool,
    /// Bytes in a slot of the frame.
    width: usize,
    stack_table: u64,
}

impl Cpu {
    /// Delivers a fault or trap. `regs[RIP]` is what its frame shows: the instruction's address
    /// for a fault, the next one's for a trap.
    pub fn deliver_fault(&mut self, exception: Exception) -> Result<(), Shutdown> {
        self.deliver(self.event(exception.vector, exception.error, Cause::Exception))
    }

    /// Delivers an interrupt from the local APIC or the 8259.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Result<(), Shutdown> {
        self.deliver(self.event(vector, None, Cause::External))
    }

    /// Delivers an NMI; further ones are blocked until IRET (see `Msrs::nmi_blocked`).
    pub fn deliver_nmi(&mut self) -> Result<(), Shutdown> {
        self.msrs.nmi_blocked = true;
        self.deliver(self.event(vector::NMI, None, Cause::External))
    }

    /// Delivers INT n, INT3 or INTO. `regs[RIP]` is behind the instruction at `instruction_rip`.
    pub fn deliver_software(&mut self, vector: u8, instruction_rip: u64) -> Result<(), Shutdown> {
        let event = self.event(vector, None, Cause::Software);
        self.deliver(Event { restart_rip: instruction_rip, ..event })
    }

    /// Delivers INT1. `regs[RIP]` is behind the instruction at `instruction_rip`.
    pub fn deliver_icebp(&mut self, instruction_rip: u64) -> Result<(), Shutdown> {
        let event = self.event(vector::DB, None, Cause::Icebp);
        self.deliver(Event { restart_rip: instruction_rip, ..event })
    }

    /// Delivers #DB for `conditions`, which are bits of DR6.
    pub fn deliver_debug(&mut self, conditions: u64) -> Result<(), Shutdown> {
        self.dr6 = self.dr6 & !DR6_CONDITIONS | conditions;
        self.deliver_fault(Exception::plain(vector::DB))
    }

    fn event(&self, vector: u8, error: Option<u32>, cause: Cause) -> Event {
        let rip = self.regs[RIP];
        Event { vector, error, cause, return_rip: rip, restart_rip: rip }
    }

    fn deliver(&mut self, first: Event) -> Result<(), Shutdown> {
        let mut event = first;
        while self.enter_handler(&event).is_err() {
            let next = match self.pending {
                Pending::Fault(second) => combine(&event, second),
                other => {
                    log::error!("vCPU {}: {event:?} ended in {other:?}", self.id);
                    None
                }
            };
            let Some(exception) = next else {
                log::info!("vCPU {}: triple fault after {event:x?}", self.id);
                self.pending = Pending::Shutdown;
                return Err(Shutdown);
            };
            self.regs[RIP] = event.restart_rip;
            event = self.event(exception.vector, exception.error, Cause::Exception);
        }
        if event.vector == vector::DB && event.cause != Cause::Software {
            self.dr7 &= !DR7_GD;
        }
        self.pending = Pending::None;
        self.shadow = false;
        Ok(())
    }

    /// Whatever block ran is left, so the frame may go to the page that holds it.
    fn enter_handler(&mut self, event: &Event) -> Step {
        let alone = std::mem::replace(&mut self.alone, true);
        let entered = self.try_enter_handler(event);
        self.alone = alone;
        entered
    }

    fn try_enter_handler(&mut self, event: &Event) -> Step {
        if !self.protected_mode() {
            return self.enter_real(event);
        }
        let gate = self.read_gate(event)?;
        let (code, cpl) = self.handler_code(gate.selector)?;
        if self.long_mode() {
            self.enter_long(event, &gate, code, cpl)
        } else {
            self.enter_legacy(event, &gate, code, cpl)
        }
    }

    /// Through the interrupt vector table of real mode, which pushes no error codes.
    fn enter_real(&mut self, event: &Event) -> Step {
        let slot = u64::from(event.vector) * 4;
        if slot + 3 > u64::from(self.idtr.limit) {
            return Err(self.gp0());
        }
        let entry: u32 = self.read_system(self.idtr.base.wrapping_add(slot))?;
        let selector = (entry >> 16) as u16;
        let mut frame = Frame::new(2);
        frame.push(self.rflags());
        frame.push(u64::from(self.segments[CS].selector));
        frame.push(event.return_rip);
        let pointer = self.push_frame(&self.current_stack(), &frame)?;
        self.put_stack_pointer(pointer);
        self.segments[CS] = self.real_segment(CS, selector);
        self.regs[RIP] = u64::from(entry as u16);
        self.eflags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        self.update_mode();
        Ok(())
    }

    /// Reads and checks the gate of an event.
    fn read_gate(&mut self, event: &Event) -> Result<Gate, Trap> {
        let long = self.long_mode();
        let size = if long { 16 } else { 8 };
        let slot = u64::from(event.vector) * size;
        let error = u32::from(event.vector) << 3 | IDT;
        if slot + size - 1 > u64::from(self.idtr.limit) {
            return Err(self.raise(Exception::with(vector::GP, error)));
        }
        let address = self.idtr.base.wrapping_add(slot);
        let raw = Descriptor { raw: self.read_system(address)?, address };
        let upper: u32 = if long { self.read_system(address.wrapping_add(8))? } else { 0 };
        let known = matches!((raw.kind(), long), (14 | 15, _) | (6 | 7, false));
        let hidden = event.cause == Cause::Software && raw.dpl() < self.cpl;
        if !raw.is_system() || !known || hidden {
            return Err(self.raise(Exception::with(vector::GP, error)));
        }
        if !raw.present() {
            return Err(self.raise(Exception::with(vector::NP, error)));
        }
        let wide = raw.kind() & 8 != 0;
        let high = if wide { raw.raw >> 32 & 0xFFFF_0000 } else { 0 };
        Ok(Gate {
            selector: (raw.raw >> 16) as u16,
            offset: raw.raw & 0xFFFF | high | u64::from(upper) << 32,
            masks: raw.kind() & 1 == 0,
            width: slot_width(long, wide),
            stack_table: if long { raw.raw >> 32 & 7 } else { 0 },
        })
    }

    /// The code segment that a gate names, and the privilege level it will run at.
    fn handler_code(&mut self, selector: u16) -> Result<(Descriptor, u8), Trap> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        let code = self.read_descriptor(selector)?;
        if !code.is_code() || code.dpl() > self.cpl {
            return Err(self.gp(selector));
        }
        if !code.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        if self.long_mode() && (!code.has(attributes::LONG) || code.has(attributes::BIG)) {
            return Err(self.gp(selector));
        }
        let cpl = if code.is_conforming() { self.cpl } else { code.dpl() };
        Ok((self.mark_accessed(code)?, cpl))
    }

    fn enter_long(&mut self, event: &Event, gate: &Gate, code: Descriptor, cpl: u8) -> Step {
        let switches = cpl < self.cpl;
        let pointer = match (gate.stack_table, switches) {
            (0, false) => self.regs[RSP],
            (0, true) => self.inner_rsp(cpl)?,
            (table, _) => self.tss64_pointer(TSS64_IST + 8 * (table - 1))?,
        };
        if !canonical(gate.offset) {
            return Err(self.gp0());
        }
        let stack =
            Stack { segment: self.segments[SS], pointer: pointer & !15, cpl, long: true, fault: 0 };
        let mut frame = Frame::new(8);
        frame.push(u64::from(self.segments[SS].selector));
        frame.push(self.regs[RSP]);
        self.push_return(&mut frame, event);
        self.regs[RSP] = self.push_frame(&stack, &frame)?;
        if switches {
            self.segments[SS] = null_segment(u16::from(cpl));
        }
        self.start_handler(gate, code, cpl);
        Ok(())
    }

    fn enter_legacy(&mut self, event: &Event, gate: &Gate, code: Descriptor, cpl: u8) -> Step {
        if gate.offset > u64::from(code.limit()) {
            return Err(self.gp0());
        }
        let mut frame = Frame::new(gate.width);
        let stack = if cpl < self.cpl {
            frame.push(u64::from(self.segments[SS].selector));
            frame.push(self.regs[RSP]);
            self.inner_stack(cpl)?
        } else {
            self.current_stack()
        };
        self.push_return(&mut frame, event);
        let pointer = self.push_frame(&stack, &frame)?;
        self.segments[SS] = stack.segment;
        self.start_handler(gate, code, cpl);
        self.put_stack_pointer(pointer);
        Ok(())
    }

    /// RFLAGS, CS, RIP and the error code.
    fn push_return(&mut self, frame: &mut Frame, event: &Event) {
        let rf = if event.pushes_rf() { rflags::RF } else { 0 };
        frame.push(self.rflags() | rf);
        frame.push(u64::from(self.segments[CS].selector));
        frame.push(event.return_rip);
        if let Some(error) = event.error {
            frame.push(u64::from(error));
        }
    }

    fn start_handler(&mut self, gate: &Gate, code: Descriptor, cpl: u8) {
        self.segments[CS] = code.segment(gate.selector & !3 | u16::from(cpl));
        self.cpl = cpl;
        self.regs[RIP] = gate.offset;
        self.eflags &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if gate.masks {
            self.eflags &= !rflags::IF;
        }
        self.update_mode();
    }

    /// The stack pointer of privilege level `cpl` in a 64-bit TSS.
    pub(crate) fn inner_rsp(&mut self, cpl: u8) -> Result<u64, Trap> {
        self.tss64_pointer(TSS64_RSP + 8 * u64::from(cpl))
    }

    fn tss64_pointer(&mut self, offset: u64) -> Result<u64, Trap> {
        let address = self.tss_address(offset, 8)?;
        let pointer = self.read_system(address)?;
        if !canonical(pointer) {
            return Err(self.raise(Exception::with(vector::SS, 0)));
        }
        Ok(pointer)
    }

    /// The address of `bytes` bytes in the TSS, or #TS.
    fn tss_address(&mut self, offset: u64, bytes: u64) -> Result<u64, Trap> {
        if self.tr.unusable || offset + bytes - 1 > u64::from(self.tr.limit) {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        Ok(self.tr.base.wrapping_add(offset))
    }

    /// The stack of the inner privilege level `cpl` that a 16-bit or 32-bit TSS names.
    pub(crate) fn inner_stack(&mut self, cpl: u8) -> Result<Stack, Trap> {
        let level = u64::from(cpl);
        let wide = self.tr.attributes & 8 != 0;
        let (pointer, selector) = if wide {
            let address = self.tss_address(4 + 8 * level, 6)?;
            let pointer: u32 = self.read_system(address)?;
            (u64::from(pointer), self.read_system::<u16>(address + 4)?)
        } else {
            let address = self.tss_address(2 + 4 * level, 4)?;
            let pointer: u16 = self.read_system(address)?;
            (u64::from(pointer), self.read_system::<u16>(address + 2)?)
        };
        if is_null(selector) {
            return Err(self.selector_fault(vector::TS, 0));
        }
        let descriptor = self.read_stack_descriptor(selector, cpl, vector::TS)?;
        let segment: Segment = self.mark_accessed(descriptor)?.segment(selector);
        debug_assert_eq!(rpl(selector), cpl);
        let fault = u32::from(selector & !3);
        Ok(Stack { segment, pointer, cpl, long: false, fault })
    }
}

/// What a fault during the delivery of `first` becomes; `None` shuts the CPU down (SDM Vol. 3A,
/// table 7-5).
fn combine(first: &Event, second: Exception) -> Option<Exception> {
    let fatal = match (first.cause, class(second.vector)) {
        (Cause::Exception, second) => match (first.vector, second) {
            (_, Class::Benign) => false,
            (vector::DF, _) => return None,
            (vector::PF, _) => true,
            (first, Class::Contributory) => class(first) == Class::Contributory,
            (_, Class::PageFault) => false,
        },
        (Cause::External | Cause::Software | Cause::Icebp, _) => false,
    };
    if fatal {
        return Some(Exception::with(vector::DF, 0));
    }
    let by_selector = matches!(second.vector, vector::TS | vector::NP | vector::SS | vector::GP);
    let ext = if by_selector { first.ext() } else { 0 };
    Some(Exception { error: second.error.map(|error| error | ext), ..second })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        _ => Class::Benign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_combine_as_the_table_says() {
        let event =
            |vector, cause| Event { vector, error: None, cause, return_rip: 0, restart_rip: 0 };
        let check = |first, cause, second, expected: Option<(u8, u32)>| {
            let combined = combine(&event(first, cause), Exception::with(second, 0x10));
            let expected = expected.map(|(vector, error)| Exception::with(vector, error));
            assert_eq!(combined, expected, "{second} during {first}");
        };
        use Cause::{Exception as Fault, External, Icebp, Software};
        check(vector::UD, Fault, vector::GP, Some((vector::GP, 0x11)));
        check(vector::GP, Fault, vector::NP, Some((vector::DF, 0)));
        check(vector::GP, Fault, vector::PF, Some((vector::PF, 0x10)));
        check(vector::PF, Fault, vector::PF, Some((vector::DF, 0)));
        check(vector::PF, Fault, vector::SS, Some((vector::DF, 0)));
        check(vector::DF, Fault, vector::PF, None);
        check(vector::DF, Fault, vector::GP, None);
        check(0x80, Software, vector::GP, Some((vector::GP, 0x10)));
        check(vector::GP, Software, vector::GP, Some((vector::GP, 0x10)));
        check(vector::GP, External, vector::NP, Some((vector::NP, 0x11)));
        check(vector::DB, Icebp, vector::TS, Some((vector::TS, 0x11)));
    }
}
