# Spins; for the host's side of the contract.
2:      inc     rbx
        jmp     2b
