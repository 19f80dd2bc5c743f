//! The software CPU, by way of the contract: ring 3 of a small guest whose exceptions all end in
//! an OUT to the port of their vector's number.
//!
//! | physical | what |
//! | --- | --- |
//! | 0x1000 | GDT |
//! | 0x2000 | IDT |
//! | 0x3000 | TSS, with the stack for ring 0 |
//! | 0x4000 to 0x8FFF | page tables |
//! | 0x9000 | a stub for each vector: OUT, HLT |
//! | below 0xB000 | the stack of ring 0 |
//! | 0x10000 | the code pages, then the data pages |
//!
//! All of it is also mapped for ring 0, in the upper half of the address space.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use bus::{Device, IoSpace};
use memory::{Bytes, GuestAddress, GuestMemory};
use vcpu::{CpuState, DescriptorTable, Exit, Kick, Segment, Vcpu, Vm};

use crate::case::{Case, End, INT3, Outcome};
use crate::layout::{CODE, CODE_LEN, DATA, DATA_LEN, GS_BASE, PAGE, WRITABLE_LEN};
use crate::watchdog::Watchdog;

const RAM_LEN: u64 = 2 << 20;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const PML4: u64 = 0x4000;
const STUBS: u64 = 0x9000;
const STACK_TOP: u64 = 0xB000;
const CODE_AT: u64 = 0x1_0000;
const DATA_AT: u64 = CODE_AT + CODE_LEN;
/// Where ring 0 sees physical address 0.
const HIGH: u64 = 0xFFFF_8000_0000_0000;
/// Null, kernel code, kernel data, user data, user code, TSS.
const GDT_ENTRIES: [u64; 7] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
    0x0000_8B00_3000_0067,
    0xFFFF_8000,
];
const VECTORS: u64 = 32;
/// Vectors whose frame begins with an error code.
const WITH_ERROR: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;
const VECTOR_PF: u64 = 14;
/// IF, as in every Linux process, and the bit that is always set.
const FIXED_FLAGS: u64 = 0x202;
const TIME_OUT_TICKS: u32 = 100;
const NO_VECTOR: u64 = u64::MAX;

/// The software CPU, with the guest around it.
pub struct Soft {
    memory: Arc<GuestMemory>,
    _vm: Arc<dyn Vm>,
    cpu: Box<dyn Vcpu>,
    io: Arc<IoSpace>,
    ends: Arc<Ends>,
    watchdog: Watchdog,
    state: CpuState,
    /// Where the last case's code lies, and how long it is.
    last: (GuestAddress, usize),
}

impl Soft {
    /// Makes the guest.
    pub fn new(jit: Option<softcpu::JitOptions>) -> Result<Self> {
        let memory = Arc::new(memory::allocate(&[(GuestAddress(0), RAM_LEN)])?);
        lay_out(&memory)?;
        let options = softcpu::Options { jit, ..softcpu::Options::default() };
        let vm = softcpu::SoftVm::new(memory.clone(), options)?;
        let cpu = vm.vcpu(0)?;
        let kicker = cpu.kicker();
        let ends = Arc::new(Ends { vector: AtomicU64::new(NO_VECTOR), kicker: kicker.clone() });
        let mut io = IoSpace::default();
        io.ports.insert(0, VECTORS, ends.clone())?;
        let watchdog = Watchdog::new(TIME_OUT_TICKS, move || kicker.kick());
        let (state, last) = (first_state(), (GuestAddress(CODE_AT), 0));
        Ok(Self { memory, _vm: vm, cpu, io: Arc::new(io), ends, watchdog, state, last })
    }

    /// Runs `case` in the guest.
    pub fn run(&mut self, case: &Case) -> Result<Outcome> {
        let code = case.code();
        let at = GuestAddress(CODE_AT + (case.start - CODE));
        let (last_at, last_len) = std::mem::replace(&mut self.last, (at, code.len()));
        self.memory.write_slice(&vec![INT3; last_len], last_at)?;
        self.memory.write_slice(&code, at)?;
        self.memory.write_slice(&case.data[..], GuestAddress(DATA_AT))?;
        self.state.gpr = case.gpr;
        self.state.rip = case.start;
        self.state.rflags = case.rflags | FIXED_FLAGS;
        *self.state.fxsave = *case.fx;
        self.cpu.set_state(&self.state)?;
        self.ends.vector.store(NO_VECTOR, Ordering::SeqCst);
        self.watchdog.start();
        let ended = self.run_to_end();
        self.watchdog.stop();
        ended.context("the software CPU failed")?;
        self.save()
    }

    fn run_to_end(&mut self) -> Result<()> {
        loop {
            let exit = self.cpu.run(&self.io)?;
            if exit != Exit::Kicked {
                bail!("{exit:?} at {:#x}", self.cpu.state()?.rip);
            }
            if self.ends.vector.load(Ordering::SeqCst) != NO_VECTOR || self.watchdog.has_expired() {
                return Ok(());
            }
        }
    }

