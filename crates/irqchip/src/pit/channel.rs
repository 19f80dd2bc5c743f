//! One counter of the 8254 (Intel 8254 data sheet).
//!
//! The counter never ticks: count, output and edges are closed forms of the
//! ticks since counting started. Simplified against the data sheet: a count
//! takes effect when it is written, not a clock later or at the end of the
//! running period.

use super::PIT_HZ;
use crate::time::{ns_of_ticks, ticks_in_ns};

/// A counter's mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PitMode {
    /// Mode 0: the output rises when the count ends.
    #[default]
    TerminalCount,
    /// Mode 1: the gate starts a low pulse as long as the count.
    OneShot,
    /// Mode 2: a low pulse of one tick at the end of every period.
    RateGenerator,
    /// Mode 3: half of every period high, half low.
    SquareWave,
    /// Mode 4: a low pulse of one tick when the count ends.
    SoftwareStrobe,
    /// Mode 5: the same, started by the gate.
    HardwareStrobe,
}

impl PitMode {
    fn from_control(control: u8) -> Self {
        match control >> 1 & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::TerminalCount => 0,
            Self::OneShot => 1,
            Self::RateGenerator => 2,
            Self::SquareWave => 3,
            Self::SoftwareStrobe => 4,
            Self::HardwareStrobe => 5,
        }
    }

    /// What the gate does in this mode.
    fn gate(self) -> Gate {
        match self {
            Self::TerminalCount | Self::SoftwareStrobe => Gate::Holds,
            Self::RateGenerator | Self::SquareWave => Gate::Restarts,
            Self::OneShot | Self::HardwareStrobe => Gate::Starts,
        }
    }
}

/// What the gate input does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Low suspends counting.
    Holds,
    /// Low stops counting, and a rise starts it over.
    Restarts,
    /// A rise starts counting; the level means nothing.
    Starts,
}

/// Which bytes of the count a port access moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The low byte; a written high byte is zero.
    Low,
    /// The high byte; a written low byte is zero.
    High,
    /// The low byte, then the high byte.
    #[default]
    LowHigh,
}

/// Whether the counter runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// No count was written since the mode was set, or the gate did not start
    /// it yet.
    #[default]
    Stopped,
    /// Counting since this time of the VM clock.
    Since {
        /// When counting started, in nanoseconds.
        start_ns: u64,
    },
    /// Suspended by the gate.
    Held {
        /// How long it had been counting, in nanoseconds.
        elapsed_ns: u64,
    },
}

/// Everything that a snapshot needs of one counter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelState {
    /// The mode.
    pub mode: PitMode,
    /// How the port moves the count.
    pub access: Access,
    /// Whether the count is in binary-coded decimal.
    pub bcd: bool,
    /// The count as it was written; zero is the longest.
    pub reload: u16,
    /// Whether a count was written since the mode was set.
    pub loaded: bool,
    /// Whether and since when the counter runs.
    pub counting: Counting,
    /// The gate input.
    pub gate: bool,
    /// Rises of the output since counting started that were reported.
    pub edges_reported: u64,
    /// The low byte of a count whose high byte is still to be written.
    pub low_written: Option<u8>,
    /// Whether the next read gives the high byte of a pair.
    pub high_next: bool,
    /// The latched count.
    pub latched_count: Option<u16>,
    /// The latched status byte, which is read before the count.
    pub latched_status: Option<u8>,
}

const STATUS_OUTPUT: u8 = 1 << 7;
const STATUS_NULL_COUNT: u8 = 1 << 6;

/// The shortest distance at which a periodic counter asks to be polled.
const WAKE_TICKS_MIN: u64 = PIT_HZ / 20_000;

impl ChannelState {
    /// Sets mode and access, and stops the counter.
    pub(super) fn control(&mut self, access: Access, control: u8) {
        *self = Self {
            mode: PitMode::from_control(control),
            access,
            bcd: control & 1 != 0,
            reload: self.reload,
            gate: self.gate,
            ..Self::default()
        };
    }

