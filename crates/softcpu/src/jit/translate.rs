//! From a decoded block to host code: the way through a block, and its edges.
//!
//! ```text
//!   checked:  is the page's version what it was?      no ──▶ leave, the block is stale
//!   linked:   budget -= instructions                  used up ──▶ leave
//!             XMM registers live? (blocks with SSE)   no ──▶ load them
//!             the instructions ...                    TLB miss ──▶ leave to the interpreter's op
//!             the edges: a jump inside the page is linked with its target's `linked` entry; all
//!             others look the target up by its address, and go to its `checked` entry
//! ```
//!
//! An instruction is the guest's own with its registers renamed (see `regs.rs`) and its memory
//! operand, once found in the TLB, in [`ADDRESS`]. One that is not known here ends the translation:
//! the interpreter runs it. Until an instruction is complete the guest's state is what it was before
//! it, so that the interpreter can always run it again, and faults are its.

use std::ptr::NonNull;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::emit::{At, Code, Gap, alu, cc, group};
use super::encoding::Encoding;
use super::flags;
use super::regs::{ADDRESS, Place, RAX, SCRATCH, STACK, field, place};
use crate::decode::{Decoded, starts_shadow};
use crate::op::Op;
use crate::select::ends_block;
use crate::tlb::{Entry, INDEX_MASK, INDEX_SHIFT};

mod branch;
mod plain;
mod stack;

/// Why translated code was left. Offsets are from the start of the page in which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// At a jump to `offset` that may be linked at `site`, an offset in the code memory.
    Link {
        /// Where the jump's distance lies.
        site: u32,
        /// Its target.
        offset: u32,
    },
    /// At `offset`, which may lie outside of the page.
    Go {
        /// The next instruction.
        offset: i32,
    },
    /// At an instruction of the block at `block` that the interpreter runs, with all that follows.
    Interpret {
        /// Its op.
        op: NonNull<Op>,
        /// The block.
        block: u32,
    },
    /// At the instruction that was predicted.
    Arrived,
    /// As `Interpret`, but only that instruction.
    Step {
        /// Its op.
        op: NonNull<Op>,
        /// The block.
        block: u32,
    },
}

/// What a block is translated from.
pub struct Source<'a> {
    /// The instructions, with offsets from the block's start.
    pub instructions: &'a [Decoded],
    /// Their bytes.
    pub bytes: &'a [u8],
    /// The op of each. A conditional jump that is fused has none of its own, and that of its
    /// comparison stands in.
    pub ops: &'a [NonNull<Op>],
    /// Offset of the block in its page.
    pub offset: u32,
    /// Addresses of the pages' versions, and what they were when the block was decoded.
    pub versions: &'a [(u64, u32)],
    /// Where the translation will lie in the code memory.
    pub base: u32,
    /// Number of the first exit that the translation adds.
    pub first_exit: u32,
    /// The bytes of the page behind an offset in it, a few instructions of them, or none where the
    /// block would not become stale with them.
    pub peek: &'a dyn Fn(u32) -> Vec<u8>,
    /// Whether a block may jump to its own start without leaving.
    pub loops: bool,
}

/// A block's translation.
pub struct Translation {
    /// The code, its `checked` entry first.
    pub code: Vec<u8>,
    /// Offset of its `linked` entry.
    pub linked: u32,
    /// Its exits, numbered from [`Source::first_exit`].
    pub exits: Vec<Exit>,
    /// Instructions that are translated.
    pub count: usize,
    /// The flags that are put away at its end, and are defined.
    pub matter: u32,
}

/// Code that leaves by exit `number`.
pub fn leave_by(number: u32) -> Vec<u8> {
    let mut code = Code::default();
    leave(&mut code, number);
    code.bytes
}

fn leave(code: &mut Code, number: u32) {
    code.mov_imm32(SCRATCH, number);
    code.jump_at(field!(leave));
}

/// Translates a block. None if its first instruction is for the interpreter.
pub fn translate(source: &Source<'_>) -> Option<Translation> {
    let mut count = source.instructions.len();
    while count > 0 {
        let mut translator = Translator::new(source, count);
        translator.head();
        match translator.body() {
            Ok(()) => return Some(translator.finish()),
            // All before this one are known.
            Err(n) => count = n,
        }
    }
    None
}

