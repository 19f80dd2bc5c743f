# Interrupts to oneself, held back by the task priority, and taken in the order of priority.
        gate    0x41, 5f
        gate    0x61, 6f
        apic_enable
        xor     ebp, ebp
        mov     eax, 5
        mov     cr8, rax                # classes 0 to 5 wait
        apic_get 0x80
        note    rax                     # the same register
        apic_set 0x300, 0x40041         # to self
2:      apic_get 0x220                  # IRR of 0x40 to 0x5F
        test    eax, eax
        jz      2b
        note    rax
        sti
        mov     ecx, 10000
3:      dec     ecx
        jnz     3b
        note    1
        apic_set 0x300, 0x40061         # comes through
4:      cmp     ebp, 1
        jne     4b
        note    2
        xor     eax, eax
        mov     cr8, rax                # now the first one
7:      cmp     ebp, 2
        jne     7b
        note    3
        cli                             # both wait: the higher one goes first
        apic_set 0x300, 0x40041
        apic_set 0x300, 0x40061
8:      apic_get 0x220
        test    eax, eax
        jz      8b
9:      apic_get 0x230
        test    eax, eax
        jz      9b
        sti
20:     cmp     ebp, 4
        jne     20b
        cli
        apic_get 0x110                  # ISR is empty at the end
        note    rax
        quit    0
5:      note    0x41
        inc     ebp
        apic_set 0xB0, 0
        iretq
6:      note    0x61
        inc     ebp
        apic_set 0xB0, 0
        iretq
