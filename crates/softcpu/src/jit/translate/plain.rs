//! Instructions that are copied with other registers: integer arithmetic and moves, SSE.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use simd::{Class, MemUse};

use super::{Access, Known, Translator, Unknown};
use crate::jit::emit::{At, alu, cc, group};
use crate::jit::encoding::{Encoding, Map};
use crate::jit::regs::{ADDRESS, Place, RAX, RDX, SCRATCH, place};
use crate::select::is_absolute_mov;

/// MOV r, r/m.
const MOV: u8 = 0x8B;

/// What a register field of ModRM numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// A general register.
    General,
    /// A general register's low or high byte.
    Byte,
    /// An XMM register.
    Xmm,
    /// No register: a part of the opcode.
    Opcode,
}

/// What ModRM.rm of the copy is.
#[derive(Debug, Clone, Copy)]
enum Operand {
    Register(u8),
    Memory(At),
}

impl Translator<'_> {
    /// An instruction that goes on to the next.
    pub(super) fn plain(&mut self, i: &Instruction) -> Known<()> {
        match i.mnemonic() {
            Mnemonic::Nop | Mnemonic::Reservednop if !i.has_lock_prefix() => Ok(()),
            Mnemonic::Lea => self.load_address(i),
            Mnemonic::Mfence | Mnemonic::Lfence | Mnemonic::Sfence => self.verbatim(i),
            Mnemonic::Div => self.divide(i, false),
            Mnemonic::Idiv => self.divide(i, true),
            _ if is_sse(i) => self.sse(i),
            _ if is_integer(i) => self.integer(i),
            _ => Err(Unknown),
        }
    }

    /// The instruction's own bytes.
    fn verbatim(&mut self, i: &Instruction) -> Known<()> {
        self.prepare_flags(i);
        let start = usize::from(self.decoded().offset);
        let bytes = self.source.bytes.get(start..start + i.len()).ok_or(Unknown)?;
        self.code.bytes.extend_from_slice(bytes);
        self.flags_were_set(i);
        Ok(())
    }

    fn load_address(&mut self, i: &Instruction) -> Known<()> {
        let wide = match i.op0_register().size() {
            8 => true,
            4 => false,
            _ => return Err(Unknown),
        };
        match place(i.op0_register().number() as u8) {
            Place::Register(to) => self.effective_address(i, to, wide),
            Place::Slot(at) => {
                self.effective_address(i, SCRATCH, wide)?;
                self.code.store(SCRATCH, at);
                Ok(())
            }
        }
    }

    fn integer(&mut self, i: &Instruction) -> Known<()> {
        let encoding = self.encoding()?;
        if encoding.modrm.is_none() {
            return self.without_modrm(i, &encoding);
        }
        let fields = integer_fields(&encoding);
        if !encoding.has_memory() {
            return self.copy(i, &encoding, fields, None);
        }
        let bytes = i.memory_size().size();
        let by_register = matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr)
            || i.mnemonic() == Mnemonic::Btc;
        if bytes == 0 || bytes > 16 || by_register && i.op1_kind() == OpKind::Register {
            // A bit number in a register reaches beyond the operand.
            return Err(Unknown);
        }
        let access = Access { bytes: bytes as u8, write: writes(i), aligned: bytes == 16 };
        let at = self.memory(i, access)?;
        self.copy(i, &encoding, fields, Some(at))
    }

    /// DIV and IDIV of 32 or 64 bits, where they surely do not fault: what may is left to the
    /// interpreter.
    fn divide(&mut self, i: &Instruction, signed: bool) -> Known<()> {
        let encoding = self.encoding()?;
        if encoding.opcode != 0xF7 || encoding.operand_16 {
            return Err(Unknown);
        }
        let wide = encoding.rex & 8 != 0;
        let divisor = if encoding.has_memory() {
            let bytes = if wide { 8 } else { 4 };
            Operand::Memory(self.memory(i, Access { bytes, write: false, aligned: false })?)
        } else {
            self.give_up_flags();
            let rm = self.host_register(&encoding, Field::General, encoding.rm(), ADDRESS);
            Operand::Register(rm)
        };
        if signed {
            self.refuse_signed_overflow(wide, divisor);
        } else {
            // The quotient fits if the upper half is less than the divisor, which is then not zero.
            self.compute(wide, alu::CMP, RDX, divisor);
            self.leave_if(cc::AE, self.interpret());
        }
        self.put_together(&encoding, (Field::Opcode, encoding.reg()), (Field::General, divisor))?;
        self.flags_were_set(i);
        Ok(())
    }

    /// Leaves unless the dividend is the sign-extended RAX, and the divisor neither 0 nor -1.
    fn refuse_signed_overflow(&mut self, wide: bool, divisor: Operand) {
        self.compute(wide, MOV, SCRATCH, Operand::Register(RAX));
        self.code.shift_signed(wide, SCRATCH, if wide { 63 } else { 31 });
        self.compute(wide, alu::CMP, SCRATCH, Operand::Register(RDX));
        self.leave_if(cc::NE, self.interpret());
        self.compute(wide, MOV, SCRATCH, divisor);
        self.code.alu_imm(wide, group::ADD, SCRATCH, 1);
        self.code.alu_imm(wide, group::CMP, SCRATCH, 1);
        self.leave_if(cc::BE, self.interpret());
    }

    /// `opcode` with a register and an operand.
    fn compute(&mut self, wide: bool, opcode: u8, reg: u8, operand: Operand) {
        match operand {
            Operand::Register(rm) => self.code.op_reg(wide, &[opcode], reg, rm),
            Operand::Memory(at) => self.code.op_at(wide, &[opcode], reg, at),
        }
    }

    fn sse(&mut self, i: &Instruction) -> Known<()> {
        let plan = simd::plan(i).filter(|plan| plan.class == Class::Sse).ok_or(Unknown)?;
        let encoding = self.encoding()?;
        let fields = sse_fields(&encoding);
        let by_mmx = matches!(i.mnemonic(), Mnemonic::Cvtpi2ps | Mnemonic::Cvtpi2pd);
        if plan.at_rdi || by_mmx || (plan.mem != MemUse::None) != encoding.has_memory() {
            return Err(Unknown);
        }
        if !encoding.has_memory() {
            return self.copy(i, &encoding, fields, None);
        }
        if plan.mem_bytes > 16 {
            return Err(Unknown);
        }
        let access = Access {
            bytes: plan.mem_bytes as u8,
            write: plan.mem != MemUse::Read,
            aligned: plan.align == 16,
        };
        let at = self.memory(i, access)?;
        self.copy(i, &encoding, fields, Some(at))
    }

    /// Instructions whose registers are implicit or in the opcode.
    fn without_modrm(&mut self, i: &Instruction, encoding: &Encoding<'_>) -> Known<()> {
        let moves_byte = matches!(encoding.opcode, 0xB0..=0xB7);
        let in_opcode = match (encoding.map, encoding.opcode) {
            (Map::One, 0xB0..=0xBF) => true,
            (Map::One, 0x91..=0x97) => true,
            (Map::One, 0x90) => encoding.rex & 1 != 0,
            (Map::Two, 0xC8..=0xCF) => true,
            _ => false,
        };
        if moves_byte && encoding.rex == 0 || has_own_registers(encoding) {
            return self.verbatim(i);
        }
        if !in_opcode {
            return Err(Unknown);
        }
        let register = match place(encoding.in_opcode()) {
            Place::Register(register) => register,
            Place::Slot(at) => {
                self.code.load(SCRATCH, at);
                SCRATCH
            }
        };
        if encoding.operand_16 {
            self.code.bytes.push(0x66);
        }
        let rex = 0x40 | encoding.rex & 8 | register >> 3;
        if rex != 0x40 || encoding.rex != 0 {
            self.code.bytes.push(rex);
        }
        if encoding.map == Map::Two {
            self.code.bytes.push(0x0F);
        }
        self.code.bytes.push(encoding.opcode & !7 | register & 7);
        self.code.bytes.extend_from_slice(encoding.imm);
        if let Place::Slot(at) = place(encoding.in_opcode()) {
            self.code.store(SCRATCH, at);
        }
        Ok(())
    }

    /// Copies an instruction with ModRM. `memory` is where its memory operand was found.
    fn copy(
        &mut self,
        i: &Instruction,
        encoding: &Encoding<'_>,
        (reg, rm): (Field, Field),
        memory: Option<At>,
    ) -> Known<()> {
        self.prepare_flags(i);
        let reg_host = self.host_register(encoding, reg, encoding.reg(), SCRATCH);
        let general = |field| matches!(field, Field::General | Field::Byte);
        let same = general(reg) && general(rm) && encoding.reg() == encoding.rm();
        let same = same && memory.is_none();
        let spare = if same { SCRATCH } else { ADDRESS };
        let operand = match memory {
            Some(at) => Operand::Memory(at),
            None => Operand::Register(self.host_register(encoding, rm, encoding.rm(), spare)),
        };
        self.put_together(encoding, (reg, reg_host), (rm, operand))?;
        self.flags_were_set(i);
        if reg != Field::Opcode {
            self.write_back(i, reg, encoding.reg(), SCRATCH);
        }
        if memory.is_none() && !same {
            self.write_back(i, rm, encoding.rm(), spare);
        }
        Ok(())
    }

    /// The host register of a field: loaded into `spare` if the guest's is in a slot.
    fn host_register(&mut self, encoding: &Encoding<'_>, field: Field, guest: u8, spare: u8) -> u8 {
        match field {
            Field::Opcode | Field::Xmm => guest,
            Field::Byte if encoding.rex == 0 => guest,
            Field::Byte | Field::General => match place(guest) {
                Place::Register(register) => register,
                Place::Slot(at) => {
                    self.code.load(spare, at);
                    spare
                }
            },
        }
    }

    /// Puts a register that came from a slot back, if the instruction may have changed it.
    fn write_back(&mut self, i: &Instruction, field: Field, guest: u8, spare: u8) {
        if !matches!(field, Field::General | Field::Byte) {
            return;
        }
        if let Place::Slot(at) = place(guest)
            && changes(i, guest)
        {
            self.code.store(spare, at);
        }
    }

    fn put_together(
        &mut self,
        encoding: &Encoding<'_>,
        (reg_field, reg): (Field, u8),
        (rm_field, rm): (Field, Operand),
    ) -> Known<()> {
        let (rm_high, rm_is_byte) = match rm {
            Operand::Register(register) => (register >> 3, rm_field == Field::Byte),
            Operand::Memory(at) => (at.base >> 3, false),
        };
        let reg_is_byte = reg_field == Field::Byte;
        let reg_bits = if reg_field == Field::Opcode { 0 } else { reg >> 3 };
        let rex = encoding.rex & 8 | reg_bits << 2 | rm_high;
        let high_byte = encoding.rex == 0
            && (reg_is_byte && reg & 7 >= 4
                || rm_is_byte && matches!(rm, Operand::Register(4..=7)));
        if high_byte && rex != 0 {
            // AH, BH, CH and DH exist without a REX prefix only.
            return Err(Unknown);
        }
        if encoding.lock {
            self.code.bytes.push(0xF0);
        }
        if encoding.operand_16 {
            self.code.bytes.push(0x66);
        }
        if encoding.repeat != 0 && encoding.map != Map::One && !is_scan(encoding) {
            self.code.bytes.push(encoding.repeat);
        }
        if rex != 0 || encoding.rex != 0 {
            self.code.bytes.push(0x40 | rex);
        }
        match encoding.map {
            Map::One => {}
            Map::Two => self.code.bytes.push(0x0F),
            Map::Three38 => self.code.bytes.extend_from_slice(&[0x0F, 0x38]),
            Map::Three3A => self.code.bytes.extend_from_slice(&[0x0F, 0x3A]),
        }
        self.code.bytes.push(encoding.opcode);
        match rm {
            Operand::Register(rm) => self.code.bytes.push(0xC0 | (reg & 7) << 3 | rm & 7),
            Operand::Memory(at) => self.code.modrm_at(reg, at),
        }
        self.code.bytes.extend_from_slice(encoding.imm);
        Ok(())
    }
}

