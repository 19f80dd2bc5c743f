//! What the process counts about itself and its vCPUs: `latencies_us`, `logger`, `seccomp`,
//! `vcpu`, `vmm`, `signals`, `interrupts`.

use crate::count::{Counter, Gauge, Latency, group};

group! {
    /// How long the last request of a kind took, as its client saw it, and inside (`vmm_`).
    LatencyMetrics {
        /// A full snapshot.
        full_create_snapshot: Gauge,
        /// A snapshot of what changed.
        diff_create_snapshot: Gauge,
        /// Loading a snapshot.
        load_snapshot: Gauge,
        /// Pausing the machine.
        pause_vm: Gauge,
        /// Resuming it.
        resume_vm: Gauge,
        /// A full snapshot, inside.
        vmm_full_create_snapshot: Gauge,
        /// A snapshot of what changed, inside.
        vmm_diff_create_snapshot: Gauge,
        /// Loading a snapshot, inside.
        vmm_load_snapshot: Gauge,
        /// Pausing the machine, inside.
        vmm_pause_vm: Gauge,
        /// Resuming it, inside.
        vmm_resume_vm: Gauge,
    }

    /// The log and the metrics themselves.
    LoggerMetrics {
        /// Lines of metrics that could not be written.
        missed_metrics_count: Counter,
        /// Lines of metrics that could not be made.
        metrics_fails: Counter,
        /// Log lines that could not be written.
        missed_log_count: Counter,
        /// Log lines that were one too many of their kind.
        rate_limited_log_count: Counter,
    }

    /// The filter of system calls.
    SeccompMetrics {
        /// System calls that it refused. The process does not survive one.
        num_faults: Gauge,
    }

    /// All vCPUs.
    VcpuMetrics {
        /// Reads of I/O ports.
        exit_io_in: Counter,
        /// Writes of I/O ports.
        exit_io_out: Counter,
        /// Reads of device memory.
        exit_mmio_read: Counter,
        /// Writes of device memory.
        exit_mmio_write: Counter,
        /// vCPUs that could not go on.
        failures: Counter,
        /// Times that the guest could not be told that it was paused.
        kvmclock_ctrl_fails: Counter,
        /// How long reads of I/O ports took.
        exit_io_in_agg: Latency,
        /// How long writes of I/O ports took.
        exit_io_out_agg: Latency,
        /// How long reads of device memory took.
        exit_mmio_read_agg: Latency,
        /// How long writes of device memory took.
        exit_mmio_write_agg: Latency,
    }

    /// The process as a whole.
    VmmMetrics {
        /// 1 when it ended in a panic.
        panic_count: Gauge,
    }

    /// Signals that were caught. But for `sigpipe`, the process does not survive one.
    SignalMetrics {
        /// SIGBUS.
        sigbus: Gauge,
        /// SIGSEGV.
        sigsegv: Gauge,
        /// SIGXFSZ.
        sigxfsz: Gauge,
        /// SIGXCPU.
        sigxcpu: Gauge,
        /// SIGPIPE, which is harmless.
        sigpipe: Counter,
        /// SIGHUP.
        sighup: Gauge,
        /// SIGILL.
        sigill: Gauge,
    }

    /// Interrupts of devices.
    InterruptMetrics {
        /// Times that a device interrupted.
        triggers: Counter,
        /// Changes of interrupt routes.
        config_updates: Counter,
    }
}
