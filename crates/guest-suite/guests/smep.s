# Ring 0 does not execute pages of ring 3 with CR4.SMEP.
        mov     eax, 7
        xor     ecx, ecx
        cpuid
        bt      ebx, 7
        jnc     9f
        mov     byte ptr [0x200000], 0xC3
        mov     eax, 0x200007
        set_pte 0
        mov     ebx, 0x40000000
        call    rbx                     # without SMEP it may
        note    1
        mov     rax, cr4
        bts     rax, 20
        mov     cr4, rax
        mov     rdi, rsp
        lea     r15, [rip + 2f]
        mov     r14, rbx
        call    rbx                     # 0x11
2:      mov     rsp, rdi
        mov     eax, dword ptr [rbx]    # it may read
        quit    0
9:      skip
