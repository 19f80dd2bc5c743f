//! What a machine counts about itself, under the names of Firecracker's metrics.
//!
//! ```text
//!   device ──inc──▶ Arc<NetMetrics> ┐
//!   vCPU ───inc──▶ Arc<VcpuMetrics> ├─ Metrics ──Line──▶ one JSON object
//!   API ────inc──▶ PutRequestMetrics┘
//! ```
//!
//! A struct of [`Counter`]s, [`Gauge`]s and [`Latency`]s for each part of a machine, which the
//! part shares with whoever writes the metrics. Serialising a counter gives what happened since it
//! was serialised the last time, as in Firecracker; a gauge gives what it holds. Groups are there
//! even if the machine has no such device. Who writes lines, and when, is not known here.
#![forbid(unsafe_code)]

mod balloon;
mod block;
mod count;
mod entropy;
mod legacy;
mod memory;
mod mmds;
mod net;
mod process;
mod registry;
mod request;
#[cfg(test)]
mod tests;
mod vsock;

pub use balloon::BalloonMetrics;
pub use block::{BlockMetrics, VhostUserMetrics};
pub use count::{Counter, Gauge, Latency};
pub use entropy::EntropyMetrics;
pub use legacy::{I8042Metrics, UartMetrics};
pub use memory::{MemoryHotplugMetrics, PmemMetrics};
pub use mmds::MmdsMetrics;
pub use net::NetMetrics;
pub use process::{
    InterruptMetrics, LatencyMetrics, LoggerMetrics, SeccompMetrics, SignalMetrics, VcpuMetrics,
    VmmMetrics,
};
pub use registry::{Line, Metrics, PerDevice};
pub use request::{
    ApiServerMetrics, DeprecatedApiMetrics, GetRequestMetrics, PatchRequestMetrics,
    PutRequestMetrics,
};
pub use vsock::VsockMetrics;
