//! The slow path of memory accesses: page walks, MMIO, pages that hold code, page crossings.
//!
//! The handlers of ops reach it through the four `call_*` functions. Those do not make an ordinary
//! call: a call in a handler would make the compiler save registers at the handler's start, on the
//! fast path too. A stub in assembler saves what a call may change instead, so that for the
//! handler the slow path changes two registers only.

use std::arch::{asm, global_asm};

use memory::RamPage;

use crate::cpu::{Cpu, Exception, Pending, Trap, vector};
use crate::op::Op;
use crate::paging::{Access, Privilege, Translation, canonical};
use crate::tlb::Width;

/// What the slow path hands back, in RAX and RDX.
#[repr(C)]
struct Answer {
    value: u64,
    /// 0, or 1 for a trap.
    trapped: u64,
}

impl From<Result<u64, Trap>> for Answer {
    fn from(result: Result<u64, Trap>) -> Self {
        match result {
            Ok(value) => Self { value, trapped: 0 },
            Err(Trap) => Self { value: 0, trapped: 1 },
        }
    }
}

// Saves the caller-saved registers but RAX and RDX (SSE registers are declared clobbered by the
// callers, for which they cost nothing), aligns the stack, and calls the function in R10.
global_asm!(
    ".globl sparkler_softcpu_slow_call",
    "sparkler_softcpu_slow_call:",
    "push rbp",
    "mov rbp, rsp",
    "push rcx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r11",
    "and rsp, -16",
    "call r10",
    "lea rsp, [rbp - 56]",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rcx",
    "pop rbp",
    "ret",
);

