//! Segment registers and descriptors (SDM Vol. 3A, chapters 3 and 5).
//!
//! A [`Descriptor`] is read from the GDT or LDT by its selector, checked for its use, and turned
//! into a [`Segment`]. In real mode there are no descriptors: a selector is a base divided by 16,
//! and limit and rights stay as they are. In 64-bit mode the bases of ES, CS, SS and DS are kept
//! but unused; those of FS and GS live in `Cpu::regs`.

use vcpu::{DescriptorTable, Segment};

use crate::cpu::{CS, CodeSize, Cpu, Exception, FS, FS_BASE, GS, GS_BASE, SS, Step, Trap, vector};
use crate::paging::canonical;

/// Bits of a selector that name a descriptor: all but the RPL.
const INDEX_AND_TABLE: u16 = !3;
const LOCAL_TABLE: u16 = 1 << 2;

/// Bits of [`Segment::attributes`].
pub mod attributes {
    /// Data: writable. Code: readable.
    pub const RW: u16 = 1 << 1;
    /// Data: expands down. Code: conforming.
    pub const EXPAND_DOWN: u16 = 1 << 2;
    /// Code, not data.
    pub const CODE: u16 = 1 << 3;
    /// Code or data, not a system segment or gate.
    pub const NOT_SYSTEM: u16 = 1 << 4;
    /// Present.
    pub const PRESENT: u16 = 1 << 7;
    /// 64-bit code.
    pub const LONG: u16 = 1 << 9;
    /// 32-bit code or stack.
    pub const BIG: u16 = 1 << 10;
    /// The limit counts pages.
    pub const GRANULAR: u16 = 1 << 11;
    /// What a data segment has in real mode: present, writable, accessed.
    pub const REAL: u16 = PRESENT | NOT_SYSTEM | RW | 1;
}

/// System descriptor types (SDM Vol. 3A, table 3-2).
pub mod system_type {
    /// Available 16-bit TSS.
    pub const TSS16: u16 = 1;
    /// LDT.
    pub const LDT: u16 = 2;
    /// 16-bit call gate.
    pub const CALL_GATE16: u16 = 4;
    /// Available TSS, 32-bit or 64-bit.
    pub const TSS: u16 = 9;
    /// Busy TSS, 32-bit or 64-bit.
    pub const TSS_BUSY: u16 = 11;
    /// Call gate, 32-bit or 64-bit.
    pub const CALL_GATE: u16 = 12;
}

/// Eight bytes of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// As they lie in memory.
    pub raw: u64,
    /// Their linear address.
    pub address: u64,
}

impl Descriptor {
    /// Base address, the low 32 bits of it for system descriptors of long mode.
    pub fn base(self) -> u64 {
        self.raw >> 16 & 0xFF_FFFF | (self.raw >> 56) << 24
    }

    /// Limit in bytes.
    pub fn limit(self) -> u32 {
        let limit = (self.raw & 0xFFFF | self.raw >> 32 & 0xF_0000) as u32;
        if self.has(attributes::GRANULAR) { limit << 12 | 0xFFF } else { limit }
    }

    /// As in [`Segment::attributes`].
    pub fn attributes(self) -> u16 {
        (self.raw >> 40 & 0xFF | self.raw >> 44 & 0xF00) as u16
    }

    /// Type, for system descriptors one of [`system_type`].
    pub fn kind(self) -> u16 {
        self.attributes() & 0xF
    }

    /// Descriptor privilege level.
    pub fn dpl(self) -> u8 {
        (self.attributes() >> 5 & 3) as u8
    }

    /// Whether all of `bits` (of [`attributes`]) are set.
    pub fn has(self, bits: u16) -> bool {
        self.attributes() & bits == bits
    }

    /// Present.
    pub fn present(self) -> bool {
        self.has(attributes::PRESENT)
    }

    /// A system segment or gate.
    pub fn is_system(self) -> bool {
        !self.has(attributes::NOT_SYSTEM)
    }

    /// A code segment.
    pub fn is_code(self) -> bool {
        self.has(attributes::NOT_SYSTEM | attributes::CODE)
    }

    /// A conforming code segment.
    pub fn is_conforming(self) -> bool {
        self.has(attributes::NOT_SYSTEM | attributes::CODE | attributes::EXPAND_DOWN)
    }

