# From 32-bit protected mode without paging to 64-bit mode, as a PVH kernel does.
        .code32
        mov     eax, cr0
        mov     edi, eax
        mov     eax, cr4
        or      eax, 0x620
        mov     cr4, eax
        mov     eax, 0x10000
        mov     cr3, eax
        mov     ecx, 0xC0000080
        rdmsr
        or      eax, 0x900
        wrmsr
        mov     eax, 0x80000011
        mov     cr0, eax
        .byte   0xEA                    # a far jump to 64-bit code
        .long   0x100000 + (6f - 9000b)
        .word   0x08
        .code64
6:      mov     rax, rdi
        note    rax
        rdmsr
        mov     eax, eax
        note    rax                     # LMA is on
        mov     rax, 0x123456789
        note    rax
        quit    0
