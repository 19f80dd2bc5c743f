//! A 16550A serial port, at COM1 on a PC.
//!
//! **Output.** The transmitter takes a byte at once and is always empty. Bytes go into a buffer of
//! [`OUTPUT_BUFFER`] bytes, so that the sink is not called for each, and from there to the sink
//!
//! - when the buffer is full, or a newline is sent;
//! - when the driver has nothing more to send: it turns to any other register than the two with
//!   which it sends (LSR, which it may poll before each byte, and IIR, which it reads in its
//!   interrupt handler), or polls LSR twice with no byte in between;
//! - when [`Serial::flush`] or [`Serial::input`] is called.
//!
//! Linux's 8250 driver ends each burst with a write to IER, in its console as well as for a
//! terminal, so nothing it sends stays behind. For other drivers, call `flush` from time to time
//! (a tick of some 10 ms is invisible) and at the end. The sink should not block: it is called on
//! the vCPU's thread with the device's lock held. What it refuses is dropped and counted, and so are
//! bytes over the rate of [`Serial::limited`], before they reach the buffer.
//!
//! **Input.** [`Serial::input`] takes what fits in a FIFO of [`INPUT_FIFO`] bytes, deeper than the
//! real one's 16, which drivers cannot tell. When it took less than it was given, the `room`
//! callback comes as soon as the guest has emptied the FIFO.
//!
//! **Interrupts.** The line is edge-triggered: it is signalled when the most urgent interrupt goes
//! from none to any, or when bytes arrive. Reading IIR ends the transmitter's interrupt, reading
//! the data that of the receiver, as in the data sheet.
//!
//! Breaks, parity and framing errors do not happen. The baud rate is kept but means nothing.

mod output;
mod registers;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Device, IrqLine};
use metrics::UartMetrics;

use self::output::{Limit, Output};
use self::registers::{
    FCR_CLEAR_RECEIVER, FCR_ENABLE, IER_LINE_STATUS, IER_MASK, IER_MODEM_STATUS, IER_RECEIVED,
    IER_TRANSMITTER_EMPTY, IIR_FIFO, IIR_LINE_STATUS, IIR_MODEM_STATUS, IIR_NONE, IIR_RECEIVED,
    IIR_TRANSMITTER_EMPTY, LCR_LATCH, LSR_DATA_READY, LSR_IDLE, LSR_OVERRUN, LSR_TRANSMITTER_EMPTY,
    MCR_DTR, MCR_LOOPBACK, MCR_MASK, MCR_OUT1, MCR_OUT2, MCR_RTS, MSR_CHANGED_SHIFT, MSR_CTS,
    MSR_DCD, MSR_DSR, MSR_RING, MSR_RING_ENDED, Register,
};
use crate::rate::TokenBucket;

/// Where PCs have the first serial port, and its interrupt.
pub const COM1_PORT: u64 = 0x3F8;
/// COM1's interrupt line.
pub const COM1_IRQ: u32 = 4;
/// How many ports the device takes.
pub const PORTS: u64 = 8;
/// Bytes sent that wait for the sink, at most.
pub const OUTPUT_BUFFER: usize = 256;
/// Bytes received that wait for the guest, at most.
pub const INPUT_FIFO: usize = 256;

/// Divisor for 9600 baud.
const DEFAULT_DIVISOR: u16 = 12;
/// Eight data bits, no parity, one stop bit.
const DEFAULT_LINE_CONTROL: u8 = 0b11;

/// The port.
pub struct Serial {
    line: Arc<dyn IrqLine>,
    room: Box<dyn Fn() + Send + Sync>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: SerialState,
    output: Output,
    /// LSR was read and nothing was sent since.
    polled: bool,
    /// The interrupt output, whose rising edge is signalled.
    asserted: bool,
    /// `input` had to leave bytes out.
    input_waits: bool,
}

/// What the port holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialState {
    /// IER.
    pub interrupt_enable: u8,
    /// FCR, as far as it holds.
    pub fifo_control: u8,
    /// LCR.
    pub line_control: u8,
    /// MCR.
    pub modem_control: u8,
    /// The bits of MSR that say what changed since it was read.
    pub modem_changes: u8,
    /// SCR.
    pub scratch: u8,
    /// DLL and DLM.
    pub divisor: u16,
    /// The transmitter's interrupt has not been seen yet.
    pub transmitter_empty_pending: bool,
    /// A byte was lost since LSR was read; only in loopback.
    pub overrun: bool,
    /// Received bytes, next first; at most [`INPUT_FIFO`].
    pub received: VecDeque<u8>,
}