/// Whether an instruction without ModRM names no registers but the accumulator, AH and RDX, which
/// are in their own places, and no memory.
fn has_own_registers(encoding: &Encoding<'_>) -> bool {
    encoding.map == Map::One
        && matches!(
            encoding.opcode,
            0x04 | 0x05
                | 0x0C
                | 0x0D
                | 0x14
                | 0x15
                | 0x1C
                | 0x1D
                | 0x24
                | 0x25
                | 0x2C
                | 0x2D
                | 0x34
                | 0x35
                | 0x3C
                | 0x3D
                | 0x98
                | 0x99
                | 0x9E
                | 0x9F
                | 0xA8
                | 0xA9
                | 0xF5
                | 0xF8
                | 0xF9
        )
}

/// BSF and BSR, which with a prefix would be TZCNT and LZCNT on the host, and are not on the guest.
fn is_scan(encoding: &Encoding<'_>) -> bool {
    encoding.map == Map::Two && matches!(encoding.opcode, 0xBC | 0xBD)
}

/// Whether the instruction is one of SSE's on XMM registers.
pub(super) fn is_sse(i: &Instruction) -> bool {
    let registers = || (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Register);
    registers().any(|n| i.op_register(n).is_xmm())
        && !registers().any(|n| i.op_register(n).is_mm())
        && i.code().encoding() == iced_x86::EncodingKind::Legacy
}

