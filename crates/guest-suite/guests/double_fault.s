# A fault while a fault is delivered: vector 8, error code 0, on the stack of IST1.
        gate    8, 5f, 0x8E, 1
        mov     byte ptr [0x2000 + 14 * 16 + 5], 0x0E   # the gate of PF is not present
        mov     ebx, 0x40000000
        mov     rax, qword ptr [rbx]
        quit    1
5:      mov     rax, rsp
        note    rax                     # 0x60000 less a frame of six words
        pop     rax
        note    rax
        quit    0
