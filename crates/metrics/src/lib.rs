//! What a machine counts about itself, under the names of Firecracker's metrics.
//!
//! A module for each device: a struct of [`Counter`]s that the device shares with whoever writes
//! the metrics. Serialising a struct gives what happened since it was serialised the last time,
//! as in Firecracker; a [`Gauge`] gives what it holds.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

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
