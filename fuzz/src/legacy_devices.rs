//! Port accesses of any offset and width to the devices of the PC, with input from outside at any
//! time.

use std::io;
use std::sync::Arc;

use bus::Device;
use devices::PowerSink;
use devices::acpi_power::AcpiPower;
use devices::boot_timer::BootTimer;
use devices::debug::PostCode;
use devices::i8042::{I8042, OUTPUT_MAX};
use devices::serial::{INPUT_FIFO, Serial};
use devices::status_port::{GuestEvent, GuestEvents, StatusPort};
use virtio::mock::CountingLine;

use crate::source::Source;

/// Feeds the accesses that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let line = Arc::new(CountingLine::default());
    let nobody = Arc::new(Nobody);
    let serial = Serial::new(line.clone(), Box::new(io::sink()), || ());
    let keyboard = I8042::new(line, nobody.clone());
    let power = AcpiPower::new(nobody.clone());
    let status = StatusPort::new(nobody);
    let (post, timer) = (PostCode::default(), BootTimer::new(|| ()));
    while !source.is_empty() {
        let choice = source.u8();
        let device: &dyn Device = match choice % 8 {
            0 | 1 => &serial,
            2 => &keyboard,
            3 => &power,
            4 => &status,
            5 => &post,
            6 => &timer,
            _ => {
                outside(&serial, &keyboard, &mut source);
                continue;
            }
        };
        let offset = u64::from(source.u8() % 10);
        let len = 1 << (choice >> 3 & 3);
        if choice & 0x80 == 0 {
            device.read(offset, &mut [0; 8][..len]);
        } else {
            device.write(offset, source.bytes(len));
        }
    }
    assert!(serial.state().received.len() <= INPUT_FIFO);
    assert!(keyboard.state().output.len() <= OUTPUT_MAX);
}

fn outside(serial: &Serial, keyboard: &I8042, source: &mut Source<'_>) {
    match source.u8() % 3 {
        0 => {
            let len = usize::from(source.u8());
            serial.input(source.bytes(len));
        }
        1 => serial.flush(),
        // Refused where the guest does not take keys.
        _ => drop(keyboard.ctrl_alt_del()),
    }
}

/// Takes all that devices report.
struct Nobody;

impl PowerSink for Nobody {
    fn reset(&self) {}
    fn power_off(&self) {}
}

impl GuestEvents for Nobody {
    fn event(&self, _event: GuestEvent) {}
}
