//! Every instruction of the sets that the crate claims has a plan, or a reason here not to have one.

mod native;

use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, OpCodeOperandKind, OpKind, Register,
};
use native::{Context, example};
use sparkler_simd::{Class, FpState, MemUse, Operand, Outcome, Plan, plan};

/// Instructions of these sets that have no plan, and why.
const EXCLUDED: &[(&str, &[Code])] = &[
    ("changes XCR0, which is the caller's", &[Code::Xgetbv, Code::Xsetbv]),
    (
        "no form of its own: FWAIT and the instruction without it",
        &[
            Code::Fstenv_m14byte,
            Code::Fstenv_m28byte,
            Code::Fstcw_m2byte,
            Code::Feni,
            Code::Fdisi,
            Code::Fclex,
            Code::Finit,
            Code::Fsetpm,
            Code::Fsave_m94byte,
            Code::Fsave_m108byte,
            Code::Fstsw_m2byte,
            Code::Fstsw_AX,
            Code::Fstdw_AX,
            Code::Fstsg_AX,
        ],
    ),
    (
        "#UD on every 64-bit processor: of the 287XL and 387SL only",
        &[Code::Frstpm, Code::Fnstdw_AX, Code::Fnstsg_AX],
    ),
];

fn is_claimed(code: Code) -> bool {
    use CpuidFeature as F;
    let info = code.op_code();
    info.is_instruction()
        && info.encoding() == EncodingKind::Legacy
        && code.cpuid_features().iter().any(|feature| {
            matches!(
                *feature,
                F::FPU
                    | F::FPU287
                    | F::FPU287XL_ONLY
                    | F::FPU387
                    | F::FPU387SL_ONLY
                    | F::MMX
                    | F::SSE
                    | F::SSE2
                    | F::SSE3
                    | F::SSSE3
                    | F::SSE4_1
                    | F::SSE4_2
                    | F::POPCNT
                    | F::FXSR
                    | F::XSAVE
                    | F::PREFETCHW
            )
        })
}

#[test]
fn every_instruction_is_planned_or_excluded() {
    for code in Code::values() {
        let excluded = EXCLUDED.iter().any(|(_, codes)| codes.contains(&code));
        let planned = plan(&example(code)).is_some();
        let expected = is_claimed(code) && !excluded || code == Code::Wait;
        assert_eq!(planned, expected, "{code:?}");
    }
}

fn decode(bytes: &[u8], bitness: u32) -> (Instruction, Plan) {
    let instr = iced_x86::Decoder::new(bitness, bytes, 0).decode();
    let plan = plan(&instr).expect("a planned instruction");
    (instr, plan)
}

#[test]
fn a_plan_is_small() {
    assert!(size_of::<Plan>() <= 32);
    assert!(size_of::<Outcome>() <= 4);
}

#[test]
fn what_memory_needs() {
    let check = |bytes: &[u8], class, mem, mem_bytes, align| {
        let (_, plan) = decode(bytes, 64);
        assert_eq!(
            (plan.class, plan.mem, plan.mem_bytes, plan.align, plan.at_rdi),
            (class, mem, mem_bytes, align, bytes.ends_with(&[0x0f, 0xf7, 0xca])),
            "{bytes:02x?}"
        );
    };
    // addps xmm0, [rax]; movups [rax], xmm0; movss xmm0, [rax]; pcmpistri xmm0, [rax], 0
    check(&[0x0f, 0x58, 0x00], Class::Sse, MemUse::Read, 16, 16);
    check(&[0x0f, 0x11, 0x00], Class::Sse, MemUse::Write, 16, 1);
    check(&[0xf3, 0x0f, 0x10, 0x00], Class::Sse, MemUse::Read, 4, 1);
    check(&[0x66, 0x0f, 0x3a, 0x63, 0x00, 0], Class::Sse, MemUse::Read, 16, 1);
    // fld qword [rax]; fstp tbyte [rax]; fnsave [rax]; fnstcw [rax]
    check(&[0xdd, 0x00], Class::X87, MemUse::Read, 8, 1);
    check(&[0xdb, 0x38], Class::X87, MemUse::ReadWrite, 10, 1);
    check(&[0xdd, 0x30], Class::X87, MemUse::Write, 108, 1);
    check(&[0xd9, 0x38], Class::X87, MemUse::Write, 2, 1);
    // fxsave [rax]; xrstor [rax]; ldmxcsr [rax]; movnti [rax], eax; prefetcht0 [rax]
    check(&[0x0f, 0xae, 0x00], Class::X87, MemUse::ReadWrite, 512, 16);
    check(&[0x0f, 0xae, 0x28], Class::Xsave, MemUse::Read, 576, 64);
    check(&[0x0f, 0xae, 0x10], Class::Sse, MemUse::Read, 4, 1);
    check(&[0x0f, 0xc3, 0x00], Class::Plain, MemUse::Write, 4, 1);
    check(&[0x0f, 0x18, 0x08], Class::Plain, MemUse::None, 1, 1);
    // maskmovdqu xmm1, xmm2; maskmovq mm1, mm2
    check(&[0x66, 0x0f, 0xf7, 0xca], Class::Sse, MemUse::ReadWrite, 16, 1);
    check(&[0x0f, 0xf7, 0xca], Class::Mmx, MemUse::ReadWrite, 8, 1);
}

