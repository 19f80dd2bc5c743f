# Sleeps with interrupts on and none to come.
        sti
2:      hlt
        jmp     2b
