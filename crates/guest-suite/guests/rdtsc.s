# The time-stamp counter goes up, and can be set.
        mov     ebx, 10000
        xor     esi, esi
2:      rdtsc
        shl     rdx, 32
        or      rax, rdx
        cmp     rax, rsi
        jb      9f
        mov     rsi, rax
        dec     ebx
        jnz     2b
        mov     rax, cr4                # ring 0 may read it with CR4.TSD as well
        or      eax, 4
        mov     cr4, rax
        rdtsc
        note    1
        quit    0
9:      note    rsi
        note    rax
        quit    1
