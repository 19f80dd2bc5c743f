# Page faults of ring 0 in the window at 1 GiB, by page-table entry.
        mov     ebx, 0x40000000
        try     mov rax, qword ptr [rbx + 0x10]         # read, not present: 0
        try     mov dword ptr [rbx + 0xFFE], eax        # write, not present: 2
        mov     eax, 0x200001
        set_pte 0
        mov     rax, qword ptr [rbx]                    # present, read-only
        try     mov qword ptr [rbx + 8], rax            # write protection: 3
        try     lock xadd qword ptr [rbx + 8], rax      # 3
        mov     rax, cr0                                # without CR0.WP ring 0 may write
        and     rax, ~0x10000
        mov     cr0, rax
        mov     dword ptr [rbx + 8], 0x1234
        mov     rax, cr0
        or      rax, 0x10000
        mov     cr0, rax
        mov     eax, dword ptr [0x200008]
        note    rax
        mov     eax, 0x200003
        set_pte 0
        mov     byte ptr [rbx], 0xC3                    # ret
        mov     rax, 0x8000000000200003
        set_pte 1
        lea     r14, [rbx + 0x1000]
        lea     r15, [rip + 2f]
        jmp     r14                                     # no-execute: 0x11
2:      lea     r14, [rbx + 0x3000]
        lea     r15, [rip + 3f]
        jmp     r14                                     # fetch, not present: 0x10
3:      mov     eax, 0x200003                           # two pages, the second one not present
        set_pte 4
        try     mov rax, qword ptr [rbx + 0x4FFC]       # CR2 is the second page's first byte
        try     mov qword ptr [rbx + 0x4FFC], rax
        mov     rcx, 0x5000000000
        try     mov rax, qword ptr [rcx]                # an upper table is not present
        quit    0
