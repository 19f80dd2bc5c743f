//! The keyboard controller of a PC, as far as a microVM needs it: a way to reset the machine, a
//! keyboard with which to press Ctrl-Alt-Del, and an answer at once to all that drivers ask, so
//! that no probe waits for its timeout.
//!
//! ```text
//!   0x60  data     read: the output buffer's next byte     write: argument, or to the keyboard
//!   0x64  status   read: status                            write: a command
//!   0x61  (the PC's "port B": reads as its timer output high; not this device's to change)
//! ```
//!
//! There is no mouse. The keyboard speaks scancode set 2 and no translation takes place; it
//! acknowledges every command. The output buffer holds [`OUTPUT_MAX`] bytes; what does not fit is
//! lost, as with the real one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{Device, IrqLine};
use metrics::I8042Metrics;

use crate::{Error, PowerSink};

/// The first of the controller's ports.
pub const PORT: u64 = 0x60;
/// How many ports the device takes.
pub const PORTS: u64 = 5;
/// Bytes that wait to be read, at most.
pub const OUTPUT_MAX: usize = 16;

/// Ctrl, Alt and Del pressed, in scancode set 2.
const CTRL_ALT_DEL: [u8; 4] = [0x14, 0x11, 0xE0, 0x71];

/// Offsets of the ports.
const DATA: u64 = 0;
const PORT_B: u64 = 1;
const STATUS: u64 = 4;

/// Port B, bit 5: the output of timer 2. High, so that nobody waits for it.
const TIMER_2_OUT: u8 = 1 << 5;

/// Status: a byte can be read at the data port.
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// Status: the controller passed its self-test.
const STATUS_SYSTEM: u8 = 1 << 2;
/// Status: the last write was a command.
const STATUS_COMMAND: u8 = 1 << 3;
/// Status: the keyboard is not locked.
const STATUS_UNLOCKED: u8 = 1 << 4;

/// Configuration byte: interrupt when the keyboard's output can be read.
const CONFIG_KEYBOARD_INTERRUPT: u8 = 1 << 0;
/// Configuration byte: the self-test passed.
const CONFIG_SYSTEM: u8 = 1 << 2;
/// Configuration byte: the keyboard is switched off.
const CONFIG_KEYBOARD_OFF: u8 = 1 << 4;

/// Output port at rest: no reset, A20 on.
const OUTPUT_PORT: u8 = 0b11;

/// The controller's commands.
mod command {
    pub const READ_CONFIG: u8 = 0x20;
    pub const WRITE_CONFIG: u8 = 0x60;
    pub const TEST_MOUSE: u8 = 0xA9;
    pub const TEST_SELF: u8 = 0xAA;
    pub const TEST_KEYBOARD: u8 = 0xAB;
    pub const KEYBOARD_OFF: u8 = 0xAD;
    pub const KEYBOARD_ON: u8 = 0xAE;
    pub const READ_OUTPUT_PORT: u8 = 0xD0;
    pub const WRITE_OUTPUT_PORT: u8 = 0xD1;
    pub const ECHO_KEYBOARD: u8 = 0xD2;
    pub const ECHO_MOUSE: u8 = 0xD3;
    pub const WRITE_MOUSE: u8 = 0xD4;
    pub const RESET: u8 = 0xFE;
}

/// The answer to [`command::TEST_MOUSE`]: clock line stuck low, hence no mouse.
const MOUSE_STUCK: u8 = 1;
/// The answer to [`command::TEST_SELF`].
const SELF_TEST_PASSED: u8 = 0x55;
/// The answer to [`command::TEST_KEYBOARD`].
const KEYBOARD_TEST_PASSED: u8 = 0;

/// The keyboard's answers.
const KEYBOARD_ACK: u8 = 0xFA;
const KEYBOARD_SELF_TEST_PASSED: u8 = 0xAA;
/// An AT keyboard with scancode set 2.
const KEYBOARD_ID: [u8; 2] = [0xAB, 0x83];
/// The keyboard's commands that want more than an acknowledgement.
const KEYBOARD_ECHO: u8 = 0xEE;
const KEYBOARD_IDENTIFY: u8 = 0xF2;
const KEYBOARD_RESET: u8 = 0xFF;

