# A 32-bit code segment in 64-bit mode, and back.
        lea     rax, [rip + 5f]
        push    0x40
        push    rax
        xor     ebx, ebx
        lea     rdi, [rip + 6f]
        mov     rsi, 0x1234567800200000
        retfq
        .code32
5:      .byte   0x43                    # inc ebx here, a REX prefix in 64-bit mode
        .byte   0x43
        mov     ecx, esp
        push    eax                     # four bytes
        sub     ecx, esp
        mov     dword ptr [esi], 0xABCD # the upper half of rsi is out of sight
        pop     eax
        lea     edx, [esi + 0xFFFFFFFF] # addresses wrap at 4 GiB
        call    7f
7:      pop     eax
        .byte   0x05                    # add eax, the distance
        .long   6f - 7b
        push    0x08
        push    eax
        retf
        .code64
6:      mov     ebx, ebx
        note    rbx
        mov     ecx, ecx
        note    rcx
        mov     eax, dword ptr [0x200000]
        note    rax
        mov     edx, edx
        note    rdx
        lea     rax, [rip + 8f]         # exceptions from 32-bit code use the 64-bit IDT
        push    0x40
        push    rax
        lea     r14, [rip + 8f]
        lea     r15, [rip + 2f]
        retfq
        .code32
8:      ud2
2:      call    3f
3:      pop     eax
        .byte   0x05                    # add eax, the distance
        .long   4f - 3b
        push    0x08
        push    eax
        retf
        .code64
4:      quit    0