impl Default for SerialState {
    fn default() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: DEFAULT_LINE_CONTROL,
            modem_control: MCR_OUT2,
            modem_changes: 0,
            scratch: 0,
            divisor: DEFAULT_DIVISOR,
            transmitter_empty_pending: false,
            overrun: false,
            received: VecDeque::new(),
        }
    }
}

/// What to do once the lock is gone.
#[derive(Default)]
struct Effects {
    interrupt: bool,
    room: bool,
}

impl Serial {
    /// A port whose output goes to `sink` and whose interrupt is `line`. `room` is called, on a
    /// vCPU's thread, when input that was left out would fit again.
    pub fn new(
        line: Arc<dyn IrqLine>,
        sink: Box<dyn Write + Send>,
        room: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self::with_state(line, sink, room, SerialState::default())
    }

    /// A port in a saved state.
    pub fn with_state(
        line: Arc<dyn IrqLine>,
        sink: Box<dyn Write + Send>,
        room: impl Fn() + Send + Sync + 'static,
        mut state: SerialState,
    ) -> Self {
        state.received.truncate(INPUT_FIFO);
        let output = Output::new(sink);
        let asserted = state.interrupt() != IIR_NONE;
        let inner = Inner { state, output, polled: false, asserted, input_waits: false };
        Self { line, room: Box::new(room), inner: Mutex::new(inner) }
    }

    /// Has bytes over the rate of `bucket` dropped and counted. `clock` is a time that never goes
    /// back.
    #[must_use]
    pub fn limited(
        self,
        bucket: spec::TokenBucket,
        clock: impl Fn() -> Duration + Send + 'static,
    ) -> Self {
        let bucket = TokenBucket::new(bucket, clock());
        self.lock().output.limit = Some(Limit { bucket, clock: Box::new(clock) });
        self
    }

    /// Has events counted in `metrics`.
    #[must_use]
    pub fn counted(self, metrics: Arc<UartMetrics>) -> Self {
        self.lock().output.metrics = metrics;
        self
    }

    /// The state, for saving. Output that waits is flushed first: it is not part of the state.
    pub fn state(&self) -> SerialState {
        let mut inner = self.lock();
        inner.output.flush();
        inner.state.clone()
    }

    /// Offers `bytes` to the guest and says how many it took, from the first on.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut inner = self.lock();
        inner.output.flush();
        let taken = inner.state.receive(bytes);
        inner.input_waits = taken < bytes.len();
        let mut effects = inner.effects();
        // New bytes are news even if the guest has not read the old ones.
        effects.interrupt |= taken > 0 && inner.state.interrupt() == IIR_RECEIVED;
        drop(inner);
        self.perform(&effects);
        taken
    }

    /// Hands everything that was sent to the sink.
    pub fn flush(&self) {
        self.lock().output.flush();
    }

    /// How many sent bytes the sink refused so far.
    pub fn dropped(&self) -> u64 {
        self.lock().output.dropped
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(&self, effects: &Effects) {
        if effects.interrupt {
            self.line.trigger();
        }
        if effects.room {
            (self.room)();
        }
    }
}

impl Device for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let mut inner = self.lock();
        let register = Register::read_at(offset, inner.state.latch());
        let ([value], Some(register)) = (data, register) else {
            return inner.output.metrics.missed_read_count.inc();
        };
        *value = inner.read(register);
        let effects = inner.effects();
        drop(inner);
        self.perform(&effects);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut inner = self.lock();
        let register = Register::write_at(offset, inner.state.latch());
        let (&[value], Some(register)) = (data, register) else {
            return inner.output.metrics.missed_write_count.inc();
        };
        inner.write(register, value);
        let effects = inner.effects();
        drop(inner);
        self.perform(&effects);
    }
}

impl Inner {
    fn read(&mut self, register: Register) -> u8 {
        if register == Register::LineStatus {
            if self.polled {
                self.output.flush();
            }
            self.polled = true;
        } else if register != Register::InterruptIdentification {
            self.output.flush();
        }
        if register == Register::ReceiverBuffer && !self.state.received.is_empty() {
            self.output.metrics.read_count.inc();
        }
        self.state.read(register)
    }

    fn write(&mut self, register: Register, value: u8) {
        if register != Register::TransmitterHolding {
            self.output.flush();
        } else if self.state.loopback() {
            self.state.send_to_self(value);
        } else {
            self.polled = false;
            self.output.push(value);
        }
        self.state.write(register, value);
    }

    /// What follows from the change just made.
    fn effects(&mut self) -> Effects {
        let before = std::mem::replace(&mut self.asserted, self.state.interrupt() != IIR_NONE);
        let room = self.input_waits && self.state.received.is_empty();
        self.input_waits &= !room;
        Effects { interrupt: self.asserted && !before, room }
    }
}

