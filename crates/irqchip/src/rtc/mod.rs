//! The CMOS clock (Motorola MC146818A): time, date and 128 bytes of memory
//! behind an index port and a data port.
//!
//! The time is the host's wall clock, handed to each access, plus an offset
//! that the guest changes by setting the clock. While the guest holds the SET
//! bit of register B, the fields stand still and are its to write. An update is
//! never seen in progress. No interrupt is ever raised: the enable bits of
//! register B are stored and mean nothing, and register C is always zero.
//!
//! The memory-size bytes and everything else start as zero: the guest's memory
//! map comes from the boot protocol.

mod calendar;

#[cfg(test)]
mod tests;

pub use calendar::Calendar;

/// A port of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcPort {
    /// 0x70. Its top bit once masked non-maskable interrupts and is ignored.
    Index,
    /// 0x71.
    Data,
}

/// Size of the memory, registers included.
const CMOS_SIZE: usize = 128;

/// Everything that a snapshot needs of the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtcState {
    /// The selected byte.
    pub index: u8,
    /// Control register A.
    pub control_a: u8,
    /// Control register B.
    pub control_b: u8,
    /// What the guest's clock is ahead of the wall clock, in seconds.
    pub offset_s: i64,
    /// The fields while the SET bit holds them.
    pub held: Option<Calendar>,
    /// The other bytes; those that are registers are unused.
    pub memory: [u8; CMOS_SIZE],
}

impl Default for RtcState {
    fn default() -> Self {
        Self {
            index: 0,
            control_a: CONTROL_A_RESET,
            control_b: CONTROL_B_24H,
            offset_s: 0,
            held: None,
            memory: [0; CMOS_SIZE],
        }
    }
}

/// Divider for a 32.768 kHz crystal and a 1.024 kHz rate.
const CONTROL_A_RESET: u8 = 0x26;
const CONTROL_A_UPDATING: u8 = 1 << 7;
const CONTROL_B_24H: u8 = 1 << 1;
const CONTROL_B_BINARY: u8 = 1 << 2;
const CONTROL_B_SET: u8 = 1 << 7;
const CONTROL_D_VALID: u8 = 1 << 7;
const HOUR_PM: u8 = 1 << 7;

/// A byte of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Time(Field),
    ControlA,
    ControlB,
    ControlC,
    ControlD,
    Memory(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Second,
    Minute,
    Hour,
    Weekday,
    Day,
    Month,
    Year,
    Century,
}

impl Register {
    fn at_index(index: u8) -> Self {
        match index {
            0x00 => Self::Time(Field::Second),
            0x02 => Self::Time(Field::Minute),
            0x04 => Self::Time(Field::Hour),
            0x06 => Self::Time(Field::Weekday),
            0x07 => Self::Time(Field::Day),
            0x08 => Self::Time(Field::Month),
            0x09 => Self::Time(Field::Year),
            0x32 => Self::Time(Field::Century),
            0x0a => Self::ControlA,
            0x0b => Self::ControlB,
            0x0c => Self::ControlC,
            0x0d => Self::ControlD,
            other => Self::Memory(other & 0x7f),
        }
    }
}

/// The clock.
#[derive(Clone, Debug, Default)]
pub struct Rtc {
    state: RtcState,
}

impl Rtc {
    /// A clock that shows the wall clock's time in UTC.
    pub fn new() -> Self {
        Self::default()
    }

    /// A clock as it was saved.
    pub fn from_state(state: RtcState) -> Self {
        Self { state }
    }

    /// The state to save.
    pub fn state(&self) -> &RtcState {
        &self.state
    }

    /// Reads a port at the wall clock's `unix_s`.
    pub fn read(&self, port: RtcPort, unix_s: i64) -> u8 {
        match port {
            RtcPort::Index => u8::MAX,
            RtcPort::Data => self.read_register(Register::at_index(self.state.index), unix_s),
        }
    }

