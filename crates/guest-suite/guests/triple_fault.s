# No handler to be found at all.
        lidt    [rip + 5f]
        ud2
        quit    1
5:      .word   0
        .quad   0
