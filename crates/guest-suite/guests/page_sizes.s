# Pages of 4 KiB and 2 MiB, read-only tables above, and a page that changes its size.
        mov     dword ptr [0x200000], 0x11
        mov     dword ptr [0x201000], 0x22
        mov     dword ptr [0x3FF000], 0x33
        mov     eax, 0x200003
        set_pte 0
        mov     eax, 0x201003
        set_pte 1
        mov     ebx, 0x40000000
        mov     eax, dword ptr [rbx]
        note    rax
        mov     eax, dword ptr [rbx + 0x1000]
        note    rax
        mov     rax, 0x200083           # 2 MiB at 1 GiB + 2 MiB
        mov     qword ptr [0x13008], rax
        mov     eax, dword ptr [rbx + 0x201000]
        note    rax
        mov     eax, dword ptr [rbx + 0x3FF000]
        note    rax
        and     qword ptr [0x13008], ~2 # read-only
        invlpg  [rbx + 0x200000]
        try     mov dword ptr [rbx + 0x200000], eax
        mov     eax, 0x201003
        mov     qword ptr [0x14000], rax
        mov     eax, 0x14003
        mov     qword ptr [0x13008], rax # from one large page to a table
        invlpg  [rbx + 0x200000]
        mov     eax, dword ptr [rbx + 0x200000]
        note    rax
        and     qword ptr [0x13000], ~2 # a read-only directory entry covers writable pages
        mov     rax, cr3
        mov     cr3, rax
        try     mov dword ptr [rbx + 0x1000], eax
        quit    0
