//! The APIC timer: a deadline, from which the current count follows.
//!
//! ```text
//!            initial count ≠ 0             due, one-shot
//!   stopped ───────────────────▶ running ───────────────▶ stopped
//!            TSC deadline ≠ 0       ▲  │ due, periodic: deadline += period
//!                                   └──┘
//! ```
//!
//! Nothing ticks. Periods that passed unseen fire once, as the IRR holds one
//! request a vector; a guest that asks for a period shorter than
//! [`WAKE_PERIOD_NS_MIN`] is polled no more often than that.

use std::num::NonZeroU64;

use crate::time::{ns_of_ticks, ticks_in_ns};

/// The shortest distance at which a periodic timer asks to be polled, so that
/// a guest cannot make its vCPU's thread do nothing else.
pub(crate) const WAKE_PERIOD_NS_MIN: u64 = 50_000;

/// The guest's time stamp counter as a function of the VM clock:
/// `now_ns * hz / 10^9 + offset`, wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscClock {
    /// Ticks a second.
    pub hz: NonZeroU64,
    /// The counter at `now_ns == 0`.
    pub offset: u64,
}

impl TscClock {
    /// The counter at `now_ns`.
    pub fn at(&self, now_ns: u64) -> u64 {
        ticks_in_ns(now_ns, self.hz.get()).wrapping_add(self.offset)
    }

    /// When the counter reaches `tsc`; `now_ns` when it already has.
    pub fn deadline_ns(&self, tsc: u64, now_ns: u64) -> u64 {
        let ticks = tsc.saturating_sub(self.at(now_ns));
        now_ns.saturating_add(ns_of_ticks(ticks, self.hz.get()))
    }
}

/// What the mode field of the timer's LVT entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// The reserved encoding; the timer stays stopped.
    Reserved,
}

impl TimerMode {
    pub(crate) fn from_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    /// Whether the initial count register drives the timer.
    pub(crate) fn counts(self) -> bool {
        match self {
            Self::OneShot | Self::Periodic => true,
            Self::TscDeadline | Self::Reserved => false,
        }
    }
}

/// The timer's registers and its deadline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimerState {
    /// The initial count register.
    pub initial_count: u32,
    /// The divide configuration register.
    pub divide_config: u32,
    /// The `IA32_TSC_DEADLINE` register.
    pub tsc_deadline: u64,
    /// When the timer fires next, on the VM clock; `None` while stopped.
    pub deadline_ns: Option<u64>,
}

impl TimerState {
    /// Starts counting down from `count`, or stops at zero.
    pub(crate) fn start(&mut self, count: u32, bus_hz: NonZeroU64, now_ns: u64) {
        self.initial_count = count;
        let period_ns = self.period_ns(bus_hz);
        self.deadline_ns = (count != 0).then(|| now_ns.saturating_add(period_ns));
    }

    /// Arms the TSC deadline, or disarms it at zero.
    pub(crate) fn arm(&mut self, tsc_deadline: u64, deadline_ns: u64) {
        self.tsc_deadline = tsc_deadline;
        self.deadline_ns = (tsc_deadline != 0).then_some(deadline_ns);
    }

    /// Stops and forgets what ran, when the mode changes between counting and
    /// deadline.
    pub(crate) fn stop(&mut self) {
        *self = Self { divide_config: self.divide_config, ..Self::default() };
    }

    /// Changes the divisor; what is left of the count now runs at the new
    /// speed.
    pub(crate) fn divide(&mut self, config: u32, bus_hz: NonZeroU64, now_ns: u64) {
        let left = self.current_count(bus_hz, now_ns);
        self.divide_config = config & 0xb;
        if self.deadline_ns.is_some() && self.initial_count != 0 {
            let left_ns = ns_of_ticks(u64::from(left) << self.shift(), bus_hz.get());
            self.deadline_ns = Some(now_ns.saturating_add(left_ns));
        }
    }

    /// The current count register: what is left, rounded up, so that it is
    /// zero exactly when the timer has fired.
    pub(crate) fn current_count(&self, bus_hz: NonZeroU64, now_ns: u64) -> u32 {
        let Some(deadline_ns) = self.deadline_ns.filter(|_| self.initial_count != 0) else {
            return 0;
        };
        let left_ns = deadline_ns.saturating_sub(now_ns);
        let ticks = ticks_in_ns(left_ns, bus_hz.get());
        let count = ticks.div_ceil(1 << self.shift()).max(u64::from(left_ns != 0));
        count.min(u64::from(self.initial_count)) as u32
    }

    /// Fires the timer if it is due: returns whether it was, and moves on.
    pub(crate) fn expire(&mut self, mode: TimerMode, bus_hz: NonZeroU64, now_ns: u64) -> bool {
        let Some(due_ns) = self.deadline_ns.filter(|&deadline_ns| deadline_ns <= now_ns) else {
            return false;
        };
        match mode {
            TimerMode::Periodic => {
                let period_ns = self.period_ns(bus_hz);
                let passed = (now_ns - due_ns) / period_ns + 1;
                let next_ns = due_ns.saturating_add(passed.saturating_mul(period_ns));
                self.deadline_ns = Some(next_ns);
            }
            TimerMode::OneShot => self.deadline_ns = None,
            TimerMode::TscDeadline | TimerMode::Reserved => self.arm(0, 0),
        }
        true
    }

    /// When to poll: the deadline, or for a very short period the first one
    /// that leaves [`WAKE_PERIOD_NS_MIN`] between polls.
    pub(crate) fn wake_ns(&self, mode: TimerMode, bus_hz: NonZeroU64) -> Option<u64> {
        let deadline_ns = self.deadline_ns?;
        let period_ns = self.period_ns(bus_hz);
        if mode != TimerMode::Periodic || period_ns >= WAKE_PERIOD_NS_MIN {
            return Some(deadline_ns);
        }
        let skipped = WAKE_PERIOD_NS_MIN.div_ceil(period_ns) - 1;
        Some(deadline_ns.saturating_add(skipped.saturating_mul(period_ns)))
    }

    fn period_ns(&self, bus_hz: NonZeroU64) -> u64 {
        ns_of_ticks(u64::from(self.initial_count) << self.shift(), bus_hz.get()).max(1)
    }

    /// Log2 of the divisor: bits 3, 1 and 0 of the register encode 2, 4 .. 128
    /// and then 1.
    fn shift(&self) -> u32 {
        let code = self.divide_config & 3 | self.divide_config >> 1 & 4;
        (code + 1) & 7
    }
}
