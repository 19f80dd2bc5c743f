# Where the second vCPU starts: real mode at 0700:0000, then protected mode, then 64-bit mode, then
# the address at 0x7FF8. It leaves the CS it started with at 0x7FF0.

        .code16
        cli
        jmp     5f
        .balign 16
        .word   0x57                    # GDTR, at 0x10
        .long   0x1000
        .balign 16
5:      mov     ax, cs
        mov     ds, ax
        mov     word ptr [0xFF0], ax
        lgdt    [0x10]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        .byte   0xEA                    # a far jump to 32-bit code
        .word   0x7000 + (6f - 9000b), 0x40

        .code32
6:      mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     eax, cr4
        or      eax, 0x6A0
        mov     cr4, eax
        mov     eax, 0x10000
        mov     cr3, eax
        mov     ecx, 0xC0000080
        rdmsr
        or      eax, 0x900
        wrmsr
        mov     eax, 0x80050033
        mov     cr0, eax
        .byte   0xEA                    # a far jump to 64-bit code
        .long   0x7000 + (7f - 9000b)
        .word   0x08

        .code64
7:      mov     esp, 0x50000
        lidt    [rip + 8f]
        jmp     qword ptr [0x7FF8]

8:      .word   0xFFF
        .quad   0x2000