/// What comes behind a translated instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Ended,
}

/// An instruction that is left to the interpreter.
struct Unknown;

type Known<T> = Result<T, Unknown>;

/// Where the arithmetic flags are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FlagsAt {
    host: bool,
    frame: bool,
}

/// An access that is looked up in the TLB.
#[derive(Debug, Clone, Copy)]
struct Access {
    bytes: u8,
    write: bool,
    aligned: bool,
}

/// The way of an access to the stack that is not in the frame's page.
struct StackStub {
    from: Gap,
    back: usize,
    access: Access,
    unknown: Exit,
}

struct Translator<'a> {
    source: &'a Source<'a>,
    code: Code,
    linked: usize,
    exits: Vec<Exit>,
    /// Jumps to stubs, which follow the block.
    stubs: Vec<(Gap, Exit)>,
    /// Accesses to the stack that may be to another page than the last.
    stack_stubs: Vec<StackStub>,
    /// Position of the check for XMM registers, and of what lies behind it.
    load_fp: Option<(Gap, usize)>,
    flags_at: FlagsAt,
    /// Instructions that are translated.
    count: usize,
    /// The flags that matter behind each instruction.
    matter_after: Vec<u32>,
    /// The instruction under translation.
    now: usize,
}

impl<'a> Translator<'a> {
    fn new(source: &'a Source<'a>, count: usize) -> Self {
        let mut translator = Self {
            source,
            code: Code::default(),
            linked: 0,
            exits: Vec::new(),
            stubs: Vec::new(),
            stack_stubs: Vec::new(),
            load_fp: None,
            flags_at: FlagsAt { host: false, frame: true },
            count,
            matter_after: vec![flags::ALL; count],
            now: 0,
        };
        translator.find_what_matters();
        translator
    }

    fn finish(mut self) -> Translation {
        self.finish_stubs();
        // Divisions leave all flags undefined.
        let known = &self.source.instructions[..self.count];
        let divides = known
            .iter()
            .any(|d| matches!(d.instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv));
        Translation {
            code: self.code.bytes,
            linked: self.linked as u32,
            exits: self.exits,
            count: self.count,
            matter: if divides { 0 } else { self.matter_after[self.count - 1] },
        }
    }

    fn find_what_matters(&mut self) {
        let instructions = &self.source.instructions[..self.count];
        let mut matter = self.matter_behind_block();
        for (n, one) in instructions.iter().enumerate().rev() {
            self.matter_after[n] = matter;
            matter = flags::before(&one.instruction, matter);
        }
    }

    /// The flags that matter to whatever comes behind the translation.
    fn matter_behind_block(&self) -> u32 {
        if self.count < self.source.instructions.len() {
            return flags::ALL;
        }
        let last = &self.source.instructions[self.count - 1];
        let behind = i64::from(self.source.offset) + last.end();
        let near = |target: i64| match u32::try_from(target) {
            Ok(offset) if offset < 4096 => flags::matter_to(&(self.source.peek)(offset)),
            _ => flags::ALL,
        };
        let i = &last.instruction;
        let target = || i64::from(self.source.offset) + i.near_branch64() as i64;
        match i.op0_kind() {
            OpKind::NearBranch64 if i.is_jcc_short_or_near() => near(behind) | near(target()),
            OpKind::NearBranch64 if i.is_jmp_short_or_near() || i.is_call_near() => near(target()),
            _ if !ends_block(i) => near(behind),
            _ => flags::ALL,
        }
    }

    fn head(&mut self) {
        let start = Exit::Go { offset: self.source.offset as i32 };
        for (version, seen) in self.source.versions {
            self.code.mov_imm64(SCRATCH, *version);
            self.code.alu_at_imm(group::CMP, At { base: SCRATCH, disp: 0 }, *seen as i32);
            self.leave_if(cc::NE, start);
        }
        self.linked = self.code.here();
        self.code.alu_at_imm(group::SUB, field!(budget), self.count as i32);
        self.leave_if(cc::S, start);
        if self.source.instructions[..self.count].iter().any(|d| plain::is_sse(&d.instruction)) {
            self.code.alu_at_imm(group::CMP, field!(fp_live), 0);
            let gap = self.code.jump_if(cc::E);
            self.load_fp = Some((gap, self.code.here()));
        }
    }

