//! The architectural state of one vCPU, the same for every back end.

/// A segment register with its hidden part (Intel SDM Vol. 3A, 3.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// Type (bits 0-3) and S (bit 4), DPL (5-6), P (7), AVL (8), L (9), D/B (10), G (11):
    /// bits 8-15 and 20-23 of the descriptor's second word, put side by side.
    pub attributes: u16,
    /// The register holds a null selector, or was never loaded (VMX's "unusable").
    pub unusable: bool,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// What a vCPU does when it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MpState {
    /// It executes instructions.
    #[default]
    Runnable,
    /// It executed HLT and waits for an interrupt.
    Halted,
    /// It is in the state after power-on of an application processor, and waits for INIT.
    Uninitialized,
    /// It received INIT and waits for SIPI.
    WaitForSipi,
}

/// Everything that moves with a vCPU, in the order of the SDM's chapters.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the instruction encoding's order.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS: the instruction encoding's order.
    pub segments: [Segment; 6],
    /// The task register.
    pub tr: Segment,
    /// The local descriptor table register.
    pub ldtr: Segment,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8, the task priority.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// The FXSAVE image: x87, MXCSR and XMM0 to XMM15 (SDM Vol. 1, 10.5).
    pub fxsave: Box<[u8; 512]>,
    /// (index, value) of the model-specific registers that are not named above.
    pub msrs: Vec<(u32, u64)>,
    /// The local APIC's registers as a 1 KiB page of its MMIO window, if they are to be set.
    pub lapic: Option<Box<[u8; 1024]>>,
    /// What the vCPU does when run.
    pub mp_state: MpState,
}

impl Default for CpuState {
    /// The state after a reset, as far as it is the same for all processors (SDM Vol. 3A, 10.1.1),
    /// with segments that are valid but empty.
    fn default() -> Self {
        let mut fxsave = Box::new([0; 512]);
        fxsave[0..2].copy_from_slice(&0x37Fu16.to_le_bytes());
        fxsave[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
        Self {
            gpr: [0; 16],
            rip: 0xFFF0,
            rflags: 2,
            segments: [Segment::default(); 6],
            tr: Segment::default(),
            ldtr: Segment::default(),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            apic_base: 0xFEE0_0800,
            xcr0: 1,
            debug: [0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
            fxsave,
            msrs: Vec::new(),
            lapic: None,
            mp_state: MpState::Runnable,
        }
    }
}
