# FS and GS bases by MSR and by descriptor, and swapgs.
        mov     qword ptr [0x200000], 0x11
        mov     qword ptr [0x201000], 0x22
        mov     eax, 0x200000
        write_msr 0xC0000100
        mov     eax, 0x201000
        write_msr 0xC0000101
        mov     rax, qword ptr fs:[0]
        note    rax
        mov     rax, qword ptr gs:[0]
        note    rax
        mov     eax, 0x1FF000
        mov     rax, qword ptr fs:[0xFFFFFFFFFFFFF000 + 0x1000]
        note    rax
        mov     eax, 0x200000
        write_msr 0xC0000102
        swapgs
        mov     rax, qword ptr gs:[0]
        note    rax
        read_msr 0xC0000102
        note    rax
        read_msr 0xC0000101
        note    rax
        swapgs
        mov     eax, 0x50
        mov     fs, eax                 # a descriptor's base of 32 bits
        read_msr 0xC0000100
        note    rax
        mov     rax, 0xFFFF800000000000 # a base in the upper half
        write_msr 0xC0000100
        read_msr 0xC0000100
        note    rax
        mov     rcx, 0x0000800000200000
        mov     rax, qword ptr fs:[rcx] # the sum wraps around
        note    rax
        quit    0
