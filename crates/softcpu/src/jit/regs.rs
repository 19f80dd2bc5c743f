//! Where the guest's registers are while translated code runs.
//!
//! | guest | host |
//! | --- | --- |
//! | RAX, RCX, RDX, RBX, RSI, RDI, R8, R9, R12, R13, R14 | the same |
//! | RSP | R15 |
//! | RBP | R10 |
//! | R10, R11, R15 | slots of the frame |
//! | XMM0 to XMM15 | the same, from the first block on that uses one |
//! | arithmetic flags | the same, or the frame's word for them: see `flags.rs` |
//!
//! The host's RSP is the [`Frame`]'s address: its stack stays its own, so that a signal may come at
//! any time. RBP and R11 are free for addresses: [`ADDRESS`] and [`SCRATCH`]. The registers that
//! instructions name implicitly are all in their own places, and [`ADDRESS`] is one that AH, BH, CH
//! and DH can be moved to.

use std::mem::offset_of;

use super::emit::At;

/// RAX.
pub const RAX: u8 = 0;
/// RDX.
pub const RDX: u8 = 2;
/// The host's stack pointer.
const HOST_RSP: u8 = 4;
/// The host register for the address of a memory operand.
pub const ADDRESS: u8 = 5;
/// The host register for entries of tables, and for guest registers in slots.
pub const SCRATCH: u8 = 11;
/// The host register that holds the guest's RSP.
pub const STACK: u8 = 15;
/// The host register that holds the guest's RBP.
pub const BASE: u8 = 10;

/// What translated code has on the host's stack, from RSP on.
#[repr(C)]
pub struct Frame {
    /// The guest's R10, R11 and R15.
    pub slots: [u64; 3],
    /// The virtual address of the page that holds the block.
    pub page: u64,
    /// The TLB's entries for the current privilege.
    pub tlb: u64,
    /// Instructions that may still run.
    pub budget: i32,
    /// Not 0: the guest's XMM registers and MXCSR are in the host's.
    pub fp_live: u32,
    /// The arithmetic flags, as `Cpu::fx`.
    pub fx: u64,
    /// The table of [`super::cache::JumpSlot`]s.
    pub jumps: u64,
    /// Where to leave to, with the number of the exit in [`SCRATCH`].
    pub leave: u64,
    /// The routine that makes the XMM registers live.
    pub load_fp: u64,
    /// The base of FS.
    pub fs_base: u64,
    /// The base of GS.
    pub gs_base: u64,
    /// A word for an instruction's own use.
    pub temporary: u64,
    /// Not 0: the guest's state allows SSE instructions, none of which would fault.
    pub fp_usable: u64,
    /// The virtual address of a page that may be written, the stack's as a rule.
    pub stack_page: u64,
    /// That page's first byte in this process.
    pub stack_host: u64,
    /// The routine that finds another such page.
    pub find_stack: u64,
    /// The `Cpu`.
    pub cpu: u64,
    /// Words for `find_stack`'s own use.
    pub first: u64,
    /// See above.
    pub last: u64,
}

/// A field of the frame.
pub const fn frame(offset: usize) -> At {
    At { base: HOST_RSP, disp: offset as i32 }
}

/// The field of the frame with this name.
macro_rules! field {
    ($name:ident) => {
        $crate::jit::regs::frame(std::mem::offset_of!($crate::jit::regs::Frame, $name))
    };
}
pub(super) use field;

/// Where a guest register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this host register.
    Register(u8),
    /// In the frame.
    Slot(At),
}

/// Where general register `guest` is.
pub const fn place(guest: u8) -> Place {
    const SLOTS: usize = offset_of!(Frame, slots);
    match guest & 15 {
        4 => Place::Register(STACK),
        5 => Place::Register(BASE),
        10 => Place::Slot(frame(SLOTS)),
        11 => Place::Slot(frame(SLOTS + 8)),
        15 => Place::Slot(frame(SLOTS + 16)),
        same => Place::Register(same),
    }
}
