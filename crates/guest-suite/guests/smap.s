# Ring 0 does not touch pages of ring 3 with CR4.SMAP, unless RFLAGS.AC is set.
        mov     eax, 7
        xor     ecx, ecx
        cpuid
        bt      ebx, 20
        jnc     9f
        mov     eax, 0x200007
        set_pte 0
        mov     ebx, 0x40000000
        mov     eax, dword ptr [rbx]
        mov     rax, cr4
        bts     rax, 21
        mov     cr4, rax
        try     mov eax, dword ptr [rbx]        # 1
        try     mov dword ptr [rbx], eax        # 3
        stac
        mov     eax, dword ptr [rbx]
        mov     dword ptr [rbx], eax
        clac
        try     mov eax, dword ptr [rbx + 8]    # 1
        note    1
        quit    0
9:      skip
