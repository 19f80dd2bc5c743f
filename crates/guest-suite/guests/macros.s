# Macros of all guests. 9000 is a label at the start of each file.

# Leaves a 64-bit note; keeps all registers and flags. The value may not depend on rsp.
.macro note value
        push    rax
        pushfq
        cli                             # a note has two halves
        mov     rax, \value
        out     0xF0, eax
        shr     rax, 32
        out     0xF4, eax
        popfq
        pop     rax
.endm

# Ends the guest with a result code.
.macro quit code
        mov     al, \code
        out     0xF8, al
.Lquit\@:
        hlt
        jmp     .Lquit\@
.endm

# Ends the guest because the processor lacks what the case is about.
.macro skip
        quit    0xF5
.endm

# Runs an instruction that may fault or trap: support.s notes vector << 32 | error code, how far RIP
# is from the instruction, and for page faults CR2; then the guest goes on behind the instruction.
.macro try insn:vararg
        lea     r14, [rip + .Ltry\@]
        lea     r15, [rip + .Ltried\@]
.Ltry\@:
        \insn
.Ltried\@:
.endm

# Points an IDT entry to a handler.
.macro gate vector, label, kind=0x8E, stack=0
        push    rax
        push    rbx
        lea     rax, [rip + \label]
        mov     ebx, 0x2000 + \vector * 16
        mov     word ptr [rbx], ax
        mov     word ptr [rbx + 2], 8
        mov     byte ptr [rbx + 4], \stack
        mov     byte ptr [rbx + 5], \kind
        shr     rax, 16
        mov     word ptr [rbx + 6], ax
        shr     rax, 16
        mov     dword ptr [rbx + 8], eax
        mov     dword ptr [rbx + 12], 0
        pop     rbx
        pop     rax
.endm

# Sets entry `index` of the page table of the window at 1 GiB; the value is in rax.
.macro set_pte index
        mov     qword ptr [0x14000 + \index * 8], rax
        invlpg  [0x40000000 + \index * 0x1000]
.endm

.macro read_msr index
        mov     ecx, \index
        rdmsr
        shl     rdx, 32
        or      rax, rdx
.endm

# Writes rax; changes rcx and rdx.
.macro write_msr index
        mov     ecx, \index
        mov     rdx, rax
        shr     rdx, 32
        wrmsr
.endm

# The local APIC through its page.
.macro apic_set register, value
        push    rbx
        mov     ebx, 0xFEE00000 + \register
        mov     dword ptr [rbx], \value
        pop     rbx
.endm

.macro apic_get register
        mov     eax, 0xFEE00000 + \register
        mov     eax, dword ptr [rax]
.endm

# Software-enables the local APIC, spurious vector 0xFF.
.macro apic_enable
        apic_set 0xF0, 0x1FF
.endm

# Sends the second vCPU through INIT and SIPI to a 64-bit address.
.macro start_ap label
        lea     rax, [rip + \label]
        mov     qword ptr [0x7FF8], rax
        apic_set 0x310, 0x01000000
        apic_set 0x300, 0x00004500
        mov     ecx, 200000
.Lap\@:
        pause
        dec     ecx
        jnz     .Lap\@
        apic_set 0x310, 0x01000000
        apic_set 0x300, 0x00004607
.endm

# To ring 3 at a label, through the window at 2 GiB; interrupts stay off.
.macro enter_user label
        lea     rax, [rip + \label]
        mov     ecx, 0x80000000
        add     rax, rcx
        mov     ebx, 0x80090000
        push    0x23
        push    rbx
        push    2
        push    0x2B
        push    rax
        iretq
.endm

# A note from ring 3, which may not use ports: through vector 0x90, which `user_notes` sets up.
.macro note_user value
        push    rax
        mov     rax, \value
        int     0x90
        pop     rax
.endm

# Sets up vector 0x90 for `note_user`.
.macro user_notes
        gate    0x90, .Lnotes\@, 0xEE
        jmp     .Lon\@
.Lnotes\@:
        note    rax
        iretq
.Lon\@:
.endm