/// The controller and its keyboard.
pub struct I8042 {
    line: Arc<dyn IrqLine>,
    power: Arc<dyn PowerSink>,
    metrics: Arc<I8042Metrics>,
    state: Mutex<I8042State>,
}

/// What the controller holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct I8042State {
    /// The configuration byte.
    pub config: u8,
    /// The output port's byte.
    pub output_port: u8,
    /// The command whose argument is yet to come.
    pub pending: Option<u8>,
    /// Whether the last write was a command.
    pub last_was_command: bool,
    /// The bytes to be read, next first; at most [`OUTPUT_MAX`].
    pub output: VecDeque<u8>,
}

impl Default for I8042State {
    fn default() -> Self {
        Self {
            config: CONFIG_KEYBOARD_INTERRUPT | CONFIG_SYSTEM,
            output_port: OUTPUT_PORT,
            pending: None,
            last_was_command: false,
            output: VecDeque::new(),
        }
    }
}

/// What to do once the lock is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    Interrupt,
    Reset,
}

impl I8042 {
    /// A controller that interrupts on `line` (IRQ 1) and passes resets to `power`.
    pub fn new(line: Arc<dyn IrqLine>, power: Arc<dyn PowerSink>) -> Self {
        Self::with_state(line, power, I8042State::default())
    }

    /// A controller in a saved state.
    pub fn with_state(
        line: Arc<dyn IrqLine>,
        power: Arc<dyn PowerSink>,
        mut state: I8042State,
    ) -> Self {
        state.output.truncate(OUTPUT_MAX);
        Self { line, power, metrics: Arc::default(), state: Mutex::new(state) }
    }

    /// Has accesses counted in `metrics`.
    #[must_use]
    pub fn counted(mut self, metrics: Arc<I8042Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// The state, for saving.
    pub fn state(&self) -> I8042State {
        self.lock().clone()
    }

    /// Presses Ctrl-Alt-Del on the keyboard. What the guest makes of it is its own business.
    pub fn ctrl_alt_del(&self) -> Result<(), Error> {
        let pressed = self.lock().press(&CTRL_ALT_DEL);
        let effect = pressed.inspect_err(|_| self.metrics.error_count.inc())?;
        self.perform(effect);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, I8042State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Interrupt => self.line.trigger(),
            Effect::Reset => {
                self.metrics.reset_count.inc();
                self.power.reset();
            }
        }
    }
}

impl Device for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(byte) = data.first_mut() else { return };
        let counter = match offset {
            DATA | PORT_B | STATUS => &self.metrics.read_count,
            _ => &self.metrics.missed_read_count,
        };
        counter.inc();
        match offset {
            DATA => {
                let (value, effect) = self.lock().read_data();
                *byte = value;
                self.perform(effect);
            }
            PORT_B => *byte = TIMER_2_OUT,
            STATUS => *byte = self.lock().status(),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        let effect = match offset {
            DATA => Some(self.lock().write_data(value)),
            STATUS => self.lock().command(value),
            _ => None,
        };
        let Some(effect) = effect else { return self.metrics.missed_write_count.inc() };
        self.metrics.write_count.inc();
        self.perform(effect);
    }
}

impl I8042State {
    fn status(&self) -> u8 {
        let mut status = STATUS_SYSTEM | STATUS_UNLOCKED;
        if !self.output.is_empty() {
            status |= STATUS_OUTPUT_FULL;
        }
        if self.last_was_command {
            status |= STATUS_COMMAND;
        }
        status
    }

    fn read_data(&mut self) -> (u8, Effect) {
        let value = self.output.pop_front().unwrap_or(0);
        let more = !self.output.is_empty();
        (value, if more { self.interrupt() } else { Effect::None })
    }

    /// The controller gets a command; None if it does not know it.
    fn command(&mut self, value: u8) -> Option<Effect> {
        self.last_was_command = true;
        self.pending = None;
        match value {
            command::READ_CONFIG => self.put(&[self.config]),
            command::READ_OUTPUT_PORT => self.put(&[self.output_port]),
            command::TEST_MOUSE => self.put(&[MOUSE_STUCK]),
            command::TEST_SELF => self.put(&[SELF_TEST_PASSED]),
            command::TEST_KEYBOARD => self.put(&[KEYBOARD_TEST_PASSED]),
            command::KEYBOARD_OFF => self.config |= CONFIG_KEYBOARD_OFF,
            command::KEYBOARD_ON => self.config &= !CONFIG_KEYBOARD_OFF,
            command::WRITE_CONFIG
            | command::WRITE_OUTPUT_PORT
            | command::ECHO_KEYBOARD
            | command::ECHO_MOUSE
            | command::WRITE_MOUSE => self.pending = Some(value),
            command::RESET => return Some(Effect::Reset),
            _ => return None,
        }
        Some(Effect::None)
    }

