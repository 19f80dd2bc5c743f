# The guest of the fitness probe: 64-bit code, position-independent, loaded at 0x8000.
#
# Before each step it writes the step's number to port 0x10; after the last one it writes 0. Port
# 0x11 takes the number of a step whose result is wrong. The memory around it is laid out by
# probe.rs: IDT at 0x2000 with gates 0 to 3 open, and a stack at 0x10000.

        mov     al, 1                   # step 1: arithmetic at the processor's own speed
        out     0x10, al
        mov     ecx, 1000000
2:      dec     ecx
        jnz     2b

        mov     al, 2                   # step 2: CPUID as it was set
        out     0x10, al
        mov     eax, 0x40000000
        xor     ecx, ecx
        cpuid
        cmp     ebx, 0x72617073         # "spar"
        jne     8f
        cmp     ecx, 0x72656c6b         # "kler"
        jne     8f

        mov     al, 3                   # step 3: a software breakpoint through the IDT
        out     0x10, al
        lea     rax, [rip + 5f]         # the gate's offset goes into the prepared descriptor
        mov     edi, 0x2030
        mov     word ptr [rdi], ax
        shr     rax, 16
        mov     word ptr [rdi + 6], ax
        xor     ebx, ebx
        int3
        cmp     ebx, 0x1234
        jne     8f

        mov     al, 4                   # step 4: cmpxchg16b
        out     0x10, al
        sub     rsp, 16
        mov     qword ptr [rsp], 1
        mov     qword ptr [rsp + 8], 2
        mov     eax, 1
        mov     edx, 2
        mov     ebx, 3
        mov     ecx, 4
        lock cmpxchg16b [rsp]
        jnz     8f
        cmp     qword ptr [rsp], 3
        jne     8f
        cmp     qword ptr [rsp + 8], 4
        jne     8f
        add     rsp, 16

        mov     al, 5                   # step 5: popcnt
        out     0x10, al
        mov     eax, 0xf0f0f001
        popcnt  eax, eax
        cmp     eax, 13
        jne     8f

        mov     al, 6                   # step 6: to user mode and back
        out     0x10, al
        lea     rax, [rip + 6f]         # LSTAR
        mov     rdx, rax
        shr     rdx, 32
        mov     ecx, 0xc0000082
        wrmsr
        lea     rcx, [rip + 4f]
        mov     r11d, 2                 # flags: interrupts off, I/O privilege 0
        sysretq
4:      mov     r8, cs                  # user mode
        syscall

6:      mov     r9, cs                  # kernel again
        and     r8d, 3
        cmp     r8d, 3
        jne     8f
        test    r9d, 3
        jnz     8f
        xor     eax, eax                # privileged: only ring 0 gets here alive
        out     0x10, al
9:      hlt
        jmp     9b

8:      mov     al, 1
        out     0x11, al
        jmp     9b

5:      mov     ebx, 0x1234             # the breakpoint's handler
        iretq
