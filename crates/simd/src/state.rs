//! The guest's floating-point state and the buffer that stands in for a memory operand.
//!
//! [`FpState`] is the 64-bit FXSAVE image (SDM vol. 1, 10.5.1; table 10-2) kept in place, so that
//! the host can load and save it with one instruction. Three rules hold between instructions:
//!
//! - MXCSR has no reserved bit set, so that loading the image never faults on the host.
//! - FIP, FDP and FOP are zero. The pointers of the last x87 instruction are not kept, as on
//!   processors that save them only for a pending exception.
//! - MXCSR_MASK is [`MXCSR_MASK`] whatever the host's is, and the reserved bytes are zero, so that
//!   a snapshot does not depend on the host.

use std::fmt;

/// The bits of MXCSR that a guest may set: flags, DAZ, masks, rounding control and FZ.
pub const MXCSR_MASK: u32 = 0xffff;
/// MXCSR after reset: every exception masked, round to nearest.
pub const MXCSR_RESET: u32 = 0x1f80;
/// The exception masks of MXCSR.
pub(crate) const MXCSR_MASKS: u32 = 0x1f80;
/// The sticky exception flags of MXCSR, and those of the x87 status word.
pub(crate) const FLAGS: u32 = 0x3f;
/// The x87 control word after FNINIT.
const FCW_RESET: u16 = 0x037f;
/// Summary bits of the x87 status word: ES, and B, which mirrors it.
const FSW_ES_B: u16 = 0x8080;

const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
const POINTERS: std::ops::Range<usize> = 6..24;
/// Where MXCSR lies in the image.
pub const MXCSR_OFFSET: usize = 24;
pub(crate) const MXCSR: usize = MXCSR_OFFSET;
const MASK: usize = 28;
pub(crate) const ST: usize = 32;
/// Where XMM0 lies in the image; the others follow.
pub const XMM_OFFSET: usize = 160;
pub(crate) const XMM: usize = XMM_OFFSET;
const XMM_END: usize = XMM + 256;

/// Bytes of an FXSAVE image.
pub const FXSAVE_BYTES: usize = 512;
/// Bytes of a standard XSAVE area whose components are x87 and SSE: the image and the header.
pub const XSAVE_BYTES: usize = 576;

/// The guest's x87, MMX and SSE registers as a 64-bit FXSAVE image.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FpState {
    image: [u8; FXSAVE_BYTES],
}

impl Default for FpState {
    /// The state after FNINIT, with MXCSR at its reset value and every register zero.
    fn default() -> Self {
        let mut state = FpState { image: [0; FXSAVE_BYTES] };
        state.reset_x87();
        state.put(MXCSR, MXCSR_RESET.to_le_bytes());
        state.put(MASK, MXCSR_MASK.to_le_bytes());
        state
    }
}

impl FpState {
    /// The state that an FXSAVE image holds, or `None` where its MXCSR has reserved bits set.
    pub fn from_image(image: &[u8; FXSAVE_BYTES]) -> Option<Self> {
        let mut state = FpState { image: *image };
        if state.mxcsr() & !MXCSR_MASK != 0 {
            return None;
        }
        state.normalise();
        Some(state)
    }

    /// The image, as FXSAVE64 of this state would write it.
    pub fn image(&self) -> &[u8; FXSAVE_BYTES] {
        &self.image
    }

    /// XMM register `i`, 0 to 15.
    pub fn xmm(&self, i: usize) -> u128 {
        u128::from_le_bytes(self.get(XMM + 16 * (i & 15)))
    }

    /// Sets XMM register `i`, 0 to 15.
    pub fn set_xmm(&mut self, i: usize, value: u128) {
        self.put(XMM + 16 * (i & 15), value.to_le_bytes());
    }

