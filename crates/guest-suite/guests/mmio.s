# Memory-mapped accesses of every width and several instructions.
        mov     ebx, 0xD0000000
        mov     rax, 0x1122334455667788
        mov     al, byte ptr [rbx]
        note    rax
        mov     ax, word ptr [rbx + 2]
        note    rax
        mov     eax, dword ptr [rbx + 4]
        note    rax
        mov     rax, qword ptr [rbx + 8]
        note    rax
        movzx   eax, byte ptr [rbx + 0x81]
        note    rax
        movsx   rax, byte ptr [rbx + 0x81]
        note    rax
        movsxd  rax, dword ptr [rbx + 0x80]
        note    rax
        mov     rax, 0x1122334455667788
        mov     byte ptr [rbx + 0x20], al
        mov     word ptr [rbx + 0x22], ax
        mov     dword ptr [rbx + 0x24], eax
        mov     qword ptr [rbx + 0x28], rax
        mov     dword ptr [rbx + 0x30], 0x12345678
        mov     qword ptr [rbx + 0x38], -2
        add     dword ptr [rbx + 0x40], 1
        or      byte ptr [rbx + 0x41], 0x80
        mov     eax, 0x55
        xchg    dword ptr [rbx + 0x44], eax
        note    rax
        test    byte ptr [rbx + 1], 0x11
        setnz   al
        movzx   eax, al
        note    rax
        mov     esi, 0xD0000050         # from the device to memory, and back
        mov     edi, 0x200000
        mov     ecx, 2
        rep     movsd
        mov     rax, qword ptr [0x200000]
        note    rax
        mov     esi, 0x200000
        mov     edi, 0xD0000060
        mov     ecx, 2
        rep     movsw
        mov     al, 0x77
        mov     ecx, 2
        rep     stosb
        note    rdi
        mov     eax, 0xC8000000         # nobody answers
        mov     eax, dword ptr [rax]
        note    rax
        quit    0
