# Exceptions of ring 0 with their error codes, and where RIP points.
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, 1
        try     div ecx                 # DE
        mov     rax, 0x8000000000000000
        cqo
        mov     rcx, -1
        try     idiv rcx                # DE: the quotient is too large
        try     int3                    # BP: a trap
        try     ud2                     # UD
        try     .byte 0x0F, 0xFF, 0xC0  # UD: ud0 eax, eax
        try     .byte 0x06              # UD: push es is gone
        mov     rbx, 0x8000000000000000
        try     mov rax, qword ptr [rbx] # GP: not canonical
        try     push qword ptr [rbx]    # GP
        mov     ecx, 0x12345678
        try     rdmsr                   # GP: no such register
        mov     eax, 0x1000
        try     mov ds, eax             # GP: beyond the GDT
        mov     eax, 0x48
        try     mov ds, eax             # NP: not present
        try     mov ss, eax             # SS: not present
        xor     eax, eax
        mov     es, eax                 # a null selector is fine
        try     mov ss, ax              # fine in 64-bit ring 0
        mov     eax, 0x10
        mov     ss, eax
        mov     rax, cr0
        mov     rcx, rax
        and     ecx, 0x7FFFFFFF
        and     ecx, 0xFFFFFFFE
        or      ecx, 0x80000000         # PG without PE
        try     mov cr0, rcx            # GP
        mov     rax, cr4
        bts     rax, 31
        try     mov cr4, rax            # GP: reserved bit
        try     ltr word ptr [rip + 5f] # GP: a code segment
        push    0x10                    # iretq to a data segment as CS
        push    rsp
        push    2
        push    0x10
        push    r15
        try     iretq                   # GP with the selector
        add     rsp, 40
        quit    0
5:      .word   0x08
