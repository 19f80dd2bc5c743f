//! The host port: eight I/O ports by which the guest's init says how far it is.
//!
//! It needs no driver and no interrupt. The other end is `hostport` in the crate `guest-init`,
//! which is a program of its own and has the same table:
//!
//! | offset | width | direction | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 1 byte | write | a command |
//! | 0, 1 | 1 byte | read | `'S'`, `'K'`: a sparkler host is here |
//! | 4 to 7 | 1 to 4 bytes | write | the argument, little-endian, kept until written again |
//!
//! Anything else is ignored and reads as all ones, as where there is no device.

use std::sync::{Arc, Mutex, PoisonError};

use bus::Device;

/// The first of the ports.
pub const PORT: u64 = 0x5C0;
/// How many ports the device takes.
pub const PORTS: u64 = 8;

const COMMAND: u64 = 0;
const DATA: u64 = 4;
const SIGNATURE: [u8; 2] = *b"SK";

const CMD_INIT_STARTED: u8 = 0x01;
const CMD_PROGRAM_STARTED: u8 = 0x02;
const CMD_EXIT_STATUS: u8 = 0x03;
const CMD_END: u8 = 0x04;

/// What the guest's init reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// Init runs. Comes twice where a disk's own init follows that of the initramfs.
    InitStarted,
    /// The shell or the command is about to be executed.
    ProgramStarted,
    /// The command ended with this status, 128 + n for signal n.
    Exited(u32),
    /// Disks are written and unmounted: nothing is lost if the machine stops now.
    Ended,
}

/// Who wants to know.
///
/// Called on a vCPU's thread, without any device's lock held. The guest decides how often.
pub trait GuestEvents: Send + Sync {
    /// The guest reports `event`.
    fn event(&self, event: GuestEvent);
}

/// The ports.
pub struct StatusPort {
    sink: Arc<dyn GuestEvents>,
    argument: Mutex<[u8; 4]>,
}

impl StatusPort {
    /// Ports that report to `sink`.
    pub fn new(sink: Arc<dyn GuestEvents>) -> Self {
        Self { sink, argument: Mutex::new([0; 4]) }
    }

    fn command(&self, command: u8) {
        let event = match command {
            CMD_INIT_STARTED => GuestEvent::InitStarted,
            CMD_PROGRAM_STARTED => GuestEvent::ProgramStarted,
            CMD_EXIT_STATUS => GuestEvent::Exited(self.argument()),
            CMD_END => GuestEvent::Ended,
            _ => return,
        };
        self.sink.event(event);
    }

    fn argument(&self) -> u32 {
        u32::from_le_bytes(*self.argument.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_argument(&self, start: usize, data: &[u8]) {
        let mut argument = self.argument.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = argument.get_mut(start..start + data.len()) {
            bytes.copy_from_slice(data);
        }
    }
}

impl Device for StatusPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let (0 | 1, [byte]) = (offset, data) {
            *byte = SIGNATURE[offset as usize];
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (COMMAND, &[command]) => self.command(command),
            (DATA..PORTS, data) => self.write_argument((offset - DATA) as usize, data),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<GuestEvent>>);

    impl GuestEvents for Log {
        fn event(&self, event: GuestEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn check(writes: &[(u64, &[u8])], expected: &[GuestEvent]) {
        let log = Arc::new(Log::default());
        let port = StatusPort::new(log.clone());
        for (offset, data) in writes {
            port.write(*offset, data);
        }
        assert_eq!(*log.0.lock().unwrap(), expected, "{writes:?}");
    }

    #[test]
    fn commands_become_events() {
        check(&[(0, &[1])], &[GuestEvent::InitStarted]);
        check(&[(0, &[2])], &[GuestEvent::ProgramStarted]);
        check(&[(0, &[4])], &[GuestEvent::Ended]);
        check(&[(0, &[3])], &[GuestEvent::Exited(0)]);
        check(&[(4, &[130, 1, 0, 0]), (0, &[3])], &[GuestEvent::Exited(386)]);
        check(&[(4, &[7]), (7, &[0x80]), (0, &[3])], &[GuestEvent::Exited(0x8000_0007)]);
        check(&[(6, &[1, 2]), (0, &[3])], &[GuestEvent::Exited(0x0201_0000)]);
    }

    #[test]
    fn anything_else_is_ignored() {
        check(&[(0, &[0]), (0, &[5]), (0, &[1, 0]), (1, &[1]), (0, &[])], &[]);
        check(&[(7, &[1, 2]), (5, &[1; 8]), (0, &[3])], &[GuestEvent::Exited(0)]);
    }

    #[test]
    fn reads_the_signature_or_all_ones() {
        let port = StatusPort::new(Arc::new(Log::default()));
        for (offset, expected) in [(0, b'S'), (1, b'K'), (2, 0xFF), (4, 0xFF), (7, 0xFF)] {
            let mut data = [0];
            port.read(offset, &mut data);
            assert_eq!(data[0], expected, "{offset}");
        }
        let mut word = [0; 2];
        port.read(0, &mut word);
        assert_eq!(word, [0xFF; 2]);
    }
}
