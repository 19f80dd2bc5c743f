# Two writes to a device; the host may have made the first one a doorbell.
        mov     ebx, 0xD0000100
        mov     dword ptr [rbx], 1
        mov     dword ptr [rbx], 2
        quit    0
