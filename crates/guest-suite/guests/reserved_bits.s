# Reserved bits in page tables: the error code has P and RSVD.
        mov     ebx, 0x40000000
        mov     rax, 0x0008000000200003 # bit 51
        set_pte 2
        try     mov eax, dword ptr [rbx + 0x2000]       # 9
        try     mov dword ptr [rbx + 0x2000], eax       # 0xB
        mov     rax, 0x8000000000200003
        set_pte 1
        read_msr 0xC0000080
        and     rax, ~0x800
        write_msr 0xC0000080
        try     mov al, byte ptr [rbx + 0x1000]         # bit 63, without EFER.NXE: 9
        mov     eax, 0x202083           # a large page that is not aligned
        mov     qword ptr [0x13008], rax
        try     mov al, byte ptr [rbx + 0x200000]       # 9
        quit    0
