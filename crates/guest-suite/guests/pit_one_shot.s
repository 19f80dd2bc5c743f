# Channel 0 of the 8254 in mode 0, through the 8259; channel 2 by its gate and output.
        gate    0x60, 5f
        xor     ebp, ebp
        mov     al, 0x11
        out     0x20, al
        mov     al, 0x60
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 1
        out     0x21, al
        mov     al, 0xFE                # only line 0
        out     0x21, al
        mov     al, 0x30                # channel 0, low then high byte, mode 0
        out     0x43, al
        mov     al, 0x9C                # 11932 ticks: 10 ms
        out     0x40, al
        mov     al, 0x2E
        out     0x40, al
        sti
2:      hlt
        test    ebp, ebp
        jz      2b
        cli
        note    rbp
        in      al, 0x61                # channel 2: gate on, speaker off
        and     al, 0xFC
        or      al, 1
        out     0x61, al
        mov     al, 0xB0
        out     0x43, al
        mov     al, 0x9C
        out     0x42, al
        mov     al, 0x2E
        out     0x42, al
        in      al, 0x61
        shr     al, 5
        and     al, 1
        movzx   eax, al
        note    rax                     # not yet
3:      in      al, 0x61
        test    al, 0x20
        jz      3b
        note    2
        quit    0
5:      inc     ebp
        push    rax
        mov     al, 0x20
        out     0x20, al
        pop     rax
        iretq
