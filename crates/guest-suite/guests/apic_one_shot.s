# The local APIC's timer, once, while the vCPU sleeps.
        gate    0x40, 5f
        apic_enable
        xor     ebp, ebp
        apic_set 0x3E0, 0xB             # divide by 1
        apic_set 0x320, 0x40            # one-shot, vector 0x40
        apic_set 0x380, 1000000
        sti
2:      hlt
        test    ebp, ebp
        jz      2b
        cli
        note    rbp
        apic_get 0x390                  # it stays at zero
        note    rax
        mov     ecx, 3000000            # and does not come again
        sti
3:      dec     ecx
        jnz     3b
        cli
        note    rbp
        quit    0
5:      inc     ebp
        apic_set 0xB0, 0
        iretq