#[test]
fn alignment_is_the_hosts() {
    for code in Code::values().filter(|&code| is_claimed(code)) {
        let Some((bytes, plan)) = with_misaligned_memory(code) else { continue };
        let mut context = Context::new();
        context.image = *FpState::default().image();
        native::Code::new(&[bytes]).run(0, &mut context);
        let expected = if plan.align > 1 { 13 } else { 0 };
        assert_eq!(context.trapped, expected, "{code:?}");
    }
}

/// The instruction on [r15 + 520]: no multiple of 16.
fn with_misaligned_memory(code: Code) -> Option<(Vec<u8>, Plan)> {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let mut instr = example(code);
    if !info.mode64() {
        return None;
    }
    let operand = (0..info.op_count()).find(|&i| {
        matches!(
            info.op_kind(i),
            K::mem | K::xmm_or_mem | K::mm_or_mem | K::r32_or_mem | K::r64_or_mem
        )
    })?;
    instr.set_op_kind(operand, OpKind::Memory);
    instr.set_memory_base(Register::R15);
    instr.set_memory_displ_size(8);
    instr.set_memory_displacement64(native::MEM_OFFSET as u64 + 8);
    let mut encoder = iced_x86::Encoder::new(64);
    encoder.encode(&instr, 0).ok()?;
    Some((encoder.take_buffer(), plan(&instr)?))
}

#[test]
fn loaded_images_are_normalised_as_the_host_does() {
    let native = native::Code::new(&[vec![0x90]]);
    for bits in 0..0x1_0000_u32 {
        let mut context = Context::new();
        context.image[..2].copy_from_slice(&(bits.wrapping_mul(0x9e37) as u16).to_le_bytes());
        context.image[2..4].copy_from_slice(&(bits as u16).to_le_bytes());
        context.image[5] = bits as u8;
        context.image[32 + 10] = 0xff;
        let ours = FpState::from_image(&context.image).expect("MXCSR is valid");
        native.run(0, &mut context);
        let host = FpState::from_image(&context.image).expect("MXCSR is valid");
        assert_eq!(host, ours, "{bits:04x}");
        assert_eq!(&context.image[..6], &ours.image()[..6], "{bits:04x}");
        assert_eq!(&context.image[32..48], &ours.image()[32..48], "{bits:04x}");
    }
}

#[test]
fn an_unmasked_exception_leaves_the_destination() {
    let (_, divide) = decode(&[0x0f, 0x5e, 0xc1], 64); // divps xmm0, xmm1
    let mut fp = FpState::default();
    fp.set_xmm(0, 0x3f80_0000);
    assert!(fp.set_mxcsr(0x1d80)); // divide by zero unmasked
    let outcome = divide.run(&mut fp, &mut [0; 32], &mut Operand::default(), 0);
    assert_eq!(outcome, Outcome::Raise(sparkler_simd::Exception::Xm));
    assert_eq!((fp.xmm(0), fp.mxcsr()), (0x3f80_0000, 0x1d85)); // 0/0 in the other lanes: IE
}

