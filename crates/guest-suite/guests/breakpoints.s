# Hardware breakpoints on execution and on data.
        gate    1, 5f
        lea     rax, [rip + 2f]
        mov     dr0, rax
        mov     eax, 0x200010
        mov     dr1, rax
        mov     dr2, rax
        mov     eax, 0xFFFF0FF0
        mov     dr6, rax
        mov     eax, 0x00D0040F         # 0: execute; 1: write, 4 bytes
        mov     dr7, rax
        mov     rax, dr7
        note    rax
        lea     r14, [rip + 2f]
        nop
2:      inc     ebx                     # a fault before it
        nop
        mov     eax, dword ptr [0x200010]       # reading is fine
        lea     r14, [rip + 3f]
3:      mov     byte ptr [0x200012], al # a trap behind it
        nop
        xor     eax, eax
        mov     dr7, rax
        mov     byte ptr [0x200012], al
        lea     rax, [rip + 2b]
        mov     rcx, dr0
        sub     rax, rcx
        note    rax
        quit    0
5:      push    rax
        mov     rax, qword ptr [rsp + 8]
        sub     rax, r14
        note    rax
        mov     rax, dr6
        and     eax, 0xE00F
        note    rax
        mov     eax, 0xFFFF0FF0
        mov     dr6, rax
        or      qword ptr [rsp + 24], 0x10000   # RF: do not stop here again
        pop     rax
        iretq
