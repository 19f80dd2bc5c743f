//! The running machine, as requests see it: pausing, and changes to its devices.
//!
//! Works on the main thread, between two events of the event loop, so that nothing here races with
//! what the event loop does for a device.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::balloon::{Balloon, BalloonError};
use devices::i8042::I8042;
use devices::rate::Change;
use machine::{BalloonDevice, DiskDevice, NetDevice, VirtioHandle, VirtioSlot};

use crate::control::Control;
use crate::controller::{Running, in_firecrackers_words};
use crate::metrics;
use crate::resources::{Disk, Seat};

/// How long the vCPUs have to come to a stop. One that waits for a reader of the console's output
/// does not.
const PAUSE_PATIENCE: Duration = Duration::from_secs(5);
/// What Firecracker says of a device that is not there.
const NOT_FOUND: &str = "Device not found";

/// The machine's devices and its handle.
pub(crate) struct Guest {
    pub control: Control,
    pub virtio: Vec<VirtioSlot>,
    pub i8042: Arc<I8042>,
    /// The drives' places, by id.
    pub seats: BTreeMap<String, Seat>,
}

impl Guest {
    fn disk(&self, id: &str) -> Option<Arc<DiskDevice>> {
        self.virtio.iter().find_map(|slot| match &slot.handle {
            VirtioHandle::Block(disk) if slot.id == id => Some(disk.clone()),
            _ => None,
        })
    }

    fn net(&self, id: &str) -> Option<Arc<NetDevice>> {
        self.virtio.iter().find_map(|slot| match &slot.handle {
            VirtioHandle::Net(net) if slot.id == id => Some(net.clone()),
            _ => None,
        })
    }

    fn balloon(&self) -> Result<&BalloonDevice, String> {
        let found = self.virtio.iter().find_map(|slot| match &slot.handle {
            VirtioHandle::Balloon(balloon) => Some(balloon.as_ref()),
            _ => None,
        });
        found.ok_or_else(|| NOT_FOUND.to_owned())
    }

    /// Changes what the guest sees of the balloon.
    fn configure_balloon(
        &self,
        change: impl FnOnce(&mut Balloon) -> Result<(), BalloonError>,
    ) -> Result<(), String> {
        self.balloon()?.update_config(change).map_err(|error| error.to_string())
    }

    fn replace_disk(&mut self, id: &str, disk: &DiskDevice, path: &str) -> Result<(), String> {
        let seat = self.seats.get(id).ok_or(NOT_FOUND)?;
        let opened = seat.open_instead(Path::new(path));
        let opened = opened.map_err(|error| in_firecrackers_words(&error))?;
        let Disk { back_end, seat } = opened;
        // The old contents are closed when nobody holds the device's lock any more.
        let old = disk.update_config(|block| block.replace(back_end));
        drop(old);
        self.seats.insert(id.to_owned(), seat);
        Ok(())
    }
}

impl Running for Guest {
    fn pause(&mut self) -> Result<(), String> {
        let start = Instant::now();
        if !self.control.pause(PAUSE_PATIENCE) {
            self.control.resume();
            return Err(
                "the vCPUs do not stop; a reader of the console's output may be stuck".into()
            );
        }
        metrics::registry().latencies_us.vmm_pause_vm.set_us(start.elapsed());
        Ok(())
    }

    fn resume(&mut self) -> Result<(), String> {
        let start = Instant::now();
        if !self.control.resume() {
            return Err("the machine is ending".into());
        }
        metrics::registry().latencies_us.vmm_resume_vm.set_us(start.elapsed());
        Ok(())
    }

    fn send_ctrl_alt_del(&mut self) -> Result<(), String> {
        self.i8042.ctrl_alt_del().map_err(|error| error.to_string())
    }

    fn update_drive(
        &mut self,
        id: &str,
        path: Option<&str>,
        limiter: Option<api::RateLimiter>,
    ) -> Result<(), String> {
        let disk = self.disk(id).ok_or(NOT_FOUND)?;
        if let Some(path) = path {
            self.replace_disk(id, &disk, path)?;
        }
        if let Some(limits) = limiter {
            let (bandwidth, ops) = changes(&limits);
            disk.update(|block| {
                if let Some(limiter) = block.limiter() {
                    limiter.update(bandwidth, ops);
                }
            });
        }
        Ok(())
    }

    fn update_interface(
        &mut self,
        id: &str,
        rx: Option<api::RateLimiter>,
        tx: Option<api::RateLimiter>,
    ) -> Result<(), String> {
        let net = self.net(id).ok_or(NOT_FOUND)?;
        net.update(|net| {
            if let Some((bandwidth, ops)) = rx.as_ref().map(changes) {
                net.update_rx(bandwidth, ops);
            }
            if let Some((bandwidth, ops)) = tx.as_ref().map(changes) {
                net.update_tx(bandwidth, ops);
            }
        });
        Ok(())
    }

    fn set_balloon(&mut self, amount_mib: u32) -> Result<(), String> {
        self.configure_balloon(|balloon| balloon.set_amount(amount_mib))
    }

    fn balloon_stats(&mut self) -> Result<api::BalloonStats, String> {
        let stats = self.balloon()?.update(|balloon| balloon.stats());
        stats.map(to_wire).map_err(|error| error.to_string())
    }

    fn set_balloon_stats_interval(&mut self, seconds: u16) -> Result<(), String> {
        let set = self.balloon()?.update(|balloon| balloon.set_stats_interval(seconds));
        set.map_err(|error| error.to_string())
    }

    fn start_hinting(&mut self, acknowledge_on_stop: bool) -> Result<(), String> {
        self.configure_balloon(|balloon| balloon.start_hinting(acknowledge_on_stop))
    }

    fn stop_hinting(&mut self) -> Result<(), String> {
        self.configure_balloon(Balloon::stop_hinting)
    }

    fn hinting_status(&mut self) -> Result<api::HintingStatus, String> {
        let status = self.balloon()?.update(|balloon| balloon.hinting_status());
        let status = status.map_err(|error| error.to_string())?;
        Ok(api::HintingStatus { host_cmd: status.host_cmd, guest_cmd: status.guest_cmd })
    }
}

/// What a client's limits change: what is not named stays.
fn changes(limits: &api::RateLimiter) -> (Change, Change) {
    let change = |bucket: Option<api::TokenBucket>| match bucket {
        None => Change::Keep,
        Some(bucket) => bucket.to_spec().map_or(Change::Remove, Change::Replace),
    };
    (change(limits.bandwidth), change(limits.ops))
}

fn to_wire(stats: devices::balloon::BalloonStats) -> api::BalloonStats {
    api::BalloonStats {
        target_pages: stats.target_pages,
        actual_pages: stats.actual_pages,
        target_mib: stats.target_mib,
        actual_mib: stats.actual_mib,
        swap_in: stats.swap_in,
        swap_out: stats.swap_out,
        major_faults: stats.major_faults,
        minor_faults: stats.minor_faults,
        free_memory: stats.free_memory,
        total_memory: stats.total_memory,
        available_memory: stats.available_memory,
        disk_caches: stats.disk_caches,
        hugetlb_allocations: stats.hugetlb_allocations,
        hugetlb_failures: stats.hugetlb_failures,
        oom_kill: stats.oom_kill,
        alloc_stall: stats.alloc_stall,
        async_scan: stats.async_scan,
        direct_scan: stats.direct_scan,
        async_reclaim: stats.async_reclaim,
        direct_reclaim: stats.direct_reclaim,
    }
}
