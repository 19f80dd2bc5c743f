//! Ports and memory-mapped registers: first the back end's own interrupt controllers and timers,
//! then the machine's devices.

use irqchip::{
    APIC_BASE_ADDRESS, ApicAction, Clock as ChipClock, IOAPIC_BASE_ADDRESS, IRQCHIP_PORTS,
};

use crate::cpu::{Cpu, Step};
use crate::vm::Clock;

const WINDOW: u64 = 4096;

impl Cpu {
    /// Reads `bytes` (1, 2 or 4) bytes from `port`.
    pub fn port_in(&mut self, port: u16, bytes: usize) -> u64 {
        let mut data = [0; 8];
        if is_chip_port(port) {
            self.chip_in(port, &mut data[..bytes]);
        } else {
            self.port.io.ports.read(u64::from(port), &mut data[..bytes]);
        }
        self.look_up_soon();
        u64::from_le_bytes(data)
    }

    /// Writes the low `bytes` (1, 2 or 4) bytes of `value` to `port`.
    pub fn port_out(&mut self, port: u16, value: u64, bytes: usize) {
        let data = value.to_le_bytes();
        if is_chip_port(port) {
            self.chip_out(port, &data[..bytes]);
        } else {
            self.port.io.ports.write(u64::from(port), &data[..bytes]);
        }
        self.look_up_soon();
    }

    fn chip_clock(&self) -> ChipClock {
        ChipClock { now_ns: self.shared.clock.now_ns(), unix_s: Clock::unix_s() }
    }

    fn chip_in(&mut self, port: u16, data: &mut [u8]) {
        let clock = self.chip_clock();
        let shared = &*self.shared;
        let mut chip = shared.chip();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = chip.read_port(port.wrapping_add(i as u16), clock, &shared).unwrap_or(0xFF);
        }
        shared.update_pit_deadline(&chip);
    }

    fn chip_out(&mut self, port: u16, data: &[u8]) {
        let clock = self.chip_clock();
        let shared = &*self.shared;
        let mut chip = shared.chip();
        for (i, byte) in data.iter().enumerate() {
            chip.write_port(port.wrapping_add(i as u16), *byte, clock, &shared);
        }
        shared.update_pit_deadline(&chip);
    }

    /// Reads a physical address that is not RAM.
    pub fn mmio_read(&mut self, physical: u64, data: &mut [u8]) {
        let now = self.shared.clock.now_ns();
        match window(physical) {
            Window::LocalApic(offset) => {
                let value = self.port.lapic.read(offset & !3, now);
                copy_register(value, offset, data);
            }
            Window::IoApic(offset) => {
                let value = self.shared.chip().read_ioapic(offset & !3);
                copy_register(value, offset, data);
            }
            Window::Device => self.port.io.mmio.read(physical, data),
        }
        self.look_up_soon();
    }

    /// Writes a physical address that is not RAM.
    pub fn mmio_write(&mut self, physical: u64, data: &[u8]) {
        let mut word = [0; 4];
        let len = data.len().min(4);
        word[..len].copy_from_slice(&data[..len]);
        let value = u32::from_le_bytes(word);
        match window(physical) {
            Window::LocalApic(offset) => {
                let now = self.shared.clock.now_ns();
                let action = self.port.lapic.write(offset & !3, value, now);
                self.act(action);
            }
            Window::IoApic(offset) => {
                let shared = &*self.shared;
                shared.chip().write_ioapic(offset & !3, value, &shared);
            }
            Window::Device => self.port.io.mmio.write(physical, data),
        }
        self.look_up_soon();
    }

    /// Does what a write to the local APIC asks for.
    pub fn act(&mut self, action: ApicAction) {
        match action {
            ApicAction::None | ApicAction::TimerChanged => {}
            ApicAction::SendIpi(ipi) => self.shared.send_ipi(self.id, &ipi),
            ApicAction::Eoi { vector, level_triggered } => {
                if level_triggered {
                    let shared = &*self.shared;
                    shared.chip().end_of_interrupt(vector, &shared);
                }
            }
            ApicAction::RoutingChanged => {
                self.port.inbox.publish_routing(self.port.lapic.routing());
            }
        }
        self.look_up_soon();
    }

    /// Reads a local APIC register by its x2APIC MSR.
    pub fn apic_read_msr(&mut self, index: u32) -> Result<u64, crate::cpu::Trap> {
        let now = self.shared.clock.now_ns();
        self.port.lapic.read_msr(index, now).map_err(|_| self.gp0())
    }

    /// Writes a local APIC register by its x2APIC MSR.
    pub fn apic_write_msr(&mut self, index: u32, value: u64) -> Step {
        let now = self.shared.clock.now_ns();
        let action = self.port.lapic.write_msr(index, value, now).map_err(|_| self.gp0())?;
        self.act(action);
        Ok(())
    }

    /// IA32_APIC_BASE.
    pub fn apic_base(&self) -> u64 {
        self.port.lapic.base_msr()
    }

    /// Writes IA32_APIC_BASE.
    pub fn set_apic_base(&mut self, value: u64) -> Step {
        let action = self.port.lapic.set_base_msr(value).map_err(|_| self.gp0())?;
        self.act(action);
        Ok(())
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&self) -> u64 {
        self.port.lapic.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE. The guest's TSC is the VM clock plus its own offset.
    pub fn set_tsc_deadline(&mut self, tsc: u64) {
        let offset = self.tsc().wrapping_sub(self.shared.clock.now_ns());
        let action = self.port.lapic.set_tsc_deadline_at(tsc, tsc.wrapping_sub(offset));
        self.act(action);
    }

    /// CR8.
    pub fn cr8(&self) -> u8 {
        self.port.lapic.cr8()
    }

    /// Writes CR8.
    pub fn set_cr8(&mut self, class: u8) {
        self.port.lapic.set_cr8(class);
        self.look_up_soon();
    }
}

enum Window {
    LocalApic(u16),
    IoApic(u16),
    Device,
}

fn window(physical: u64) -> Window {
    match physical & !(WINDOW - 1) {
        page if page == APIC_BASE_ADDRESS => Window::LocalApic((physical % WINDOW) as u16),
        page if page == IOAPIC_BASE_ADDRESS => Window::IoApic((physical % WINDOW) as u16),
        _ => Window::Device,
    }
}

fn copy_register(value: u32, offset: u16, data: &mut [u8]) {
    let bytes = value.to_le_bytes();
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = bytes.get(usize::from(offset & 3) + i).copied().unwrap_or(0);
    }
}

fn is_chip_port(port: u16) -> bool {
    IRQCHIP_PORTS.iter().any(|range| port.wrapping_sub(range.base) < range.len)
}
