# x87 and SSE registers through fxsave and fxrstor, and the state at start.
        fxsave  [0x200000]
        movzx   eax, word ptr [0x200000]
        note    rax                     # control word
        mov     eax, dword ptr [0x200018]
        note    rax                     # MXCSR
        fld1
        fldpi
        mov     rax, 0x0123456789ABCDEF
        movq    xmm15, rax
        fxsave  [0x200000]
        movzx   eax, word ptr [0x200002]
        and     eax, 0x3800
        note    rax                     # top of stack
        movzx   eax, byte ptr [0x200004]
        note    rax                     # tags
        mov     rax, qword ptr [0x200020]
        note    rax                     # pi's mantissa
        mov     rax, qword ptr [0x200000 + 160 + 240]
        note    rax
        fninit
        pxor    xmm15, xmm15
        fxrstor [0x200000]
        movq    rax, xmm15
        note    rax
        fstp    st(0)
        fistp   qword ptr [0x200400]
        mov     rax, qword ptr [0x200400]
        note    rax
        quit    0
