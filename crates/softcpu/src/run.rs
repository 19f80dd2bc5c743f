//! The outer loop of a vCPU: find a block, run a chain of blocks, look at the world.
//!
//! ```text
//!        ┌──────────────────────── look at the world ◀────────┐
//!        ▼                                                    │ budget is used up
//!   deliver an interrupt ──▶ find the block at RIP ──▶ run ───┤
//!                              ▲   decode, translate    │     │ trap: deliver it
//!                              └────────────────────────┘     │ HLT: sleep
//!                                target not known yet, or to be run by the other of
//!                                interpreter and translated code
//! ```

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bus::IoSpace;
use memory::RamView;
use simd::FpState;
use vcpu::{CpuState, Error, Exit, Kick, MpState, Vcpu};

use crate::block::{self, CodeCache, is_current};
use crate::cpu::{CS, CodeSize, Cpu, Exception, Pending, RIP, Trap, rflags, vector};
use crate::jit::Jit;
use crate::op::{Op, enter};
use crate::paging::{Access, Privilege, canonical};
use crate::tlb::Tlb;
use crate::vm::{CpuPort, Shared};

/// Instructions that run before the outer loop looks at the world: some microseconds.
const BUDGET: i32 = 8192;

/// DR7's local and global enable bits.
const DR7_ENABLES: u64 = 0xFF;

/// What [`Cpu::find_block`] found, by its head.
#[derive(Clone, Copy)]
enum Found {
    /// A block in one page, with which jumps in that page may be linked.
    Block(NonNull<Op>),
    /// An instruction in two pages, which may be others at another address.
    Crossing(NonNull<Op>),
    /// An instruction decoded to be run once.
    Once(NonNull<Op>),
}

fn found(head: NonNull<Op>) -> Found {
    // SAFETY: heads that are found are in live rows.
    match block::crosses(unsafe { head.as_ref() }) {
        true => Found::Crossing(head),
        false => Found::Block(head),
    }
}

/// A software vCPU as the machine sees it.
pub struct SoftVcpu {
    cpu: Box<Cpu>,
}

impl SoftVcpu {
    /// Wraps a CPU.
    pub fn new(cpu: Cpu) -> Self {
        Self { cpu: Box::new(cpu) }
    }
}

impl Drop for SoftVcpu {
    fn drop(&mut self) {
        let cpu = &self.cpu;
        let level = if cpu.shared.stats { log::Level::Info } else { log::Level::Debug };
        log::log!(
            level,
            "vCPU {}: {} instructions run, {} TLB misses, {} blocks decoded, {} KiB of decoded code",
            cpu.id,
            cpu.instructions,
            cpu.tlb_misses,
            cpu.code.decoded,
            cpu.code.bytes() >> 10
        );
        if let Some(jit) = &cpu.jit {
            log::log!(
                level,
                "vCPU {}: {}, {} KiB of host code",
                cpu.id,
                jit.stats,
                jit.bytes() >> 10
            );
        }
    }
}

impl Vcpu for SoftVcpu {
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        self.cpu.restore(state);
        Ok(())
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(self.cpu.save())
    }

    fn run(&mut self, io: &Arc<IoSpace>) -> Result<Exit, Error> {
        if !Arc::ptr_eq(io, &self.cpu.port.io) {
            self.cpu.port.io = io.clone();
        }
        let exit = self.cpu.run();
        self.cpu.leave_guest();
        match self.cpu.jit.as_mut().and_then(|jit| jit.take_difference()) {
            None => Ok(exit),
            Some(reason) => Err(Error::Stuck { id: self.cpu.id, rip: self.cpu.regs[RIP], reason }),
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.cpu.port.waker.clone()
    }
}

