# The processor sets A on use and D on writes, at every level, and only then.
        mov     eax, 0x200003
        set_pte 0
        mov     ebx, 0x40000000
        and     qword ptr [0x13000], ~0x60
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, qword ptr [0x14000]
        and     eax, 0x60
        note    rax                     # untouched
        mov     ecx, dword ptr [rbx]
        mov     rax, qword ptr [0x14000]
        and     eax, 0x60
        note    rax                     # A
        mov     rax, qword ptr [0x13000]
        and     eax, 0x60
        note    rax                     # A above; D is not set in tables
        mov     dword ptr [rbx], ecx
        mov     rax, qword ptr [0x14000]
        and     eax, 0x60
        note    rax                     # A and D
        and     qword ptr [0x14000], ~0x60
        invlpg  [rbx]
        mov     dword ptr [rbx], ecx    # both at once
        mov     rax, qword ptr [0x14000]
        and     eax, 0x60
        note    rax
        mov     rax, 0x200083           # a large page
        mov     qword ptr [0x13008], rax
        mov     ecx, dword ptr [rbx + 0x200000]
        mov     rax, qword ptr [0x13008]
        and     eax, 0x60
        note    rax
        mov     dword ptr [rbx + 0x200000], ecx
        mov     rax, qword ptr [0x13008]
        and     eax, 0x60
        note    rax
        mov     eax, 0x200001           # a write that faults does not set D
        set_pte 2
        try     mov dword ptr [rbx + 0x2000], ecx
        mov     rax, qword ptr [0x14010]
        and     eax, 0x40
        note    rax
        quit    0