    pub(super) fn write(&mut self, value: u8, now_ns: u64) {
        match (self.access, self.low_written.take()) {
            (Access::Low, _) => self.load(u16::from(value), now_ns),
            (Access::High, _) => self.load(u16::from(value) << 8, now_ns),
            (Access::LowHigh, Some(low)) => self.load(u16::from_le_bytes([low, value]), now_ns),
            (Access::LowHigh, None) => {
                self.low_written = Some(value);
                // Data sheet, mode 0: writing the first byte stops counting.
                if self.mode == PitMode::TerminalCount {
                    self.counting = Counting::Stopped;
                }
            }
        }
    }

    pub(super) fn read(&mut self, now_ns: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self.latched_count.unwrap_or_else(|| self.count(now_ns));
        let high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::LowHigh => {
                self.high_next = !self.high_next;
                !self.high_next
            }
        };
        if !self.high_next {
            self.latched_count = None;
        }
        count.to_le_bytes()[usize::from(high)]
    }

    /// Latches the count until it is read. A second latch command before that
    /// is ignored.
    pub(super) fn latch_count(&mut self, now_ns: u64) {
        let count = self.count(now_ns);
        self.latched_count.get_or_insert(count);
    }

    pub(super) fn latch_status(&mut self, now_ns: u64) {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowHigh => 3,
        };
        let mut status = access << 4 | self.mode.number() << 1 | u8::from(self.bcd);
        if self.output(now_ns) {
            status |= STATUS_OUTPUT;
        }
        if !self.loaded {
            status |= STATUS_NULL_COUNT;
        }
        self.latched_status.get_or_insert(status);
    }

    pub(super) fn set_gate(&mut self, gate: bool, now_ns: u64) {
        let rises = gate && !self.gate;
        let falls = !gate && self.gate;
        self.gate = gate;
        match self.mode.gate() {
            Gate::Holds if falls => {
                if let Some(elapsed_ns) = self.elapsed_ns(now_ns) {
                    self.counting = Counting::Held { elapsed_ns };
                }
            }
            Gate::Holds if rises => {
                if let Counting::Held { elapsed_ns } = self.counting {
                    self.counting = Counting::Since { start_ns: now_ns.saturating_sub(elapsed_ns) };
                }
            }
            Gate::Restarts if falls && self.loaded => {
                self.edges_reported = 0;
                self.counting = Counting::Held { elapsed_ns: 0 };
            }
            Gate::Restarts | Gate::Starts if rises && self.loaded => self.start(now_ns),
            Gate::Holds | Gate::Restarts | Gate::Starts => {}
        }
    }

    /// The output pin.
    pub(super) fn output(&self, now_ns: u64) -> bool {
        let ticks = match self.counting {
            Counting::Since { .. } | Counting::Held { .. } => self.ticks(now_ns),
            Counting::Stopped => return self.mode != PitMode::TerminalCount,
        };
        let period = self.period();
        let held = matches!(self.counting, Counting::Held { .. });
        match self.mode {
            PitMode::TerminalCount | PitMode::OneShot => ticks >= period,
            PitMode::RateGenerator => held || ticks % period != period - 1,
            PitMode::SquareWave => held || ticks % period < period.div_ceil(2),
            PitMode::SoftwareStrobe | PitMode::HardwareStrobe => ticks != period,
        }
    }

    /// The count that a read or a latch shows.
    pub(super) fn count(&self, now_ns: u64) -> u16 {
        let period = self.period();
        let left = match self.counting {
            Counting::Stopped if !self.loaded => 0,
            Counting::Stopped => period,
            Counting::Since { .. } | Counting::Held { .. } => {
                self.count_left(period, self.ticks(now_ns))
            }
        };
        let left = (left % self.modulus()) as u16;
        if self.bcd { to_bcd(left) } else { left }
    }

    /// Takes the rises of the output since the last call.
    pub(super) fn take_edges(&mut self, now_ns: u64) -> u64 {
        if !matches!(self.counting, Counting::Since { .. }) {
            return 0;
        }
        let edges = self.edges(self.ticks(now_ns));
        let new = edges.saturating_sub(self.edges_reported);
        self.edges_reported = self.edges_reported.max(edges);
        new
    }

    /// When the output rises next; for a very short period a later rise, to
    /// leave [`WAKE_TICKS_MIN`] between polls.
    pub(super) fn next_edge_ns(&self) -> Option<u64> {
        let Counting::Since { start_ns } = self.counting else {
            return None;
        };
        let period = self.period();
        let tick = match self.mode {
            PitMode::TerminalCount | PitMode::OneShot => self.first_edge(period)?,
            PitMode::SoftwareStrobe | PitMode::HardwareStrobe => self.first_edge(period + 1)?,
            PitMode::RateGenerator | PitMode::SquareWave => {
                let periods = WAKE_TICKS_MIN.div_ceil(period).max(1);
                self.edges_reported.saturating_add(periods).saturating_mul(period)
            }
        };
        Some(start_ns.saturating_add(ns_of_ticks(tick, PIT_HZ)))
    }

    fn first_edge(&self, tick: u64) -> Option<u64> {
        (self.edges_reported == 0).then_some(tick)
    }

    /// Rises of the output in `ticks` ticks of counting.
    fn edges(&self, ticks: u64) -> u64 {
        let period = self.period();
        match self.mode {
            PitMode::TerminalCount | PitMode::OneShot => u64::from(ticks >= period),
            PitMode::RateGenerator | PitMode::SquareWave => ticks / period,
            PitMode::SoftwareStrobe | PitMode::HardwareStrobe => u64::from(ticks > period),
        }
    }

    fn count_left(&self, period: u64, ticks: u64) -> u64 {
        match self.mode {
            PitMode::TerminalCount
            | PitMode::OneShot
            | PitMode::SoftwareStrobe
            | PitMode::HardwareStrobe => {
                let modulus = self.modulus();
                (period + modulus - ticks % modulus) % modulus
            }
            PitMode::RateGenerator => period - ticks % period,
            // Counts by two, twice a period; the odd tick belongs to the high
            // half.
            PitMode::SquareWave => {
                let half = period.div_ceil(2);
                let phase = ticks % period;
                let in_half = if phase < half { phase } else { phase - half };
                (period & !1).saturating_sub(2 * in_half)
            }
        }
    }

    fn load(&mut self, reload: u16, now_ns: u64) {
        self.reload = reload;
        self.loaded = true;
        match self.mode.gate() {
            Gate::Holds | Gate::Restarts if self.gate => self.start(now_ns),
            Gate::Holds | Gate::Restarts => {
                self.edges_reported = 0;
                self.counting = Counting::Held { elapsed_ns: 0 };
            }
            Gate::Starts => {}
        }
    }

    fn start(&mut self, now_ns: u64) {
        self.edges_reported = 0;
        self.counting = Counting::Since { start_ns: now_ns };
    }

    fn ticks(&self, now_ns: u64) -> u64 {
        self.elapsed_ns(now_ns).map_or(0, |ns| ticks_in_ns(ns, PIT_HZ))
    }

    fn elapsed_ns(&self, now_ns: u64) -> Option<u64> {
        match self.counting {
            Counting::Stopped => None,
            Counting::Since { start_ns } => Some(now_ns.saturating_sub(start_ns)),
            Counting::Held { elapsed_ns } => Some(elapsed_ns),
        }
    }

    /// Ticks that the written count stands for; never zero.
    fn period(&self) -> u64 {
        let reload = if self.bcd { from_bcd(self.reload) } else { u64::from(self.reload) };
        if reload == 0 { self.modulus() } else { reload }
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }
}

/// Digits above nine, which the data sheet forbids, count as they weigh.
fn from_bcd(value: u16) -> u64 {
    (0..4).rev().fold(0, |sum, digit| sum * 10 + u64::from(value >> (4 * digit) & 0xf)) % 10_000
}

fn to_bcd(value: u16) -> u16 {
    [1, 10, 100, 1000]
        .into_iter()
        .enumerate()
        .fold(0, |bcd, (digit, weight)| bcd | (value / weight % 10) << (4 * digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bcd_round_trips() {
        for value in 0..10_000 {
            assert_eq!(from_bcd(to_bcd(value)), u64::from(value));
        }
    }
}
