//! From bytes to blocks: fetch, decode, find out which flags matter, fuse pairs, lay out the row.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

use crate::block::{finish_crossing_heads, finish_head, head_once, head_op};
use crate::cpu::{Cpu, Trap};
use crate::op::{Handler, Op};
use crate::ops::branch::{Cut, Looked, Near, jump};
use crate::select::{self, Ending};

/// Instructions in a block at most.
const INSTRUCTIONS_MAX: usize = 32;
/// Bytes of code in a block at most: offsets in ops are one byte.
pub const BYTES_MAX: usize = 192;
/// The longest instruction (SDM Vol. 2A, 2.3.11).
pub const INSTRUCTION_BYTES_MAX: usize = 15;

/// TZCNT and LZCNT are not offered, so their encodings are BSF and BSR. WBNOINVD, likewise, is
/// WBINVD; and all of 0F 18 to 0F 1F is a NOP, for there is neither MPX nor CET (SDM Vol. 2B,
/// RDSSPD): the unwinder of C++ exceptions runs RDSSPQ on every processor.
pub const OPTIONS: u32 = DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD
    | DecoderOptions::FORCE_RESERVED_NOP;

/// One instruction of a block under construction.
pub struct Decoded {
    /// The instruction, decoded as if the block lay at address 0.
    pub instruction: Instruction,
    /// Its offset in the block.
    pub offset: u8,
    /// The arithmetic flags that it sets are read before they are set again.
    pub flags_live: bool,
}

/// What the choice of handlers depends on, besides the instruction.
#[derive(Clone, Copy)]
pub struct Context {
    /// 16, 32 or 64.
    pub bits: u32,
    /// Offset of the block's first byte in its page.
    pub page_offset: u64,
}

impl Context {
    /// Whether the target at `distance` from the block's start lies in the block's page.
    pub fn in_page(&self, distance: i64) -> bool {
        (0..4096).contains(&(self.page_offset as i64 + distance))
    }
}

impl Cpu {
    /// Decodes the block at `physical` and keeps it under `key`. None if its first instruction
    /// crosses into the next page.
    pub fn decode_block(
        &mut self,
        linear: u64,
        physical: u64,
        key: u64,
    ) -> Result<Option<NonNull<Op>>, Trap> {
        let mut code = [0; BYTES_MAX];
        let len = BYTES_MAX.min(4096 - (linear & 0xFFF) as usize);
        self.claim_code(physical, len as u64);
        let Some(page) = self.port.ram.page(physical >> 12) else {
            return Err(self.ud());
        };
        let version = page.state.version();
        let seen = version.load(Ordering::SeqCst);
        let head = head_op(version, seen);
        self.read_physical(physical, &mut code[..len]);
        let context = Context { bits: self.code_size.bits(), page_offset: linear & 0xFFF };
        let decoded = decode(&code[..len], context, INSTRUCTIONS_MAX);
        if decoded.is_empty() {
            return Ok(None);
        }
        let mut row = vec![head];
        self.lay_out(&decoded, context, &mut row);
        finish_head(&mut row, decoded.len());
        Ok(Some(self.code.insert(key, &mut row)))
    }

    /// Decodes the one instruction at `linear`, whose end is in frame `second`, and keeps it under
    /// `key`. None if it is to be decoded alone: a page is not RAM, or the bytes are too many.
    pub fn decode_crossing(
        &mut self,
        linear: u64,
        physical: u64,
        key: u64,
        second: u64,
    ) -> Option<NonNull<Op>> {
        let code = self.crossing_bytes(physical, second);
        self.claim_code(physical, 1);
        self.claim_code(second << 12, INSTRUCTION_BYTES_MAX as u64);
        let mut row = Vec::new();
        for frame in [physical >> 12, second] {
            let version = self.port.ram.page(frame)?.state.version();
            row.push(head_op(version, version.load(Ordering::SeqCst)));
        }
        if self.crossing_bytes(physical, second) != code {
            return None;
        }
        let context = Context { bits: self.code_size.bits(), page_offset: linear & 0xFFF };
        let decoded = decode(&code, context, 1);
        decoded.first()?;
        self.lay_out(&decoded, context, &mut row);
        finish_crossing_heads(&mut row);
        Some(self.code.insert_crossing(key, second, &mut row))
    }