/// Calls `target(cpu, a, b, c)` through the stub.
#[inline(always)]
fn stub_call(
    target: extern "sysv64" fn(&mut Cpu, u64, u64, u64) -> Answer,
    cpu: &mut Cpu,
    a: u64,
    b: u64,
    c: u64,
) -> Result<u64, Trap> {
    let value: u64;
    let trapped: u64;
    // SAFETY: the stub keeps every register but RAX, RDX and the SSE registers, skips the red
    // zone below, aligns the stack, and calls a function of this very signature.
    unsafe {
        asm!(
            "lea rsp, [rsp - 128]",
            "call sparkler_softcpu_slow_call",
            "lea rsp, [rsp + 128]",
            in("rdi") cpu as *mut Cpu,
            in("rsi") a,
            inout("rdx") b => trapped,
            in("rcx") c,
            in("r10") target as usize,
            lateout("rax") value,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
    if trapped == 0 { Ok(value) } else { Err(Trap) }
}

/// The slow path of [`Cpu::load`].
#[inline(always)]
pub fn call_slow_load(cpu: &mut Cpu, va: u64, size: u64) -> Result<u64, Trap> {
    stub_call(slow_load, cpu, va, size, 0)
}

/// The slow path of [`Cpu::store`].
#[inline(always)]
pub fn call_slow_store(cpu: &mut Cpu, va: u64, size: u64, value: u64) -> Result<(), Trap> {
    stub_call(slow_store, cpu, va, size, value).map(|_| ())
}

/// The slow path of [`Cpu::modify`].
#[inline(always)]
pub fn call_slow_modify(cpu: &mut Cpu, va: u64, size: u64) -> Result<u64, Trap> {
    stub_call(slow_modify, cpu, va, size, 0)
}

/// The slow path of [`Cpu::modified`].
#[inline(always)]
pub fn call_slow_modified(cpu: &mut Cpu) {
    let _ = stub_call(slow_modified, cpu, 0, 0, 0);
}

/// The slow path of [`Cpu::address`].
#[inline(always)]
pub fn call_slow_address(cpu: &mut Cpu, op: &Op, bytes: u64, write: bool) -> Result<u64, Trap> {
    stub_call(slow_address, cpu, std::ptr::from_ref(op) as u64, bytes, u64::from(write))
}

extern "sysv64" fn slow_address(cpu: &mut Cpu, op: u64, bytes: u64, write: u64) -> Answer {
    // SAFETY: `call_slow_address` passes a reference that outlives the call.
    let op = unsafe { &*(op as *const Op) };
    cpu.slow_address(op, bytes, write != 0).into()
}

extern "sysv64" fn slow_load(cpu: &mut Cpu, va: u64, size: u64, _: u64) -> Answer {
    let mut bytes = [0; 8];
    let privilege = cpu.privilege();
    let read = cpu.read_linear(va, &mut bytes[..size as usize], privilege);
    read.map(|()| u64::from_le_bytes(bytes)).into()
}

extern "sysv64" fn slow_store(cpu: &mut Cpu, va: u64, size: u64, value: u64) -> Answer {
    let privilege = cpu.privilege();
    cpu.write_linear(va, &value.to_le_bytes()[..size as usize], privilege).map(|()| 0).into()
}

extern "sysv64" fn slow_modify(cpu: &mut Cpu, va: u64, size: u64, _: u64) -> Answer {
    cpu.begin_modify(va, size).into()
}

extern "sysv64" fn slow_modified(cpu: &mut Cpu, _: u64, _: u64, _: u64) -> Answer {
    cpu.end_modify();
    Answer { value: 0, trapped: 0 }
}

/// A read-modify-write on the slow path, between its begin and its end.
#[derive(Default)]
#[repr(C, align(16))]
pub struct Modify {
    /// Where the operand is worked on when it is not a whole piece of RAM.
    bounce: [u8; 16],
    size: usize,
    target: Target,
}

#[derive(Default, Clone, Copy)]
enum Target {
    #[default]
    None,
    /// The change was made in RAM; the page's log is to be told.
    Ram { physical: u64 },
    /// The change was made in the bounce buffer.
    Bounce { first: u64, second: u64, split: usize },
}

impl Cpu {
    /// Reads `bytes.len()` bytes (at most a page) from linear address `va`.
    pub fn read_linear(
        &mut self,
        va: u64,
        bytes: &mut [u8],
        privilege: Privilege,
    ) -> Result<(), Trap> {
        let split = self.check_range(va, bytes.len())?;
        let (head, tail) = bytes.split_at_mut(split);
        let first = self.look_up(va, Access::Read, privilege)?;
        let second = match tail.len() {
            0 => None,
            _ => Some(self.look_up(va.wrapping_add(split as u64), Access::Read, privilege)?),
        };
        self.read_physical(first.physical, head);
        if let Some(second) = second {
            self.read_physical(second.physical, tail);
        }
        self.watch(va, bytes.len() as u64, Access::Read);
        Ok(())
    }

    /// Writes `bytes` (at most a page) to linear address `va`: all of it, or nothing and a trap.
    pub fn write_linear(
        &mut self,
        va: u64,
        bytes: &[u8],
        privilege: Privilege,
    ) -> Result<(), Trap> {
        let split = self.check_range(va, bytes.len())?;
        let (head, tail) = bytes.split_at(split);
        let first = self.look_up(va, Access::Write, privilege)?;
        self.refuse_own_block(first.physical, head.len())?;
        if tail.is_empty() {
            self.write_physical(first.physical, head);
        } else {
            let second = self.look_up(va.wrapping_add(split as u64), Access::Write, privilege)?;
            self.refuse_own_block(second.physical, tail.len())?;
            self.write_physical(first.physical, head);
            self.write_physical(second.physical, tail);
        }
        self.watch(va, bytes.len() as u64, Access::Write);
        Ok(())
    }

    /// Reads an integer for the CPU's own purposes (descriptors, TSS), with supervisor rights.
    pub fn read_system<T: Width>(&mut self, va: u64) -> Result<T, Trap> {
        let mut bytes = [0; 8];
        self.read_linear(va, &mut bytes[..T::BYTES as usize], Privilege::SYSTEM)?;
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Writes an integer for the CPU's own purposes, with supervisor rights.
    pub fn write_system<T: Width>(&mut self, va: u64, value: T) -> Result<(), Trap> {
        let bytes = value.to_u64().to_le_bytes();
        self.write_linear(va, &bytes[..T::BYTES as usize], Privilege::SYSTEM)
    }

    /// How many of `len` bytes lie in the first page. #GP if an address is not canonical.
    fn check_range(&mut self, va: u64, len: usize) -> Result<usize, Trap> {
        let last = va.wrapping_add((len as u64).saturating_sub(1));
        if self.long_mode() && !(canonical(va) && canonical(last)) {
            self.not_canonical = true;
            return Err(self.raise(Exception::with(vector::GP, 0)));
        }
        Ok(len.min(4096 - (va & 0xFFF) as usize))
    }

    /// Translates, and puts RAM pages that need no further looks into the TLB.
    fn look_up(
        &mut self,
        va: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Translation, Trap> {
        let va = if self.long_mode() { va } else { va & 0xFFFF_FFFF };
        self.tlb_misses += 1;
        let found = self.translate(va, access, privilege)?;
        if privilege == self.privilege() && !self.watches_page(va) {
            self.fill_tlb(va, found);
        }
        Ok(found)
    }

    fn fill_tlb(&mut self, va: u64, found: Translation) {
        let frame = found.physical >> 12;
        if self.dry.is_some() {
            return;
        }
        let Some(page) = self.port.ram.page(frame) else { return };
        let mut writable = found.writable;
        if writable {
            page.state.announce_writer(self.id);
            writable = !page.state.holds_code();
        }
        if writable {
            page.set_dirty();
        }
        let host = page.host.as_ptr() as u64;
        self.tlb.fill(self.tlb_set, va, host, frame, found.global, writable);
    }

    /// Reads RAM; `bytes` lies inside one page. What is not RAM is left out.
    pub fn peek_ram(&self, physical: u64, bytes: &mut [u8]) {
        if let Some(page) = self.port.ram.page(physical >> 12) {
            copy_from_ram(page, physical, bytes);
        }
    }

    /// Writes RAM as it was before; `bytes` lies inside one page.
    pub fn poke_ram(&self, physical: u64, bytes: &[u8]) {
        if let Some(page) = self.port.ram.page(physical >> 12) {
            copy_to_ram(page, physical, bytes);
        }
    }

    /// Reads RAM or a device; `bytes` lies inside one page.
    pub fn read_physical(&mut self, physical: u64, bytes: &mut [u8]) {
        match self.port.ram.page(physical >> 12) {
            Some(page) => copy_from_ram(page, physical, bytes),
            None if self.refuse_in_dry_run() => {}
            None => self.mmio_read(physical, bytes),
        }
    }

    /// Writes RAM or a device; `bytes` lies inside one page.
    pub fn write_physical(&mut self, physical: u64, bytes: &[u8]) {
        self.note_write(physical, bytes.len());
        match self.port.ram.page(physical >> 12) {
            Some(page) => {
                copy_to_ram(page, physical, bytes);
                page.set_dirty();
                if self.dry.is_none() {
                    page.state.written(physical & 0xFFF, bytes.len() as u64);
                }
            }
            None if self.refuse_in_dry_run() => {}
            None => self.mmio_write(physical, bytes),
        }
    }

    /// Leaves `Pending::Alone` if the write would change the block that is running, unless it is
    /// already running alone.
    fn refuse_own_block(&mut self, physical: u64, len: usize) -> Result<(), Trap> {
        let Some(page) = self.port.ram.page(physical >> 12) else { return Ok(()) };
        if self.alone || !page.state.code_in(physical & 0xFFF, len as u64) {
            return Ok(());
        }
        if self.running_frame() == Some(physical >> 12) {
            self.pending = Pending::Alone;
            return Err(Trap);
        }
        Ok(())
    }

    fn begin_modify(&mut self, va: u64, size: u64) -> Result<u64, Trap> {
        let privilege = self.privilege();
        let size = size as usize;
        let split = self.check_range(va, size)?;
        let first = self.look_up(va, Access::Write, privilege)?.physical;
        self.refuse_own_block(first, split)?;
        let mut second = 0;
        if split < size {
            second =
                self.look_up(va.wrapping_add(split as u64), Access::Write, privilege)?.physical;
            self.refuse_own_block(second, size - split)?;
        }
        self.watch(va, size as u64, Access::Write);
        if split == size {
            self.note_write(first, size);
        }
        if split == size
            && let Some(page) = self.port.ram.page(first >> 12)
        {
            page.set_dirty();
            let host = page.host.as_ptr() as u64 + (first & 0xFFF);
            self.port.modify.size = size;
            self.port.modify.target = Target::Ram { physical: first };
            return Ok(host);
        }
        let mut bounce = [0; 16];
        self.read_physical(first, &mut bounce[..split]);
        self.read_physical_if(second, &mut bounce[split..size]);
        self.port.modify = Modify { bounce, size, target: Target::Bounce { first, second, split } };
        Ok(self.port.modify.bounce.as_ptr() as u64)
    }

    fn read_physical_if(&mut self, physical: u64, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            self.read_physical(physical, bytes);
        }
    }

    fn end_modify(&mut self) {
        let modify = std::mem::take(&mut self.port.modify);
        match modify.target {
            Target::None => {}
            Target::Ram { .. } if self.dry.is_some() => {}
            Target::Ram { physical } => {
                if let Some(page) = self.port.ram.page(physical >> 12) {
                    page.state.written(physical & 0xFFF, modify.size as u64);
                }
            }
            Target::Bounce { first, second, split } => {
                self.write_physical(first, &modify.bounce[..split]);
                if split < modify.size {
                    self.write_physical(second, &modify.bounce[split..modify.size]);
                }
            }
        }
    }
}

/// Copies with the widest single accesses that fit, so that naturally aligned ones are atomic.
fn copy_from_ram(page: RamPage<'_>, physical: u64, bytes: &mut [u8]) {
    let mut host = page.host.as_ptr() as u64 + (physical & 0xFFF);
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = piece(rest.len());
        let (now, later) = rest.split_at_mut(size);
        // SAFETY: the caller's bytes lie inside the page, which is RAM.
        let value = unsafe {
            match size {
                8 => u64::load(host),
                4 => u32::load(host).to_u64(),
                2 => u16::load(host).to_u64(),
                _ => u8::load(host).to_u64(),
            }
        };
        now.copy_from_slice(&value.to_le_bytes()[..size]);
        host += size as u64;
        rest = later;
    }
}

fn copy_to_ram(page: RamPage<'_>, physical: u64, bytes: &[u8]) {
    let mut host = page.host.as_ptr() as u64 + (physical & 0xFFF);
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = piece(rest.len());
        let (now, later) = rest.split_at(size);
        let mut word = [0; 8];
        word[..size].copy_from_slice(now);
        let value = u64::from_le_bytes(word);
        // SAFETY: as in `copy_from_ram`.
        unsafe {
            match size {
                8 => u64::store(host, value),
                4 => u32::store(host, value as u32),
                2 => u16::store(host, value as u16),
                _ => u8::store(host, value as u8),
            }
        }
        host += size as u64;
        rest = later;
    }
}

/// The widest of 8, 4, 2 and 1 that fits `len`.
fn piece(len: usize) -> usize {
    match len {
        8.. => 8,
        4..=7 => 4,
        2..=3 => 2,
        _ => 1,
    }
}