    /// Writes a port at the wall clock's `unix_s`.
    pub fn write(&mut self, port: RtcPort, value: u8, unix_s: i64) {
        match port {
            RtcPort::Index => self.state.index = value & 0x7f,
            RtcPort::Data => {
                self.write_register(Register::at_index(self.state.index), value, unix_s);
            }
        }
    }

    fn read_register(&self, register: Register, unix_s: i64) -> u8 {
        match register {
            Register::Time(field) => self.read_field(field, unix_s),
            Register::ControlA => self.state.control_a,
            Register::ControlB => self.state.control_b,
            Register::ControlC => 0,
            Register::ControlD => CONTROL_D_VALID,
            Register::Memory(index) => self.state.memory[usize::from(index)],
        }
    }

    fn write_register(&mut self, register: Register, value: u8, unix_s: i64) {
        match register {
            Register::Time(field) => {
                let mut calendar = self.calendar(unix_s);
                self.write_field(&mut calendar, field, value);
                match &mut self.state.held {
                    Some(held) => *held = calendar,
                    None => self.set_time(calendar, unix_s),
                }
            }
            Register::ControlA => self.state.control_a = value & !CONTROL_A_UPDATING,
            Register::ControlB => self.write_control_b(value, unix_s),
            Register::ControlC | Register::ControlD => {}
            Register::Memory(index) => self.state.memory[usize::from(index)] = value,
        }
    }

    fn write_control_b(&mut self, value: u8, unix_s: i64) {
        if value & CONTROL_B_SET != 0 {
            self.state.held = Some(self.calendar(unix_s));
        } else if let Some(held) = self.state.held.take() {
            self.set_time(held, unix_s);
        }
        self.state.control_b = value;
    }

    fn calendar(&self, unix_s: i64) -> Calendar {
        self.state
            .held
            .unwrap_or_else(|| Calendar::from_unix(unix_s.saturating_add(self.state.offset_s)))
    }

    fn set_time(&mut self, calendar: Calendar, unix_s: i64) {
        self.state.offset_s = calendar.to_unix().saturating_sub(unix_s);
    }

    fn read_field(&self, field: Field, unix_s: i64) -> u8 {
        let calendar = self.calendar(unix_s);
        match field {
            Field::Second => self.encode(calendar.second),
            Field::Minute => self.encode(calendar.minute),
            Field::Hour => self.encode_hour(calendar.hour),
            Field::Weekday => self.encode(calendar.weekday),
            Field::Day => self.encode(calendar.day),
            Field::Month => self.encode(calendar.month),
            Field::Year => self.encode((calendar.year % 100) as u8),
            Field::Century => self.encode((calendar.year / 100) as u8),
        }
    }

    fn write_field(&self, calendar: &mut Calendar, field: Field, value: u8) {
        let plain = self.decode(value);
        match field {
            Field::Second => calendar.second = plain,
            Field::Minute => calendar.minute = plain,
            Field::Hour => calendar.hour = self.decode_hour(value),
            Field::Weekday => calendar.weekday = plain,
            Field::Day => calendar.day = plain,
            Field::Month => calendar.month = plain,
            Field::Year => calendar.year = calendar.year / 100 * 100 + u16::from(plain % 100),
            Field::Century => calendar.year = u16::from(plain % 100) * 100 + calendar.year % 100,
        }
    }

    fn encode(&self, value: u8) -> u8 {
        if self.has(CONTROL_B_BINARY) { value } else { ((value / 10 % 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.has(CONTROL_B_BINARY) { value } else { (value >> 4) * 10 + (value & 0xf) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.has(CONTROL_B_24H) {
            return self.encode(hour);
        }
        let twelve = match hour % 12 {
            0 => 12,
            other => other,
        };
        self.encode(twelve) | if hour >= 12 { HOUR_PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.has(CONTROL_B_24H) {
            return self.decode(value);
        }
        let afternoon = if value & HOUR_PM != 0 { 12 } else { 0 };
        self.decode(value & !HOUR_PM) % 12 + afternoon
    }

    fn has(&self, bit: u8) -> bool {
        self.state.control_b & bit != 0
    }
}
