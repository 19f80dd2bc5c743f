# Adds its registers up, leaves the sum and ends.
        add     rax, rbx
        add     rax, rcx
        add     rax, r15
        note    rax
        movq    rax, xmm3
        note    rax
        quit    0
