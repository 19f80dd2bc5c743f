//! The local APIC (Intel SDM vol. 3A, chapter "Advanced Programmable Interrupt
//! Controller"), in its memory-mapped (xAPIC) and register (x2APIC) forms.
//!
//! ```text
//!              EN                    EN+EXTD
//!   Disabled ──────▶ XApic ────────────────▶ X2Apic
//!      ▲ ◀────────────┘ -EN                    │
//!      └───────────────────────────────────────┘ -EN
//! ```
//!
//! The value belongs to its vCPU's thread. Other threads post to the vCPU's
//! [`IrqInbox`]; [`LocalApic::drain`] merges the posts. The vCPU loop is:
//!
//! 1. if [`IrqInbox::has_work`], drain, then look at the INIT, SIPI and NMI
//!    latches;
//! 2. if [`LocalApic::next_deadline`] has come, [`LocalApic::poll_timer`];
//! 3. when interrupts are enabled: if [`LocalApic::extint_pending`], fetch the
//!    vector from the 8259A pair, else if [`LocalApic::pending_vector`],
//!    [`LocalApic::ack`].
//!
//! Whatever a write asks of the world outside comes back as an [`ApicAction`].
//!
//! Refused: moving the page away from [`APIC_BASE_ADDRESS`] (`#GP`). Absent:
//! EOI broadcast suppression, CMCI, remote read, arbitration.

mod access;
mod icr;
mod registers;
mod routing;
mod timer;

#[cfg(test)]
mod tests;

use std::num::NonZeroU64;

pub use registers::LvtEntry;
pub use routing::{ApicRouting, LogicalModel};
pub use timer::{TimerState, TscClock};

use registers::LVT_COUNT;
use timer::TimerMode;

use crate::bitmap::Bitmap256;
use crate::inbox::IrqInbox;
use crate::message::{DeliveryMode, Ipi, Message, Trigger};

/// The physical address of the register page.
pub const APIC_BASE_ADDRESS: u64 = 0xfee0_0000;

const SVR_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;

/// Vectors below this one are reserved for exceptions and refused.
const FIRST_LEGAL_VECTOR: u8 = 16;

const ERROR_SEND_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;

/// Whether the APIC is on, and how its registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// Off: the CPU is wired to the 8259A pair alone.
    Disabled,
    /// Memory-mapped registers, 8-bit IDs.
    XApic,
    /// Model-specific registers, 32-bit IDs.
    X2Apic,
}

/// What does not change in an APIC's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicConfig {
    /// The APIC ID that the processor comes out of reset with.
    pub id: u32,
    /// Whether this is the bootstrap processor.
    pub bootstrap: bool,
    /// Whether the guest may enter x2APIC mode; must agree with CPUID.
    pub x2apic: bool,
    /// The frequency that the divide configuration divides. KVM's is 1 GHz.
    pub bus_hz: NonZeroU64,
    /// The guest's time stamp counter.
    pub tsc: TscClock,
}

const GIGAHERTZ: NonZeroU64 = NonZeroU64::new(1_000_000_000).unwrap();

impl Default for ApicConfig {
    fn default() -> Self {
        Self {
            id: 0,
            bootstrap: true,
            x2apic: true,
            bus_hz: GIGAHERTZ,
            tsc: TscClock { hz: GIGAHERTZ, offset: 0 },
        }
    }
}

/// Everything that a snapshot needs of a local APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalApicState {
    /// Off, xAPIC or x2APIC.
    pub mode: ApicMode,
    /// The APIC ID register's value, not shifted.
    pub id: u32,
    /// The task priority, also CR8 shifted left by four.
    pub task_priority: u8,
    /// The xAPIC's logical ID.
    pub logical_id: u8,
    /// The top four bits of the destination format register: all ones is flat,
    /// anything else a cluster.
    pub destination_format: u8,
    /// The spurious-interrupt vector register.
    pub spurious: u32,
    /// Interrupts that the CPU took and did not yet end.
    pub in_service: Bitmap256,
    /// Whether the last acceptance of a vector was level-triggered.
    pub trigger_mode: Bitmap256,
    /// Interrupts that wait for the CPU.
    pub request: Bitmap256,
    /// The error status register as software reads it.
    pub error_status: u32,
    /// Errors since the register was last written.
    pub error_pending: u32,
    /// The interrupt command register, destination in the high half.
    pub icr: u64,
    /// The local vector table, in the order of [`LvtEntry`].
    pub lvt: [u32; LVT_COUNT],
    /// The timer.
    pub timer: TimerState,
    /// The level of the LINT0 pin.
    pub lint0_level: bool,
    /// A non-maskable interrupt waits.
    pub nmi: bool,
    /// An INIT waits.
    pub init: bool,
    /// A start-up message waits.
    pub start_up: Option<u8>,
}