    /// The control and status register of SSE.
    #[inline]
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.get(MXCSR))
    }

    /// Sets MXCSR; reserved bits make it refuse and return false.
    #[must_use]
    pub fn set_mxcsr(&mut self, value: u32) -> bool {
        if value & !MXCSR_MASK != 0 {
            return false;
        }
        self.put(MXCSR, value.to_le_bytes());
        true
    }

    /// Sets MXCSR to a value derived from a valid one.
    #[inline]
    pub(crate) fn put_mxcsr(&mut self, value: u32) {
        self.put(MXCSR, (value & MXCSR_MASK).to_le_bytes());
    }

    /// The x87 control word.
    #[inline]
    pub fn fcw(&self) -> u16 {
        u16::from_le_bytes(self.get(FCW))
    }

    /// The x87 status word.
    #[inline]
    pub fn fsw(&self) -> u16 {
        u16::from_le_bytes(self.get(FSW))
    }

    /// The abridged tag byte: bit `i` is set where physical register `i` is not empty.
    pub fn ftw(&self) -> u8 {
        self.image[FTW]
    }

    /// ST(`i`), 0 to 7, as its 80 bits.
    pub fn st(&self, i: usize) -> u128 {
        u128::from_le_bytes(self.get(ST + 16 * (i & 7))) & ((1 << 80) - 1)
    }

    /// Whether an unmasked x87 exception waits for the next waiting instruction.
    #[inline]
    pub fn x87_pending(&self) -> bool {
        self.fsw() & !self.fcw() & FLAGS as u16 != 0
    }

    /// What FNINIT does: control, status and tag words; the registers keep their bits.
    pub(crate) fn reset_x87(&mut self) {
        self.put(FCW, FCW_RESET.to_le_bytes());
        self.put(FSW, [0; 2]);
        self.image[FTW] = 0;
    }

    /// The switch from x87 to MMX: the top of the stack becomes 0 and every tag valid
    /// (SDM vol. 1, 9.6.2). The image is relative to the top, so its registers rotate.
    #[inline]
    pub(crate) fn enter_mmx(&mut self) {
        let fsw = self.fsw();
        let top = usize::from(fsw >> 11 & 7);
        if top != 0 {
            self.image[ST..XMM].rotate_right(16 * top);
            self.put(FSW, (fsw & !0x3800).to_le_bytes());
        }
        self.image[FTW] = 0xff;
    }

    /// What EMMS does: every register empty, and the top of the stack 0.
    pub(crate) fn leave_mmx(&mut self) {
        self.enter_mmx();
        self.image[FTW] = 0;
    }

    /// Restores the rules of the module's doc after an image was loaded from outside.
    pub(crate) fn normalise(&mut self) {
        self.drop_pointers();
        self.image[FTW + 1] = 0;
        for i in 0..8 {
            self.image[ST + 16 * i + 10..ST + 16 * (i + 1)].fill(0);
        }
        self.image[XMM_END..].fill(0);
        let fcw = self.fcw() & 0x1f7f | 0x40;
        self.put(FCW, fcw.to_le_bytes());
        let summary = if self.x87_pending() { FSW_ES_B } else { 0 };
        self.put(FSW, (self.fsw() & !FSW_ES_B | summary).to_le_bytes());
    }

    /// Forgets what the host noted of the last x87 instruction: its addresses are ours.
    #[inline]
    pub(crate) fn drop_pointers(&mut self) {
        self.image[POINTERS].fill(0);
        self.put(MASK, MXCSR_MASK.to_le_bytes());
    }

    /// Copies `range` of an image from outside; the caller restores the rules.
    pub(crate) fn load_range(&mut self, range: std::ops::Range<usize>, from: &[u8]) {
        self.image[range.clone()].copy_from_slice(&from[range]);
    }

    /// Clears `range` of the image; the caller restores the rules.
    pub(crate) fn clear_range(&mut self, range: std::ops::Range<usize>) {
        self.image[range].fill(0);
    }

    #[inline]
    pub(crate) fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.image[at..at + N]);
        out
    }

    #[inline]
    pub(crate) fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.image[at..at + N].copy_from_slice(&bytes);
    }

    #[inline]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.image.as_mut_ptr()
    }
}

impl fmt::Debug for FpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FpState fcw {:04x} fsw {:04x} ftw {:02x} mxcsr {:04x}",
            self.fcw(),
            self.fsw(),
            self.ftw(),
            self.mxcsr()
        )?;
        for i in 0..8 {
            write!(f, "\n  st{i} {:020x}", self.st(i))?;
        }
        for i in 0..16 {
            write!(f, "\n  xmm{i} {:032x}", self.xmm(i))?;
        }
        Ok(())
    }
}

/// The bytes of an instruction's memory operand: [`Plan::mem_bytes`](crate::Plan) of them count,
/// from the first. One buffer a virtual CPU is enough.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Operand {
    bytes: [u8; XSAVE_BYTES],
}

impl Default for Operand {
    fn default() -> Self {
        Operand { bytes: [0; XSAVE_BYTES] }
    }
}

impl Operand {
    /// The bytes, to be stored to guest memory.
    #[inline]
    pub fn bytes(&self) -> &[u8; XSAVE_BYTES] {
        &self.bytes
    }

    /// The bytes, to be filled from guest memory.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8; XSAVE_BYTES] {
        &mut self.bytes
    }

    #[inline]
    pub(crate) fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }

    #[inline]
    pub(crate) fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&bytes);
    }

    #[inline]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
}
