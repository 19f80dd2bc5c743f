# Port accesses of every width, and what they leave in the rest of the register.
        mov     rax, -1
        in      al, 0x64                # answered, but not by the scratch device
        mov     dx, 0x100
        mov     rax, 0x1122334455667788
        in      al, dx
        note    rax
        mov     rax, 0x1122334455667788
        in      ax, dx
        note    rax
        mov     dx, 0x104
        mov     rax, 0x1122334455667788
        in      eax, dx
        note    rax
        mov     rax, 0x1122334455667788
        mov     dx, 0x101
        out     dx, al
        mov     dx, 0x102
        out     dx, ax
        mov     dx, 0x108
        out     dx, eax
        xor     eax, eax                # nobody answers
        mov     dx, 0x300
        in      ax, dx
        note    rax
        out     dx, eax
        quit    0
