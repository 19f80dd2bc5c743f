//! The host port: eight I/O ports by which init tells the host how far it is.
//!
//! It needs no driver, no interrupt and no device tree entry, so it works from
//! the first instruction of init under every kernel that allows port access to
//! root. The host side implements the same table:
//!
//! | port | width | direction | meaning |
//! | --- | --- | --- | --- |
//! | [`COMMAND`] (0x5C0) | 1 byte | write | a command, one of the `CMD_` constants |
//! | [`COMMAND`], + 1 | 1 byte | read | `'S'`, `'K'`: a sparkler host is here |
//! | [`DATA`] (0x5C4 to 0x5C7) | 1 to 4 bytes | write | the argument, little-endian, kept until written again |
//!
//! A command that has an argument is written after the argument. Everything
//! else, in either direction, is ignored and reads as all ones. A host without
//! the device therefore reads as 0xFF, and init then stays silent.
//!
//! | command | argument | meaning |
//! | --- | --- | --- |
//! | [`CMD_INIT_STARTED`] | none | init runs; may come twice when a disk's own init follows |
//! | [`CMD_PROGRAM_STARTED`] | none | the shell or the command is about to be executed |
//! | [`CMD_EXIT_STATUS`] | exit status | the command ended with this status, 128 + n for signal n |
//! | [`CMD_END`] | none | disks are written and unmounted: the host may stop the machine now |

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::sys;

/// First of the ports: commands are written here, the signature is read here.
pub const COMMAND: u16 = 0x5C0;
/// First of the four ports that hold a command's argument.
pub const DATA: u16 = 0x5C4;
/// How many ports the device takes, from [`COMMAND`] on.
pub const PORTS: u16 = 8;
/// What the first two ports read as on a sparkler host.
pub const SIGNATURE: [u8; 2] = *b"SK";

/// Init runs.
pub const CMD_INIT_STARTED: u8 = 0x01;
/// The shell or the command is about to be executed.
pub const CMD_PROGRAM_STARTED: u8 = 0x02;
/// The command has ended; its status is in [`DATA`].
pub const CMD_EXIT_STATUS: u8 = 0x03;
/// Disks are unmounted; nothing is lost if the machine stops here.
pub const CMD_END: u8 = 0x04;

/// Writes one command, with its argument if it has any. Silent where no
/// sparkler host answers or the kernel gives no access to ports.
pub fn send(command: u8, argument: Option<u32>) {
    let Some(access) = Access::open() else { return };
    if [access.read(COMMAND), access.read(COMMAND + 1)] == SIGNATURE {
        for (port, byte) in (DATA..).zip(argument.map(u32::to_le_bytes).into_iter().flatten()) {
            access.write(port, byte);
        }
        access.write(COMMAND, command);
    }
    access.close();
}

/// The two ways to a port: instructions, or /dev/port.
enum Access {
    Instructions,
    Device(File),
}

impl Access {
    fn open() -> Option<Self> {
        if sys::allow_ports(COMMAND, PORTS, true) {
            return Some(Access::Instructions);
        }
        let device = OpenOptions::new().read(true).write(true).open("/dev/port").ok()?;
        Some(Access::Device(device))
    }

    fn read(&self, port: u16) -> u8 {
        match self {
            Access::Instructions => sys::read_port(port),
            Access::Device(file) => {
                let mut byte = [0xFF];
                // A failed read leaves 0xFF, which is "nobody there".
                let _ = file.read_at(&mut byte, u64::from(port));
                byte[0]
            }
        }
    }

    fn write(&self, port: u16, byte: u8) {
        match self {
            Access::Instructions => sys::write_port(port, byte),
            Access::Device(file) => {
                let _ = file.write_at(&[byte], u64::from(port));
            }
        }
    }

    /// Gives the permission back, so that the guest's programs do not inherit it.
    fn close(self) {
        if matches!(self, Access::Instructions) {
            sys::allow_ports(COMMAND, PORTS, false);
        }
    }
}
