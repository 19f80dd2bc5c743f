//! Conversion between nanoseconds and the ticks of a clock, without overflow
//! and without accumulating error: always from one origin, never step by step.

const NS_PER_S: u128 = 1_000_000_000;

/// How many whole ticks of a `hz` clock fit into `ns`.
pub(crate) fn ticks_in_ns(ns: u64, hz: u64) -> u64 {
    saturate(u128::from(ns) * u128::from(hz) / NS_PER_S)
}

/// The first nanosecond at which `ticks` ticks of a `hz` clock have passed, so
/// that `ticks_in_ns(ns_of_ticks(t, hz), hz) >= t`.
pub(crate) fn ns_of_ticks(ticks: u64, hz: u64) -> u64 {
    saturate((u128::from(ticks) * NS_PER_S).div_ceil(u128::from(hz.max(1))))
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
