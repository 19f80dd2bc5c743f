//! Each planned instruction against the host: random operands, registers and modes, every bit of the
//! state afterwards equal. `SPARKLER_CASES` sets the cases an instruction (1000), and
//! `SPARKLER_CODE` keeps the instructions whose `Code` contains it.

mod native;

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, OpCodeOperandKind, OpKind, Register,
};
use native::{Context, MEM_OFFSET};
use sparkler_simd::{Exception, FpState, MemUse, Operand, Outcome, Plan, plan};

/// Encodings tried of one instruction: other registers, memory, other immediates.
const VARIANTS: usize = 40;
/// AMD's misaligned-access mode, which the guest does not have.
const MXCSR_MM: u32 = 1 << 17;

#[test]
fn equals_the_host() {
    let filter = std::env::var("SPARKLER_CODE").ok();
    let mut failures = Vec::new();
    for code in Code::values() {
        if filter.as_ref().is_some_and(|f| !format!("{code:?}").contains(f.as_str())) {
            continue;
        }
        let mut random = Random::new(code as u64);
        let variants: Vec<Variant> =
            (0..VARIANTS).filter_map(|_| Variant::new(code, &mut random)).collect();
        let planned = is_encodable(code) && plan(&native::example(code)).is_some();
        assert_eq!(planned, !variants.is_empty(), "{code:?}");
        if let Err(failure) = check(code, &variants, &mut random) {
            failures.push(failure);
        }
    }
    let shown = failures.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} instructions differ\n{shown}", failures.len());
}

