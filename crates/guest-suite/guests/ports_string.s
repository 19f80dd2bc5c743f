# String instructions on ports, both directions, with and without rep.
        lea     rsi, [rip + 5f]
        mov     dx, 0x100
        outsb
        outsw
        mov     ecx, 2
        rep     outsd
        note    rcx
        lea     rax, [rip + 5f]
        sub     rsi, rax
        note    rsi                     # 1 + 2 + 8
        mov     ecx, 0
        rep     outsb                   # nothing
        mov     edi, 0x200000
        mov     ecx, 3
        mov     dx, 0x102
        rep     insw
        insb
        note    rdi
        mov     rax, qword ptr [0x200000]
        note    rax
        std                             # downwards
        mov     edi, 0x200104
        mov     ecx, 2
        rep     insd
        cld
        note    rdi
        mov     rax, qword ptr [0x200100]
        note    rax
        quit    0
5:      .byte   1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
