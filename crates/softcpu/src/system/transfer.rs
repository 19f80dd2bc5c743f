//! Far JMP, CALL and RET (SDM Vol. 2, and Vol. 3A, 5.8).
//!
//! To code segments of the same privilege, through call gates inwards, and back outwards. Task
//! gates and TSS descriptors are refused with #GP: there is no hardware task switching.
//!
//! The functions set `regs[RIP]`; RIP of the instruction behind is handed in where it is pushed.

use crate::cpu::{CS, CodeSize, Cpu, RIP, SS, Step, Trap, vector};
use crate::paging::canonical;
use crate::system::segment::{Descriptor, attributes, is_null, null_segment, rpl, system_type};
use crate::system::stack::{Frame, Stack, slot_width};

/// Where a far transfer goes, checked.
struct Target {
    code: Descriptor,
    selector: u16,
    offset: u64,
    cpl: u8,
}

/// Where a far pointer leads.
enum Route {
    /// To a code segment of the current privilege.
    Direct(Target),
    /// Through a call gate, whose slots have `width` bytes, with `parameters` slots to copy.
    Gate { target: Target, width: usize, parameters: usize },
}

/// Which checks a far return makes of CS and SS. IRET's differ in nothing but flags.
pub(crate) struct Return {
    pub(crate) selector: u16,
    pub(crate) offset: u64,
    pub(crate) code: Descriptor,
    pub(crate) cpl: u8,
}

impl Cpu {
    /// Far JMP to `selector:offset`; `offset` is cut to the operand size.
    pub fn far_jump(&mut self, selector: u16, offset: u64) -> Step {
        if !self.protected_mode() {
            return self.real_jump(selector, offset);
        }
        let target = match self.route(selector, offset, false)? {
            Route::Direct(target) | Route::Gate { target, .. } => target,
        };
        let code = self.mark_accessed(target.code)?;
        self.arrive(code, target.selector, target.offset, target.cpl);
        Ok(())
    }

    /// Far CALL of `selector:offset` with operand size `bits`; the frame shows `return_rip`.
    pub fn far_call(&mut self, selector: u16, offset: u64, bits: u32, return_rip: u64) -> Step {
        let width = bits as usize / 8;
        if !self.protected_mode() {
            self.check_real_offset(offset)?;
            let pointer = self.push_return_address(&self.current_stack(), width, return_rip)?;
            self.put_stack_pointer(pointer);
            return self.real_jump(selector, offset);
        }
        match self.route(selector, offset, true)? {
            Route::Direct(target) => self.call_same(target, width, return_rip),
            Route::Gate { target, width, .. } if target.cpl == self.cpl => {
                self.call_same(target, width, return_rip)
            }
            Route::Gate { target, width, parameters } => {
                self.call_inner(target, width, parameters, return_rip)
            }
        }
    }

    /// Far RET with operand size `bits`, that drops `parameter_bytes` from the stack.
    pub fn far_return(&mut self, bits: u32, parameter_bytes: u16) -> Step {
        let width = bits as usize / 8;
        let [offset, selector] = self.read_stack(0, width)?;
        let selector = selector as u16;
        let dropped = 2 * width as u64 + u64::from(parameter_bytes);
        if !self.protected_mode() {
            self.real_jump(selector, offset)?;
            let pointer = self.regs[crate::cpu::RSP].wrapping_add(dropped);
            self.put_stack_pointer(pointer);
            return Ok(());
        }
        let back = self.check_return(selector, offset)?;
        if back.cpl == self.cpl {
            let pointer = self.regs[crate::cpu::RSP].wrapping_add(dropped);
            // The stack's width is that of the code that returns.
            self.put_stack_pointer(pointer);
            self.arrive(back.code, back.selector, back.offset, back.cpl);
            return Ok(());
        }
        let [pointer, stack] = self.read_stack(dropped, width)?;
        let segment = self.check_return_stack(stack as u16, &back)?;
        self.arrive(back.code, back.selector, back.offset, back.cpl);
        self.segments[SS] = segment;
        self.put_stack_pointer(pointer.wrapping_add(u64::from(parameter_bytes)));
        self.drop_privileged_segments(back.cpl);
        Ok(())
    }

