# XCR0, the size that CPUID tells for it, and the upper halves of AVX registers.
        mov     eax, 1
        xor     ecx, ecx
        cpuid
        bt      ecx, 26
        jnc     9f
        mov     edi, ecx
        shr     edi, 27                 # OSXSAVE is off
        and     edi, 1
        mov     eax, 0xD
        xor     ecx, ecx
        cpuid
        bt      eax, 2
        jnc     9f
        note    rdi
        xor     ecx, ecx
        try     xgetbv                  # UD
        mov     rax, cr4
        bts     rax, 18
        mov     cr4, rax
        mov     eax, 1
        cpuid
        shr     ecx, 27                 # and on
        and     ecx, 1
        note    rcx
        xor     ecx, ecx
        xgetbv
        note    rax                     # only x87 at first
        mov     eax, 0xD
        cpuid
        note    rbx                     # which takes 576 bytes
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, 5                  # AVX without SSE
        try     xsetbv                  # GP
        mov     eax, 6                  # no x87
        try     xsetbv                  # GP
        mov     eax, 7
        xsetbv
        xgetbv
        note    rax
        mov     rax, 0x1122334455667788
        movq    xmm1, rax
        vinsertf128 ymm1, ymm1, xmm1, 1
        vpxor   xmm0, xmm0, xmm0
        mov     eax, 7
        xor     edx, edx
        xsave   [0x200000]
        mov     rax, qword ptr [0x200200]
        and     eax, 6
        note    rax                     # both components are in use
        mov     rax, qword ptr [0x200000 + 576 + 16]
        note    rax                     # the upper half of ymm1
        vzeroall
        mov     eax, 4                  # only the upper halves come back
        xrstor  [0x200000]
        vextractf128 xmm2, ymm1, 1
        movq    rax, xmm1
        note    rax
        movq    rax, xmm2
        note    rax
        quit    0
9:      skip
