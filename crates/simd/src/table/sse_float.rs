//! SSE floating point: arithmetic, comparison, conversion, logic and shuffles.
//!
//! CVTPI2PS and CVTPI2PD from memory touch no MMX register and leave the x87 state alone, as AMD's
//! processors do.

use super::Tweak::FromMemory;
use crate::exec;

super::rows! {
    Sse, exec::fp, fp {
        Sqrtps_xmm_xmmm128 "sqrtps";
        Sqrtpd_xmm_xmmm128 "sqrtpd";
        Sqrtss_xmm_xmmm32 "sqrtss";
        Sqrtsd_xmm_xmmm64 "sqrtsd";
        Addps_xmm_xmmm128 "addps";
        Addpd_xmm_xmmm128 "addpd";
        Addss_xmm_xmmm32 "addss";
        Addsd_xmm_xmmm64 "addsd";
        Mulps_xmm_xmmm128 "mulps";
        Mulpd_xmm_xmmm128 "mulpd";
        Mulss_xmm_xmmm32 "mulss";
        Mulsd_xmm_xmmm64 "mulsd";
        Cvtps2pd_xmm_xmmm64 "cvtps2pd";
        Cvtpd2ps_xmm_xmmm128 "cvtpd2ps";
        Cvtss2sd_xmm_xmmm32 "cvtss2sd";
        Cvtsd2ss_xmm_xmmm64 "cvtsd2ss";
        Cvtdq2ps_xmm_xmmm128 "cvtdq2ps";
        Cvtps2dq_xmm_xmmm128 "cvtps2dq";
        Cvttps2dq_xmm_xmmm128 "cvttps2dq";
        Subps_xmm_xmmm128 "subps";
        Subpd_xmm_xmmm128 "subpd";
        Subss_xmm_xmmm32 "subss";
        Subsd_xmm_xmmm64 "subsd";
        Minps_xmm_xmmm128 "minps";
        Minpd_xmm_xmmm128 "minpd";
        Minss_xmm_xmmm32 "minss";
        Minsd_xmm_xmmm64 "minsd";
        Divps_xmm_xmmm128 "divps";
        Divpd_xmm_xmmm128 "divpd";
        Divss_xmm_xmmm32 "divss";
        Divsd_xmm_xmmm64 "divsd";
        Maxps_xmm_xmmm128 "maxps";
        Maxpd_xmm_xmmm128 "maxpd";
        Maxss_xmm_xmmm32 "maxss";
        Maxsd_xmm_xmmm64 "maxsd";
        Haddpd_xmm_xmmm128 "haddpd";
        Haddps_xmm_xmmm128 "haddps";
        Hsubpd_xmm_xmmm128 "hsubpd";
        Hsubps_xmm_xmmm128 "hsubps";
        Addsubpd_xmm_xmmm128 "addsubpd";
        Addsubps_xmm_xmmm128 "addsubps";
        Cvttpd2dq_xmm_xmmm128 "cvttpd2dq";
        Cvtpd2dq_xmm_xmmm128 "cvtpd2dq";
    }
    Sse, exec::fp, fp_imm {
        Cmpps_xmm_xmmm128_imm8 "cmpps";
        Cmppd_xmm_xmmm128_imm8 "cmppd";
        Cmpss_xmm_xmmm32_imm8 "cmpss";
        Cmpsd_xmm_xmmm64_imm8 "cmpsd";
        Roundps_xmm_xmmm128_imm8 "roundps";
        Roundpd_xmm_xmmm128_imm8 "roundpd";
        Roundss_xmm_xmmm32_imm8 "roundss";
        Roundsd_xmm_xmmm64_imm8 "roundsd";
        Dpps_xmm_xmmm128_imm8 "dpps";
        Dppd_xmm_xmmm128_imm8 "dppd";
    }
    Sse, exec::fp_flags, fp_flags {
        Ucomiss_xmm_xmmm32 "ucomiss";
        Ucomisd_xmm_xmmm64 "ucomisd";
        Comiss_xmm_xmmm32 "comiss";
        Comisd_xmm_xmmm64 "comisd";
    }
    Sse, exec::fp, fp_to_gpr {
        Cvtss2si_r32_xmmm32 "cvtss2si eax";
        Cvtss2si_r64_xmmm32 "cvtss2si rax";
        Cvtsd2si_r32_xmmm64 "cvtsd2si eax";
        Cvtsd2si_r64_xmmm64 "cvtsd2si rax";
        Cvttss2si_r32_xmmm32 "cvttss2si eax";
        Cvttss2si_r64_xmmm32 "cvttss2si rax";
        Cvttsd2si_r32_xmmm64 "cvttsd2si eax";
        Cvttsd2si_r64_xmmm64 "cvttsd2si rax";
    }
    Sse, exec::fp, fp_from_gpr {
        Cvtsi2ss_xmm_rm32 "cvtsi2ss xmm0, dword";
        Cvtsi2ss_xmm_rm64 "cvtsi2ss xmm0, qword";
        Cvtsi2sd_xmm_rm32 "cvtsi2sd xmm0, dword";
        Cvtsi2sd_xmm_rm64 "cvtsi2sd xmm0, qword";
    }
    Sse, exec::mmx_fp, fp_to_mm {
        Cvtps2pi_mm_xmmm64 "cvtps2pi";
        Cvttps2pi_mm_xmmm64 "cvttps2pi";
        Cvtpd2pi_mm_xmmm128 "cvtpd2pi";
        Cvttpd2pi_mm_xmmm128 "cvttpd2pi";
    }
    Sse, exec::mmx_fp, fp_from_gpr {
        Cvtpi2ps_xmm_mmm64 "cvtpi2ps xmm0, qword" [FromMemory(exec::fp)];
        Cvtpi2pd_xmm_mmm64 "cvtpi2pd xmm0, qword" [FromMemory(exec::fp)];
    }
    Sse, exec::plain, xmm {
        Movsldup_xmm_xmmm128 "movsldup";
        Movddup_xmm_xmmm64 "movddup";
        Unpcklps_xmm_xmmm128 "unpcklps";
        Unpcklpd_xmm_xmmm128 "unpcklpd";
        Unpckhps_xmm_xmmm128 "unpckhps";
        Unpckhpd_xmm_xmmm128 "unpckhpd";
        Movshdup_xmm_xmmm128 "movshdup";
        Rsqrtps_xmm_xmmm128 "rsqrtps";
        Rsqrtss_xmm_xmmm32 "rsqrtss";
        Rcpps_xmm_xmmm128 "rcpps";
        Rcpss_xmm_xmmm32 "rcpss";
        Andps_xmm_xmmm128 "andps";
        Andpd_xmm_xmmm128 "andpd";
        Andnps_xmm_xmmm128 "andnps";
        Andnpd_xmm_xmmm128 "andnpd";
        Orps_xmm_xmmm128 "orps";
        Orpd_xmm_xmmm128 "orpd";
        Xorps_xmm_xmmm128 "xorps";
        Xorpd_xmm_xmmm128 "xorpd";
        Cvtdq2pd_xmm_xmmm64 "cvtdq2pd";
    }
    Sse, exec::plain, raw {
        Movmskps_r32_xmm "movups xmm1, [rsi]" "movmskps eax, xmm1" "mov [rdi], rax";
        Movmskps_r64_xmm "movups xmm1, [rsi]" "movmskps eax, xmm1" "mov [rdi], rax";
        Movmskpd_r32_xmm "movups xmm1, [rsi]" "movmskpd eax, xmm1" "mov [rdi], rax";
        Movmskpd_r64_xmm "movups xmm1, [rsi]" "movmskpd eax, xmm1" "mov [rdi], rax";
    }
}