impl Cpu {
    /// vCPU `id` in the state of a reset.
    pub fn new(id: u8, ram: RamView, shared: Arc<Shared>) -> Self {
        let mut cpu = Self {
            regs: [0; crate::cpu::REG_SLOTS],
            fx: 0,
            budget: 0,
            tlb_set: 0,
            mode_key: 0,
            eflags: rflags::FIXED,
            hot: u64::MAX,
            instructions: 0,
            tlb_misses: 0,
            pending: Pending::None,
            trap_offset: 0,
            shadow: false,
            alone: false,
            not_canonical: false,
            interrupted: false,
            link_from: Default::default(),
            gate: Default::default(),
            tlb: Tlb::default(),
            fp: Box::<FpState>::default(),
            segments: Default::default(),
            tr: Default::default(),
            ldtr: Default::default(),
            gdtr: Default::default(),
            idtr: Default::default(),
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 4],
            dr6: 0,
            dr7: 0,
            debug_hits: 0,
            cpl: 0,
            code_size: CodeSize::Bits16,
            mp_state: MpState::Runnable,
            msrs: Default::default(),
            id,
            code: CodeCache::default(),
            jit: None,
            dry: None,
            port: CpuPort::new(id, ram, &shared),
            shared,
        };
        cpu.start_translator();
        cpu.reset();
        cpu.mp_state = if id == 0 { MpState::Runnable } else { MpState::Uninitialized };
        cpu
    }

    fn run(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.attend() {
                return exit;
            }
            if self.mp_state != MpState::Runnable {
                self.sleep();
                continue;
            }
            self.look_up_soon();
            self.budget = BUDGET;
            self.instructions += BUDGET as u64;
            while self.budget > 0 && self.mp_state == MpState::Runnable {
                if let Some(exit) = self.run_chain() {
                    return exit;
                }
            }
        }
    }

    /// Looks at everything that other threads and the clock may have brought.
    fn attend(&mut self) -> Option<Exit> {
        self.link_from.0 = None;
        self.enter_guest();
        if self.port.waker.kicked.load(Ordering::Relaxed)
            && self.port.waker.kicked.swap(false, Ordering::SeqCst)
        {
            return Some(Exit::Kicked);
        }
        if let Some(jit) = &mut self.jit {
            jit.take_link();
        }
        if self.code.is_full() || self.jit.as_ref().is_some_and(|jit| jit.is_full()) {
            self.drop_code();
        }
        self.poll_timers();
        if self.port.inbox.has_work() {
            self.port.lapic.drain(&self.port.inbox);
        }
        if self.port.lapic.has_latched_event() {
            self.take_latched();
        }
        if self.shadow {
            self.shadow = false;
            return None;
        }
        self.take_interrupt()
    }

    fn poll_timers(&mut self) {
        let now = self.shared.clock.now_ns();
        if self.port.lapic.next_deadline().is_some_and(|due| due <= now) {
            self.port.lapic.poll_timer(now);
        }
        if self.id == 0 && self.shared.pit_deadline() <= now {
            let shared = &*self.shared;
            let mut chip = shared.chip();
            chip.poll(now, &shared);
            shared.update_pit_deadline(&chip);
        }
    }

    /// INIT, SIPI and NMI.
    fn take_latched(&mut self) {
        if self.port.lapic.take_init() {
            self.reset_by_init();
            self.mp_state = MpState::WaitForSipi;
        }
        if let Some(vector) = self.port.lapic.take_start_up()
            && self.mp_state == MpState::WaitForSipi
        {
            self.start_up(vector);
            self.mp_state = MpState::Runnable;
        }
        let may_run = matches!(self.mp_state, MpState::Runnable | MpState::Halted);
        if may_run && !self.msrs.nmi_blocked && self.port.lapic.take_nmi() {
            self.mp_state = MpState::Runnable;
            // A failed delivery leaves the shutdown pending, which the next chain's end reports.
            let _ = self.deliver_nmi();
        }
    }

    /// INIT: the registers of a reset, but the APIC keeps its id and the caches their content.
    fn reset_by_init(&mut self) {
        self.port.lapic.reset_by_init();
        self.port.inbox.publish_routing(self.port.lapic.routing());
        self.reset();
    }

    fn take_interrupt(&mut self) -> Option<Exit> {
        if self.eflags & rflags::IF == 0 {
            return None;
        }
        if !matches!(self.mp_state, MpState::Runnable | MpState::Halted) {
            return None;
        }
        let vector = if self.port.lapic.extint_pending() {
            let shared = &*self.shared;
            let vector = shared.chip().ack_pic(&shared);
            self.port.lapic.drain(&self.port.inbox);
            vector
        } else if self.port.lapic.pending_vector().is_some() {
            self.port.lapic.ack()
        } else {
            return None;
        };
        self.mp_state = MpState::Runnable;
        self.deliver_interrupt(vector).is_err().then_some(Exit::TripleFault)
    }

    /// Whether an interrupt would end a HLT.
    fn has_wake_up(&self) -> bool {
        let waker = &self.port.waker;
        self.port.inbox.has_work()
            || waker.kicked.load(Ordering::SeqCst)
            || waker.protect_pending.load(Ordering::SeqCst)
    }

    fn sleep(&mut self) {
        self.leave_guest();
        let mut deadline = None;
        if self.mp_state == MpState::Halted {
            deadline = self.port.lapic.next_deadline();
        }
        let pit = self.shared.pit_deadline();
        if self.id == 0 && pit != u64::MAX {
            deadline = Some(deadline.map_or(pit, |d| d.min(pit)));
        }
        let now = self.shared.clock.now_ns();
        let timeout = deadline.map(|d| Duration::from_nanos(d.saturating_sub(now)));
        if timeout.is_some_and(|t| t.is_zero()) {
            return;
        }
        self.port.waker.sleep(timeout, || self.has_wake_up());
    }

    /// Runs blocks from RIP on until a chain ends, and handles its end.
    fn run_chain(&mut self) -> Option<Exit> {
        self.pending = Pending::None;
        if self.stepping() {
            return self.run_alone();
        }
        self.eflags &= !rflags::RF;
        let from = self.link_from.0.take();
        let from_translated = self.jit.as_mut().and_then(|jit| jit.take_link());
        let Ok(found) = self.find_block() else {
            return self.settle(0);
        };
        let (head, from_translated) = match found {
            Found::Block(head) => (head, from_translated),
            Found::Crossing(head) | Found::Once(head) => (head, None),
        };
        if let (Found::Block(_), Some(from)) = (found, from) {
            // SAFETY: the op is in a live row: rows in the arena are dropped in `attend`, which
            // clears `link_from`, and the row that runs once is replaced only where it is found.
            unsafe { from.as_ref() }.imm.set(head.as_ptr() as u64);
        }
        let once = matches!(found, Found::Once(_));
        if once || !self.run_translated(head, from_translated) {
            enter(head, self);
        }
        self.settle(self.trap_offset)
    }

    /// Makes the translator, if it is wanted and can be had.
    fn start_translator(&mut self) {
        let Some(options) = self.shared.jit else { return };
        match Jit::new(options) {
            Ok(jit) => (self.jit, self.hot) = (Some(Box::new(jit)), u64::from(options.threshold)),
            Err(error) => log::warn!(
                "vCPU {}: no executable memory ({error}); the guest runs in the interpreter",
                self.id
            ),
        }
    }

    /// Drops all decoded and translated code.
    fn drop_code(&mut self) {
        self.code.flush();
        if let Some(jit) = &mut self.jit {
            jit.clear();
        }
    }

    /// Runs the one instruction at RIP, decoded for this once.
    fn run_alone(&mut self) -> Option<Exit> {
        let stepping = self.eflags & rflags::TF != 0;
        if self.instruction_breakpoint() {
            return self.settle(0);
        }
        self.eflags &= !rflags::RF;
        let Ok(head) = self.decode_alone() else {
            return self.settle(0);
        };
        self.alone = true;
        self.interrupted = false;
        self.look_up_soon();
        enter(head, self);
        self.alone = false;
        self.link_from.0 = None;
        if stepping && self.pending == Pending::None && !self.shadow && !self.interrupted {
            self.debug_hits |= 1 << 14;
        }
        self.settle(self.trap_offset)
    }

    /// Does what the end of a chain asks for.
    fn settle(&mut self, trap_offset: u8) -> Option<Exit> {
        let rip = self.truncate_rip(self.regs[RIP].wrapping_add(u64::from(trap_offset)));
        match self.pending {
            Pending::None => self.regs[RIP] = rip,
            Pending::Fault(exception) => {
                self.regs[RIP] = rip;
                let exception = self.through_stack(exception);
                self.trap_offset = 0;
                if self.deliver_fault(exception).is_err() {
                    return Some(Exit::TripleFault);
                }
            }
            Pending::Alone => {
                self.regs[RIP] = rip;
                self.trap_offset = 0;
                self.pending = Pending::None;
                return self.run_alone();
            }
            Pending::Halt => {
                self.shadow = false;
                self.mp_state = MpState::Halted;
            }
            Pending::Shutdown => return Some(Exit::TripleFault),
        }
        self.trap_offset = 0;
        if self.debug_hits != 0 && !self.deliver_debug_trap() {
            return Some(Exit::TripleFault);
        }
        None
    }

    /// #SS in place of the #GP for a non-canonical address, where the instruction at RIP used the
    /// stack segment.
    fn through_stack(&mut self, exception: Exception) -> Exception {
        if !std::mem::take(&mut self.not_canonical) || exception.vector != vector::GP {
            return exception;
        }
        let uses_stack = self.decode_at_rip().is_some_and(|i| crate::select::uses_stack(&i));
        if uses_stack { Exception::with(vector::SS, 0) } else { exception }
    }

    /// Whether instructions must be run one at a time: single step, or breakpoints on code.
    fn stepping(&self) -> bool {
        self.eflags & rflags::TF != 0 || self.dr7 & DR7_ENABLES != 0 && self.code_breakpoints()
    }

    /// The block at RIP: known, decoded before, or decoded now.
    fn find_block(&mut self) -> Result<Found, Trap> {
        let rip = self.regs[RIP];
        if self.flat_code()
            && let Some(head) = self.code.known(rip, self.mode_key, &self.tlb)
        {
            // SAFETY: heads in the jump cache are in live rows.
            if is_current(unsafe { head.as_ref() }) {
                return Ok(found(head));
            }
        }
        let linear = self.code_linear(rip)?;
        let frame = self.fetch_frame(linear)?;
        let physical = frame << 12 | linear & 0xFFF;
        let key = physical << 2 | self.code_size as u64;
        let head = match self.code.get(key) {
            Some(head) => head,
            None => match self.decode_block(linear, physical, key)? {
                Some(head) => head,
                None => match self.find_crossing(linear, physical, key)? {
                    Some(head) => head,
                    None => return Ok(Found::Once(self.decode_alone()?)),
                },
            },
        };
        if self.flat_code() {
            self.code.remember(rip, self.mode_key, &self.tlb, head);
        }
        Ok(found(head))
    }

    /// The block of the instruction at `linear`, which crosses into the next page.
    fn find_crossing(
        &mut self,
        linear: u64,
        physical: u64,
        key: u64,
    ) -> Result<Option<NonNull<Op>>, Trap> {
        if self.code_size != CodeSize::Bits64 {
            return Ok(None);
        }
        let second = self.fetch_frame((linear | 0xFFF).wrapping_add(1))?;
        match self.code.get_crossing(key, second) {
            None => Ok(self.decode_crossing(linear, physical, key, second)),
            found => Ok(found),
        }
    }

    /// The linear address of code at `rip`, or #GP.
    pub fn code_linear(&mut self, rip: u64) -> Result<u64, Trap> {
        if self.code_size == CodeSize::Bits64 {
            return if canonical(rip) { Ok(rip) } else { Err(self.gp0()) };
        }
        if rip > u64::from(self.segments[CS].limit) {
            return Err(self.gp0());
        }
        Ok(self.segments[CS].base.wrapping_add(rip) & 0xFFFF_FFFF)
    }

    /// The frame from which code at `linear` is fetched.
    pub fn fetch_frame(&mut self, linear: u64) -> Result<u64, Trap> {
        if let Some(frame) = self.code.frame(linear, self.mode_key, &self.tlb) {
            return Ok(frame);
        }
        let privilege = Privilege { user: self.cpl == 3, smap_off: false };
        let found = self.translate(linear, Access::Fetch, privilege)?;
        let frame = found.physical >> 12;
        self.code.remember_frame(linear, self.mode_key, &self.tlb, frame);
        Ok(frame)
    }

    /// The frame that holds the block that runs.
    pub fn running_frame(&mut self) -> Option<u64> {
        let rip = self.regs[RIP];
        let linear = match self.code_size {
            CodeSize::Bits64 => rip,
            _ => self.segments[CS].base.wrapping_add(rip) & 0xFFFF_FFFF,
        };
        let pending = self.pending;
        let frame = self.fetch_frame(linear).ok();
        self.pending = pending;
        frame
    }
}