fn cases() -> usize {
    std::env::var("SPARKLER_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

fn check(code: Code, variants: &[Variant], random: &mut Random) -> Result<(), String> {
    if variants.is_empty() {
        return Ok(());
    }
    let text: Vec<Vec<u8>> = variants.iter().map(|v| v.bytes.clone()).collect();
    let native = native::Code::new(&text);
    let mut differing = 0;
    let mut first = String::new();
    for case in 0..cases() {
        let index = case % variants.len();
        let variant = &variants[index];
        let mut host = random_context(variant, random);
        if variant.plan.at_rdi {
            host.gpr[7] = host.mem.as_ptr() as u64;
        }
        let before = host.clone();
        let model = run_model(variant, &host, random);
        native.run(index, &mut host);
        scrub(variant, &mut host);
        scrub_flags(variant, &mut host, &model);
        if let Some(difference) = compare(&before, &host, &model) {
            differing += 1;
            if first.is_empty() {
                first = format!("{:02x?}: {difference}", variant.bytes);
            }
        }
    }
    if differing == 0 { Ok(()) } else { Err(format!("{code:?} {differing} cases: {first}")) }
}

/// One encoding of an instruction.
struct Variant {
    bytes: Vec<u8>,
    instr: Instruction,
    plan: Plan,
}

impl Variant {
    fn new(code: Code, random: &mut Random) -> Option<Self> {
        if !is_encodable(code) {
            return None;
        }
        (0..64).find_map(|_| {
            let bytes = encode(code, random)?;
            let mut decoder = Decoder::with_ip(64, &bytes, 0, DecoderOptions::NONE);
            let instr = decoder.decode();
            let plan = (instr.code() == code).then(|| plan(&instr))??;
            Some(Variant { bytes, instr, plan })
        })
    }
}

/// The instructions of 64-bit mode; the forms with their own FWAIT are two instructions.
fn is_encodable(code: Code) -> bool {
    let info = code.op_code();
    info.is_instruction()
        && info.mode64()
        && info.encoding() == iced_x86::EncodingKind::Legacy
        && !info.op_code_string().starts_with("9B ")
        || code == Code::Wait
}

fn encode(code: Code, random: &mut Random) -> Option<Vec<u8>> {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let mut instr = Instruction::default();
    instr.set_code(code);
    for i in 0..info.op_count() {
        let memory = random.chance(2);
        match info.op_kind(i) {
            K::mem => set_memory(&mut instr, i),
            K::xmm_or_mem
            | K::mm_or_mem
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
                if memory =>
            {
                set_memory(&mut instr, i);
            }
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => {
                instr.set_op_register(i, Register::XMM0 + random.below(16) as u32);
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => {
                instr.set_op_register(i, Register::MM0 + random.below(8) as u32);
            }
            K::r8_or_mem => instr.set_op_register(i, Register::AL + random.below(19) as u32),
            K::r16_or_mem | K::r16_reg => instr.set_op_register(i, general(Register::AX, random)),
            K::r32_or_mem | K::r32_reg => instr.set_op_register(i, general(Register::EAX, random)),
            K::r64_or_mem | K::r64_reg => instr.set_op_register(i, general(Register::RAX, random)),
            K::st0 => instr.set_op_register(i, Register::ST0),
            K::sti_opcode => instr.set_op_register(i, Register::ST0 + random.below(8) as u32),
            K::ax => instr.set_op_register(i, Register::AX),
            K::imm8 => {
                instr.set_op_kind(i, OpKind::Immediate8);
                instr.set_immediate8(random.next() as u8);
            }
            K::seg_rDI => instr.set_op_kind(i, OpKind::MemorySegRDI),
            _ => return None,
        }
        if matches!(instr.op_kind(i), OpKind::Register)
            && matches!(instr.op_register(i), Register::SPL | Register::R15L)
        {
            return None;
        }
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&instr, 0).ok()?;
    Some(encoder.take_buffer())
}

/// A general register that is not RSP or R15.
fn general(first: Register, random: &mut Random) -> Register {
    let number = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14][random.below(14)];
    first + number
}

fn set_memory(instr: &mut Instruction, operand: u32) {
    instr.set_op_kind(operand, OpKind::Memory);
    instr.set_memory_base(Register::R15);
    instr.set_memory_displ_size(8);
    instr.set_memory_displacement64(MEM_OFFSET as u64);
}

fn random_context(variant: &Variant, random: &mut Random) -> Context {
    let mut context = Context::new();
    context.image = *random_state(random).image();
    random.fill(&mut context.mem);
    for value in &mut context.gpr {
        *value = random.integer();
    }
    context.rflags = 0x202 | random.next() & 0x8d5;
    prepare_area(variant.instr.code(), &mut context, random);
    context
}

/// Makes the operand of the instructions that load whole states acceptable most of the time.
fn prepare_area(code: Code, context: &mut Context, random: &mut Random) {
    match code {
        Code::Ldmxcsr_m32 => {
            let value = random.mxcsr() | u32::from(random.chance(8)) << random.below(32);
            context.mem[..4].copy_from_slice(&(value & !MXCSR_MM).to_le_bytes());
        }
        Code::Fldcw_m2byte => {
            context.mem[..2].copy_from_slice(&random.fcw().to_le_bytes());
        }
        Code::Fxrstor_m512byte | Code::Fxrstor64_m512byte => {
            put_image(context, random);
        }
        Code::Xrstor_mem | Code::Xrstor64_mem | Code::Xsave_mem | Code::Xsave64_mem => {
            put_image(context, random);
            context.mem[512..576].fill(0);
            context.mem[512] = random.below(4) as u8;
            if random.chance(16) {
                context.mem[520 + random.below(16)] = 1;
            }
            if random.chance(16) {
                context.mem[519] |= 0x40;
            }
            context.gpr[0] = random.below(4) as u64;
            context.gpr[2] = 0;
        }
        Code::Fldenv_m14byte | Code::Frstor_m94byte => {
            context.mem[..2].copy_from_slice(&random.fcw().to_le_bytes());
        }
        Code::Fldenv_m28byte | Code::Frstor_m108byte => {
            context.mem[..2].copy_from_slice(&random.fcw().to_le_bytes());
        }
        _ => {}
    }
}

fn put_image(context: &mut Context, random: &mut Random) {
    let state = random_state(random);
    context.mem[..416].copy_from_slice(&state.image()[..416]);
    context.mem[2..4].copy_from_slice(&(random.next() as u16).to_le_bytes());
    if random.chance(8) {
        context.mem[26 + random.below(2)] = random.next() as u8 & !(MXCSR_MM >> 16) as u8;
    }
}

fn random_state(random: &mut Random) -> FpState {
    let mut image = [0; 512];
    image[..2].copy_from_slice(&random.fcw().to_le_bytes());
    let exceptions = if random.chance(3) { random.next() as u16 & 0x7f } else { 0 };
    let fsw = random.next() as u16 & 0x7f00 | exceptions;
    image[2..4].copy_from_slice(&fsw.to_le_bytes());
    image[4] = if random.chance(3) { random.next() as u8 } else { 0xff };
    image[24..28].copy_from_slice(&random.mxcsr().to_le_bytes());
    for i in 0..8 {
        image[32 + 16 * i..42 + 16 * i].copy_from_slice(&random.extended());
    }
    random.fill(&mut image[160..416]);
    FpState::from_image(&image).expect("MXCSR is valid")
}

/// What the plan made of a context.
struct Model {
    context: Context,
    outcome: Outcome,
}

fn run_model(variant: &Variant, context: &Context, random: &mut Random) -> Model {
    let plan = &variant.plan;
    let mut fp = FpState::from_image(&context.image).expect("MXCSR is valid");
    let mut gpr = [0; 32];
    gpr[..16].copy_from_slice(&context.gpr);
    let mut operand = Operand::default();
    random.fill(operand.bytes_mut());
    let bytes = usize::from(plan.mem_bytes);
    if matches!(plan.mem, MemUse::Read | MemUse::ReadWrite) {
        operand.bytes_mut()[..bytes].copy_from_slice(&context.mem[..bytes]);
    }
    let outcome = plan.run(&mut fp, &mut gpr, &mut operand, context.rflags);
    let mut after = context.clone();
    if !matches!(outcome, Outcome::Raise(_))
        && matches!(plan.mem, MemUse::Write | MemUse::ReadWrite)
    {
        after.mem[..bytes].copy_from_slice(&operand.bytes()[..bytes]);
    }
    if let Outcome::Flags(flags) = outcome {
        after.rflags = after.rflags & !0x8d5 | u64::from(flags);
    }
    after.gpr.copy_from_slice(&gpr[..16]);
    after.image = *fp.image();
    after.trapped = match outcome {
        Outcome::Done | Outcome::Flags(_) => 0,
        Outcome::Raise(Exception::Mf) => 16,
        Outcome::Raise(Exception::Xm) => 19,
        Outcome::Raise(Exception::Gp) => 13,
    };
    Model { context: after, outcome }
}

/// Removes what is ours to choose: the last instruction's pointers, MXCSR_MASK and XINUSE.
fn scrub(variant: &Variant, host: &mut Context) {
    scrub_image(&mut host.image);
    if host.trapped != 0 {
        return;
    }
    match variant.instr.code() {
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte => {
            host.mem[12..22].fill(0);
            host.mem[20..26].fill(0);
        }
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte => host.mem[6..14].fill(0),
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => scrub_image(&mut host.mem),
        Code::Xsave_mem | Code::Xsave64_mem => {
            if host.gpr[0] & 1 != 0 {
                host.mem[6..24].fill(0);
            }
            if host.gpr[0] & 2 != 0 {
                host.mem[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
            }
            host.mem[512] |= host.gpr[0] as u8 & 3;
        }
        _ => {}
    }
}

/// Removes what the crate's doc says of the flags beside an unmasked SSE exception.
fn scrub_flags(variant: &Variant, host: &mut Context, model: &Model) {
    let ours = model.context.image[24];
    let mxcsr = u32::from(ours) | u32::from(model.context.image[25]) << 8;
    let raised_by_result = mxcsr & !(mxcsr >> 7) & 0x18 != 0;
    let steps =
        matches!(variant.instr.code(), Code::Dpps_xmm_xmmm128_imm8 | Code::Dppd_xmm_xmmm128_imm8);
    let free = match (host.trapped, steps) {
        (19, true) => 0x3f,
        (19, false) if raised_by_result => 0x20,
        _ => 0,
    };
    host.image[24] = host.image[24] & !free | ours & free;
}

fn scrub_image(image: &mut [u8]) {
    image[6..24].fill(0);
    image[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
}

fn compare(before: &Context, host: &Context, model: &Model) -> Option<String> {
    let ours = &model.context;
    let mut parts = Vec::new();
    if host.trapped != ours.trapped {
        parts.push(format!("exception host {} ours {}", host.trapped, ours.trapped));
    }
    if (host.rflags ^ ours.rflags) & 0x8d5 != 0 {
        parts.push(format!("rflags host {:x} ours {:x}", host.rflags, ours.rflags));
    }
    for i in (0..15).filter(|&i| i != 4) {
        if host.gpr[i] != ours.gpr[i] {
            parts.push(format!("gpr{i} host {:x} ours {:x}", host.gpr[i], ours.gpr[i]));
        }
    }
    for (name, a, b, was) in [
        ("image", &host.image[..], &ours.image[..], &before.image[..]),
        ("mem", &host.mem[..], &ours.mem[..], &before.mem[..]),
    ] {
        if let Some(at) = (0..a.len()).find(|&i| a[i] != b[i]) {
            let at = at & !15;
            let range = at..at + 16;
            parts.push(format!(
                "{name}[{at}] host {:02x?} ours {:02x?} was {:02x?}",
                &a[range.clone()],
                &b[range.clone()],
                &was[range]
            ));
        }
    }
    let state = FpState::from_image(&before.image).expect("it was valid");
    (!parts.is_empty())
        .then(|| format!("{} ({:?}) from {state:?}", parts.join("; "), model.outcome))
}

/// A small generator with a taste for awkward numbers.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_right(29)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn integer(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(40) as u64,
            1 => (self.below(40) as u64).wrapping_neg(),
            _ => self.next() >> self.below(64),
        }
    }

    fn fcw(&mut self) -> u16 {
        let masks = if self.chance(4) { self.next() as u16 & 0x3f } else { 0x3f };
        let precision = [0x000, 0x200, 0x300, 0x300][self.below(4)];
        masks | precision | self.next() as u16 & 0x1c00 | 0x40
    }

    fn mxcsr(&mut self) -> u32 {
        let masks = if self.chance(4) { self.next() as u32 & 0x1f80 } else { 0x1f80 };
        let modes = if self.chance(2) { self.next() as u32 & 0xe040 } else { 0 };
        let flags = if self.chance(2) { self.next() as u32 & 0x3f } else { 0 };
        masks | modes | flags
    }

    /// Fills `bytes` with 16-byte lanes, each of one kind of number.
    fn fill(&mut self, bytes: &mut [u8]) {
        for lane in bytes.chunks_mut(16) {
            let kind = self.below(6);
            let mut value = [0; 16];
            for i in (0..16).step_by(4) {
                match kind {
                    0 => value[i..i + 4].copy_from_slice(&self.single().to_le_bytes()),
                    1 if i % 8 == 0 => {
                        value[i..i + 8].copy_from_slice(&self.double().to_le_bytes());
                    }
                    2 if i == 0 => value[..10].copy_from_slice(&self.extended()),
                    3 => value[i..i + 4].copy_from_slice(&(self.integer() as u32).to_le_bytes()),
                    4 if i == 0 => value[..10].copy_from_slice(&self.decimal()),
                    5 => value[i..i + 4].copy_from_slice(&(self.next() as u32).to_le_bytes()),
                    _ => {}
                }
            }
            lane.copy_from_slice(&value[..lane.len()]);
        }
    }

    fn single(&mut self) -> u32 {
        let sign = (self.next() as u32 & 1) << 31;
        let fraction = self.fraction() as u32 & 0x7f_ffff;
        let exponent = match self.below(8) {
            0 => 0,
            1 => 0xff,
            2 => 1 + self.below(30) as u32,
            3 => 0xfe - self.below(30) as u32,
            _ => 0x7f - 20 + self.below(60) as u32,
        };
        sign | exponent << 23 | fraction
    }

    fn double(&mut self) -> u64 {
        let sign = (self.next() & 1) << 63;
        let fraction = self.fraction() & 0xf_ffff_ffff_ffff;
        let exponent = match self.below(8) {
            0 => 0,
            1 => 0x7ff,
            2 => 1 + self.below(60) as u64,
            3 => 0x7fe - self.below(60) as u64,
            _ => 0x3ff - 40 + self.below(120) as u64,
        };
        sign | exponent << 52 | fraction
    }

    fn extended(&mut self) -> [u8; 10] {
        let fraction = self.fraction() | u64::from(!self.chance(16)) << 63;
        let exponent = match self.below(8) {
            0 => 0,
            1 => 0x7fff,
            2 => 1 + self.below(80) as u16,
            3 => 0x7ffe - self.below(80) as u16,
            _ => 0x3fff - 60 + self.below(130) as u16,
        };
        let mut out = [0; 10];
        out[..8].copy_from_slice(&fraction.to_le_bytes());
        out[8..].copy_from_slice(&(exponent | (self.next() as u16 & 0x8000)).to_le_bytes());
        out
    }

    fn fraction(&mut self) -> u64 {
        match self.below(5) {
            0 => 0,
            1 => 1 << self.below(64),
            2 => u64::MAX << self.below(64),
            3 => u64::MAX >> self.below(64),
            _ => self.next(),
        }
    }

    fn decimal(&mut self) -> [u8; 10] {
        let mut out = [0; 10];
        for byte in &mut out[..9] {
            *byte = (self.below(10) << 4 | self.below(10)) as u8;
        }
        out[9] = (self.next() as u8) & 0x80;
        out
    }
}
