# CPUID's size of the XSAVE area follows XCR0.
        mov     eax, 1
        cpuid
        bt      ecx, 26
        jnc     9f
        mov     eax, 0xD
        xor     ecx, ecx
        cpuid
        bt      eax, 2
        jnc     9f
        mov     rax, cr4
        bts     rax, 18
        mov     cr4, rax
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, 7
        xsetbv
        mov     eax, 0xD
        cpuid
        note    rbx
        quit    0
9:      skip
