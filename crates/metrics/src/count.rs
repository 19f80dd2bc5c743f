//! The three kinds of numbers that metrics are made of, and groups of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A number of events. Serialising it gives those since the last time.
#[derive(Debug, Default)]
pub struct Counter {
    count: AtomicU64,
    told: AtomicU64,
}

impl Counter {
    /// A counter at zero.
    pub const fn new() -> Self {
        Self { count: AtomicU64::new(0), told: AtomicU64::new(0) }
    }

    /// One more event.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, events: u64) {
        self.count.fetch_add(events, Ordering::Relaxed);
    }

    /// All events since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The events since the last call.
    pub fn take(&self) -> u64 {
        let count = self.count();
        count.wrapping_sub(self.told.swap(count, Ordering::Relaxed))
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.take())
    }
}

/// A number that is set. Serialising it gives what it holds.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// A gauge at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Sets it to a time, in microseconds.
    pub fn set_us(&self, time: Duration) {
        self.set(micros(time));
    }

    /// What it holds.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Gauge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

/// How long operations of one kind took, in microseconds.
#[derive(Debug, Default, Serialize)]
pub struct Latency {
    /// The shortest since the start; 0 until there was one.
    pub min_us: Gauge,
    /// The longest since the start.
    pub max_us: Gauge,
    /// All of them together, since it was serialised the last time.
    pub sum_us: Counter,
}

impl Latency {
    /// One operation took so long.
    pub fn record(&self, time: Duration) {
        let us = micros(time);
        // Most operations are neither the longest nor the shortest: those cost no more than looks.
        if us > 0 {
            self.sum_us.add(us);
        }
        if us > self.max_us.get() {
            self.max_us.0.fetch_max(us, Ordering::Relaxed);
        }
        let shorter = |min| (min == 0 || us < min).then_some(us);
        if shorter(self.min_us.get()).is_some() {
            // Refused when another was shorter meanwhile: then there is nothing to do.
            let _ = self.min_us.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What can be told for one device, and summed over devices.
pub(crate) trait Tell {
    /// Moves what was not told yet to `one`, and adds it to `sum`.
    fn tell(&self, one: &Self, sum: &Self);
}

impl Tell for Counter {
    fn tell(&self, one: &Self, sum: &Self) {
        let events = self.take();
        one.add(events);
        sum.add(events);
    }
}

/// A sum has no gauges: they stay 0, as in Firecracker.
impl Tell for Gauge {
    fn tell(&self, one: &Self, _sum: &Self) {
        one.set(self.get());
    }
}

impl Tell for Latency {
    fn tell(&self, one: &Self, sum: &Self) {
        self.min_us.tell(&one.min_us, &sum.min_us);
        self.max_us.tell(&one.max_us, &sum.max_us);
        self.sum_us.tell(&one.sum_us, &sum.sum_us);
    }
}

/// Declares structs of counters: one JSON object each, with the fields' names as its keys, in the
/// order in which they stand.
macro_rules! group {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, serde::Serialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)+
        }

        impl $crate::count::Tell for $name {
            fn tell(&self, one: &Self, sum: &Self) {
                $($crate::count::Tell::tell(&self.$field, &one.$field, &sum.$field);)+
            }
        }
    )+};
}
pub(crate) use group;
