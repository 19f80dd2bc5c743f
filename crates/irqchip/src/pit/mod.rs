//! The 8254 interval timer: counter 0 drives interrupt line 0, counter 1 once
//! refreshed memory, counter 2 is the speaker's, with its gate and output in
//! port 0x61. Linux calibrates its clocks against counters 0 and 2.
//!
//! [`Pit::poll`] says how often counter 0's output rose; rises that the guest
//! slept through come in one number, for the caller to coalesce.

mod channel;

#[cfg(test)]
mod tests;

pub use channel::{Access, ChannelState, Counting, PitMode};

use crate::time::ticks_in_ns;

/// The frequency of the counters, in hertz.
pub const PIT_HZ: u64 = 1_193_182;

/// A port of the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PitPort {
    /// 0x40.
    Counter0,
    /// 0x41.
    Counter1,
    /// 0x42.
    Counter2,
    /// 0x43.
    Control,
    /// 0x61: gate, speaker and output of counter 2.
    Speaker,
}

/// Everything that a snapshot needs of the timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PitState {
    /// The three counters.
    pub channels: [ChannelState; 3],
    /// Whether the speaker is switched to counter 2; nobody hears it.
    pub speaker: bool,
}

impl Default for PitState {
    fn default() -> Self {
        let gated = |gate| ChannelState { gate, ..ChannelState::default() };
        Self { channels: [gated(true), gated(true), gated(false)], speaker: false }
    }
}

/// What counter 0 did since the last poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PitOutput {
    /// How often the output rose while counting.
    pub rises: u64,
    /// The output now.
    pub level: bool,
}

const SPEAKER_GATE: u8 = 1 << 0;
const SPEAKER_ON: u8 = 1 << 1;
const SPEAKER_REFRESH: u8 = 1 << 4;
const SPEAKER_OUTPUT: u8 = 1 << 5;

/// Half a period of the memory refresh that port 0x61 shows, in ticks: 15 us.
const REFRESH_TICKS: u64 = 18;

/// A write to the control port, decoded.
enum Control {
    Mode { channel: usize, access: Access },
    LatchCount { channel: usize },
    ReadBack,
}

impl Control {
    fn decode(value: u8) -> Self {
        let channel = match value >> 6 {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => return Self::ReadBack,
        };
        match value >> 4 & 3 {
            0 => Self::LatchCount { channel },
            1 => Self::Mode { channel, access: Access::Low },
            2 => Self::Mode { channel, access: Access::High },
            _ => Self::Mode { channel, access: Access::LowHigh },
        }
    }
}

const READ_BACK_NO_COUNT: u8 = 1 << 5;
const READ_BACK_NO_STATUS: u8 = 1 << 4;

/// The interval timer.
#[derive(Clone, Debug, Default)]
pub struct Pit {
    state: PitState,
}

impl Pit {
    /// A timer whose counters were never programmed.
    pub fn new() -> Self {
        Self::default()
    }

    /// A timer as it was saved.
    pub fn from_state(state: PitState) -> Self {
        Self { state }
    }

    /// The state to save.
    pub fn state(&self) -> &PitState {
        &self.state
    }

    /// Reads a port.
    pub fn read(&mut self, port: PitPort, now_ns: u64) -> u8 {
        match port {
            PitPort::Counter0 => self.state.channels[0].read(now_ns),
            PitPort::Counter1 => self.state.channels[1].read(now_ns),
            PitPort::Counter2 => self.state.channels[2].read(now_ns),
            PitPort::Control => u8::MAX,
            PitPort::Speaker => self.read_speaker(now_ns),
        }
    }

    /// Writes a port. Counter 0's output may change: [`Self::poll`] before, so
    /// that no rise is forgotten, and after.
    pub fn write(&mut self, port: PitPort, value: u8, now_ns: u64) {
        match port {
            PitPort::Counter0 => self.state.channels[0].write(value, now_ns),
            PitPort::Counter1 => self.state.channels[1].write(value, now_ns),
            PitPort::Counter2 => self.state.channels[2].write(value, now_ns),
            PitPort::Control => self.write_control(value, now_ns),
            PitPort::Speaker => {
                self.state.speaker = value & SPEAKER_ON != 0;
                self.state.channels[2].set_gate(value & SPEAKER_GATE != 0, now_ns);
            }
        }
    }

    /// What counter 0's output did since the last poll.
    pub fn poll(&mut self, now_ns: u64) -> PitOutput {
        let channel = &mut self.state.channels[0];
        PitOutput { rises: channel.take_edges(now_ns), level: channel.output(now_ns) }
    }

    /// When counter 0's output rises next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.state.channels[0].next_edge_ns()
    }

    fn read_speaker(&self, now_ns: u64) -> u8 {
        let channel = &self.state.channels[2];
        let refresh = !(ticks_in_ns(now_ns, PIT_HZ) / REFRESH_TICKS).is_multiple_of(2);
        [
            (channel.gate, SPEAKER_GATE),
            (self.state.speaker, SPEAKER_ON),
            (refresh, SPEAKER_REFRESH),
            (channel.output(now_ns), SPEAKER_OUTPUT),
        ]
        .into_iter()
        .fold(0, |value, (set, bit)| value | if set { bit } else { 0 })
    }

    fn write_control(&mut self, value: u8, now_ns: u64) {
        match Control::decode(value) {
            Control::Mode { channel, access } => {
                self.state.channels[channel].control(access, value);
            }
            Control::LatchCount { channel } => self.state.channels[channel].latch_count(now_ns),
            Control::ReadBack => self.read_back(value, now_ns),
        }
    }

    fn read_back(&mut self, value: u8, now_ns: u64) {
        for (index, channel) in self.state.channels.iter_mut().enumerate() {
            if value & 2 << index == 0 {
                continue;
            }
            if value & READ_BACK_NO_COUNT == 0 {
                channel.latch_count(now_ns);
            }
            if value & READ_BACK_NO_STATUS == 0 {
                channel.latch_status(now_ns);
            }
        }
    }
}
