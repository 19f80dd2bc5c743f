# Page faults of ring 3: the user bit in error codes.
        gate    0x80, 9f, 0xEE
        mov     eax, 0x200003                           # for ring 0
        set_pte 0
        mov     eax, 0x200005                           # for all, read-only
        set_pte 1
        mov     rax, 0x8000000000200007                 # for all, writable, no code
        set_pte 2
        enter_user 5f
5:      mov     ebx, 0x40000000
        try     mov eax, dword ptr [rbx]                # 5
        try     mov dword ptr [rbx], eax                # 7
        mov     eax, dword ptr [rbx + 0x1000]
        try     mov dword ptr [rbx + 0x1000], eax       # 7
        mov     dword ptr [rbx + 0x2000], eax
        try     mov eax, dword ptr [rbx + 0x3000]       # 4
        try     mov dword ptr [rbx + 0x3000], eax       # 6
        lea     r14, [rbx + 0x2000]
        lea     r15, [rip + 6f]
        jmp     r14                                     # 0x15
6:      lea     r14, [rbx + 0x3000]
        lea     r15, [rip + 7f]
        jmp     r14                                     # 0x14
7:      mov     ecx, 0x100000
        try     mov eax, dword ptr [rcx]                # ring 0's view of this very code: 5
        int     0x80
9:      quit    0
