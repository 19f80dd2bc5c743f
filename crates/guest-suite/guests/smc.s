# Code that changes: in another page, through an alias, in a loop.
        mov     edi, 0x200000           # another page: mov eax, n; ret
        mov     byte ptr [rdi], 0xB8
        mov     byte ptr [rdi + 5], 0xC3
        xor     ebx, ebx
        mov     ecx, 1000
2:      mov     dword ptr [rdi + 1], ecx
        call    rdi
        add     rbx, rax
        dec     ecx
        jnz     2b
        note    rbx                     # 1000 * 1001 / 2
        mov     eax, 0x200003           # the same page in the window
        set_pte 0
        mov     esi, 0x40000000
        mov     ecx, 100
        xor     ebx, ebx
3:      mov     dword ptr [rsi + 1], ecx
        call    rdi
        add     rbx, rax
        dec     ecx
        jnz     3b
        note    rbx
        mov     ecx, 100                # executed through the alias, written below
        xor     ebx, ebx
4:      mov     dword ptr [rdi + 1], ecx
        call    rsi
        add     rbx, rax
        dec     ecx
        jnz     4b
        note    rbx
        mov     edi, 0x200FFD           # across a page boundary
        mov     byte ptr [rdi], 0xB8
        mov     byte ptr [rdi + 5], 0xC3
        mov     ecx, 100
        xor     ebx, ebx
6:      mov     byte ptr [rdi + 3], cl
        mov     byte ptr [rdi + 4], 0
        mov     word ptr [rdi + 1], 0
        call    rdi
        add     rbx, rax
        dec     ecx
        jnz     6b
        note    rbx                     # 5050 << 16
        lea     rdi, [rip + 7f]         # by a string instruction, of itself
        mov     eax, 0x90909090
        mov     ecx, 2
        xor     ebx, ebx
        rep     stosd
7:      inc     ebx
        inc     ebx
        inc     ebx
        inc     ebx
        note    rbx
        quit    0
