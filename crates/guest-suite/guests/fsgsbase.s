# rdfsbase and its kin, with CR4.FSGSBASE.
        mov     eax, 7
        xor     ecx, ecx
        cpuid
        bt      ebx, 0
        jnc     9f
        try     rdfsbase rax            # UD
        mov     rax, cr4
        bts     rax, 16
        mov     cr4, rax
        mov     rbx, 0x123456789ABC
        wrfsbase rbx
        rdfsbase rax
        note    rax
        wrgsbase ebx
        rdgsbase rax
        note    rax
        read_msr 0xC0000100
        note    rax
        quit    0
9:      skip
