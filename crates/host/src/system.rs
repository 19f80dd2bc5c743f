//! Facts about the host and this process: memory, clocks, descriptors.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The host's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// All that there is: `MemTotal`, or the limit of this process's cgroup if that is less.
    pub total: u64,
    /// What could be used without swapping: `MemAvailable`.
    pub available: u64,
}

/// How much memory the host has, from `/proc/meminfo`. `None` if it does not say.
pub fn host_memory() -> Option<HostMemory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let found = HostMemory {
        total: meminfo_field(&text, "MemTotal:")?,
        available: meminfo_field(&text, "MemAvailable:")?,
    };
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|limit| limit.trim().parse().ok())
        .unwrap_or(u64::MAX);
    Some(HostMemory { total: found.total.min(limit), available: found.available.min(limit) })
}

fn meminfo_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Time that passed since the host started, by the monotonic clock.
pub fn monotonic() -> Duration {
    clock(ClockId::Monotonic)
}

/// CPU time that all threads of this process used.
pub fn process_cpu_time() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// Time since 1970-01-01 00:00 UTC.
pub fn unix_time() -> Duration {
    clock(ClockId::Realtime)
}

fn clock(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Seconds to add to UTC to get the local time, now.
pub fn local_time_offset() -> i64 {
    let now = i64::try_from(unix_time().as_secs()).unwrap_or(0);
    // SAFETY: an all-zero `tm` is a valid value, and both pointers are to live locals.
    unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut local).is_null() { 0 } else { local.tm_gmtoff }
    }
}

/// When this process was started, by the clock of [`monotonic`] and as exactly as the kernel keeps
/// it: `/proc/self/stat` counts in ticks of 10 ms.
pub fn process_start() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold spaces; the last ')' ends it. The start time
    // is the 22nd field (proc(5)), so the 20th after it.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_nanos(ticks.checked_mul(1_000_000_000 / per_second)?))
}

/// Lets this process have `wanted` descriptors, or as many as its hard limit allows; a soft limit
/// that is higher stays. Returns the limit that holds now.
pub fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Without a value there is no limit.
    let current = current.unwrap_or(u64::MAX);
    let raised = wanted.min(maximum.unwrap_or(u64::MAX));
    if raised <= current {
        return Ok(current);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum })?;
    Ok(raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_rises_and_never_falls() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let before = raise_descriptor_limit(0).unwrap();
        for (wanted, expected) in [(before, before), (1, before), (u64::MAX, hard), (1, hard)] {
            assert_eq!(raise_descriptor_limit(wanted).unwrap(), expected, "{wanted}");
            assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), expected);
        }
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       24684124 kB\nMemFree:  22 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(meminfo_field(text, "MemTotal:"), Some(24_684_124 * 1024));
        assert_eq!(meminfo_field(text, "MemAvailable:"), Some(1 << 20));
        assert_eq!(meminfo_field(text, "SwapTotal:"), None);
        assert_eq!(meminfo_field("MemTotal: x kB", "MemTotal:"), None);
    }

    #[test]
    fn this_process_started_before_now() {
        let start = process_start().unwrap();
        assert!(start <= monotonic());
        assert!(host_memory().unwrap().total > 0);
    }
}