    /// A writable data segment.
    pub fn is_writable(self) -> bool {
        !self.is_code() && self.has(attributes::NOT_SYSTEM | attributes::RW)
    }

    /// A data segment or a readable code segment.
    pub fn is_readable(self) -> bool {
        !self.is_system() && (!self.is_code() || self.has(attributes::RW))
    }

    /// The segment register that holds it.
    pub fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes(),
            unusable: false,
        }
    }
}

/// A segment register that holds a null selector.
pub(crate) fn null_segment(selector: u16) -> Segment {
    Segment { selector, unusable: true, ..Segment::default() }
}

/// Whether a selector is null.
pub(crate) fn is_null(selector: u16) -> bool {
    selector & INDEX_AND_TABLE == 0
}

/// Requested privilege level.
pub(crate) fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

impl Cpu {
    /// An exception whose error code is a selector.
    pub(crate) fn selector_fault(&mut self, vector: u8, selector: u16) -> Trap {
        self.raise(Exception::with(vector, u32::from(selector & INDEX_AND_TABLE)))
    }

    /// #GP(selector).
    pub(crate) fn gp(&mut self, selector: u16) -> Trap {
        self.selector_fault(vector::GP, selector)
    }

    /// The linear address of `bytes` bytes of the descriptor that `selector` names, if they lie
    /// inside its table.
    fn descriptor_slot(&self, selector: u16, bytes: u64) -> Option<u64> {
        let (base, limit) = match selector & LOCAL_TABLE {
            0 => (self.gdtr.base, u64::from(self.gdtr.limit)),
            _ if self.ldtr.unusable => return None,
            _ => (self.ldtr.base, u64::from(self.ldtr.limit)),
        };
        let offset = u64::from(selector >> 3) * 8;
        (offset + bytes - 1 <= limit).then(|| base.wrapping_add(offset))
    }

    fn descriptor_address(&mut self, selector: u16, bytes: u64) -> Result<u64, Trap> {
        match self.descriptor_slot(selector, bytes) {
            Some(address) => Ok(address),
            None => Err(self.gp(selector)),
        }
    }

    /// Reads the descriptor of a selector that is not null. #GP(selector) beyond the table.
    pub(crate) fn read_descriptor(&mut self, selector: u16) -> Result<Descriptor, Trap> {
        let address = self.descriptor_address(selector, 8)?;
        Ok(Descriptor { raw: self.read_system(address)?, address })
    }

    /// Reads a system descriptor with its upper eight bytes, which are zero outside long mode.
    pub(crate) fn read_wide_descriptor(
        &mut self,
        selector: u16,
    ) -> Result<(Descriptor, u64), Trap> {
        if !self.long_mode() {
            return Ok((self.read_descriptor(selector)?, 0));
        }
        let address = self.descriptor_address(selector, 16)?;
        let raw = self.read_system(address)?;
        let upper: u64 = self.read_system(address.wrapping_add(8))?;
        if upper >> 40 & 0x1F != 0 {
            return Err(self.gp(selector));
        }
        Ok((Descriptor { raw, address }, upper))
    }

    /// Sets the accessed bit of a code or data descriptor in memory, and returns the descriptor
    /// with it.
    pub(crate) fn mark_accessed(&mut self, descriptor: Descriptor) -> Result<Descriptor, Trap> {
        const ACCESSED: u64 = 1 << 40;
        if descriptor.raw & ACCESSED != 0 {
            return Ok(descriptor);
        }
        let raw = descriptor.raw | ACCESSED;
        self.write_system(descriptor.address.wrapping_add(5), (raw >> 40) as u8)?;
        Ok(Descriptor { raw, ..descriptor })
    }

    /// Loads ES, SS, DS, FS or GS as MOV, POP and LDS and its kin do. The caller holds interrupts
    /// off behind a load of SS.
    pub fn load_segment(&mut self, register: usize, selector: u16) -> Step {
        let loaded = if !self.protected_mode() {
            self.real_segment(register, selector)
        } else if register == SS {
            self.stack_segment(selector)?
        } else {
            self.data_segment(selector)?
        };
        self.put_segment(register, loaded);
        Ok(())
    }