    fn check_real_offset(&mut self, offset: u64) -> Step {
        let limit = u64::from(self.segments[CS].limit);
        self.accept(offset <= limit)
    }

    fn real_jump(&mut self, selector: u16, offset: u64) -> Step {
        self.check_real_offset(offset)?;
        self.segments[CS] = self.real_segment(CS, selector);
        self.regs[RIP] = offset;
        self.update_mode();
        Ok(())
    }

    /// CS, RIP and the privilege level, all at once.
    pub(crate) fn arrive(&mut self, code: Descriptor, selector: u16, offset: u64, cpl: u8) {
        self.segments[CS] = code.segment(selector & !3 | u16::from(cpl));
        self.cpl = cpl;
        self.regs[RIP] = offset;
        self.update_mode();
    }

    /// Finds out where a far pointer of JMP or CALL leads, and checks all but the stack.
    fn route(&mut self, selector: u16, offset: u64, call: bool) -> Result<Route, Trap> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        let found = self.read_descriptor(selector)?;
        if found.is_system() {
            return self.route_through_gate(selector, found, call);
        }
        let allowed = match found.is_conforming() {
            true => found.dpl() <= self.cpl,
            false => rpl(selector) <= self.cpl && found.dpl() == self.cpl,
        };
        if !found.is_code() || !allowed {
            return Err(self.gp(selector));
        }
        let cpl = self.cpl;
        Ok(Route::Direct(self.check_code(found, selector, offset, cpl)?))
    }

    fn route_through_gate(
        &mut self,
        selector: u16,
        gate: Descriptor,
        call: bool,
    ) -> Result<Route, Trap> {
        let long = self.long_mode();
        let known = match gate.kind() {
            system_type::CALL_GATE => true,
            system_type::CALL_GATE16 => !long,
            _ => false,
        };
        if !known || gate.dpl() < self.cpl || gate.dpl() < rpl(selector) {
            return Err(self.gp(selector));
        }
        if !gate.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        let upper = self.read_wide_descriptor(selector)?.1;
        let wide = gate.kind() == system_type::CALL_GATE;
        let high = if wide { gate.raw >> 32 & 0xFFFF_0000 } else { 0 };
        let offset = gate.raw & 0xFFFF | high | upper << 32;
        let inner = (gate.raw >> 16) as u16;
        if is_null(inner) {
            return Err(self.gp0());
        }
        let code = self.read_descriptor(inner)?;
        let inwards = call && !code.is_conforming();
        let allowed = match inwards || code.is_conforming() {
            true => code.dpl() <= self.cpl,
            false => code.dpl() == self.cpl,
        };
        let bad_size = long && (!code.has(attributes::LONG) || code.has(attributes::BIG));
        if !code.is_code() || !allowed || bad_size {
            return Err(self.gp(inner));
        }
        let cpl = if inwards { code.dpl() } else { self.cpl };
        let target = self.check_code(code, inner, offset, cpl)?;
        let width = slot_width(long, wide);
        let parameters = if long { 0 } else { (gate.raw >> 32 & 0x1F) as usize };
        Ok(Route::Gate { target, width, parameters })
    }

    /// What is checked of every code segment behind its privilege: presence, L and D, and that
    /// the offset lies in it.
    fn check_code(
        &mut self,
        code: Descriptor,
        selector: u16,
        offset: u64,
        cpl: u8,
    ) -> Result<Target, Trap> {
        if self.long_mode() && code.has(attributes::LONG | attributes::BIG) {
            return Err(self.gp(selector));
        }
        if !code.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        let long = self.long_mode() && code.has(attributes::LONG);
        let inside = if long { canonical(offset) } else { offset <= u64::from(code.limit()) };
        if !inside {
            return Err(self.gp0());
        }
        Ok(Target { code, selector, offset, cpl })
    }

    fn push_return_address(
        &mut self,
        stack: &Stack,
        width: usize,
        return_rip: u64,
    ) -> Result<u64, Trap> {
        let mut frame = Frame::new(width);
        frame.push(u64::from(self.segments[CS].selector));
        frame.push(return_rip);
        self.push_frame(stack, &frame)
    }

    fn call_same(&mut self, target: Target, width: usize, return_rip: u64) -> Step {
        let code = self.mark_accessed(target.code)?;
        let pointer = self.push_return_address(&self.current_stack(), width, return_rip)?;
        self.put_stack_pointer(pointer);
        self.arrive(code, target.selector, target.offset, target.cpl);
        Ok(())
    }

    fn call_inner(
        &mut self,
        target: Target,
        width: usize,
        parameters: usize,
        return_rip: u64,
    ) -> Step {
        let cpl = target.cpl;
        let stack = if self.long_mode() {
            let pointer = self.inner_rsp(cpl)?;
            Stack { segment: null_segment(u16::from(cpl)), pointer, cpl, long: true, fault: 0 }
        } else {
            self.inner_stack(cpl)?
        };
        let code = self.mark_accessed(target.code)?;
        let outer = [u64::from(self.segments[SS].selector), self.regs[crate::cpu::RSP]];
        let pointer = if parameters == 0 {
            stack.pointer
        } else {
            // The old stack's address lies above the parameters.
            self.push_parameters(&stack, outer, width, parameters)?
        };
        let mut frame = Frame::new(width);
        if parameters == 0 {
            outer.into_iter().for_each(|value| frame.push(value));
        }
        frame.push(u64::from(self.segments[CS].selector));
        frame.push(return_rip);
        let pointer = self.push_frame(&Stack { pointer, ..stack }, &frame)?;
        self.segments[SS] = stack.segment;
        self.arrive(code, target.selector, target.offset, cpl);
        self.put_stack_pointer(pointer);
        Ok(())
    }

    /// Copies a gate's parameters to the inner stack, below the address of the outer one.
    fn push_parameters(
        &mut self,
        stack: &Stack,
        outer: [u64; 2],
        width: usize,
        parameters: usize,
    ) -> Result<u64, Trap> {
        let mut frame = Frame::new(width);
        outer.into_iter().for_each(|value| frame.push(value));
        let mut pointer = self.push_frame(stack, &frame)?;
        for i in (0..parameters).rev() {
            let [value] = self.read_stack((i * width) as u64, width)?;
            let mut slot = Frame::new(width);
            slot.push(value);
            pointer = self.push_frame(&Stack { pointer, ..*stack }, &slot)?;
        }
        Ok(pointer)
    }

    /// The checks that RET and IRET make of the code segment they return to.
    pub(crate) fn check_return(&mut self, selector: u16, offset: u64) -> Result<Return, Trap> {
        if is_null(selector) {
            return Err(self.gp0());
        }
        let code = self.read_descriptor(selector)?;
        let cpl = rpl(selector);
        let allowed = match code.is_conforming() {
            true => code.dpl() <= cpl,
            false => code.dpl() == cpl,
        };
        if !code.is_code() || cpl < self.cpl || !allowed {
            return Err(self.gp(selector));
        }
        let target = self.check_code(code, selector, offset, cpl)?;
        let code = self.mark_accessed(target.code)?;
        Ok(Return { selector, offset, code, cpl })
    }

    /// The checks that RET and IRET make of the stack they return to.
    pub(crate) fn check_return_stack(
        &mut self,
        selector: u16,
        back: &Return,
    ) -> Result<vcpu::Segment, Trap> {
        if is_null(selector) {
            let long = self.long_mode() && back.code.has(attributes::LONG);
            let allowed = long && back.cpl < 3 && rpl(selector) == back.cpl;
            return if allowed { Ok(null_segment(selector)) } else { Err(self.gp0()) };
        }
        let descriptor = self.read_stack_descriptor(selector, back.cpl, vector::GP)?;
        Ok(self.mark_accessed(descriptor)?.segment(selector))
    }

    /// Whether the code that runs now is 64-bit code.
    pub(crate) fn runs_long_code(&self) -> bool {
        self.code_size == CodeSize::Bits64
    }
}
