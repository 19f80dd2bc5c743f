# Edges of interrupt line 9 through the IO-APIC wake the vCPU from hlt, one for each.
        gate    0x50, 5f
        mov     al, 0xFF                # the 8259 pair, wired to the same lines, keeps quiet
        out     0x21, al
        out     0xA1, al
        apic_enable
        xor     ebp, ebp
        mov     ebx, 0xFEC00000
        mov     dword ptr [rbx], 0x23   # line 9, high half: to APIC 0
        mov     dword ptr [rbx + 0x10], 0
        mov     dword ptr [rbx], 0x22   # fixed, edge, active high, vector 0x50
        mov     dword ptr [rbx + 0x10], 0x50
        mov     eax, dword ptr [rbx + 0x10]
        note    rax
        mov     al, 9
        out     0xFC, al
        sti
2:      hlt
        cmp     ebp, 1
        jb      2b
        cli
        out     0xFC, al
        sti
3:      hlt
        cmp     ebp, 2
        jb      3b
        cli
        note    rbp
        mov     dword ptr [rbx], 1      # version: 24 entries
        mov     eax, dword ptr [rbx + 0x10]
        shr     eax, 16
        movzx   eax, al
        note    rax
        quit    0
5:      inc     ebp
        apic_set 0xB0, 0
        iretq
