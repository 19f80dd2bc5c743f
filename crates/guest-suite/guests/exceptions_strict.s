# Exceptions that some processors in software get wrong.
        try     .byte 0xF0, 0x89, 0xC8  # UD: lock mov ecx, eax
        mov     rbx, 0x8000000000000000
        mov     rbp, rbx
        try     mov rax, qword ptr [rbp] # SS: not canonical, through rbp
        try     int 0x41                # GP: the gate is empty; bit 1 of the error code says IDT
        mov     byte ptr [0x2000 + 0x42 * 16 + 5], 0x0E
        try     int 0x42                # NP: an interrupt gate that is not present
        mov     ecx, 0xC0000100
        mov     edx, 0x80000000
        xor     eax, eax
        try     wrmsr                   # GP: a base that is not canonical
        mov     eax, 0x10000
        mov     dword ptr [0x200018], eax
        try     ldmxcsr dword ptr [0x200018]    # GP: a reserved bit
        quit    0
