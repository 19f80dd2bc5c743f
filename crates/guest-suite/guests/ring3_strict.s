# A gate of ring 0 is not for ring 3: the error code names the vector.
        gate    0x80, 7f, 0xEE
        gate    0x81, 8f
        enter_user 5f
5:      try     int 0x81
        int     0x80
7:      quit    0
8:      quit    1
