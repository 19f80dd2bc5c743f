//! All metrics of a machine, and the line that tells them.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, TryLockError};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::count::Tell;
use crate::{
    ApiServerMetrics, BalloonMetrics, BlockMetrics, DeprecatedApiMetrics, EntropyMetrics,
    GetRequestMetrics, I8042Metrics, InterruptMetrics, LatencyMetrics, LoggerMetrics,
    MemoryHotplugMetrics, MmdsMetrics, NetMetrics, PatchRequestMetrics, PmemMetrics,
    PutRequestMetrics, SeccompMetrics, SignalMetrics, UartMetrics, VcpuMetrics, VhostUserMetrics,
    VmmMetrics, VsockMetrics,
};

/// All that one process counts. A device of which there is one at most takes its [`Arc`]; one of
/// many is [added](PerDevice::add).
#[derive(Debug)]
#[expect(missing_docs, reason = "a field is the JSON key of the group, which its type describes")]
pub struct Metrics {
    pub api_server: ApiServerMetrics,
    pub balloon: Arc<BalloonMetrics>,
    pub block: PerDevice<BlockMetrics>,
    pub deprecated_api: DeprecatedApiMetrics,
    pub get_api_requests: GetRequestMetrics,
    pub i8042: Arc<I8042Metrics>,
    pub uart: Arc<UartMetrics>,
    pub latencies_us: LatencyMetrics,
    pub logger: LoggerMetrics,
    pub mmds: Arc<MmdsMetrics>,
    pub net: PerDevice<NetMetrics>,
    pub patch_api_requests: PatchRequestMetrics,
    pub put_api_requests: PutRequestMetrics,
    pub seccomp: SeccompMetrics,
    pub vcpu: Arc<VcpuMetrics>,
    pub vmm: VmmMetrics,
    pub signals: SignalMetrics,
    pub vsock: Arc<VsockMetrics>,
    pub entropy: Arc<EntropyMetrics>,
    pub pmem: PerDevice<PmemMetrics>,
    pub vhost_user_block: PerDevice<VhostUserMetrics>,
    pub interrupts: Arc<InterruptMetrics>,
    pub memory_hotplug: Arc<MemoryHotplugMetrics>,
}

impl Metrics {
    /// All at zero, and no devices.
    pub fn new() -> Self {
        Self {
            api_server: ApiServerMetrics::default(),
            balloon: Arc::default(),
            block: PerDevice::new("block_"),
            deprecated_api: DeprecatedApiMetrics::default(),
            get_api_requests: GetRequestMetrics::default(),
            i8042: Arc::default(),
            uart: Arc::default(),
            latencies_us: LatencyMetrics::default(),
            logger: LoggerMetrics::default(),
            mmds: Arc::default(),
            net: PerDevice::new("net_"),
            patch_api_requests: PatchRequestMetrics::default(),
            put_api_requests: PutRequestMetrics::default(),
            seccomp: SeccompMetrics::default(),
            vcpu: Arc::default(),
            vmm: VmmMetrics::default(),
            signals: SignalMetrics::default(),
            vsock: Arc::default(),
            entropy: Arc::default(),
            pmem: PerDevice::new("pmem_"),
            vhost_user_block: PerDevice::new("vhost_user_block_"),
            interrupts: Arc::default(),
            memory_hotplug: Arc::default(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The metrics of devices of one kind, by the JSON key of each, which is a prefix and its id.
#[derive(Debug)]
pub struct PerDevice<T> {
    prefix: &'static str,
    devices: RwLock<BTreeMap<String, Arc<T>>>,
    /// What is told of one device.
    one: T,
    /// What is told of all, in the same line. Both are empty between lines, and stand here because
    /// a signal handler's stack is small.
    sum: T,
}

impl<T: Default> PerDevice<T> {
    fn new(prefix: &'static str) -> Self {
        Self { prefix, devices: RwLock::default(), one: T::default(), sum: T::default() }
    }

    /// The metrics of device `id`, from now on part of each line. Who asks again for the same id
    /// gets the same.
    pub fn add(&self, id: &str) -> Arc<T> {
        let mut devices = self.devices.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        Arc::clone(devices.entry(format!("{}{id}", self.prefix)).or_default())
    }

    /// Leaves device `id` out of the lines from now on: it is unplugged.
    pub fn remove(&self, id: &str) {
        let mut devices = self.devices.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        devices.remove(&format!("{}{id}", self.prefix));
    }

    /// Writes an entry for each device; their sum is in `sum` then.
    ///
    /// It waits for nobody, because a signal handler tells the metrics as well: while a device is
    /// being added, all of the kind are left out, and told the next time.
    fn tell_each<M: SerializeMap>(&self, line: &mut M) -> Result<(), M::Error>
    where
        T: Serialize + Tell,
    {
        let devices = match self.devices.try_read() {
            Ok(devices) => devices,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        for (key, device) in devices.iter() {
            device.tell(&self.one, &self.sum);
            line.serialize_entry(key, &self.one)?;
        }
        Ok(())
    }
}

/// What is told at one moment: one JSON object. Serialising it moves the counters on, so that the
/// next line has what happened since. It allocates nothing by itself. Lines of the same metrics are
/// made one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// What is told.
    pub metrics: &'a Metrics,
    /// Milliseconds since 1970-01-01 00:00 UTC.
    pub utc_timestamp_ms: u64,
    /// The machine's id, if lines carry it.
    pub id: Option<&'a str>,
    /// What the user wants lines to carry besides.
    pub properties: Option<&'a BTreeMap<String, String>>,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let m = self.metrics;
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("utc_timestamp_ms", &self.utc_timestamp_ms)?;
        if let Some(id) = self.id {
            line.serialize_entry("id", id)?;
        }
        if let Some(properties) = self.properties {
            line.serialize_entry("properties", properties)?;
        }
        line.serialize_entry("api_server", &m.api_server)?;
        line.serialize_entry("balloon", &*m.balloon)?;
        m.block.tell_each(&mut line)?;
        line.serialize_entry("block", &m.block.sum)?;
        line.serialize_entry("deprecated_api", &m.deprecated_api)?;
        line.serialize_entry("get_api_requests", &m.get_api_requests)?;
        line.serialize_entry("i8042", &*m.i8042)?;
        line.serialize_entry("uart", &*m.uart)?;
        line.serialize_entry("latencies_us", &m.latencies_us)?;
        line.serialize_entry("logger", &m.logger)?;
        line.serialize_entry("mmds", &*m.mmds)?;
        m.net.tell_each(&mut line)?;
        line.serialize_entry("net", &m.net.sum)?;
        line.serialize_entry("patch_api_requests", &m.patch_api_requests)?;
        line.serialize_entry("put_api_requests", &m.put_api_requests)?;
        line.serialize_entry("seccomp", &m.seccomp)?;
        line.serialize_entry("vcpu", &*m.vcpu)?;
        line.serialize_entry("vmm", &m.vmm)?;
        line.serialize_entry("signals", &m.signals)?;
        line.serialize_entry("vsock", &*m.vsock)?;
        line.serialize_entry("entropy", &*m.entropy)?;
        m.pmem.tell_each(&mut line)?;
        line.serialize_entry("pmem", &m.pmem.sum)?;
        m.vhost_user_block.tell_each(&mut line)?;
        line.serialize_entry("interrupts", &*m.interrupts)?;
        line.serialize_entry("memory_hotplug", &*m.memory_hotplug)?;
        line.end()
    }
}
