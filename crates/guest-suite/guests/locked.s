# Two vCPUs count with locked instructions.
        apic_enable
        xor     ebp, ebp
        start_ap 5f
        mov     dword ptr [0x200040], 1 # this one is ready
        call    6f
2:      pause
        cmp     dword ptr [0x200044], 1 # the other one is done
        jne     2b
        mov     rax, qword ptr [0x200080]
        note    rax                     # lock xadd
        mov     rax, qword ptr [0x2000C0]
        note    rax                     # lock cmpxchg16b, low half
        mov     rax, qword ptr [0x2000C8]
        note    rax                     # high half
        mov     rax, qword ptr [0x200100]
        note    rax                     # plain add under a lock of bts and btr
        mov     rax, qword ptr [0x200180]
        note    rax                     # lock inc and lock dec
        mov     rax, qword ptr [0x2001C0]
        note    rax                     # under a lock of xchg
        quit    0
5:      mov     dword ptr [0x200048], 1
        call    6f
        mov     dword ptr [0x200044], 1
7:      cli
        hlt
        jmp     7b

6:      mov     r8d, 5000
20:     mov     eax, 3
        lock xadd qword ptr [0x200080], rax
        mov     rax, qword ptr [0x2000C0]
        mov     rdx, qword ptr [0x2000C8]
21:     mov     rbx, rax
        mov     rcx, rdx
        add     rbx, 1
        add     rcx, 2
        lock cmpxchg16b xmmword ptr [0x2000C0]
        jnz     21b
22:     lock bts dword ptr [0x200140], 7
        jnc     23f
        pause
        jmp     22b
23:     add     qword ptr [0x200100], 5
        lock btr dword ptr [0x200140], 7
        lock inc qword ptr [0x200180]
        lock inc qword ptr [0x200180]
        lock dec qword ptr [0x200180]
24:     mov     eax, 1
        xchg    dword ptr [0x200200], eax
        test    eax, eax
        jz      25f
        pause
        jmp     24b
25:     inc     qword ptr [0x2001C0]
        mov     dword ptr [0x200200], 0
        dec     r8d
        jnz     20b
        ret