impl SerialState {
    fn latch(&self) -> bool {
        self.line_control & LCR_LATCH != 0
    }

    fn loopback(&self) -> bool {
        self.modem_control & MCR_LOOPBACK != 0
    }

    /// The most urgent interrupt that is enabled and pending.
    fn interrupt(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && !self.received.is_empty() {
            IIR_RECEIVED
        } else if enabled(IER_TRANSMITTER_EMPTY) && self.transmitter_empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.modem_changes != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn read(&mut self, register: Register) -> u8 {
        match register {
            Register::ReceiverBuffer => self.received.pop_front().unwrap_or(0),
            Register::InterruptEnable => self.interrupt_enable,
            Register::InterruptIdentification => self.identify(),
            Register::LineControl => self.line_control,
            Register::ModemControl => self.modem_control,
            Register::LineStatus => self.line_status(),
            Register::ModemStatus => self.modem_levels() | std::mem::take(&mut self.modem_changes),
            Register::Scratch => self.scratch,
            Register::DivisorLow => self.divisor.to_le_bytes()[0],
            Register::DivisorHigh => self.divisor.to_le_bytes()[1],
            // Reached by writes only.
            Register::TransmitterHolding | Register::FifoControl => 0,
        }
    }

    fn write(&mut self, register: Register, value: u8) {
        let [low, high] = self.divisor.to_le_bytes();
        match register {
            // Sent already: it is empty again.
            Register::TransmitterHolding => self.transmitter_empty_pending = true,
            Register::InterruptEnable => self.enable(value & IER_MASK),
            Register::FifoControl => self.control_fifo(value),
            Register::LineControl => self.line_control = value,
            Register::ModemControl => self.control_modem(value & MCR_MASK),
            Register::Scratch => self.scratch = value,
            Register::DivisorLow => self.divisor = u16::from_le_bytes([value, high]),
            Register::DivisorHigh => self.divisor = u16::from_le_bytes([low, value]),
            // Reached by reads only.
            Register::ReceiverBuffer
            | Register::InterruptIdentification
            | Register::LineStatus
            | Register::ModemStatus => {}
        }
    }

    /// Takes what fits of `bytes`, and says how many. In loopback the line is cut off.
    fn receive(&mut self, bytes: &[u8]) -> usize {
        if self.loopback() {
            return 0;
        }
        let taken = bytes.len().min(INPUT_FIFO.saturating_sub(self.received.len()));
        self.received.extend(&bytes[..taken]);
        taken
    }

    fn send_to_self(&mut self, value: u8) {
        if self.received.len() < INPUT_FIFO {
            self.received.push_back(value);
        } else {
            self.overrun = true;
        }
    }

    /// Reading IIR ends the transmitter's interrupt if that is the one it shows.
    fn identify(&mut self) -> u8 {
        let interrupt = self.interrupt();
        if interrupt == IIR_TRANSMITTER_EMPTY {
            self.transmitter_empty_pending = false;
        }
        let fifo = if self.fifo_control & FCR_ENABLE != 0 { IIR_FIFO } else { 0 };
        interrupt | fifo
    }

    /// Enabling the transmitter's interrupt while it is empty, as it always is, raises it: drivers
    /// rely on that to begin sending.
    fn enable(&mut self, value: u8) {
        let newly = value & !self.interrupt_enable;
        if newly & IER_TRANSMITTER_EMPTY != 0 {
            self.transmitter_empty_pending = true;
        }
        self.interrupt_enable = value;
    }

    fn control_fifo(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
        }
        self.fifo_control = value & FCR_ENABLE;
    }

    fn control_modem(&mut self, value: u8) {
        let before = self.modem_levels();
        self.modem_control = value;
        let after = self.modem_levels();
        let mut changes = (before ^ after) >> MSR_CHANGED_SHIFT;
        if before & MSR_RING == 0 {
            changes &= !MSR_RING_ENDED;
        }
        self.modem_changes |= changes;
    }

    fn line_status(&mut self) -> u8 {
        let mut status = LSR_TRANSMITTER_EMPTY | LSR_IDLE;
        if !self.received.is_empty() {
            status |= LSR_DATA_READY;
        }
        if std::mem::take(&mut self.overrun) {
            status |= LSR_OVERRUN;
        }
        status
    }

    /// The modem's inputs: someone is always there; in loopback, the port's own outputs.
    fn modem_levels(&self) -> u8 {
        if !self.loopback() {
            return MSR_DCD | MSR_DSR | MSR_CTS;
        }
        [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RING), (MCR_OUT2, MSR_DCD)]
            .into_iter()
            .filter(|(output, _)| self.modem_control & output != 0)
            .fold(0, |levels, (_, input)| levels | input)
    }
}

#[cfg(test)]
mod tests;
