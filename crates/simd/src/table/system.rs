//! Control and state: MXCSR, FXSAVE, XSAVE, fences and prefetches.

use super::Tweak::{Area, NoMemory, Reads};
use crate::plan::MemUse::{Read, ReadWrite};
use crate::state::{FXSAVE_BYTES, XSAVE_BYTES};
use crate::{area, exec, x87};

const FXSAVE: u16 = FXSAVE_BYTES as u16;
const XSAVE: u16 = XSAVE_BYTES as u16;

super::rows! {
    Sse, exec::ldmxcsr, rust {
        Ldmxcsr_m32 [Reads];
    }
    Sse, exec::stmxcsr, rust {
        Stmxcsr_m32;
    }
    X87, area::fxsave, rust {
        Fxsave_m512byte [Area(FXSAVE, 16, ReadWrite)];
        Fxsave64_m512byte [Area(FXSAVE, 16, ReadWrite)];
    }
    X87, area::fxrstor, rust {
        Fxrstor_m512byte [Area(FXSAVE, 16, Read)];
        Fxrstor64_m512byte [Area(FXSAVE, 16, Read)];
    }
    Xsave, area::xsave, rust {
        Xsave_mem [Area(XSAVE, 64, ReadWrite)];
        Xsave64_mem [Area(XSAVE, 64, ReadWrite)];
    }
    Xsave, area::xrstor, rust {
        Xrstor_mem [Area(XSAVE, 64, Read)];
        Xrstor64_mem [Area(XSAVE, 64, Read)];
    }
    X87, x87::status_to_ax, rust {
        Fnstsw_AX;
    }
    Wait, x87::wait, rust {
        Wait;
    }
    Plain, exec::nothing, rust {
        Lfence;
        Lfence_E9;
        Lfence_EA;
        Lfence_EB;
        Lfence_EC;
        Lfence_ED;
        Lfence_EE;
        Lfence_EF;
        Mfence;
        Mfence_F1;
        Mfence_F2;
        Mfence_F3;
        Mfence_F4;
        Mfence_F5;
        Mfence_F6;
        Mfence_F7;
        Sfence;
        Sfence_F9;
        Sfence_FA;
        Sfence_FB;
        Sfence_FC;
        Sfence_FD;
        Sfence_FE;
        Sfence_FF;
        Prefetchnta_m8 [NoMemory];
        Prefetcht0_m8 [NoMemory];
        Prefetcht1_m8 [NoMemory];
        Prefetcht2_m8 [NoMemory];
        Prefetch_m8 [NoMemory];
        Prefetchw_m8 [NoMemory];
        Prefetchreserved3_m8 [NoMemory];
        Prefetchreserved4_m8 [NoMemory];
        Prefetchreserved5_m8 [NoMemory];
        Prefetchreserved6_m8 [NoMemory];
        Prefetchreserved7_m8 [NoMemory];
    }
}