/// Whether the instruction is an integer one that the host executes for the guest.
fn is_integer(i: &Instruction) -> bool {
    let special = |r: Register| {
        r.is_cr() || r.is_dr() || r.is_tr() || r.is_segment_register() || r.is_mm() || r.is_st()
    };
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && special(i.op_register(n))) {
        return false;
    }
    match i.mnemonic() {
        // MOV of an absolute address names its memory without ModRM.
        Mnemonic::Mov => !is_absolute_mov(i.code()),
        Mnemonic::Add
        | Mnemonic::Or
        | Mnemonic::Adc
        | Mnemonic::Sbb
        | Mnemonic::And
        | Mnemonic::Sub
        | Mnemonic::Xor
        | Mnemonic::Cmp
        | Mnemonic::Test
        | Mnemonic::Inc
        | Mnemonic::Dec
        | Mnemonic::Neg
        | Mnemonic::Not
        | Mnemonic::Movzx
        | Mnemonic::Movsx
        | Mnemonic::Movsxd
        | Mnemonic::Xchg
        | Mnemonic::Bswap
        | Mnemonic::Cbw
        | Mnemonic::Cwde
        | Mnemonic::Cdqe
        | Mnemonic::Cwd
        | Mnemonic::Cdq
        | Mnemonic::Cqo
        | Mnemonic::Lahf
        | Mnemonic::Sahf
        | Mnemonic::Clc
        | Mnemonic::Stc
        | Mnemonic::Cmc
        | Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shld
        | Mnemonic::Shrd
        | Mnemonic::Mul
        | Mnemonic::Imul
        | Mnemonic::Bt
        | Mnemonic::Bts
        | Mnemonic::Btr
        | Mnemonic::Btc
        | Mnemonic::Bsf
        | Mnemonic::Bsr
        | Mnemonic::Xadd
        | Mnemonic::Cmpxchg
        | Mnemonic::Cmpxchg8b
        | Mnemonic::Cmpxchg16b
        | Mnemonic::Popcnt
        | Mnemonic::Crc32
        | Mnemonic::Movnti => true,
        // CMOVcc and SETcc; not the jumps, which are no business of this file.
        _ => i.condition_code() != iced_x86::ConditionCode::None && is_move(i),
    }
}

