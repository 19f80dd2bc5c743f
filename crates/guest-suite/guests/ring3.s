# What ring 3 may not do, and the ways back to ring 0.
        gate    0x80, 7f, 0xEE
        user_notes
        enter_user 5f
5:      mov     eax, cs
        note_user rax
        mov     eax, ss
        note_user rax
        try     hlt
        try     cli
        try     in al, 0x60
        try     mov rax, cr0
        try     rdmsr
        try     int3                    # a gate of ring 3
        pushfq                          # popf leaves IF alone
        or      qword ptr [rsp], 0x200
        popfq
        pushfq
        pop     rax
        and     eax, 0x200
        note_user rax
        mov     rdi, 0x123
        int     0x80
        note_user rax                   # the handler's answer
        mov     rdi, 0
        int     0x80
7:      test    rdi, rdi
        jz      9f
        note    rdi
        mov     rax, qword ptr [rsp + 8]        # CS and SS in the frame
        note    rax
        mov     rax, qword ptr [rsp + 32]
        note    rax
        mov     eax, cs
        note    rax
        mov     eax, ss                 # null with RPL 0 after a change of ring
        note    rax
        mov     eax, 0x456
        iretq
9:      quit    0