    /// Puts a segment in place, with the base of FS and GS where it is used.
    pub(crate) fn put_segment(&mut self, register: usize, segment: Segment) {
        self.segments[register] = segment;
        match register {
            FS => self.regs[FS_BASE] = segment.base,
            GS => self.regs[GS_BASE] = segment.base,
            _ => {}
        }
    }

    /// What a segment register becomes in real mode.
    pub(crate) fn real_segment(&self, register: usize, selector: u16) -> Segment {
        let old = self.segments[register];
        let (limit, kept) = match old.unusable {
            true => (0xFFFF, attributes::REAL),
            false => (old.limit, old.attributes),
        };
        Segment {
            selector,
            base: u64::from(selector) << 4,
            limit,
            attributes: kept,
            unusable: false,
        }
    }

    fn stack_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        if is_null(selector) {
            let allowed =
                self.code_size == CodeSize::Bits64 && self.cpl < 3 && rpl(selector) == self.cpl;
            return if allowed { Ok(null_segment(selector)) } else { Err(self.gp0()) };
        }
        let descriptor = self.read_stack_descriptor(selector, self.cpl, vector::GP)?;
        Ok(self.mark_accessed(descriptor)?.segment(selector))
    }

    /// The descriptor of a stack for privilege level `cpl`: writable data, RPL and DPL equal to
    /// it, or the exception `bad` (#GP or #TS) with the selector; #SS if it is not present.
    pub(crate) fn read_stack_descriptor(
        &mut self,
        selector: u16,
        cpl: u8,
        bad: u8,
    ) -> Result<Descriptor, Trap> {
        let descriptor = match self.read_descriptor(selector) {
            Ok(descriptor) => descriptor,
            Err(trap) => return Err(self.rename_gp(trap, bad)),
        };
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable() {
            return Err(self.selector_fault(bad, selector));
        }
        if !descriptor.present() {
            return Err(self.selector_fault(vector::SS, selector));
        }
        Ok(descriptor)
    }

    /// Turns a pending #GP into another exception with the same error code: selectors that come
    /// from a TSS are #TS where an instruction's would be #GP.
    fn rename_gp(&mut self, trap: Trap, vector: u8) -> Trap {
        match self.pending {
            crate::cpu::Pending::Fault(Exception { vector: vector::GP, error }) => {
                self.raise(Exception { vector, error })
            }
            _ => trap,
        }
    }

    fn data_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        let descriptor = self.read_descriptor(selector)?;
        let privileged = !descriptor.is_conforming()
            && (rpl(selector) > descriptor.dpl() || self.cpl > descriptor.dpl());
        if !descriptor.is_readable() || privileged {
            return Err(self.gp(selector));
        }
        if !descriptor.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(self.mark_accessed(descriptor)?.segment(selector))
    }

    /// Nulls the data segments that code at the outer privilege level `cpl` may not keep (SDM
    /// Vol. 2, RET: "return to outer privilege level").
    pub(crate) fn drop_privileged_segments(&mut self, cpl: u8) {
        for register in [crate::cpu::ES, crate::cpu::DS, FS, GS] {
            let Segment { attributes: kept, unusable, .. } = self.segments[register];
            let conforming = attributes::CODE | attributes::EXPAND_DOWN;
            let dpl = (kept >> 5 & 3) as u8;
            if !unusable && kept & conforming != conforming && dpl < cpl {
                self.segments[register] = null_segment(0);
            }
        }
    }

    /// The base that addresses through segment `register` have now.
    pub(crate) fn segment_base(&self, register: usize) -> u64 {
        match register {
            FS => self.regs[FS_BASE],
            GS => self.regs[GS_BASE],
            _ if self.code_size == CodeSize::Bits64 => 0,
            _ => self.segments[register].base,
        }
    }

    /// The linear address of `bytes` bytes at `offset` (already cut to the address size) of a
    /// segment, after the checks of limit and rights that 16-bit and 32-bit code is subject to:
    /// #SS(0) for SS, #GP(0) for the others.
    pub fn linear_legacy(
        &mut self,
        register: usize,
        offset: u64,
        bytes: u64,
        write: bool,
    ) -> Result<u64, Trap> {
        let base = self.segment_base(register);
        if self.code_size == CodeSize::Bits64 {
            return Ok(base.wrapping_add(offset));
        }
        let segment = self.segments[register];
        let allowed = !self.protected_mode() || rights_allow(&segment, write);
        if !allowed || !within_limit(&segment, offset, bytes) {
            let vector = if register == SS { vector::SS } else { vector::GP };
            return Err(self.raise(Exception::with(vector, 0)));
        }
        Ok(base.wrapping_add(offset) & 0xFFFF_FFFF)
    }

    /// #UD outside protected mode, where the instruction does not exist.
    pub(crate) fn require_protected(&mut self) -> Step {
        if self.protected_mode() { Ok(()) } else { Err(self.ud()) }
    }

    /// LLDT.
    pub fn lldt(&mut self, selector: u16) -> Step {
        self.require_protected()?;
        self.require_cpl0()?;
        if is_null(selector) {
            self.ldtr = null_segment(selector);
            return Ok(());
        }
        self.ldtr = self.read_system_segment(selector, |kind| kind == system_type::LDT)?.0;
        Ok(())
    }

    /// LTR: the TSS becomes busy.
    pub fn ltr(&mut self, selector: u16) -> Step {
        self.require_protected()?;
        self.require_cpl0()?;
        if is_null(selector) {
            return Err(self.gp0());
        }
        let long = self.long_mode();
        let available = |kind| kind == system_type::TSS || kind == system_type::TSS16 && !long;
        let (mut segment, descriptor) = self.read_system_segment(selector, available)?;
        segment.attributes |= 2;
        let busy = (descriptor.raw >> 40) as u8 | 2;
        self.write_system(descriptor.address.wrapping_add(5), busy)?;
        self.tr = segment;
        Ok(())
    }

    /// An LDT or TSS from the GDT: `fits` judges its type.
    fn read_system_segment(
        &mut self,
        selector: u16,
        fits: impl Fn(u16) -> bool,
    ) -> Result<(Segment, Descriptor), Trap> {
        if selector & LOCAL_TABLE != 0 {
            return Err(self.gp(selector));
        }
        let (descriptor, upper) = self.read_wide_descriptor(selector)?;
        if !descriptor.is_system() || !fits(descriptor.kind()) {
            return Err(self.gp(selector));
        }
        if !descriptor.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        let mut segment = descriptor.segment(selector);
        segment.base |= upper << 32;
        if self.long_mode() && !canonical(segment.base) {
            return Err(self.gp(selector));
        }
        Ok((segment, descriptor))
    }

    /// The value that SLDT stores.
    pub fn sldt(&mut self) -> Result<u16, Trap> {
        self.require_protected()?;
        Ok(self.ldtr.selector)
    }

    /// The value that STR stores.
    pub fn str(&mut self) -> Result<u16, Trap> {
        self.require_protected()?;
        Ok(self.tr.selector)
    }

    /// The descriptor of a selector that an instruction asks about, unless it is null, out of
    /// limits, or hidden from this privilege level.
    fn visible_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        self.require_protected()?;
        if is_null(selector) {
            return Ok(None);
        }
        let Some(address) = self.descriptor_slot(selector, 8) else { return Ok(None) };
        let descriptor = Descriptor { raw: self.read_system(address)?, address };
        let level = self.cpl.max(rpl(selector));
        let visible = descriptor.is_conforming() || level <= descriptor.dpl();
        Ok(visible.then_some(descriptor))
    }

    /// LAR: the access rights (to be cut to the operand size), or `None` for ZF = 0.
    pub fn lar(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        let long = self.long_mode();
        let found = self.visible_descriptor(selector)?;
        let found = found.filter(|found| match (found.is_system(), found.kind()) {
            (false, _) => true,
            (true, 2 | 9 | 11 | 12) => true,
            (true, 1 | 3 | 4 | 5) => !long,
            (true, _) => false,
        });
        Ok(found.map(|found| (found.raw >> 32) as u32 & 0x00F0_FF00))
    }

    /// LSL: the limit in bytes (to be cut to the operand size), or `None` for ZF = 0.
    pub fn lsl(&mut self, selector: u16) -> Result<Option<u32>, Trap> {
        let long = self.long_mode();
        let found = self.visible_descriptor(selector)?;
        let found = found.filter(|found| match (found.is_system(), found.kind()) {
            (false, _) => true,
            (true, 2 | 9 | 11) => true,
            (true, 1 | 3) => !long,
            (true, _) => false,
        });
        Ok(found.map(Descriptor::limit))
    }

    /// VERR: whether the segment may be read at this privilege level.
    pub fn verr(&mut self, selector: u16) -> Result<bool, Trap> {
        Ok(self.visible_descriptor(selector)?.is_some_and(Descriptor::is_readable))
    }

    /// VERW: whether the segment may be written at this privilege level.
    pub fn verw(&mut self, selector: u16) -> Result<bool, Trap> {
        Ok(self.visible_descriptor(selector)?.is_some_and(Descriptor::is_writable))
    }

    /// LGDT from linear address `va`; `bits` is the operand size.
    pub fn lgdt(&mut self, va: u64, bits: u32) -> Step {
        self.gdtr = self.read_table_register(va, bits)?;
        Ok(())
    }

    /// LIDT from linear address `va`; `bits` is the operand size.
    pub fn lidt(&mut self, va: u64, bits: u32) -> Step {
        self.idtr = self.read_table_register(va, bits)?;
        Ok(())
    }

    /// SGDT to linear address `va`.
    pub fn sgdt(&mut self, va: u64) -> Step {
        self.write_table_register(va, self.gdtr)
    }

    /// SIDT to linear address `va`.
    pub fn sidt(&mut self, va: u64) -> Step {
        self.write_table_register(va, self.idtr)
    }

    fn read_table_register(&mut self, va: u64, bits: u32) -> Result<DescriptorTable, Trap> {
        self.require_cpl0()?;
        let long = self.code_size == CodeSize::Bits64;
        let mut bytes = [0; 10];
        let privilege = self.privilege();
        self.read_linear(va, &mut bytes[..if long { 10 } else { 6 }], privilege)?;
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut base = (0..4).rev().fold(0, |base, i| base << 16 | u64::from(word(2 + 2 * i)));
        if !long && bits == 16 {
            base &= 0xFF_FFFF;
        }
        if long && !canonical(base) {
            return Err(self.gp0());
        }
        Ok(DescriptorTable { base, limit: word(0) })
    }

    fn write_table_register(&mut self, va: u64, table: DescriptorTable) -> Step {
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
        bytes[2..].copy_from_slice(&table.base.to_le_bytes());
        let len = if self.code_size == CodeSize::Bits64 { 10 } else { 6 };
        let privilege = self.privilege();
        self.write_linear(va, &bytes[..len], privilege)
    }

    /// The segment that code runs in, as SYSCALL and its kin set it: flat, whatever the
    /// descriptor says.
    pub(crate) fn put_flat_code(&mut self, selector: u16, dpl: u8, long: bool) {
        use attributes::{BIG, CODE, GRANULAR, LONG, NOT_SYSTEM, PRESENT, RW};
        let size = if long { LONG } else { BIG };
        let rights = PRESENT | NOT_SYSTEM | CODE | RW | 1 | GRANULAR | size;
        self.put_segment(CS, flat(selector, rights, dpl));
        self.cpl = dpl;
    }

    /// The flat stack that goes with [`Cpu::put_flat_code`].
    pub(crate) fn put_flat_stack(&mut self, selector: u16, dpl: u8) {
        let rights = attributes::REAL | attributes::GRANULAR | attributes::BIG;
        self.put_segment(SS, flat(selector, rights, dpl));
    }
}

fn flat(selector: u16, rights: u16, dpl: u8) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: rights | u16::from(dpl) << 5,
        unusable: false,
    }
}

/// Whether a segment's type lets its bytes be read, or written.
fn rights_allow(segment: &Segment, write: bool) -> bool {
    let code = segment.attributes & attributes::CODE != 0;
    let rw = segment.attributes & attributes::RW != 0;
    !segment.unusable && if write { rw && !code } else { rw || !code }
}

/// Whether `bytes` bytes at `offset` lie inside a segment (SDM Vol. 3A, 5.3).
pub(crate) fn within_limit(segment: &Segment, offset: u64, bytes: u64) -> bool {
    let last = offset + bytes.saturating_sub(1);
    let limit = u64::from(segment.limit);
    let kind = segment.attributes & (attributes::CODE | attributes::EXPAND_DOWN);
    if kind == attributes::EXPAND_DOWN {
        let big = segment.attributes & attributes::BIG != 0;
        offset > limit && last <= if big { 0xFFFF_FFFF } else { 0xFFFF }
    } else {
        last <= limit
    }
}
