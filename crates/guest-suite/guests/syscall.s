# syscall and sysret: selectors, flags, and where they come from.
        user_notes
        gate    0x80, 9f, 0xEE
        try     syscall                 # UD without EFER.SCE
        read_msr 0xC0000080
        or      rax, 1
        write_msr 0xC0000080
        mov     rax, 0x001B000800000000 # sysret: 0x1B + 16, + 8; syscall: 0x08, + 8
        write_msr 0xC0000081
        lea     rax, [rip + 7f]
        write_msr 0xC0000082
        mov     eax, 0x301              # the mask: CF, TF, IF
        write_msr 0xC0000084
        mov     r13, rsp
        lea     rcx, [rip + 5f]
        mov     eax, 0x80000000
        add     rcx, rax
        mov     esp, 0x80090000
        mov     r11d, 0x203             # CF and IF on
        sysretq
5:      pushfq
        pop     rbx
        note_user rbx
        mov     eax, cs
        note_user rax
        mov     eax, ss
        note_user rax
        stc
        lea     r12, [rip + 6f]
        syscall
6:      pushfq
        pop     rbx
        note_user rbx
        int     0x80
7:      pushfq                          # ring 0, still on the user's stack
        pop     rbx
        mov     rsi, rsp
        mov     rsp, r13
        note    rbx                     # masked
        note    r11                     # as it was
        sub     rcx, r12
        note    rcx                     # behind the syscall
        add     rcx, r12
        mov     eax, cs
        note    rax
        mov     eax, ss
        note    rax
        mov     rsp, rsi
        sysretq
9:      mov     rsp, r13
        quit    0
