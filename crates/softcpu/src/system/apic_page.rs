//! The local APIC's registers as the page that [`vcpu::CpuState::lapic`] carries: 32-bit registers
//! at multiples of 16 (SDM Vol. 3A, table 11-1), the same on both back ends.

use irqchip::{ApicMode, Bitmap256, LocalApic};

use crate::cpu::Cpu;
use crate::vm::apic_config;

/// Bytes in the page.
pub type Page = [u8; 1024];

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const LOGICAL_ID: usize = 0xD0;
const DESTINATION_FORMAT: usize = 0xE0;
const SPURIOUS: usize = 0xF0;
const IN_SERVICE: usize = 0x100;
const TRIGGER_MODE: usize = 0x180;
const REQUEST: usize = 0x200;
const ERROR_STATUS: usize = 0x280;
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
/// Timer, thermal, performance, LINT0, LINT1, error.
const LVT: [usize; 6] = [0x320, 0x330, 0x340, 0x350, 0x360, 0x370];
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE_CONFIG: usize = 0x3E0;

/// In xAPIC mode the id stands in the register's top byte.
const XAPIC_ID_SHIFT: u32 = 24;

impl Cpu {
    /// The registers now.
    pub fn save_apic(&mut self) -> Box<Page> {
        self.port.lapic.drain(&self.port.inbox);
        let now = self.shared.clock.now_ns();
        let current = self.port.lapic.read(CURRENT_COUNT as u16, now);
        let state = self.port.lapic.state();
        let mut page = Box::new([0; 1024]);
        let id_shift = if state.mode == ApicMode::X2Apic { 0 } else { XAPIC_ID_SHIFT };
        put(&mut page, ID, state.id << id_shift);
        put(&mut page, 0x30, 0x0005_0014);
        put(&mut page, TASK_PRIORITY, u32::from(state.task_priority));
        put(&mut page, LOGICAL_ID, u32::from(state.logical_id) << 24);
        put(&mut page, DESTINATION_FORMAT, u32::from(state.destination_format) << 28 | 0x0FFF_FFFF);
        put(&mut page, SPURIOUS, state.spurious);
        put_bitmap(&mut page, IN_SERVICE, &state.in_service);
        put_bitmap(&mut page, TRIGGER_MODE, &state.trigger_mode);
        put_bitmap(&mut page, REQUEST, &state.request);
        put(&mut page, ERROR_STATUS, state.error_status);
        put(&mut page, ICR_LOW, state.icr as u32);
        put(&mut page, ICR_HIGH, (state.icr >> 32) as u32);
        for (offset, value) in LVT.into_iter().zip(state.lvt) {
            put(&mut page, offset, value);
        }
        put(&mut page, INITIAL_COUNT, state.timer.initial_count);
        put(&mut page, CURRENT_COUNT, current);
        put(&mut page, DIVIDE_CONFIG, state.timer.divide_config);
        page
    }

    /// Takes the registers over. The mode is that of IA32_APIC_BASE, which is restored before; a
    /// TSC deadline is restored behind, with the other MSRs.
    pub fn restore_apic(&mut self, page: &Page) {
        let mut state = self.port.lapic.state().clone();
        let id_shift = if state.mode == ApicMode::X2Apic { 0 } else { XAPIC_ID_SHIFT };
        state.id = get(page, ID) >> id_shift;
        state.task_priority = get(page, TASK_PRIORITY) as u8;
        state.logical_id = (get(page, LOGICAL_ID) >> 24) as u8;
        state.destination_format = (get(page, DESTINATION_FORMAT) >> 28) as u8;
        state.spurious = get(page, SPURIOUS);
        state.in_service = get_bitmap(page, IN_SERVICE);
        state.trigger_mode = get_bitmap(page, TRIGGER_MODE);
        state.request = get_bitmap(page, REQUEST);
        state.error_status = get(page, ERROR_STATUS);
        state.icr = u64::from(get(page, ICR_HIGH)) << 32 | u64::from(get(page, ICR_LOW));
        for (value, offset) in state.lvt.iter_mut().zip(LVT) {
            *value = get(page, offset);
        }
        state.timer = Default::default();
        self.port.lapic = LocalApic::from_state(apic_config(u32::from(self.id)), state);
        let now = self.shared.clock.now_ns();
        for offset in [DIVIDE_CONFIG, INITIAL_COUNT] {
            // Neither register sends or ends anything.
            let _ = self.port.lapic.write(offset as u16, get(page, offset), now);
        }
        self.port.inbox.publish_routing(self.port.lapic.routing());
    }
}

fn put(page: &mut Page, offset: usize, value: u32) {
    page[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

fn get(page: &Page, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&page[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

fn put_bitmap(page: &mut Page, offset: usize, bitmap: &Bitmap256) {
    for i in 0..8 {
        put(page, offset + 16 * i, (bitmap.0[i / 2] >> (32 * (i % 2))) as u32);
    }
}

fn get_bitmap(page: &Page, offset: usize) -> Bitmap256 {
    let half = |i: usize| u64::from(get(page, offset + 16 * i));
    Bitmap256(std::array::from_fn(|i| half(2 * i) | half(2 * i + 1) << 32))
}
