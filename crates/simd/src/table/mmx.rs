//! MMX, with the instructions on MMX registers that SSE, SSE2 and SSSE3 added.

use super::Tweak::{DstLane, SrcLane};
use crate::exec;

super::rows! {
    Mmx, exec::mmx, mm {
        Punpcklbw_mm_mmm32 "punpcklbw";
        Punpcklwd_mm_mmm32 "punpcklwd";
        Punpckldq_mm_mmm32 "punpckldq";
        Packsswb_mm_mmm64 "packsswb";
        Pcmpgtb_mm_mmm64 "pcmpgtb";
        Pcmpgtw_mm_mmm64 "pcmpgtw";
        Pcmpgtd_mm_mmm64 "pcmpgtd";
        Packuswb_mm_mmm64 "packuswb";
        Punpckhbw_mm_mmm64 "punpckhbw";
        Punpckhwd_mm_mmm64 "punpckhwd";
        Punpckhdq_mm_mmm64 "punpckhdq";
        Packssdw_mm_mmm64 "packssdw";
        Pcmpeqb_mm_mmm64 "pcmpeqb";
        Pcmpeqw_mm_mmm64 "pcmpeqw";
        Pcmpeqd_mm_mmm64 "pcmpeqd";
        Psrlw_mm_mmm64 "psrlw";
        Psrld_mm_mmm64 "psrld";
        Psrlq_mm_mmm64 "psrlq";
        Paddq_mm_mmm64 "paddq";
        Pmullw_mm_mmm64 "pmullw";
        Psubusb_mm_mmm64 "psubusb";
        Psubusw_mm_mmm64 "psubusw";
        Pminub_mm_mmm64 "pminub";
        Pand_mm_mmm64 "pand";
        Paddusb_mm_mmm64 "paddusb";
        Paddusw_mm_mmm64 "paddusw";
        Pmaxub_mm_mmm64 "pmaxub";
        Pandn_mm_mmm64 "pandn";
        Pavgb_mm_mmm64 "pavgb";
        Psraw_mm_mmm64 "psraw";
        Psrad_mm_mmm64 "psrad";
        Pavgw_mm_mmm64 "pavgw";
        Pmulhuw_mm_mmm64 "pmulhuw";
        Pmulhw_mm_mmm64 "pmulhw";
        Psubsb_mm_mmm64 "psubsb";
        Psubsw_mm_mmm64 "psubsw";
        Pminsw_mm_mmm64 "pminsw";
        Por_mm_mmm64 "por";
        Paddsb_mm_mmm64 "paddsb";
        Paddsw_mm_mmm64 "paddsw";
        Pmaxsw_mm_mmm64 "pmaxsw";
        Pxor_mm_mmm64 "pxor";
        Psllw_mm_mmm64 "psllw";
        Pslld_mm_mmm64 "pslld";
        Psllq_mm_mmm64 "psllq";
        Pmuludq_mm_mmm64 "pmuludq";
        Pmaddwd_mm_mmm64 "pmaddwd";
        Psadbw_mm_mmm64 "psadbw";
        Psubb_mm_mmm64 "psubb";
        Psubw_mm_mmm64 "psubw";
        Psubd_mm_mmm64 "psubd";
        Psubq_mm_mmm64 "psubq";
        Paddb_mm_mmm64 "paddb";
        Paddw_mm_mmm64 "paddw";
        Paddd_mm_mmm64 "paddd";
        Pshufb_mm_mmm64 "pshufb";
        Phaddw_mm_mmm64 "phaddw";
        Phaddd_mm_mmm64 "phaddd";
        Phaddsw_mm_mmm64 "phaddsw";
        Pmaddubsw_mm_mmm64 "pmaddubsw";
        Phsubw_mm_mmm64 "phsubw";
        Phsubd_mm_mmm64 "phsubd";
        Phsubsw_mm_mmm64 "phsubsw";
        Psignb_mm_mmm64 "psignb";
        Psignw_mm_mmm64 "psignw";
        Psignd_mm_mmm64 "psignd";
        Pmulhrsw_mm_mmm64 "pmulhrsw";
        Pabsb_mm_mmm64 "pabsb";
        Pabsw_mm_mmm64 "pabsw";
        Pabsd_mm_mmm64 "pabsd";
    }
    Mmx, exec::mmx, mm_count {
        Psrlw_mm_imm8 "psrlw";
        Psraw_mm_imm8 "psraw";
        Psllw_mm_imm8 "psllw";
        Psrld_mm_imm8 "psrld";
        Psrad_mm_imm8 "psrad";
        Pslld_mm_imm8 "pslld";
        Psrlq_mm_imm8 "psrlq";
        Psllq_mm_imm8 "psllq";
    }
    Mmx, exec::mmx, mm_imm {
        Pshufw_mm_mmm64_imm8 "pshufw";
        Palignr_mm_mmm64_imm8 "palignr";
    }
    Mmx, exec::mmx, raw {
        Pmovmskb_r32_mm "movq mm1, [rsi]" "pmovmskb eax, mm1" "mov [rdi], rax" "emms";
        Pmovmskb_r64_mm "movq mm1, [rsi]" "pmovmskb eax, mm1" "mov [rdi], rax" "emms";
    }
    Mmx, exec::mmx_copy::<8, 8>, rust {
        Movq_mm_mmm64;
        Movq_mmm64_mm;
        Movq_mm_rm64;
        Movq_rm64_mm;
        Movntq_m64_mm;
    }
    Mmx, exec::mmx_copy::<4, 8>, rust {
        Movd_mm_rm32;
        Movd_rm32_mm;
    }
    Mmx, exec::mmx_copy::<2, 2>, rust {
        Pinsrw_mm_r32m16_imm8 [DstLane(2, 4)];
        Pinsrw_mm_r64m16_imm8 [DstLane(2, 4)];
    }
    Mmx, exec::mmx_copy::<2, 8>, rust {
        Pextrw_r32_mm_imm8 [SrcLane(2, 4)];
        Pextrw_r64_mm_imm8 [SrcLane(2, 4)];
    }
    Sse, exec::mmx_copy::<8, 8>, rust {
        Movdq2q_mm_xmm;
    }
    Sse, exec::mmx_copy::<8, 16>, rust {
        Movq2dq_xmm_mm;
    }
    Mmx, exec::mask_move::<8>, rust {
        Maskmovq_rDI_mm_mm;
    }
    Mmx, exec::emms, rust {
        Emms;
    }
}
