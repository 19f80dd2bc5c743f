//! SSE integer arithmetic, logic, comparison and shuffles, with CRC32 and POPCNT.

use super::Tweak::{Insertps, Unaligned};
use crate::exec;

super::rows! {
    Sse, exec::plain, xmm {
        Punpcklbw_xmm_xmmm128 "punpcklbw";
        Punpcklwd_xmm_xmmm128 "punpcklwd";
        Punpckldq_xmm_xmmm128 "punpckldq";
        Packsswb_xmm_xmmm128 "packsswb";
        Pcmpgtb_xmm_xmmm128 "pcmpgtb";
        Pcmpgtw_xmm_xmmm128 "pcmpgtw";
        Pcmpgtd_xmm_xmmm128 "pcmpgtd";
        Packuswb_xmm_xmmm128 "packuswb";
        Punpckhbw_xmm_xmmm128 "punpckhbw";
        Punpckhwd_xmm_xmmm128 "punpckhwd";
        Punpckhdq_xmm_xmmm128 "punpckhdq";
        Packssdw_xmm_xmmm128 "packssdw";
        Punpcklqdq_xmm_xmmm128 "punpcklqdq";
        Punpckhqdq_xmm_xmmm128 "punpckhqdq";
        Pcmpeqb_xmm_xmmm128 "pcmpeqb";
        Pcmpeqw_xmm_xmmm128 "pcmpeqw";
        Pcmpeqd_xmm_xmmm128 "pcmpeqd";
        Psrlw_xmm_xmmm128 "psrlw";
        Psrld_xmm_xmmm128 "psrld";
        Psrlq_xmm_xmmm128 "psrlq";
        Paddq_xmm_xmmm128 "paddq";
        Pmullw_xmm_xmmm128 "pmullw";
        Psubusb_xmm_xmmm128 "psubusb";
        Psubusw_xmm_xmmm128 "psubusw";
        Pminub_xmm_xmmm128 "pminub";
        Pand_xmm_xmmm128 "pand";
        Paddusb_xmm_xmmm128 "paddusb";
        Paddusw_xmm_xmmm128 "paddusw";
        Pmaxub_xmm_xmmm128 "pmaxub";
        Pandn_xmm_xmmm128 "pandn";
        Pavgb_xmm_xmmm128 "pavgb";
        Psraw_xmm_xmmm128 "psraw";
        Psrad_xmm_xmmm128 "psrad";
        Pavgw_xmm_xmmm128 "pavgw";
        Pmulhuw_xmm_xmmm128 "pmulhuw";
        Pmulhw_xmm_xmmm128 "pmulhw";
        Psubsb_xmm_xmmm128 "psubsb";
        Psubsw_xmm_xmmm128 "psubsw";
        Pminsw_xmm_xmmm128 "pminsw";
        Por_xmm_xmmm128 "por";
        Paddsb_xmm_xmmm128 "paddsb";
        Paddsw_xmm_xmmm128 "paddsw";
        Pmaxsw_xmm_xmmm128 "pmaxsw";
        Pxor_xmm_xmmm128 "pxor";
        Psllw_xmm_xmmm128 "psllw";
        Pslld_xmm_xmmm128 "pslld";
        Psllq_xmm_xmmm128 "psllq";
        Pmuludq_xmm_xmmm128 "pmuludq";
        Pmaddwd_xmm_xmmm128 "pmaddwd";
        Psadbw_xmm_xmmm128 "psadbw";
        Psubb_xmm_xmmm128 "psubb";
        Psubw_xmm_xmmm128 "psubw";
        Psubd_xmm_xmmm128 "psubd";
        Psubq_xmm_xmmm128 "psubq";
        Paddb_xmm_xmmm128 "paddb";
        Paddw_xmm_xmmm128 "paddw";
        Paddd_xmm_xmmm128 "paddd";
        Pshufb_xmm_xmmm128 "pshufb";
        Phaddw_xmm_xmmm128 "phaddw";
        Phaddd_xmm_xmmm128 "phaddd";
        Phaddsw_xmm_xmmm128 "phaddsw";
        Pmaddubsw_xmm_xmmm128 "pmaddubsw";
        Phsubw_xmm_xmmm128 "phsubw";
        Phsubd_xmm_xmmm128 "phsubd";
        Phsubsw_xmm_xmmm128 "phsubsw";
        Psignb_xmm_xmmm128 "psignb";
        Psignw_xmm_xmmm128 "psignw";
        Psignd_xmm_xmmm128 "psignd";
        Pmulhrsw_xmm_xmmm128 "pmulhrsw";
        Pabsb_xmm_xmmm128 "pabsb";
        Pabsw_xmm_xmmm128 "pabsw";
        Pabsd_xmm_xmmm128 "pabsd";
        Pmovsxbw_xmm_xmmm64 "pmovsxbw";
        Pmovsxbd_xmm_xmmm32 "pmovsxbd";
        Pmovsxbq_xmm_xmmm16 "pmovsxbq";
        Pmovsxwd_xmm_xmmm64 "pmovsxwd";
        Pmovsxwq_xmm_xmmm32 "pmovsxwq";
        Pmovsxdq_xmm_xmmm64 "pmovsxdq";
        Pmuldq_xmm_xmmm128 "pmuldq";
        Pcmpeqq_xmm_xmmm128 "pcmpeqq";
        Packusdw_xmm_xmmm128 "packusdw";
        Pmovzxbw_xmm_xmmm64 "pmovzxbw";
        Pmovzxbd_xmm_xmmm32 "pmovzxbd";
        Pmovzxbq_xmm_xmmm16 "pmovzxbq";
        Pmovzxwd_xmm_xmmm64 "pmovzxwd";
        Pmovzxwq_xmm_xmmm32 "pmovzxwq";
        Pmovzxdq_xmm_xmmm64 "pmovzxdq";
        Pcmpgtq_xmm_xmmm128 "pcmpgtq";
        Pminsb_xmm_xmmm128 "pminsb";
        Pminsd_xmm_xmmm128 "pminsd";
        Pminuw_xmm_xmmm128 "pminuw";
        Pminud_xmm_xmmm128 "pminud";
        Pmaxsb_xmm_xmmm128 "pmaxsb";
        Pmaxsd_xmm_xmmm128 "pmaxsd";
        Pmaxuw_xmm_xmmm128 "pmaxuw";
        Pmaxud_xmm_xmmm128 "pmaxud";
        Pmulld_xmm_xmmm128 "pmulld";
        Phminposuw_xmm_xmmm128 "phminposuw";
    }
    Sse, exec::plain, xmm_count {
        Psrlw_xmm_imm8 "psrlw";
        Psraw_xmm_imm8 "psraw";
        Psllw_xmm_imm8 "psllw";
        Psrld_xmm_imm8 "psrld";
        Psrad_xmm_imm8 "psrad";
        Pslld_xmm_imm8 "pslld";
        Psrlq_xmm_imm8 "psrlq";
        Psllq_xmm_imm8 "psllq";
    }
    Sse, exec::shift_bytes_left, rust {
        Pslldq_xmm_imm8;
    }
    Sse, exec::shift_bytes_right, rust {
        Psrldq_xmm_imm8;
    }
    Sse, exec::plain, xmm_mask {
        Pblendvb_xmm_xmmm128 "pblendvb";
        Blendvps_xmm_xmmm128 "blendvps";
        Blendvpd_xmm_xmmm128 "blendvpd";
    }
    Sse, exec::plain, xmm_imm {
        Pshufd_xmm_xmmm128_imm8 "pshufd";
        Pshufhw_xmm_xmmm128_imm8 "pshufhw";
        Pshuflw_xmm_xmmm128_imm8 "pshuflw";
        Shufps_xmm_xmmm128_imm8 "shufps";
        Shufpd_xmm_xmmm128_imm8 "shufpd";
        Blendps_xmm_xmmm128_imm8 "blendps";
        Blendpd_xmm_xmmm128_imm8 "blendpd";
        Pblendw_xmm_xmmm128_imm8 "pblendw";
        Palignr_xmm_xmmm128_imm8 "palignr";
        Insertps_xmm_xmmm32_imm8 "insertps" [Insertps];
        Mpsadbw_xmm_xmmm128_imm8 "mpsadbw";
    }
    Sse, exec::plain, raw {
        Pmovmskb_r32_xmm "movups xmm1, [rsi]" "pmovmskb eax, xmm1" "mov [rdi], rax";
        Pmovmskb_r64_xmm "movups xmm1, [rsi]" "pmovmskb eax, xmm1" "mov [rdi], rax";
    }
    Sse, exec::plain_flags, raw {
        Ptest_xmm_xmmm128 "movups xmm0, [rdi]" "movups xmm1, [rsi]" "ptest xmm0, xmm1" "pushfq" "pop rax";
    }
    Sse, exec::plain_flags, str_index {
        Pcmpestri_xmm_xmmm128_imm8 "0x66, 0x0f, 0x3a, 0x61" [Unaligned];
        Pcmpestri64_xmm_xmmm128_imm8 "0x66, 0x48, 0x0f, 0x3a, 0x61" [Unaligned];
        Pcmpistri_xmm_xmmm128_imm8 "0x66, 0x0f, 0x3a, 0x63" [Unaligned];
    }
    Sse, exec::plain_flags, str_mask {
        Pcmpestrm_xmm_xmmm128_imm8 "0x66, 0x0f, 0x3a, 0x60" [Unaligned];
        Pcmpestrm64_xmm_xmmm128_imm8 "0x66, 0x48, 0x0f, 0x3a, 0x60" [Unaligned];
        Pcmpistrm_xmm_xmmm128_imm8 "0x66, 0x0f, 0x3a, 0x62" [Unaligned];
    }
    Plain, exec::plain, raw {
        Crc32_r32_rm8 "mov eax, [rdi]" "crc32 eax, byte ptr [rsi]" "mov [rdi], rax";
        Crc32_r32_rm16 "mov eax, [rdi]" "crc32 eax, word ptr [rsi]" "mov [rdi], rax";
        Crc32_r32_rm32 "mov eax, [rdi]" "crc32 eax, dword ptr [rsi]" "mov [rdi], rax";
        Crc32_r64_rm8 "mov eax, [rdi]" "crc32 rax, byte ptr [rsi]" "mov [rdi], rax";
        Crc32_r64_rm64 "mov eax, [rdi]" "crc32 rax, qword ptr [rsi]" "mov [rdi], rax";
    }
    Plain, exec::plain_flags, raw {
        Popcnt_r16_rm16 "popcnt ax, [rsi]" "mov [rdi], ax" "pushfq" "pop rax";
        Popcnt_r32_rm32 "popcnt eax, [rsi]" "mov [rdi], rax" "pushfq" "pop rax";
        Popcnt_r64_rm64 "popcnt rax, [rsi]" "mov [rdi], rax" "pushfq" "pop rax";
    }
}
