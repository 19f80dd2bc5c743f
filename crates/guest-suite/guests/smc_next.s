# Code that changes the very next instruction (SDM Vol. 3A, 9.1.3: no jump is needed).
        mov     byte ptr [rip + 5f + 1], 0x22
5:      mov     eax, 0x11
        note    rax
        quit    0
