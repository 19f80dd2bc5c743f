# The timer's TSC-deadline mode.
        mov     eax, 1
        cpuid
        bt      ecx, 24
        jnc     9f
        gate    0x40, 5f
        apic_enable
        xor     ebp, ebp
        apic_set 0x320, 0x40040
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        add     rax, 2000000
        mov     r12, rax
        write_msr 0x6E0
        read_msr 0x6E0                  # armed: reads as written, or 0 if it was that quick
        sti
2:      hlt
        test    ebp, ebp
        jz      2b
        cli
        note    rbp
        rdtsc                           # not before its time
        shl     rdx, 32
        or      rax, rdx
        cmp     rax, r12
        setae   al
        movzx   eax, al
        note    rax
        read_msr 0x6E0                  # disarmed
        note    rax
        mov     rax, 1                  # in the past: at once
        write_msr 0x6E0
        sti
3:      cmp     ebp, 2
        jb      3b
        cli
        note    rbp
        quit    0
5:      inc     ebp
        apic_set 0xB0, 0
        iretq
9:      skip
