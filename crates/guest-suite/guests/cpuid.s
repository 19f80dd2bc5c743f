# Leaves that every guest counts on.
        xor     eax, eax
        cpuid
        cmp     eax, 7
        setae   al
        movzx   eax, al
        note    rax
        mov     eax, 1
        xor     ecx, ecx
        cpuid
        shr     ebx, 24
        note    rbx                     # APIC id
        and     edx, 0x07808371         # FPU TSC MSR PAE CX8 APIC CMOV MMX FXSR SSE SSE2
        note    rdx
        and     ecx, 0x80802001         # hypervisor, popcnt, cx16, SSE3
        note    rcx
        mov     eax, 0x80000000
        cpuid
        cmp     eax, 0x80000008
        setae   al
        movzx   eax, al
        note    rax
        mov     eax, 0x80000001
        cpuid
        and     edx, 0x20100800         # long mode, NX, syscall
        note    rdx
        mov     eax, 0x80000008
        cpuid
        shr     eax, 8
        cmp     al, 48                  # linear address bits: 48 or more
        setae   al
        movzx   eax, al
        note    rax
        quit    0