    /// The bytes from `physical` to its page's end, and those that follow in frame `second`.
    pub fn crossing_bytes(&self, physical: u64, second: u64) -> [u8; INSTRUCTION_BYTES_MAX] {
        let mut code = [0; INSTRUCTION_BYTES_MAX];
        let in_page = (4096 - (physical & 0xFFF) as usize).min(INSTRUCTION_BYTES_MAX);
        self.peek_ram(physical, &mut code[..in_page]);
        self.peek_ram(second << 12, &mut code[in_page..]);
        code
    }

    /// Decodes the one instruction at RIP, across a page boundary if need be, to be run once.
    pub fn decode_alone(&mut self) -> Result<NonNull<Op>, Trap> {
        let rip = self.regs[crate::cpu::RIP];
        let linear = self.code_linear(rip)?;
        let mut code = [0; INSTRUCTION_BYTES_MAX];
        let in_page = (4096 - (linear & 0xFFF) as usize).min(INSTRUCTION_BYTES_MAX);
        let frame = self.fetch_frame(linear)?;
        self.read_physical(frame << 12 | linear & 0xFFF, &mut code[..in_page]);
        let context = Context { bits: self.code_size.bits(), page_offset: linear & 0xFFF };
        let mut decoded = decode(&code[..in_page], context, 1);
        if decoded.is_empty() && in_page < INSTRUCTION_BYTES_MAX {
            let second = linear.wrapping_add(in_page as u64);
            let frame = self.fetch_frame(second)?;
            self.read_physical(frame << 12 | second & 0xFFF, &mut code[in_page..]);
            decoded = decode(&code, context, 1);
        }
        if decoded.is_empty() {
            return Err(self.gp0());
        }
        let mut row = vec![Op::new(head_once)];
        self.lay_out(&decoded, context, &mut row);
        Ok(self.code.keep_once(row))
    }

    /// The instruction at RIP, decoded anew, if its bytes are at hand.
    pub fn decode_at_rip(&mut self) -> Option<Instruction> {
        let head = self.decode_bytes_at_rip().ok()?;
        let context = Context { bits: self.code_size.bits(), page_offset: 0 };
        decode(&head, context, 1).first().map(|d| d.instruction)
    }

    fn decode_bytes_at_rip(&mut self) -> Result<Vec<u8>, Trap> {
        let (pending, cr2) = (self.pending, self.cr2);
        let linear = self.code_linear(self.regs[crate::cpu::RIP])?;
        let in_page = (4096 - (linear & 0xFFF) as usize).min(INSTRUCTION_BYTES_MAX);
        let mut code = Vec::with_capacity(INSTRUCTION_BYTES_MAX);
        for (start, len) in [(0, in_page), (in_page, INSTRUCTION_BYTES_MAX - in_page)] {
            let at = linear.wrapping_add(start as u64);
            let Some(frame) = (len > 0).then(|| self.fetch_frame(at).ok()).flatten() else { break };
            code.resize(start + len, 0);
            self.read_physical(frame << 12 | at & 0xFFF, &mut code[start..]);
        }
        (self.pending, self.cr2) = (pending, cr2);
        Ok(code)
    }

