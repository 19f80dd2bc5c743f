# Code that another vCPU writes: this one is told by an interrupt.
        apic_enable
        mov     edi, 0x200100
        mov     dword ptr [rdi], 0x000000B8     # mov eax, n; ret
        mov     dword ptr [rdi + 4], 0x0000C300
        start_ap 5f
2:      pause
        cmp     dword ptr [0x200000], 1
        jne     2b
        mov     ebp, 1
        xor     ebx, ebx
3:      mov     dword ptr [0x200101], ebp
        apic_set 0x310, 0x01000000
        apic_set 0x300, 0x4051
4:      pause
        cmp     dword ptr [0x200004], ebp
        jne     4b
        mov     eax, dword ptr [0x200008]
        add     rbx, rax
        inc     ebp
        cmp     ebp, 101
        jne     3b
        note    rbx
        quit    0
5:      gate    0x51, 6f
        apic_enable
        mov     edi, 0x200100
        mov     dword ptr [0x200000], 1
        sti
7:      hlt
        jmp     7b
6:      call    rdi
        mov     dword ptr [0x200008], eax
        inc     dword ptr [0x200004]
        apic_set 0xB0, 0
        iretq
