# A page of 1 GiB.
        mov     eax, 0x80000001
        cpuid
        bt      edx, 26
        jnc     9f
        mov     dword ptr [0x200010], 0x44
        mov     dword ptr [0xFFF000], 0x55
        mov     eax, 0x83
        mov     qword ptr [0x11020], rax        # at 4 GiB
        mov     rbx, 0x100000000
        mov     eax, dword ptr [rbx + 0x200010]
        note    rax
        mov     eax, dword ptr [rbx + 0xFFF000]
        note    rax
        quit    0
9:      skip
