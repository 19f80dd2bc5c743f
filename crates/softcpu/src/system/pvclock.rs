//! KVM's paravirtual clock, by which Linux guests read the time without leaving user mode.
//!
//! The guest hands over the address of a structure for each vCPU, which says how to turn the TSC
//! into nanoseconds. As the TSC counts nanoseconds, that is the identity, and the structure is
//! written once and after the TSC was moved. The wall clock structure holds the time of day at
//! which the machine's clock was zero. Layouts are those of Linux's `pvclock-abi.h`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cpu::{Cpu, Step};

const ENABLE: u64 = 1;
const WALL_CLOCK_BYTES: u64 = 12;
const SYSTEM_TIME_BYTES: u64 = 32;
/// Nanoseconds = (ticks << 1) * 2^31 / 2^32.
const MULTIPLIER: u32 = 0x8000_0000;
const SHIFT: u8 = 1;
const TSC_STABLE: u8 = 1 << 0;

impl Cpu {
    /// Writes the wall clock structure at guest address `address`. #GP(0) if it crosses a page.
    pub fn set_kvm_wall_clock(&mut self, address: u64) -> Step {
        self.accept(fits(address, WALL_CLOCK_BYTES))?;
        self.msrs.kvm_wall_clock = address;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let boot = now.saturating_sub(Duration::from_nanos(self.shared.clock.now_ns()));
        let mut body = [0; 8];
        body[..4].copy_from_slice(&(boot.as_secs() as u32).to_le_bytes());
        body[4..].copy_from_slice(&boot.subsec_nanos().to_le_bytes());
        self.write_versioned(address, &body);
        Ok(())
    }

    /// Takes the address of this vCPU's clock structure; bit 0 enables it. #GP(0) if the structure
    /// crosses a page.
    pub fn set_kvm_system_time(&mut self, value: u64) -> Step {
        self.accept(value & ENABLE == 0 || fits(value & !ENABLE, SYSTEM_TIME_BYTES))?;
        self.msrs.kvm_system_time = value;
        self.refresh_kvm_clock();
        Ok(())
    }

    /// Writes the clock structure anew, if the guest has one: after the TSC or the machine's clock
    /// was moved.
    pub fn refresh_kvm_clock(&mut self) {
        let value = self.msrs.kvm_system_time;
        let address = value & !ENABLE;
        if value & ENABLE == 0 || !fits(address, SYSTEM_TIME_BYTES) {
            return;
        }
        let now_ns = self.shared.clock.now_ns();
        let tsc = now_ns.wrapping_add(self.msrs.tsc_offset);
        self.write_versioned(address, &system_time(tsc, now_ns));
    }

    /// Writes a structure whose first word is a version: odd while the rest changes.
    fn write_versioned(&mut self, address: u64, body: &[u8]) {
        let mut word = [0; 4];
        self.read_physical(address, &mut word);
        let writing = u32::from_le_bytes(word).wrapping_add(1) | 1;
        self.write_physical(address, &writing.to_le_bytes());
        self.write_physical(address + 4, body);
        self.write_physical(address, &writing.wrapping_add(1).to_le_bytes());
    }
}

/// `pvclock_vcpu_time_info` behind its version.
fn system_time(tsc: u64, now_ns: u64) -> [u8; 28] {
    let mut body = [0; 28];
    body[4..12].copy_from_slice(&tsc.to_le_bytes());
    body[12..20].copy_from_slice(&now_ns.to_le_bytes());
    body[20..24].copy_from_slice(&MULTIPLIER.to_le_bytes());
    body[24] = SHIFT;
    body[25] = TSC_STABLE;
    body
}

/// Whether a structure lies inside one page, on a boundary of 4 bytes.
fn fits(address: u64, bytes: u64) -> bool {
    let physical = address >> crate::paging::PHYSICAL_BITS == 0;
    physical && address & 3 == 0 && (address & 0xFFF) + bytes <= 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_stay_inside_a_page() {
        let check = |address, bytes, expected| assert_eq!(fits(address, bytes), expected);
        check(0x1000, 32, true);
        check(0x1FE0, 32, true);
        check(0x1FE4, 32, false);
        check(0x1002, 12, false);
        check(1 << 46, 12, false);
    }

    #[test]
    fn the_guest_computes_the_clock() {
        let body = system_time(5_000, 7_000);
        let word = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
        let (mul, shift) = (u128::from(word(20) as u32), body[24]);
        let tsc = 5_000u64 + 123_456_789;
        let delta = u128::from(tsc - word(4)) << shift;
        assert_eq!(word(12) + ((delta * mul) >> 32) as u64, 7_000 + 123_456_789);
        let khz = ((1_000_000u64 << 32) / mul as u64) >> shift;
        assert_eq!(khz, 1_000_000);
    }
}