fn is_move(i: &Instruction) -> bool {
    i.flow_control() == iced_x86::FlowControl::Next
        && (i.op_count() == 1 || i.op0_register().is_gpr())
}

/// Whether the instruction writes to its memory operand.
fn writes(i: &Instruction) -> bool {
    match i.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt | Mnemonic::Mul | Mnemonic::Imul => false,
        Mnemonic::Xchg => true,
        _ => i.op0_kind() == OpKind::Memory,
    }
}

/// Whether the instruction may change general register `guest`, which one of its fields names.
fn changes(i: &Instruction, guest: u8) -> bool {
    let names = |r: Register| r.is_gpr() && r.full_register().number() == usize::from(guest);
    match i.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt => false,
        Mnemonic::Xchg | Mnemonic::Xadd => true,
        _ => i.op0_kind() == OpKind::Register && names(i.op0_register()),
    }
}

/// The fields of an integer instruction.
fn integer_fields(encoding: &Encoding<'_>) -> (Field, Field) {
    use Field::{Byte, General, Opcode};
    let by_size = if encoding.opcode & 1 == 0 { Byte } else { General };
    match (encoding.map, encoding.opcode) {
        (Map::One, 0x00..=0x3F | 0x84..=0x8B) => (by_size, by_size),
        (Map::One, 0x80..=0x83 | 0xC0 | 0xC1 | 0xC6 | 0xC7 | 0xD0..=0xD3) => (Opcode, by_size),
        (Map::One, 0xF6 | 0xF7 | 0xFE | 0xFF) => (Opcode, by_size),
        (Map::Two, 0x90..=0x9F) => (Opcode, Byte),
        (Map::Two, 0xB6 | 0xBE) => (General, Byte),
        (Map::Two, 0xB0 | 0xC0) => (Byte, Byte),
        (Map::Two, 0xBA | 0xC7) => (Opcode, General),
        // CRC32 of a byte.
        (Map::Three38, 0xF0) => (General, Byte),
        _ => (General, General),
    }
}

/// The fields of an SSE instruction.
fn sse_fields(encoding: &Encoding<'_>) -> (Field, Field) {
    use Field::{General, Opcode, Xmm};
    match (encoding.map, encoding.opcode) {
        (Map::Two, 0x2A | 0x6E | 0xC4) => (Xmm, General),
        (Map::Two, 0x7E) if encoding.repeat == 0 => (Xmm, General),
        (Map::Two, 0x2C | 0x2D | 0x50 | 0xC5 | 0xD7) => (General, Xmm),
        (Map::Two, 0x71..=0x73) => (Opcode, Xmm),
        (Map::Three3A, 0x14..=0x17 | 0x20 | 0x22) => (Xmm, General),
        _ => (Xmm, Xmm),
    }
}