    /// The instructions and the edges; or the number of the first that is not known.
    fn body(&mut self) -> Result<(), usize> {
        for n in 0..self.count {
            self.now = n;
            match self.instruction() {
                Ok(Flow::Next) => {}
                Ok(Flow::Ended) => return Ok(()),
                Err(Unknown) => return Err(n),
            }
        }
        if self.count < self.source.instructions.len() {
            self.leave_at_unknown();
        } else {
            self.save_flags();
            self.edge(self.decoded().end());
        }
        Ok(())
    }

    /// Leaves at the first instruction that is not translated.
    fn leave_at_unknown(&mut self) {
        let n = self.count;
        let i = &self.source.instructions[n].instruction;
        let (op, block) = (self.source.ops[n], self.source.offset);
        let behind = self.source.instructions.get(n + 1);
        let may_be_fused = behind.is_some_and(|d| d.instruction.is_jcc_short_or_near());
        let exit = if ends_block(i) || starts_shadow(i) || may_be_fused || n == 0 {
            Exit::Interpret { op, block }
        } else {
            Exit::Step { op, block }
        };
        self.save_flags_if(flags::ALL);
        let gap = self.code.jump();
        self.stubs.push((gap, exit));
    }

    fn decoded(&self) -> &'a Decoded {
        &self.source.instructions[self.now]
    }

    /// The bytes of the instruction under translation.
    fn encoding(&self) -> Known<Encoding<'a>> {
        let decoded = self.decoded();
        let start = usize::from(decoded.offset);
        let bytes = self.source.bytes.get(start..start + decoded.instruction.len());
        bytes.and_then(Encoding::parse).ok_or(Unknown)
    }

    /// The exit by which the interpreter takes over at the instruction under translation.
    fn interpret(&self) -> Exit {
        Exit::Interpret { op: self.source.ops[self.now], block: self.source.offset }
    }

    fn instruction(&mut self) -> Known<Flow> {
        let i = self.decoded().instruction;
        match i.mnemonic() {
            Mnemonic::Push | Mnemonic::Pop | Mnemonic::Leave => self.stack(&i),
            Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Ret => self.transfer(&i),
            _ if i.is_jcc_short_or_near() => self.conditional(&i),
            _ => self.plain(&i).map(|()| Flow::Next),
        }
    }

    fn leave_if(&mut self, condition: u8, exit: Exit) {
        let gap = self.code.jump_if(condition);
        self.stubs.push((gap, exit));
    }

    /// Appends the stubs: each leaves with the number of its exit.
    fn finish_stubs(&mut self) {
        if let Some((gap, back)) = self.load_fp {
            self.finish_load_fp(gap, back);
        }
        for stub in std::mem::take(&mut self.stack_stubs) {
            self.finish_stack_stub(&stub);
        }
        let mut last: Option<(Exit, usize)> = None;
        for (gap, exit) in std::mem::take(&mut self.stubs) {
            let exit = self.with_site(exit, gap);
            let known = last.filter(|(other, _)| *other == exit);
            let at = known.map_or_else(|| self.stub(exit), |(_, at)| at);
            last = Some((exit, at));
            self.code.fill(gap, at);
        }
    }

    /// A link's site is the jump to its stub.
    fn with_site(&self, exit: Exit, gap: Gap) -> Exit {
        match exit {
            Exit::Link { offset, .. } => {
                Exit::Link { site: self.source.base + gap.0 as u32, offset }
            }
            Exit::Go { .. } | Exit::Interpret { .. } | Exit::Step { .. } | Exit::Arrived => exit,
        }
    }

    fn stub(&mut self, exit: Exit) -> usize {
        let at = self.code.here();
        let number = self.source.first_exit + self.exits.len() as u32;
        self.exits.push(exit);
        leave(&mut self.code, number);
        at
    }

    fn finish_stack_stub(&mut self, stub: &StackStub) {
        self.code.fill(stub.from, self.code.here());
        let last = i32::from(stub.access.bytes) - 1;
        if stub.access.aligned {
            // Only what is misaligned faults here; the page's bits say nothing of that.
            self.code.test_imm(ADDRESS, last);
            self.leave_if(cc::NE, stub.unknown);
        }
        self.code.mov_imm32(SCRATCH, last as u32);
        self.code.call_at(field!(find_stack));
        self.leave_if(cc::NE, stub.unknown);
        let jump = self.code.jump();
        self.code.fill(jump, stub.back);
    }

    fn finish_load_fp(&mut self, gap: Gap, back: usize) {
        self.code.fill(gap, self.code.here());
        self.code.alu_at_imm(group::CMP, field!(fp_usable), 0);
        let (op, block) = (self.source.ops[0], self.source.offset);
        self.leave_if(cc::E, Exit::Interpret { op, block });
        self.code.call_at(field!(load_fp));
        let jump = self.code.jump();
        self.code.fill(jump, back);
    }

    /// The flags that matter before the instruction under translation.
    fn matter_before(&self) -> u32 {
        flags::before(&self.decoded().instruction, self.matter_after[self.now])
    }

    /// Puts the flags away, as far as they matter behind the block.
    fn save_flags(&mut self) {
        self.save_flags_if(self.matter_after[self.count - 1]);
    }

    /// Puts the flags away if any of `matter` does. They stay where they are, too.
    fn save_flags_if(&mut self, matter: u32) {
        if matter == 0 || self.flags_at.frame || !self.flags_at.host {
            return;
        }
        self.code.mov(SCRATCH, RAX);
        self.code.bytes.extend_from_slice(&[0x9F, 0x0F, 0x90, 0xC0]); // lahf; seto al
        self.code.bytes.push(0x66);
        self.code.op_at(false, &[0x89], RAX, field!(fx)); // mov [fx], ax
        self.code.mov(RAX, SCRATCH);
        self.flags_at.frame = true;
    }

    /// Before code that destroys the host's flags: puts them away if the instruction under
    /// translation or one behind it needs them.
    fn give_up_flags(&mut self) {
        self.save_flags_if(self.matter_before());
        self.flags_at.host = false;
    }

    /// Takes the flags back into the host's.
    fn take_flags(&mut self) {
        if self.flags_at.host {
            return;
        }
        self.code.mov(SCRATCH, RAX);
        self.code.op_at(false, &[0x0F, 0xB7], RAX, field!(fx)); // movzx eax, word [fx]
        self.code.bytes.extend_from_slice(&[0x04, 0x7F, 0x9E]); // add al, 127; sahf
        self.code.mov(RAX, SCRATCH);
        self.flags_at.host = true;
    }

    /// Before an instruction whose flags are the host's own business.
    fn prepare_flags(&mut self, i: &Instruction) {
        let touches = flags::reads(i) | flags::modifies(i);
        if touches != 0 && self.matter_before() != 0 {
            self.take_flags();
        }
    }

    /// Behind such an instruction.
    fn flags_were_set(&mut self, i: &Instruction) {
        if flags::modifies(i) != 0 {
            self.flags_at = FlagsAt { host: true, frame: false };
        }
    }

    /// Puts the linear address of the memory operand into [`ADDRESS`].
    fn address(&mut self, i: &Instruction) -> Known<()> {
        self.effective_address(i, ADDRESS, true)?;
        match i.memory_segment() {
            Register::FS => self.code.alu_at(alu::ADD, ADDRESS, field!(fs_base)),
            Register::GS => self.code.alu_at(alu::ADD, ADDRESS, field!(gs_base)),
            _ => {}
        }
        Ok(())
    }

    /// Puts the effective address into `to`: all of it, or (not `whole`) its low 32 bits.
    fn effective_address(&mut self, i: &Instruction, to: u8, whole: bool) -> Known<()> {
        let displacement = i.memory_displacement64() as i64;
        let (base, index) = (i.memory_base(), i.memory_index());
        if base == Register::RIP {
            let disp = i32::try_from(displacement as i32 as i64 + i64::from(self.source.offset));
            self.code.load(to, field!(page));
            let at = At { base: to, disp: disp.map_err(|_| Unknown)? };
            self.code.op_at(whole, &[0x8D], to, at);
            return Ok(());
        }
        let wide = [base, index].into_iter().all(|r| r == Register::None || r.is_gpr64());
        if base == Register::EIP {
            return Err(Unknown);
        }
        // With 32-bit registers the decoder gives the displacement without its sign.
        let disp = if wide { i32::try_from(displacement) } else { Ok(displacement as i32) };
        let disp = disp.map_err(|_| Unknown)?;
        let base = (base != Register::None).then(|| self.fetch(base.number() as u8, ADDRESS));
        if index == Register::None {
            match base {
                None if whole => self.code.mov_imm(to, disp),
                None => self.code.mov_imm32(to, disp as u32),
                Some(base) if disp == 0 && whole && wide => self.code.mov(to, base),
                Some(base) => self.code.op_at(whole && wide, &[0x8D], to, At { base, disp }),
            }
            return Ok(());
        }
        let index = self.fetch(index.number() as u8, SCRATCH);
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        self.code.lea_index(whole && wide, to, base, (index, scale), disp);
        Ok(())
    }

    /// The host register that holds guest register `guest`: its own, or `spare`, loaded.
    fn fetch(&mut self, guest: u8, spare: u8) -> u8 {
        match place(guest) {
            Place::Register(register) => register,
            Place::Slot(at) => {
                self.code.load(spare, at);
                spare
            }
        }
    }

    /// Turns the linear address in [`ADDRESS`] into a place of the host, or leaves to the
    /// interpreter. Destroys the flags and [`SCRATCH`].
    fn look_up(&mut self, access: Access) -> At {
        let tag = if access.write { std::mem::offset_of!(Entry, write) } else { 0 };
        let mut mask = -4096;
        let mut last = i32::from(access.bytes) - 1;
        if access.aligned {
            mask |= last;
            last = 0;
        }
        self.code.mov32(SCRATCH, ADDRESS);
        self.code.shift(false, false, SCRATCH, INDEX_SHIFT);
        self.code.alu_imm(false, group::AND, SCRATCH, INDEX_MASK);
        self.code.alu_at(alu::ADD, SCRATCH, field!(tlb));
        if last != 0 {
            self.code.alu_imm(true, group::ADD, ADDRESS, last);
        }
        self.code.alu_at(alu::XOR, ADDRESS, At { base: SCRATCH, disp: tag as i32 });
        self.code.test_imm(ADDRESS, mask);
        self.leave_if(cc::NE, self.interpret());
        let host = std::mem::offset_of!(Entry, host) as i32;
        self.code.alu_at(alu::ADD, ADDRESS, At { base: SCRATCH, disp: host });
        At { base: ADDRESS, disp: -last }
    }

    /// As [`Translator::look_up`] for the access at `disp` from the stack pointer, which is mostly
    /// to the page of the one before.
    fn look_up_stack(&mut self, disp: i32, access: Access) -> At {
        self.code.lea(ADDRESS, At { base: STACK, disp });
        self.code.alu_at(alu::XOR, ADDRESS, field!(stack_page));
        // What is aligned does not cross into the next page.
        self.code.test_imm(ADDRESS, -4096 | (i32::from(access.bytes) - 1));
        let from = self.code.jump_if(cc::NE);
        self.code.alu_at(alu::ADD, ADDRESS, field!(stack_host));
        let (back, unknown) = (self.code.here(), self.interpret());
        self.stack_stubs.push(StackStub { from, back, access, unknown });
        At { base: ADDRESS, disp: 0 }
    }

    /// The place of the instruction's memory operand.
    fn memory(&mut self, i: &Instruction, access: Access) -> Known<At> {
        self.give_up_flags();
        if let Some(disp) = on_stack(i, access) {
            return Ok(self.look_up_stack(disp, access));
        }
        self.address(i)?;
        Ok(self.look_up(access))
    }
}

/// The displacement of an operand that is addressed by the stack pointer alone, and is one that
/// [`Translator::look_up_stack`] is for.
fn on_stack(i: &Instruction, access: Access) -> Option<i32> {
    let plain = i.memory_base() == Register::RSP
        && i.memory_index() == Register::None
        && !matches!(i.memory_segment(), Register::FS | Register::GS);
    let mostly_aligned = access.bytes.is_power_of_two() && (access.bytes < 16 || access.aligned);
    let disp = i32::try_from(i.memory_displacement64() as i64).ok()?;
    (plain && mostly_aligned).then_some(disp)
}

impl Decoded {
    /// Offset of the instruction behind, from the block's start.
    pub(super) fn end(&self) -> i64 {
        i64::from(self.offset) + self.instruction.len() as i64
    }
}
