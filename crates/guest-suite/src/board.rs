//! The devices of the suite's machine: where a guest leaves its trace, ends, and asks for things.
//!
//! | address | write | read |
//! | --- | --- | --- |
//! | port 0xF0, 0xF4 | low, then high half of a note: the note is taken with the high half | |
//! | port 0xF8 | ends the guest with this result code | |
//! | port 0x64 | 0xFE ends the guest, as a keyboard controller's reset does | |
//! | port 0xFC | the host signals this interrupt line a little later | |
//! | ports 0x100 to 0x10F | noted: length << 56, offset << 32, value | 0xA0 + offset + n |
//! | MMIO 0xD0000000, 4 KiB | noted: length << 56, offset << 32; then the value | 0x10 + offset + n |

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bus::{Device, IoSpace, RangeError};
use vcpu::Vm;

/// What a guest may leave at most; a guest in a loop must not eat the host's memory.
const NOTES_MAX: usize = 4096;
/// How long the host waits before it signals a line, so that the guest has gone to sleep.
const SIGNAL_DELAY: Duration = Duration::from_millis(5);
const MMIO_BASE: u64 = 0xD000_0000;

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It wrote this result code.
    Code(u8),
    /// A vCPU shut down.
    TripleFault,
    /// A vCPU reported that the guest asked for a reset.
    Reset,
    /// The back end failed.
    Broken(String),
    /// Its time was up.
    TimedOut,
}

/// The shared state of the devices.
pub(crate) struct Board {
    vm: Arc<dyn Vm>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    notes: Vec<u64>,
    low_half: u32,
    end: Option<End>,
}

impl Board {
    pub(crate) fn new(vm: Arc<dyn Vm>) -> Arc<Self> {
        Arc::new(Self { vm, state: Mutex::default(), ended: Condvar::new() })
    }

    /// Both address spaces with the board's devices in them.
    pub(crate) fn io(self: &Arc<Self>) -> Result<Arc<IoSpace>, RangeError> {
        let mut io = IoSpace::default();
        let control = Arc::new(Control(self.clone()));
        io.ports.insert(0xF0, 0x10, control)?;
        io.ports.insert(0x64, 1, Arc::new(Keyboard(self.clone())))?;
        let ports = Scratch { board: self.clone(), first: 0xA0, wide: false };
        io.ports.insert(0x100, 0x10, Arc::new(ports))?;
        let mmio = Scratch { board: self.clone(), first: 0x10, wide: true };
        io.mmio.insert(MMIO_BASE, 0x1000, Arc::new(mmio))?;
        Ok(Arc::new(io))
    }

    /// The first end counts.
    pub(crate) fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.ended.notify_all();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Waits for the end of the guest, at most `bound`; gives it and the notes.
    pub(crate) fn wait(&self, bound: Duration) -> (End, Vec<u64>) {
        let deadline = Instant::now() + bound;
        let mut state = self.lock();
        loop {
            if let Some(end) = &state.end {
                return (end.clone(), state.notes.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.end = Some(End::TimedOut);
                continue;
            }
            let woken = self.ended.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn note(&self, value: u64) {
        let mut state = self.lock();
        if state.notes.len() < NOTES_MAX {
            state.notes.push(value);
        }
    }

    fn signal_soon(&self, gsi: u32) {
        match self.vm.irq_line(gsi) {
            Ok(line) => {
                std::thread::spawn(move || {
                    std::thread::sleep(SIGNAL_DELAY);
                    line.trigger();
                });
            }
            Err(error) => self.end(End::Broken(error.to_string())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ports 0xF0 to 0xFF.
struct Control(Arc<Board>);

impl Device for Control {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let value = little_endian(data);
        match offset {
            0 => self.0.lock().low_half = value as u32,
            4 => {
                let low = u64::from(self.0.lock().low_half);
                self.0.note(value << 32 | low);
            }
            8 => self.0.end(End::Code(value as u8)),
            12 => self.0.signal_soon(value as u32),
            _ => {}
        }
    }
}

/// Port 0x64.
struct Keyboard(Arc<Board>);

impl Device for Keyboard {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data == [0xFE] {
            self.0.end(End::Code(0xFE));
        }
    }
}

/// Answers reads with a pattern and notes writes.
struct Scratch {
    board: Arc<Board>,
    first: u8,
    wide: bool,
}

impl Device for Scratch {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (n, byte) in (0u8..).zip(data) {
            *byte = self.first.wrapping_add(offset as u8).wrapping_add(n);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let head = (data.len() as u64) << 56 | offset << 32;
        let value = little_endian(data);
        if self.wide {
            self.board.note(head);
            self.board.note(value);
        } else {
            self.board.note(head | value);
        }
    }
}

fn little_endian(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
