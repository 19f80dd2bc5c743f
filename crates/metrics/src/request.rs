//! `api_server`, `deprecated_api`, and requests by method: `get_api_requests`, `put_api_requests`,
//! `patch_api_requests`. A count holds all requests, those that failed as well.

use crate::count::{Counter, Gauge, group};

group! {
    /// The API server.
    ApiServerMetrics {
        /// From the start of the process to the API being there.
        process_startup_time_us: Gauge,
        /// CPU time spent on that.
        process_startup_time_cpu_us: Gauge,
    }

    /// Requests that will not be there for ever.
    DeprecatedApiMetrics {
        /// Requests that use a deprecated endpoint or field.
        deprecated_http_api_calls: Counter,
    }

    /// GET requests.
    GetRequestMetrics {
        /// `/`
        instance_info_count: Counter,
        /// `/machine-config`
        machine_cfg_count: Counter,
        /// `/mmds`
        mmds_count: Counter,
        /// `/version`
        vmm_version_count: Counter,
        /// `/hotplug/memory`
        hotplug_memory_count: Counter,
    }

    /// PUT requests.
    PutRequestMetrics {
        /// `/actions`
        actions_count: Counter,
        /// `/actions` that failed.
        actions_fails: Counter,
        /// `/boot-source`
        boot_source_count: Counter,
        /// `/boot-source` that failed.
        boot_source_fails: Counter,
        /// `/drives/{id}`
        drive_count: Counter,
        /// `/drives/{id}` that failed.
        drive_fails: Counter,
        /// `/logger`
        logger_count: Counter,
        /// `/logger` that failed.
        logger_fails: Counter,
        /// `/machine-config`
        machine_cfg_count: Counter,
        /// `/machine-config` that failed.
        machine_cfg_fails: Counter,
        /// `/cpu-config`
        cpu_cfg_count: Counter,
        /// `/cpu-config` that failed.
        cpu_cfg_fails: Counter,
        /// `/metrics`
        metrics_count: Counter,
        /// `/metrics` that failed.
        metrics_fails: Counter,
        /// `/network-interfaces/{id}`
        network_count: Counter,
        /// `/network-interfaces/{id}` that failed.
        network_fails: Counter,
        /// `/mmds` and `/mmds/config`
        mmds_count: Counter,
        /// `/mmds` and `/mmds/config` that failed.
        mmds_fails: Counter,
        /// `/vsock`
        vsock_count: Counter,
        /// `/vsock` that failed.
        vsock_fails: Counter,
        /// `/pmem/{id}`
        pmem_count: Counter,
        /// `/pmem/{id}` that failed.
        pmem_fails: Counter,
        /// `/serial`
        serial_count: Counter,
        /// `/serial` that failed.
        serial_fails: Counter,
        /// `/hotplug/memory`
        hotplug_memory_count: Counter,
        /// `/hotplug/memory` that failed.
        hotplug_memory_fails: Counter,
    }

    /// PATCH requests.
    PatchRequestMetrics {
        /// `/drives/{id}`
        drive_count: Counter,
        /// `/drives/{id}` that failed.
        drive_fails: Counter,
        /// `/network-interfaces/{id}`
        network_count: Counter,
        /// `/network-interfaces/{id}` that failed.
        network_fails: Counter,
        /// `/machine-config`
        machine_cfg_count: Counter,
        /// `/machine-config` that failed.
        machine_cfg_fails: Counter,
        /// `/mmds`
        mmds_count: Counter,
        /// `/mmds` that failed.
        mmds_fails: Counter,
        /// `/hotplug/memory`
        hotplug_memory_count: Counter,
        /// `/hotplug/memory` that failed.
        hotplug_memory_fails: Counter,
        /// `/pmem/{id}`
        pmem_count: Counter,
        /// `/pmem/{id}` that failed.
        pmem_fails: Counter,
    }
}