    /// Appends the ops of `decoded` to `row`, and an ending op.
    fn lay_out(&mut self, decoded: &[Decoded], context: Context, row: &mut Vec<Op>) {
        let mut shadowed = false;
        let mut i = 0;
        while let Some(now) = decoded.get(i) {
            let pair = decoded.get(i + 1).filter(|_| !shadowed);
            if let Some(pair) = pair
                && select::fused(now, pair, context, row)
            {
                return;
            }
            match select::single(now, context, self, row) {
                Ending::FallsThrough => {}
                Ending::Ends => return,
            }
            if shadowed {
                select::end_shadow(now, row);
                return;
            }
            shadowed = starts_shadow(&now.instruction);
            i += 1;
        }
        let last = decoded.last().expect("a block has an instruction");
        row.push(fall_out(last, context));
    }
}

/// The op that goes on behind the last instruction of a block.
fn fall_out(last: &Decoded, context: Context) -> Op {
    let next = u32::from(last.offset) + last.instruction.len() as u32;
    let run: Handler = match context.bits {
        64 if context.in_page(i64::from(next)) => jump::<Near>,
        64 => jump::<Looked>,
        _ => jump::<Cut>,
    };
    Op { aux: next, b: context.bits as u8, ..Op::new(run) }
}

/// Whether interrupts are held off for one instruction behind this one.
pub fn starts_shadow(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Sti => true,
        Mnemonic::Mov | Mnemonic::Pop => instruction.op0_register() == iced_x86::Register::SS,
        _ => false,
    }
}

/// Decodes up to `max` instructions that lie wholly in `code`, to the first that ends a block.
pub fn decode(code: &[u8], context: Context, max: usize) -> Vec<Decoded> {
    let mut decoder = Decoder::with_ip(context.bits, code, 0, OPTIONS);
    let mut decoded = Vec::with_capacity(max);
    while decoded.len() < max && decoder.can_decode() {
        let offset = decoder.position();
        let mut instruction = decoder.decode();
        if instruction.is_invalid() {
            let ends_early = decoder.last_error() == iced_x86::DecoderError::NoMoreBytes;
            if ends_early || is_too_long(&code[offset..], context) {
                break;
            }
            // An instruction of its own, that raises #UD.
            instruction.set_len(1);
            decoded.push(Decoded { instruction, offset: offset as u8, flags_live: false });
            break;
        }
        decoded.push(Decoded { instruction, offset: offset as u8, flags_live: true });
        if select::ends_block(&instruction) {
            break;
        }
    }
    mark_dead_flags(&mut decoded);
    decoded
}

/// Whether the instruction that begins `code`, which reaches to the end of a page, goes on behind.
pub fn crosses(code: &[u8]) -> bool {
    let mut decoder = Decoder::with_ip(64, code, 0, OPTIONS);
    code.len() < INSTRUCTION_BYTES_MAX
        && decoder.decode().is_invalid()
        && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
}

/// Whether the instruction that begins `code`, and is not valid, goes on beyond the longest: #GP and
/// not #UD.
fn is_too_long(code: &[u8], context: Context) -> bool {
    let Some(almost) = code.get(..INSTRUCTION_BYTES_MAX - 1) else { return false };
    // Not what is only invalid by a LOCK prefix.
    let unchecked = OPTIONS | DecoderOptions::NO_INVALID_CHECK;
    if !Decoder::with_ip(context.bits, code, 0, unchecked).decode().is_invalid() {
        return false;
    }
    let mut decoder = Decoder::with_ip(context.bits, almost, 0, OPTIONS);
    code.len() > almost.len()
        && decoder.decode().is_invalid()
        && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
}

/// Clears `flags_live` where every flag that an instruction sets is set again, in the same block,
/// before anything reads it. Behind the block all flags count as read.
fn mark_dead_flags(decoded: &mut [Decoded]) {
    let mut live = u32::MAX;
    for one in decoded.iter_mut().rev() {
        let instruction = &one.instruction;
        let modified = instruction.rflags_modified();
        one.flags_live = modified & live != 0;
        if select::always_sets_flags(instruction) {
            live &= !modified;
        }
        live |= instruction.rflags_read();
    }
}