/// What a register write asks of the CPU back end.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicAction {
    /// Nothing.
    None,
    /// Deliver this through the [`ApicBus`](crate::ApicBus).
    SendIpi(Ipi),
    /// The guest ended the interrupt `vector`. If it was level-triggered, the
    /// I/O APIC must hear of it.
    Eoi {
        /// The vector that left the ISR.
        vector: u8,
        /// Whether the I/O APIC waits for it.
        level_triggered: bool,
    },
    /// [`LocalApic::next_deadline`] changed.
    TimerChanged,
    /// [`LocalApic::routing`] changed: publish it to the inbox.
    RoutingChanged,
}

/// A local APIC, owned by the thread of its vCPU.
#[derive(Clone, Debug)]
pub struct LocalApic {
    config: ApicConfig,
    state: LocalApicState,
}

impl LocalApic {
    /// An APIC out of power-on reset: enabled in xAPIC mode, disabled by
    /// software, everything masked.
    pub fn new(config: ApicConfig) -> Self {
        Self { config, state: reset_state(config.id, ApicMode::XApic) }
    }

    /// An APIC as it was saved.
    pub fn from_state(config: ApicConfig, state: LocalApicState) -> Self {
        Self { config, state }
    }

    /// The state to save.
    pub fn state(&self) -> &LocalApicState {
        &self.state
    }

    /// Leaves the LINT pins as firmware does on every processor: LINT0 takes
    /// external interrupts, LINT1 non-maskable ones. A VMM that boots a kernel
    /// without firmware calls it once, before publishing the routing.
    pub fn wire_legacy_pins(&mut self) {
        self.state.lvt[LvtEntry::Lint0.index()] = 7 << 8;
        self.state.lvt[LvtEntry::Lint1.index()] = 4 << 8;
    }

    /// Resets everything but the mode and the ID, as an INIT does. Latches that
    /// are already set survive, for they arrived with or after it.
    pub fn reset_by_init(&mut self) {
        let old = self.state.clone();
        self.state = LocalApicState {
            lint0_level: old.lint0_level,
            nmi: old.nmi,
            init: old.init,
            start_up: old.start_up,
            ..reset_state(old.id, old.mode)
        };
    }

    // --- Arrival of interrupts -------------------------------------------

    /// Merges everything that was posted to `inbox`.
    pub fn drain(&mut self, inbox: &IrqInbox) {
        let taken = inbox.take();
        self.accept_all(&taken.edge, Trigger::Edge);
        self.accept_all(&taken.level, Trigger::Level);
        let Some(events) = taken.events else {
            return;
        };
        self.state.nmi |= events.nmi;
        if events.init {
            self.state.init = true;
            self.state.start_up = None;
        }
        self.state.start_up = events.start_up.or(self.state.start_up);
        self.set_lint0(events.extint);
    }

    /// Accepts a fixed or lowest-priority interrupt. Refused while the APIC is
    /// off or software-disabled, and for the vectors of exceptions.
    pub fn accept(&mut self, vector: u8, trigger: Trigger) {
        if !self.software_enabled() {
            return;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.report_error(ERROR_RECEIVE_VECTOR);
            return;
        }
        self.request(vector, trigger);
    }

    /// Sets the level of LINT0, which its LVT entry translates: an external
    /// interrupt is the level itself, anything else happens on the rise.
    pub fn set_lint0(&mut self, level: bool) {
        let rises = level && !self.state.lint0_level;
        self.state.lint0_level = level;
        if rises {
            self.deliver_lvt(LvtEntry::Lint0);
        }
    }

    /// Fires the timer if it is due. Returns whether an interrupt was requested.
    pub fn poll_timer(&mut self, now_ns: u64) -> bool {
        let fired = self.state.timer.expire(self.timer_mode(), self.config.bus_hz, now_ns);
        fired && self.deliver_lvt(LvtEntry::Timer)
    }

    /// When to call [`Self::poll_timer`], on the VM clock. `None` while the
    /// timer is stopped or masked.
    pub fn next_deadline(&self) -> Option<u64> {
        let unmasked = self.lvt(LvtEntry::Timer) & LVT_MASKED == 0;
        let timer = &self.state.timer;
        unmasked.then(|| timer.wake_ns(self.timer_mode(), self.config.bus_hz)).flatten()
    }

    // --- Delivery to the CPU ---------------------------------------------

    /// The interrupt that the CPU should take now: the highest request, if its
    /// class is above the processor priority's.
    pub fn pending_vector(&self) -> Option<u8> {
        if self.state.mode == ApicMode::Disabled {
            return None;
        }
        let vector = self.state.request.highest()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Moves the pending interrupt into service and returns its vector; the
    /// spurious vector when there is none any more.
    pub fn ack(&mut self) -> u8 {
        let Some(vector) = self.pending_vector() else {
            return self.state.spurious as u8;
        };
        self.state.request.remove(vector);
        self.state.in_service.insert(vector);
        vector
    }

    /// Whether the CPU should fetch a vector from the 8259A pair now. External
    /// interrupts ignore the task priority.
    pub fn extint_pending(&self) -> bool {
        self.state.lint0_level && self.extint_enabled()
    }

    /// Whether LINT0 carries external interrupts: always when the APIC is off,
    /// else by its LVT entry.
    pub fn extint_enabled(&self) -> bool {
        let lvt = self.lvt(LvtEntry::Lint0);
        let delivery = DeliveryMode::from_bits(lvt >> 8);
        self.state.mode == ApicMode::Disabled
            || (lvt & LVT_MASKED == 0 && delivery == Some(DeliveryMode::ExtInt))
    }

    /// Takes the non-maskable interrupt latch.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.state.nmi)
    }

