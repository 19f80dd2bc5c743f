//! The power registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7, and 4.8.3.6 for the reset
//! register).
//!
//! The machine's FADT names them: SLEEP_CONTROL_REG and SLEEP_STATUS_REG as byte-wide registers at
//! [`SLEEP_CONTROL`] and [`SLEEP_STATUS`] from this device's base, RESET_REG at [`RESET`] with
//! [`RESET_VALUE`]; its DSDT gives `\_S5` the sleep type [`S5_SLEEP_TYPE`]. Only S5 exists: other
//! sleep types are ignored.

use std::sync::Arc;

use bus::Device;

use crate::PowerSink;

/// Bytes of address space that the device takes.
pub const WINDOW: u64 = 4;
/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u64 = 0;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u64 = 1;
/// Offset of the reset register.
pub const RESET: u64 = 2;
/// What the guest writes to the reset register.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of the state "soft off".
pub const S5_SLEEP_TYPE: u8 = 5;

/// SLP_EN: enter the sleep state now.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;

/// The register pair for sleep, and the one for reset. Holds nothing: all of them read as zero,
/// which for the status register means "never woken".
pub struct AcpiPower {
    sink: Arc<dyn PowerSink>,
}

impl AcpiPower {
    /// Registers that report to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self { sink }
    }
}

impl Device for AcpiPower {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SLEEP_CONTROL, &[value]) if asks_for_s5(value) => self.sink.power_off(),
            (RESET, &[RESET_VALUE]) => self.sink.reset(),
            _ => {}
        }
    }
}

fn asks_for_s5(control: u8) -> bool {
    control & SLEEP_ENABLE != 0 && control >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == S5_SLEEP_TYPE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::i8042::tests::PowerLog;

    #[test]
    fn only_s5_and_the_reset_value_do_something() {
        for (offset, data, expected) in [
            (SLEEP_CONTROL, &[0b11_0100][..], "off"),
            (SLEEP_CONTROL, &[0b01_0100], ""),
            (SLEEP_CONTROL, &[0b11_0000], ""),
            (SLEEP_CONTROL, &[0b11_0100, 0], ""),
            (SLEEP_STATUS, &[0b11_0100], ""),
            (RESET, &[1], "reset"),
            (RESET, &[0], ""),
            (3, &[1], ""),
        ] {
            let log = Arc::new(PowerLog::default());
            AcpiPower::new(log.clone()).write(offset, data);
            assert_eq!(log.take(), expected, "{offset} {data:?}");
        }
    }

    #[test]
    fn reads_as_zero() {
        let mut data = [0xFF];
        AcpiPower::new(Arc::new(PowerLog::default())).read(SLEEP_STATUS, &mut data);
        assert_eq!(data, [0]);
    }
}
