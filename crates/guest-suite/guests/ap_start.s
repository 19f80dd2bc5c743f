# The second vCPU by INIT and SIPI, from real mode to 64-bit mode, twice.
        apic_enable
        xor     ebp, ebp
        start_ap 5f
2:      pause
        cmp     dword ptr [0x200000], 1
        jne     2b
        movzx   eax, word ptr [0x7FF0]
        note    rax                     # the CS it started with
        mov     eax, dword ptr [0x200004]
        note    rax                     # its APIC id
        mov     rax, qword ptr [0x200008]
        note    rax                     # its APIC base: no bootstrap processor
        start_ap 6f                     # INIT takes it out of its loop
3:      pause
        cmp     dword ptr [0x200000], 2
        jne     3b
        note    2
        quit    0
5:      mov     eax, 0xFEE00020
        mov     eax, dword ptr [rax]
        shr     eax, 24
        mov     dword ptr [0x200004], eax
        read_msr 0x1B
        mov     qword ptr [0x200008], rax
        mov     dword ptr [0x200000], 1
7:      pause
        jmp     7b
6:      mov     dword ptr [0x200000], 2
8:      cli
        hlt
        jmp     8b
