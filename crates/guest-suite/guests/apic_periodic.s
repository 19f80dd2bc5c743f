# The local APIC's timer, three times; then masked.
        gate    0x40, 5f
        apic_enable
        xor     ebp, ebp
        apic_set 0x3E0, 0xB
        apic_set 0x320, 0x20040         # periodic
        apic_set 0x380, 1000000
        sti
2:      hlt
        cmp     ebp, 3
        jb      2b
        apic_set 0x320, 0x30040         # masked
        cli
        xor     eax, eax
        cmp     ebp, 3
        setae   al
        note    rax
        quit    0
5:      inc     ebp
        apic_set 0xB0, 0
        iretq