#[test]
fn a_pending_x87_exception_is_raised_by_the_next_waiting_instruction() {
    let run = |fp: &mut FpState, bytes: &[u8]| {
        decode(bytes, 64).1.run(fp, &mut [0; 32], &mut Operand::default(), 0)
    };
    let mut fp = FpState::default();
    let mut image = *fp.image();
    image[..2].copy_from_slice(&0x037e_u16.to_le_bytes()); // invalid unmasked
    fp = FpState::from_image(&image).expect("MXCSR is valid");
    assert_eq!(run(&mut fp, &[0xd9, 0xfa]), Outcome::Done); // fsqrt of nothing
    assert!(fp.x87_pending());
    let before = fp.clone();
    let mf = Outcome::Raise(sparkler_simd::Exception::Mf);
    for waiting in [&[0xd9, 0xe8][..], &[0x9b], &[0x0f, 0x77], &[0x0f, 0xfc, 0xc1]] {
        assert_eq!(run(&mut fp, waiting), mf); // fld1, fwait, emms, paddb mm0, mm1
        assert_eq!(fp, before);
    }
    assert_eq!(run(&mut fp, &[0xdf, 0xe0]), Outcome::Done); // fnstsw ax
    assert_eq!(run(&mut fp, &[0xdb, 0xe2]), Outcome::Done); // fnclex
    assert!(!fp.x87_pending());
}

#[test]
fn a_state_area_outside_64_bit_mode_has_eight_xmm_registers() {
    let mut fp = FpState::default();
    fp.set_xmm(7, 7);
    fp.set_xmm(8, 8);
    let mut area = Operand::default();
    let save = [0x0f, 0xae, 0x00]; // fxsave [eax]
    decode(&save, 32).1.run(&mut fp, &mut [0; 32], &mut area, 0);
    assert_eq!((area.bytes()[160 + 16 * 7], area.bytes()[160 + 16 * 8]), (7, 0));
    decode(&save, 64).1.run(&mut fp, &mut [0; 32], &mut area, 0);
    assert_eq!(area.bytes()[160 + 16 * 8], 8);
    let mut fresh = FpState::default();
    decode(&[0x0f, 0xae, 0x08], 32).1.run(&mut fresh, &mut [0; 32], &mut area, 0);
    assert_eq!((fresh.xmm(7), fresh.xmm(8)), (7, 0));
}

#[test]
fn an_image_with_a_reserved_mxcsr_bit_is_refused() {
    let mut image = *FpState::default().image();
    image[26] = 1;
    assert!(FpState::from_image(&image).is_none());
    assert!(!FpState::default().set_mxcsr(0x1_1f80));
}

#[test]
fn any_bytes_run_or_are_refused() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut fp, mut gpr, mut operand) = (FpState::default(), [0; 32], Operand::default());
    let mut ran = 0;
    for _ in 0..1_000_000 {
        let mut bytes = next().to_le_bytes().to_vec();
        bytes.extend(next().to_le_bytes());
        match next() % 4 {
            0 => bytes[0] = 0xd8 | bytes[0] & 7,
            1 => bytes[0] = 0x0f,
            2 => bytes[..2]
                .copy_from_slice(&[[0x66, 0x0f], [0xf2, 0x0f], [0xf3, 0x0f]][next() as usize % 3]),
            _ => bytes[..3].copy_from_slice(&[0x66, 0x0f, [0x38, 0x3a][next() as usize % 2]]),
        }
        let bitness = [16, 32, 64][next() as usize % 3];
        let instr = iced_x86::Decoder::new(bitness, &bytes, 0).decode();
        let Some(plan) = plan(&instr) else { continue };
        operand.bytes_mut()[..8].copy_from_slice(&next().to_le_bytes());
        gpr[next() as usize % 16] = next();
        assert!(usize::from(plan.mem_bytes) <= operand.bytes().len(), "{bytes:02x?}");
        plan.run(&mut fp, &mut gpr, &mut operand, next());
        assert_eq!(FpState::from_image(fp.image()), Some(fp.clone()), "{bytes:02x?}");
        ran += 1;
    }
    assert!(ran > 100_000, "{ran}");
}
