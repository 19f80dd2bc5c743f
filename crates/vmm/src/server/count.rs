//! Counts requests under the names of Firecracker's metrics. A request fails here if it is not
//! understood; whether it was granted is not counted.

use ::metrics::{Counter, Metrics};
use api::http::{Method, Request};

use crate::metrics;

/// Counts a request.
pub(super) fn count(request: &Request, failed: bool) {
    if let Some((all, fails)) = counters(metrics::registry(), request) {
        all.inc();
        if let Some(fails) = fails.filter(|_| failed) {
            fails.inc();
        }
    }
}

/// The counters of all requests of a kind, and of those that failed.
fn counters<'a>(
    metrics: &'a Metrics,
    request: &Request,
) -> Option<(&'a Counter, Option<&'a Counter>)> {
    let (get, put, patch) =
        (&metrics.get_api_requests, &metrics.put_api_requests, &metrics.patch_api_requests);
    let first = request.path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let (all, fails) = match (request.method, first) {
        (Method::Get, "") => return Some((&get.instance_info_count, None)),
        (Method::Get, "machine-config") => return Some((&get.machine_cfg_count, None)),
        (Method::Get, "mmds") => return Some((&get.mmds_count, None)),
        (Method::Get, "version") => return Some((&get.vmm_version_count, None)),
        (Method::Get, "hotplug") => return Some((&get.hotplug_memory_count, None)),
        (Method::Put, "actions") => (&put.actions_count, &put.actions_fails),
        (Method::Put, "boot-source") => (&put.boot_source_count, &put.boot_source_fails),
        (Method::Put, "cpu-config") => (&put.cpu_cfg_count, &put.cpu_cfg_fails),
        (Method::Put, "drives") => (&put.drive_count, &put.drive_fails),
        (Method::Put, "hotplug") => (&put.hotplug_memory_count, &put.hotplug_memory_fails),
        (Method::Put, "logger") => (&put.logger_count, &put.logger_fails),
        (Method::Put, "machine-config") => (&put.machine_cfg_count, &put.machine_cfg_fails),
        (Method::Put, "metrics") => (&put.metrics_count, &put.metrics_fails),
        (Method::Put, "mmds") => (&put.mmds_count, &put.mmds_fails),
        (Method::Put, "network-interfaces") => (&put.network_count, &put.network_fails),
        (Method::Put, "pmem") => (&put.pmem_count, &put.pmem_fails),
        (Method::Put, "serial") => (&put.serial_count, &put.serial_fails),
        (Method::Put, "vsock") => (&put.vsock_count, &put.vsock_fails),
        (Method::Patch, "drives") => (&patch.drive_count, &patch.drive_fails),
        (Method::Patch, "hotplug") => (&patch.hotplug_memory_count, &patch.hotplug_memory_fails),
        (Method::Patch, "machine-config") => (&patch.machine_cfg_count, &patch.machine_cfg_fails),
        (Method::Patch, "mmds") => (&patch.mmds_count, &patch.mmds_fails),
        (Method::Patch, "network-interfaces") => (&patch.network_count, &patch.network_fails),
        (Method::Patch, "pmem") => (&patch.pmem_count, &patch.pmem_fails),
        (Method::Get | Method::Put | Method::Patch | Method::Delete, _) => return None,
    };
    Some((all, Some(fails)))
}