    /// Takes the INIT latch. The CPU then resets itself, calls
    /// [`Self::reset_by_init`] and waits for a start-up message if it is not
    /// the bootstrap processor.
    pub fn take_init(&mut self) -> bool {
        std::mem::take(&mut self.state.init)
    }

    /// Takes the start-up latch. A CPU that does not wait for one drops it.
    pub fn take_start_up(&mut self) -> Option<u8> {
        self.state.start_up.take()
    }

    /// Whether any latch is set, without taking it.
    pub fn has_latched_event(&self) -> bool {
        self.state.nmi || self.state.init || self.state.start_up.is_some()
    }

    /// How other threads address this APIC.
    pub fn routing(&self) -> ApicRouting {
        ApicRouting {
            id: self.state.id,
            mode: self.state.mode,
            logical_id: self.state.logical_id,
            model: match self.state.destination_format {
                0xf => LogicalModel::Flat,
                _ => LogicalModel::Cluster,
            },
            software_enabled: self.software_enabled(),
            extint_enabled: self.extint_enabled(),
        }
    }

    /// Whether `message` is addressed to this APIC.
    pub fn matches(&self, message: &Message) -> bool {
        self.routing().matches(message)
    }

    fn software_enabled(&self) -> bool {
        self.state.mode != ApicMode::Disabled && self.state.spurious & SVR_ENABLE != 0
    }

    fn processor_priority(&self) -> u8 {
        let serving = self.state.in_service.highest().unwrap_or(0) & 0xf0;
        let task = self.state.task_priority;
        if task >> 4 >= serving >> 4 { task } else { serving }
    }

    fn lvt(&self, entry: LvtEntry) -> u32 {
        self.state.lvt[entry.index()]
    }

    fn timer_mode(&self) -> TimerMode {
        TimerMode::from_lvt(self.lvt(LvtEntry::Timer))
    }

    fn request(&mut self, vector: u8, trigger: Trigger) {
        self.state.request.insert(vector);
        match trigger {
            Trigger::Edge => self.state.trigger_mode.remove(vector),
            Trigger::Level => self.state.trigger_mode.insert(vector),
        }
    }

    fn accept_all(&mut self, vectors: &Bitmap256, trigger: Trigger) {
        let mut left = *vectors;
        while let Some(vector) = left.highest() {
            left.remove(vector);
            self.accept(vector, trigger);
        }
    }

    /// Delivers a local interrupt by its LVT entry; whether it went anywhere.
    fn deliver_lvt(&mut self, entry: LvtEntry) -> bool {
        let lvt = self.lvt(entry);
        if lvt & LVT_MASKED != 0 || self.state.mode == ApicMode::Disabled {
            return false;
        }
        // The timer and error entries have no delivery mode: their bits read
        // as zero, which is fixed.
        match DeliveryMode::from_bits(lvt >> 8) {
            Some(DeliveryMode::Fixed) => {
                self.accept(lvt as u8, Trigger::Edge);
                true
            }
            Some(DeliveryMode::Nmi) => {
                self.state.nmi = true;
                true
            }
            Some(
                DeliveryMode::LowestPriority
                | DeliveryMode::Smi
                | DeliveryMode::Init
                | DeliveryMode::StartUp
                | DeliveryMode::ExtInt,
            )
            | None => false,
        }
    }

    /// Notes an error and interrupts for it. An error entry that itself holds
    /// an illegal vector must not report that again.
    fn report_error(&mut self, error: u32) {
        self.state.error_pending |= error;
        let lvt = self.lvt(LvtEntry::Error);
        if lvt & LVT_MASKED != 0 || !self.software_enabled() {
            return;
        }
        match lvt as u8 {
            0..FIRST_LEGAL_VECTOR => self.state.error_pending |= ERROR_RECEIVE_VECTOR,
            vector => self.request(vector, Trigger::Edge),
        }
    }
}

fn reset_state(id: u32, mode: ApicMode) -> LocalApicState {
    LocalApicState {
        mode,
        id,
        task_priority: 0,
        logical_id: 0,
        destination_format: 0xf,
        spurious: 0xff,
        in_service: Bitmap256::default(),
        trigger_mode: Bitmap256::default(),
        request: Bitmap256::default(),
        error_status: 0,
        error_pending: 0,
        icr: 0,
        lvt: [LVT_MASKED; LVT_COUNT],
        timer: TimerState::default(),
        lint0_level: false,
        nmi: false,
        init: false,
        start_up: None,
    }
}