    fn save(&mut self) -> Result<Outcome> {
        let state = self.cpu.state()?;
        let mut data = Box::new([0; DATA_LEN as usize]);
        self.memory.read_slice(&mut data[..], GuestAddress(DATA_AT))?;
        let mut outcome = Outcome {
            end: End::TimedOut,
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags,
            fx: state.fxsave,
            data,
        };
        let vector = self.ends.vector.load(Ordering::SeqCst);
        if vector == NO_VECTOR {
            return Ok(outcome);
        }
        let mut frame = [0u64; 6];
        let has_error = WITH_ERROR >> vector & 1 != 0;
        for (n, slot) in frame.iter_mut().enumerate().skip(usize::from(!has_error)) {
            *slot = self.memory.read_obj(GuestAddress(STACK_TOP - 48 + n as u64 * 8))?;
        }
        let [error, rip, _cs, rflags, rsp, _ss] = frame;
        let cr2 = if vector == VECTOR_PF { state.cr2 } else { 0 };
        outcome.end = End::Exception { vector: vector as u8, error, cr2 };
        (outcome.rip, outcome.rflags, outcome.gpr[4]) = (rip, rflags, rsp);
        Ok(outcome)
    }
}

/// Takes the OUT by which a case ends.
struct Ends {
    vector: AtomicU64,
    kicker: Arc<dyn Kick>,
}

impl Device for Ends {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn write(&self, offset: u64, _: &[u8]) {
        self.vector.store(offset, Ordering::SeqCst);
        self.kicker.kick();
    }
}

fn lay_out(memory: &GuestMemory) -> Result<()> {
    let put = |at: u64, word: u64| memory.write_obj(word, GuestAddress(at));
    for (n, word) in (0..).zip(GDT_ENTRIES) {
        put(GDT + n * 8, word)?;
    }
    for vector in 0..VECTORS {
        let handler = HIGH + STUBS + vector * 4;
        // An interrupt gate; breakpoints come from ring 3.
        let kind = if vector == 3 { 0xEE } else { 0x8E };
        let low = handler & 0xFFFF | 8 << 16 | kind << 40 | (handler >> 16 & 0xFFFF) << 48;
        put(IDT + vector * 16, low)?;
        put(IDT + vector * 16 + 8, handler >> 32)?;
        memory.write_obj([0xE6, vector as u8, 0xF4, 0xF4], GuestAddress(STUBS + vector * 4))?;
    }
    put(TSS + 4, HIGH + STACK_TOP)?;
    memory.write_slice(&[INT3; CODE_LEN as usize], GuestAddress(CODE_AT))?;
    page_tables(&put)?;
    Ok(())
}

fn page_tables(put: &dyn Fn(u64, u64) -> Result<(), memory::GuestMemoryError>) -> Result<()> {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const LARGE: u64 = 0x80;
    const NO_EXECUTE: u64 = 1 << 63;
    const ALL: u64 = PRESENT | WRITE | USER;
    let [low_pdpt, low_pd, table, high_pdpt] =
        [PML4 + 0x1000, PML4 + 0x2000, PML4 + 0x3000, PML4 + 0x4000];
    put(PML4, low_pdpt | ALL)?;
    put(PML4 + 256 * 8, high_pdpt | PRESENT | WRITE)?;
    put(low_pdpt, low_pd | ALL)?;
    put(low_pd + (CODE >> 21) * 8, table | ALL)?;
    // A page of a gibibyte; only the first two mebibytes are RAM.
    put(high_pdpt, LARGE | PRESENT | WRITE)?;
    let entry = |address: u64| table + (address >> 12 & 511) * 8;
    for offset in (0..CODE_LEN).step_by(PAGE as usize) {
        put(entry(CODE + offset), (CODE_AT + offset) | PRESENT | USER)?;
    }
    for offset in (0..DATA_LEN).step_by(PAGE as usize) {
        let write = if offset < WRITABLE_LEN { WRITE } else { 0 };
        put(entry(DATA + offset), (DATA_AT + offset) | PRESENT | USER | NO_EXECUTE | write)?;
    }
    Ok(())
}

fn first_state() -> CpuState {
    let data = Segment { selector: 0x1B, base: 0, limit: !0, attributes: 0xCF3, unusable: false };
    let mut segments = [data; 6];
    segments[1] = Segment { selector: 0x23, attributes: 0xAFB, ..data };
    segments[5].base = GS_BASE;
    CpuState {
        segments,
        tr: Segment {
            selector: 0x28,
            base: HIGH + TSS,
            limit: 0x67,
            attributes: 0x8B,
            unusable: false,
        },
        ldtr: Segment { attributes: 0x82, unusable: true, ..Segment::default() },
        gdtr: DescriptorTable { base: HIGH + GDT, limit: (GDT_ENTRIES.len() * 8 - 1) as u16 },
        idtr: DescriptorTable { base: HIGH + IDT, limit: (VECTORS * 16 - 1) as u16 },
        cr0: 0x8005_0033, // PG, AM, WP, NE, ET, MP, PE
        cr3: PML4,
        cr4: 0x6A0,  // OSXMMEXCPT, OSFXSR, PGE, PAE
        efer: 0xD00, // NXE, LMA, LME
        apic_base: 0xFEE0_0900,
        ..CpuState::default()
    }
}