    fn write_data(&mut self, value: u8) -> Effect {
        self.last_was_command = false;
        match self.pending.take() {
            Some(command::WRITE_CONFIG) => self.config = value,
            Some(command::WRITE_OUTPUT_PORT) => self.output_port = value,
            // The mouse's echo comes back marked as the keyboard's: drivers conclude that there
            // is no mouse, without waiting for one.
            Some(command::ECHO_KEYBOARD | command::ECHO_MOUSE) => {
                self.put(&[value]);
                return self.interrupt();
            }
            Some(_) => {}
            None => return self.keyboard(value),
        }
        Effect::None
    }

    /// The keyboard gets `value`.
    fn keyboard(&mut self, value: u8) -> Effect {
        match value {
            KEYBOARD_ECHO => self.put(&[KEYBOARD_ECHO]),
            KEYBOARD_IDENTIFY => self.put(&[KEYBOARD_ACK, KEYBOARD_ID[0], KEYBOARD_ID[1]]),
            KEYBOARD_RESET => self.put(&[KEYBOARD_ACK, KEYBOARD_SELF_TEST_PASSED]),
            _ => self.put(&[KEYBOARD_ACK]),
        }
        self.interrupt()
    }

    fn press(&mut self, keys: &[u8]) -> Result<Effect, Error> {
        let off = self.config & CONFIG_KEYBOARD_OFF != 0;
        if off || self.output.len() + keys.len() > OUTPUT_MAX {
            return Err(Error::KeysRefused);
        }
        self.put(keys);
        Ok(self.interrupt())
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX.saturating_sub(self.output.len());
        self.output.extend(bytes.iter().take(room));
    }

