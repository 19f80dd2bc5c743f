# NM by CR0.TS, MF by an unmasked x87 exception, UD by SSE without CR4.OSFXSR.
        mov     rax, cr0
        or      rax, 8
        mov     cr0, rax
        try     fld1                    # NM
        try     movaps xmm0, xmm1       # NM
        clts
        fninit
        push    0x37B                   # division by zero is unmasked
        fldcw   word ptr [rsp]
        pop     rax
        fld1
        fldz
        fdivp   st(1), st
        try     fwait                   # MF
        fnclex
        fninit
        mov     rax, cr4
        and     rax, ~0x200
        mov     cr4, rax
        try     movaps xmm0, xmm1       # UD
        or      rax, 0x200
        mov     cr4, rax
        movaps  xmm0, xmm1
        quit    0
