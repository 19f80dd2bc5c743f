# Interrupt line 4 through the 8259 pair and LINT0, which the back end has wired.
        gate    0x64, 5f
        xor     ebp, ebp
        mov     al, 0x11
        out     0x20, al
        out     0xA0, al
        mov     al, 0x60                # vectors 0x60 and 0x68
        out     0x21, al
        mov     al, 0x68
        out     0xA1, al
        mov     al, 4
        out     0x21, al
        mov     al, 2
        out     0xA1, al
        mov     al, 1
        out     0x21, al
        out     0xA1, al
        mov     al, 0xEF                # only line 4
        out     0x21, al
        mov     al, 0xFF
        out     0xA1, al
        in      al, 0x21
        movzx   eax, al
        note    rax
        mov     al, 4
        out     0xFC, al
        sti
2:      hlt
        test    ebp, ebp
        jz      2b
        cli
        note    rbp
        quit    0
5:      inc     ebp
        push    rax
        mov     al, 0x0B                # in service: line 4
        out     0x20, al
        in      al, 0x20
        movzx   eax, al
        note    rax
        mov     al, 0x20
        out     0x20, al
        in      al, 0x20
        movzx   eax, al
        note    rax
        pop     rax
        iretq