    fn interrupt(&self) -> Effect {
        if self.config & CONFIG_KEYBOARD_INTERRUPT != 0 { Effect::Interrupt } else { Effect::None }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    pub(crate) struct PowerLog(Mutex<String>);

    impl PowerLog {
        pub(crate) fn take(&self) -> String {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl PowerSink for PowerLog {
        fn reset(&self) {
            self.0.lock().unwrap().push_str("reset");
        }
        fn power_off(&self) {
            self.0.lock().unwrap().push_str("off");
        }
    }

    #[derive(Default)]
    pub(crate) struct CountingLine(AtomicU32);

    impl CountingLine {
        pub(crate) fn take(&self) -> u32 {
            self.0.swap(0, Ordering::SeqCst)
        }
    }

    impl IrqLine for CountingLine {
        fn trigger(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Bench {
        device: I8042,
        metrics: Arc<I8042Metrics>,
        line: Arc<CountingLine>,
        power: Arc<PowerLog>,
    }

    fn bench() -> Bench {
        let (line, power) = (Arc::new(CountingLine::default()), Arc::new(PowerLog::default()));
        let metrics = Arc::<I8042Metrics>::default();
        let device = I8042::new(line.clone(), power.clone()).counted(metrics.clone());
        Bench { device, metrics, line, power }
    }

    impl Bench {
        fn read(&self, offset: u64) -> u8 {
            let mut data = [0x55];
            self.device.read(offset, &mut data);
            data[0]
        }

        /// Reads as drivers do: while the status says that there is something.
        fn drain(&self) -> Vec<u8> {
            std::iter::from_fn(|| (self.read(STATUS) & 1 != 0).then(|| self.read(DATA))).collect()
        }
    }

    /// Writes (port, value), then what can be read and how often the line was triggered.
    fn check(writes: &[(u64, u8)], expected: &[u8], triggers: u32) {
        let bench = bench();
        for (offset, value) in writes {
            bench.device.write(*offset, &[*value]);
        }
        assert_eq!(bench.drain(), expected, "{writes:?}");
        assert_eq!(bench.line.take(), triggers, "{writes:?}");
        assert_eq!(bench.power.take(), "", "{writes:?}");
    }

    #[test]
    fn commands_are_answered_at_once() {
        check(&[(STATUS, 0x20)], &[0x05], 0);
        check(&[(STATUS, 0x60), (DATA, 0x74), (STATUS, 0x20)], &[0x74], 0);
        check(&[(STATUS, 0xAA)], &[0x55], 0);
        check(&[(STATUS, 0xAB)], &[0], 0);
        check(&[(STATUS, 0xA9)], &[1], 0);
        check(&[(STATUS, 0xD3), (DATA, 0x5A)], &[0x5A], 1);
        check(&[(STATUS, 0xD4), (DATA, 0xF2)], &[], 0);
        check(&[(STATUS, 0xD1), (DATA, 0xDF), (STATUS, 0xD0)], &[0xDF], 0);
        check(&[(STATUS, 0xAD), (STATUS, 0x20)], &[0x15], 0);
        check(&[(STATUS, 0xAD), (STATUS, 0xAE), (STATUS, 0x20)], &[0x05], 0);
        check(&[(STATUS, 0x77), (1, 3), (2, 3)], &[], 0);
    }

    #[test]
    fn the_keyboard_acknowledges() {
        check(&[(DATA, 0xF2)], &[0xFA, 0xAB, 0x83], 3);
        check(&[(DATA, 0xFF)], &[0xFA, 0xAA], 2);
        check(&[(DATA, 0xED), (DATA, 2)], &[0xFA, 0xFA], 3);
        check(&[(DATA, 0xEE)], &[0xEE], 1);
        check(&[(STATUS, 0x60), (DATA, 0x04), (DATA, 0xF4)], &[0xFA], 0);
        check(&[(DATA, 0); 20], &[0xFA; 16], 35);
    }

    #[test]
    fn the_reset_command_resets() {
        let bench = bench();
        bench.device.write(STATUS, &[0xFE]);
        assert_eq!(bench.power.take(), "reset");
    }

    #[test]
    fn ctrl_alt_del_arrives_or_is_refused() {
        let bench = bench();
        bench.device.ctrl_alt_del().unwrap();
        assert_eq!(bench.drain(), CTRL_ALT_DEL);
        assert_eq!(bench.line.take(), 4);
        for _ in 0..4 {
            bench.device.ctrl_alt_del().unwrap();
        }
        assert_eq!(bench.device.ctrl_alt_del(), Err(Error::KeysRefused));
        bench.drain();
        bench.device.write(STATUS, &[0xAD]);
        assert_eq!(bench.device.ctrl_alt_del(), Err(Error::KeysRefused));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_accesses_do_no_harm(accesses in proptest::collection::vec(
            (proptest::bool::ANY, 0u64..6, proptest::num::u8::ANY), 0..200,
        )) {
            let bench = bench();
            for (write, offset, value) in accesses {
                if write {
                    bench.device.write(offset, &[value]);
                } else {
                    bench.read(offset);
                }
                proptest::prop_assert!(bench.device.state().output.len() <= OUTPUT_MAX);
            }
        }
    }

    #[test]
    fn accesses_are_counted() {
        let bench = bench();
        // There is room for four.
        for _ in 0..5 {
            let _ = bench.device.ctrl_alt_del();
        }
        for value in 0..=255 {
            bench.device.write(STATUS, &[value]);
        }
        bench.device.write(DATA, &[0]);
        bench.device.write(PORT_B, &[0]);
        for offset in 0..PORTS {
            bench.read(offset);
        }
        let I8042Metrics {
            error_count,
            missed_read_count,
            missed_write_count,
            read_count,
            reset_count,
            write_count,
        } = &*bench.metrics;
        let counts = [
            read_count,
            missed_read_count,
            write_count,
            missed_write_count,
            reset_count,
            error_count,
        ];
        assert_eq!(counts.map(metrics::Counter::count), [3, 2, 14, 244, 1, 1]);
    }

    #[test]
    fn other_ports_read_as_documented() {
        let bench = bench();
        for (offset, expected) in [(0, 0), (1, 0x20), (2, 0), (3, 0), (4, 0x14), (5, 0)] {
            assert_eq!(bench.read(offset), expected, "{offset}");
        }
    }
}
