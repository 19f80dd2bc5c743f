//! Making devices and putting them on the buses.

use std::sync::Arc;
use std::time::Instant;

use boot::SleepRegisters;
use bus::IoSpace;
use devices::acpi_power::{self, AcpiPower};
use devices::boot_timer::{self, BootTimer};
use devices::debug::{self, PostCode};
use devices::i8042::{self, I8042};
use devices::serial::{self, Serial};
use devices::status_port::{self, StatusPort};
use spec::VmSpec;

use crate::counted::{counted_io, counted_line};
use crate::map::{ACPI_POWER_PORT, BOOT_TIMER};
use crate::virtio_slots::{self, BackEnds, VirtioSlot};
use crate::{Error, Parts};

/// The devices of a machine.
pub(crate) struct Attached {
    pub io: IoSpace,
    pub serial: Arc<Serial>,
    pub i8042: Arc<I8042>,
    pub virtio: Vec<VirtioSlot>,
}

/// Where the ACPI tables say that the sleep registers are.
pub(crate) const SLEEP: SleepRegisters = SleepRegisters {
    control_port: ACPI_POWER_PORT + acpi_power::SLEEP_CONTROL as u16,
    status_port: ACPI_POWER_PORT + acpi_power::SLEEP_STATUS as u16,
    off_type: acpi_power::S5_SLEEP_TYPE,
};

/// Makes all devices that `spec` asks for, and those that every machine has.
pub(crate) fn attach(spec: &VmSpec, mut parts: Parts) -> Result<Attached, Error> {
    let mut io = IoSpace::default();
    let back_ends = BackEnds::take(spec, &mut parts)?;
    let (memory, vm) = (&parts.memory, parts.vm.as_ref());
    let virtio = virtio_slots::attach(spec, memory, vm, &mut io, back_ends)?;

    let line = |gsi| vm.irq_line(gsi).map(|line| counted_line(line, &parts.metrics.interrupts));
    let mut serial = Serial::new(line(serial::COM1_IRQ)?, parts.serial_output, parts.serial_room)
        .counted(parts.metrics.uart.clone());
    if let Some(bucket) = spec.serial.rate_limiter {
        let start = Instant::now();
        serial = serial.limited(bucket, move || start.elapsed());
    }
    let serial = Arc::new(serial);
    let i8042 = I8042::new(line(boot::layout::I8042_GSI)?, parts.power.clone())
        .counted(parts.metrics.i8042.clone());
    let i8042 = Arc::new(i8042);
    let power = Arc::new(AcpiPower::new(parts.power));
    io.ports.insert(serial::COM1_PORT, serial::PORTS, serial.clone())?;
    io.ports.insert(i8042::PORT, i8042::PORTS, i8042.clone())?;
    io.ports.insert(ACPI_POWER_PORT.into(), acpi_power::WINDOW, power)?;
    io.ports.insert(debug::PORT, 1, Arc::new(PostCode::default()))?;
    if let Some(events) = parts.guest_events {
        let port = Arc::new(StatusPort::new(events));
        io.ports.insert(status_port::PORT, status_port::PORTS, port)?;
    }
    if spec.boot_timer {
        let timer = Arc::new(BootTimer::new(parts.booted.unwrap_or_else(|| Box::new(|| ()))));
        io.mmio.insert(BOOT_TIMER, boot_timer::WINDOW, timer)?;
    }
    let io = counted_io(io, &parts.metrics.vcpu)?;
    Ok(Attached { io, serial, i8042, virtio })
}
