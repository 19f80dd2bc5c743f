# RFLAGS.TF: a trap behind every instruction.
        gate    1, 5f
        xor     ebx, ebx
        lea     r14, [rip + 2f]
        pushfq
        or      qword ptr [rsp], 0x100
        popfq
2:      nop                             # traps from here on
        inc     ebx
        mov     eax, 7
        xor     ecx, ecx
        mov     ecx, 2
        mov     edi, 0x200000
        rep     stosb                   # one trap for each iteration
        pushfq
        and     qword ptr [rsp], ~0x100
        popfq                           # the last one
        nop
        note    rbx
        quit    0
5:      push    rax
        mov     rax, qword ptr [rsp + 8]
        sub     rax, r14
        note    rax
        mov     rax, dr6
        and     eax, 0x4000
        cmp     eax, 0x4000
        je      6f
        note    0xBAD
6:      mov     eax, 0xFFFF0FF0
        mov     dr6, rax
        pop     rax
        iretq
