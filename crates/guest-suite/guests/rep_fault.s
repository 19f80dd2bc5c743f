# String instructions that fault in the middle: exact registers, restart, exact result.
        gate    14, 5f
        mov     eax, 0x200003
        set_pte 0                       # the second page is not there
        mov     eax, 0x202003
        mov     r8, rax
        mov     esi, 0x300000           # a source of counted bytes
        xor     eax, eax
2:      mov     byte ptr [rsi + rax], al
        inc     eax
        cmp     eax, 0x1000
        jne     2b
        mov     edi, 0x40000FF0
        mov     ecx, 0x30
        rep     movsb
        call    6f
        mov     rax, qword ptr [0x200FF8]
        note    rax
        mov     rax, qword ptr [0x202018]
        note    rax
        mov     edi, 0x40000FE0         # words of 8 bytes
        mov     esi, 0x300000
        mov     ecx, 8
        rep     movsq
        call    6f
        mov     rax, 0x4142434445464748
        mov     edi, 0x40000FC0
        mov     ecx, 0x20
        rep     stosq
        call    6f
        mov     rax, qword ptr [0x202080]
        note    rax
        mov     esi, 0x40000FFC         # reads
        mov     ecx, 8
        rep     lodsb
        call    6f
        std                             # downwards, into the page that is there
        mov     edi, 0x40001003
        mov     esi, 0x300010
        mov     ecx, 8
        rep     movsb
        cld
        call    6f
        mov     edi, 0x40000FFE
        mov     esi, 0x40000FFE
        mov     ecx, 0x10
        repe    cmpsb
        call    6f
        mov     edi, 0x40000FF8
        mov     ecx, 0x20
        mov     al, 0xEE
        repne   scasb
        call    6f
        quit    0

6:      note    rcx                     # at the end; then the page goes away again
        note    rsi
        note    rdi
        push    rax
        xor     eax, eax
        set_pte 1
        pop     rax
        ret

5:      xchg    qword ptr [rsp], rax    # the error code, then registers as the fault left them
        note    rax
        note    rcx
        note    rsi
        note    rdi
        mov     rax, cr2
        note    rax
        mov     rax, r8
        set_pte 1
        pop     rax
        iretq
