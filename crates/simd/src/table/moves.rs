//! SSE moves, and the insertions and extractions that are moves of one lane.

use super::Tweak::{DstHigh, DstLane, FromMemory, SrcHigh, SrcLane, Unaligned};
use crate::exec;

super::rows! {
    Sse, exec::copy::<16>, rust {
        Movaps_xmm_xmmm128;
        Movaps_xmmm128_xmm;
        Movapd_xmm_xmmm128;
        Movapd_xmmm128_xmm;
        Movdqa_xmm_xmmm128;
        Movdqa_xmmm128_xmm;
        Movups_xmm_xmmm128 [Unaligned];
        Movups_xmmm128_xmm [Unaligned];
        Movupd_xmm_xmmm128 [Unaligned];
        Movupd_xmmm128_xmm [Unaligned];
        Movdqu_xmm_xmmm128 [Unaligned];
        Movdqu_xmmm128_xmm [Unaligned];
        Lddqu_xmm_m128 [Unaligned];
        Movntdq_m128_xmm;
        Movntpd_m128_xmm;
        Movntps_m128_xmm;
        Movntdqa_xmm_m128;
    }
    Sse, exec::copy_zero::<8, 16>, rust {
        Movq_xmm_xmmm64;
        Movq_xmmm64_xmm;
        Movq_xmm_rm64;
    }
    Sse, exec::copy_zero::<4, 16>, rust {
        Movd_xmm_rm32;
    }
    Sse, exec::copy_zero::<8, 8>, rust {
        Movq_rm64_xmm;
    }
    Sse, exec::copy_zero::<4, 8>, rust {
        Movd_rm32_xmm;
    }
    Sse, exec::copy::<8>, rust {
        Movsd_xmm_xmmm64 [FromMemory(exec::copy_zero::<8, 16>)];
        Movsd_xmmm64_xmm;
        Movlps_xmm_m64;
        Movlps_m64_xmm;
        Movlpd_xmm_m64;
        Movlpd_m64_xmm;
        Movhps_xmm_m64 [DstHigh];
        Movhps_m64_xmm [SrcHigh];
        Movhpd_xmm_m64 [DstHigh];
        Movhpd_m64_xmm [SrcHigh];
        Movhlps_xmm_xmm [SrcHigh];
        Movlhps_xmm_xmm [DstHigh];
    }
    Sse, exec::copy::<4>, rust {
        Movss_xmm_xmmm32 [FromMemory(exec::copy_zero::<4, 16>)];
        Movss_xmmm32_xmm;
    }
    Sse, exec::copy::<1>, rust {
        Pinsrb_xmm_r32m8_imm8 [DstLane(1, 16)];
        Pinsrb_xmm_r64m8_imm8 [DstLane(1, 16)];
    }
    Sse, exec::copy::<2>, rust {
        Pinsrw_xmm_r32m16_imm8 [DstLane(2, 8)];
        Pinsrw_xmm_r64m16_imm8 [DstLane(2, 8)];
    }
    Sse, exec::copy::<4>, rust {
        Pinsrd_xmm_rm32_imm8 [DstLane(4, 4)];
    }
    Sse, exec::copy::<8>, rust {
        Pinsrq_xmm_rm64_imm8 [DstLane(8, 2)];
    }
    Sse, exec::copy_zero::<1, 8>, rust {
        Pextrb_r32m8_xmm_imm8 [SrcLane(1, 16)];
        Pextrb_r64m8_xmm_imm8 [SrcLane(1, 16)];
    }
    Sse, exec::copy_zero::<2, 8>, rust {
        Pextrw_r32_xmm_imm8 [SrcLane(2, 8)];
        Pextrw_r64_xmm_imm8 [SrcLane(2, 8)];
        Pextrw_r32m16_xmm_imm8 [SrcLane(2, 8)];
        Pextrw_r64m16_xmm_imm8 [SrcLane(2, 8)];
    }
    Sse, exec::copy_zero::<4, 8>, rust {
        Pextrd_rm32_xmm_imm8 [SrcLane(4, 4)];
        Extractps_rm32_xmm_imm8 [SrcLane(4, 4)];
        Extractps_r64m32_xmm_imm8 [SrcLane(4, 4)];
    }
    Sse, exec::copy_zero::<8, 8>, rust {
        Pextrq_rm64_xmm_imm8 [SrcLane(8, 2)];
    }
    Sse, exec::mask_move::<16>, rust {
        Maskmovdqu_rDI_xmm_xmm;
    }
    Plain, exec::copy::<8>, rust {
        Movnti_m32_r32;
        Movnti_m64_r64;
    }
}
