# Entries that are dropped when they must be: invlpg, CR3, global pages, no flush for new entries.
        mov     dword ptr [0x200000], 0x11
        mov     dword ptr [0x201000], 0x22
        mov     ebx, 0x40000000
        try     mov eax, dword ptr [rbx]
        mov     eax, 0x200003
        mov     qword ptr [0x14000], rax
        mov     eax, dword ptr [rbx]    # a new entry needs no flush
        note    rax
        mov     eax, 0x201003
        mov     qword ptr [0x14000], rax
        invlpg  [rbx + 0xFFF]           # any address of the page
        mov     eax, dword ptr [rbx]
        note    rax
        mov     eax, 0x200003
        mov     qword ptr [0x14000], rax
        mov     rax, cr3
        mov     cr3, rax
        mov     eax, dword ptr [rbx]
        note    rax
        mov     eax, 0x201103           # global
        set_pte 0
        mov     eax, dword ptr [rbx]
        note    rax
        mov     eax, 0x200103
        set_pte 0
        mov     eax, dword ptr [rbx]    # invlpg drops global entries as well
        note    rax
        mov     eax, 0x201103
        mov     qword ptr [0x14000], rax
        mov     rax, cr4                # and so does a change of CR4.PGE
        and     rax, ~0x80
        mov     cr4, rax
        or      rax, 0x80
        mov     cr4, rax
        mov     eax, dword ptr [rbx]
        note    rax
        mov     esi, 0x10000            # a second address space
        mov     edi, 0x300000
        mov     ecx, 512
        rep     movsq                   # PML4
        mov     esi, 0x11000
        mov     ecx, 512
        rep     movsq                   # PDPT at 0x301000
        mov     eax, 0x301007
        mov     qword ptr [0x300000], rax
        mov     eax, 0x302003
        mov     qword ptr [0x301008], rax
        mov     eax, 0x303003
        mov     qword ptr [0x302000], rax
        mov     eax, 0x200003
        mov     qword ptr [0x303000], rax
        mov     eax, 0x201003
        set_pte 0
        mov     edx, 0x10000
        mov     esi, 0x300000
        mov     ecx, 1000
        xor     ebp, ebp
2:      mov     cr3, rsi
        mov     eax, dword ptr [rbx]
        add     ebp, eax
        mov     cr3, rdx
        mov     eax, dword ptr [rbx]
        sub     ebp, eax
        dec     ecx
        jnz     2b
        neg     ebp
        note    rbp                     # 1000 * (0x22 - 0x11)
        mov     eax, 0x200003           # less rights: dropped by invlpg
        set_pte 0
        mov     dword ptr [rbx], 0x11
        mov     eax, 0x200001
        set_pte 0
        try     mov dword ptr [rbx], 1
        xor     eax, eax
        set_pte 0
        try     mov eax, dword ptr [rbx]
        quit    0
