# Stubs for vectors 0 to 31, 16 bytes each, and what they share.

.macro stub vector, code
        .balign 16
        .if \code == 0
        push    0
        .endif
        push    \vector
        jmp     5f
.endm

        stub 0, 0
        stub 1, 0
        stub 2, 0
        stub 3, 0
        stub 4, 0
        stub 5, 0
        stub 6, 0
        stub 7, 0
        stub 8, 8
        stub 9, 0
        stub 10, 8
        stub 11, 8
        stub 12, 8
        stub 13, 8
        stub 14, 8
        stub 15, 0
        stub 16, 0
        stub 17, 8
        stub 18, 0
        stub 19, 0
        stub 20, 0
        stub 21, 8
        stub 22, 0
        stub 23, 0
        stub 24, 0
        stub 25, 0
        stub 26, 0
        stub 27, 0
        stub 28, 0
        stub 29, 8
        stub 30, 8
        stub 31, 0

        .balign 16
5:      push    rax                     # then: vector, error code, rip, cs, flags, rsp, ss
        mov     rax, qword ptr [rsp + 8]
        shl     rax, 32
        or      rax, qword ptr [rsp + 16]
        note    rax
        mov     rax, qword ptr [rsp + 24]
        sub     rax, r14
        note    rax
        cmp     byte ptr [rsp + 8], 14
        jne     6f
        mov     rax, cr2
        note    rax
6:      test    r15, r15                # nobody expects it: the end
        jz      7f
        mov     qword ptr [rsp + 24], r15
        xor     r15d, r15d
        pop     rax
        add     rsp, 16
        iretq
7:      quit    0xEE
