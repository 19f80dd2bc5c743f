//! The endpoints: a row for each, of which both clients have a method.

use api::{
    Action, ActionBody, Balloon, BalloonStats, BalloonStatsUpdate, BalloonUpdate, BootSource,
    CpuConfig, Drive, DriveUpdate, Entropy, HintingStart, HintingStatus, InstanceInfo, Logger,
    MachineConfig, MachineConfigUpdate, MemoryHotplug, MemoryHotplugUpdate, Metrics, MmdsConfig,
    NetworkInterface, NetworkInterfaceUpdate, Pmem, PmemUpdate, Serial, SnapshotCreate,
    SnapshotLoad, Version, VmState, VmStateUpdate, Vsock,
};
use serde_json::{Value, json};

#[cfg(feature = "tokio")]
use crate::AsyncClient;
use crate::call::Call;
use crate::{Client, Error};

macro_rules! endpoints {
    ($(
        $(#[$doc:meta])*
        $name:ident($($argument:ident: $type:ty),*) -> $answer:ty = $call:expr;
    )+) => {
        /// The endpoints.
        impl Client {$(
            $(#[$doc])*
            pub fn $name(&self $(, $argument: $type)*) -> Result<$answer, Error> {
                self.call(&$call)
            }
        )+}

        /// The endpoints.
        #[cfg(feature = "tokio")]
        impl AsyncClient {$(
            $(#[$doc])*
            pub async fn $name(&self $(, $argument: $type)*) -> Result<$answer, Error> {
                self.call(&$call).await
            }
        )+}
    };
}

endpoints! {
    /// `GET /`: who the machine is, and how far.
    instance() -> InstanceInfo = Call::get("/");

    /// `GET /version`: the version of Firecracker whose API this is.
    version() -> Version = Call::get("/version");

    /// `GET /vm/config`: all that is configured, as JSON.
    vm_config() -> Value = Call::get("/vm/config");

    /// `PATCH /vm`: pauses or resumes the machine.
    patch_vm(state: VmState) -> () = Call::patch("/vm", &VmStateUpdate { state });

    /// `PUT /actions`: starts the machine, writes the metrics, or presses Ctrl, Alt and Del.
    put_action(action: Action) -> () =
        Call::put("/actions", &ActionBody { action_type: action });

    /// `GET /machine-config`: the machine's size.
    machine_config() -> MachineConfig = Call::get("/machine-config");

    /// `PUT /machine-config`: sets the machine's size.
    put_machine_config(body: &MachineConfig) -> () = Call::put("/machine-config", body);

    /// `PATCH /machine-config`: changes the machine's size.
    patch_machine_config(body: &MachineConfigUpdate) -> () = Call::patch("/machine-config", body);

    /// `PUT /cpu-config`: changes the CPU that the guest sees.
    put_cpu_config(body: &CpuConfig) -> () = Call::put("/cpu-config", body);

    /// `PUT /boot-source`: sets what to boot.
    put_boot_source(body: &BootSource) -> () = Call::put("/boot-source", body);

    /// `PUT /drives/{id}`: adds a drive, or replaces the one with its id.
    put_drive(body: &Drive) -> () = Call::put(format!("/drives/{}", body.drive_id), body);

    /// `PATCH /drives/{id}`: gives a drive of the running machine another file, or other limits.
    patch_drive(body: &DriveUpdate) -> () =
        Call::patch(format!("/drives/{}", body.drive_id), body);

    /// `DELETE /drives/{id}`: unplugs a drive of the running machine.
    delete_drive(id: &str) -> () = Call::delete(format!("/drives/{id}"));

    /// `PUT /network-interfaces/{id}`: adds a network interface, or replaces the one with its id.
    put_network_interface(body: &NetworkInterface) -> () =
        Call::put(format!("/network-interfaces/{}", body.iface_id), body);

    /// `PATCH /network-interfaces/{id}`: gives a network interface other limits.
    patch_network_interface(body: &NetworkInterfaceUpdate) -> () =
        Call::patch(format!("/network-interfaces/{}", body.iface_id), body);

    /// `DELETE /network-interfaces/{id}`: unplugs a network interface of the running machine.
    delete_network_interface(id: &str) -> () = Call::delete(format!("/network-interfaces/{id}"));

    /// `PUT /pmem/{id}`: adds a file that the guest sees as memory, or replaces the one with its
    /// id.
    put_pmem(body: &Pmem) -> () = Call::put(format!("/pmem/{}", body.id), body);

    /// `PATCH /pmem/{id}`: gives a mapped file other limits.
    patch_pmem(body: &PmemUpdate) -> () = Call::patch(format!("/pmem/{}", body.id), body);

    /// `DELETE /pmem/{id}`: unplugs a mapped file of the running machine.
    delete_pmem(id: &str) -> () = Call::delete(format!("/pmem/{id}"));

    /// `PUT /vsock`: adds the socket between host and guest.
    put_vsock(body: &Vsock) -> () = Call::put("/vsock", body);

    /// `PUT /entropy`: adds the source of random numbers.
    put_entropy(body: &Entropy) -> () = Call::put("/entropy", body);

    /// `PUT /serial`: sets where the console's output goes.
    put_serial(body: &Serial) -> () = Call::put("/serial", body);

    /// `GET /balloon`: the balloon.
    balloon() -> Balloon = Call::get("/balloon");

    /// `PUT /balloon`: adds the balloon.
    put_balloon(body: &Balloon) -> () = Call::put("/balloon", body);

    /// `PATCH /balloon`: gives the balloon of the running machine another size.
    patch_balloon(amount_mib: u32) -> () = Call::patch("/balloon", &BalloonUpdate { amount_mib });

    /// `GET /balloon/statistics`: what the guest says of its memory.
    balloon_stats() -> BalloonStats = Call::get("/balloon/statistics");

    /// `PATCH /balloon/statistics`: how often the guest is asked, in seconds.
    patch_balloon_stats(stats_polling_interval_s: u16) -> () =
        Call::patch("/balloon/statistics", &BalloonStatsUpdate { stats_polling_interval_s });

    /// `PATCH /balloon/hinting/start`: asks the guest for its free pages.
    start_hinting(body: &HintingStart) -> () = Call::patch("/balloon/hinting/start", body);

    /// `PATCH /balloon/hinting/stop`: no more of that.
    stop_hinting() -> () = Call::patch("/balloon/hinting/stop", &json!({}));

    /// `GET /balloon/hinting/status`: how far the guest is.
    hinting_status() -> HintingStatus = Call::get("/balloon/hinting/status");

    /// `PUT /hotplug/memory`: adds the device whose memory comes and goes.
    put_memory_hotplug(body: &MemoryHotplug) -> () = Call::put("/hotplug/memory", body);

    /// `GET /hotplug/memory`: how much memory it has, as JSON.
    memory_hotplug() -> Value = Call::get("/hotplug/memory");

    /// `PATCH /hotplug/memory`: how much memory it is to have.
    patch_memory_hotplug(body: &MemoryHotplugUpdate) -> () = Call::patch("/hotplug/memory", body);

    /// `PUT /logger`: sets where the log goes, and how much of it.
    put_logger(body: &Logger) -> () = Call::put("/logger", body);

    /// `PUT /metrics`: sets where the metrics go, once.
    put_metrics(body: &Metrics) -> () = Call::put("/metrics", body);

    /// `GET /mmds`: the guest's metadata.
    mmds() -> Value = Call::get("/mmds");

    /// `PUT /mmds`: sets the guest's metadata.
    put_mmds(body: &Value) -> () = Call::put("/mmds", body);

    /// `PATCH /mmds`: changes the guest's metadata (RFC 7396).
    patch_mmds(body: &Value) -> () = Call::patch("/mmds", body);

    /// `PUT /mmds/config`: sets how the guest gets at its metadata.
    put_mmds_config(body: &MmdsConfig) -> () = Call::put("/mmds/config", body);

    /// `PUT /snapshot/create`: writes the paused machine to files. That may take longer than other
    /// calls: see [`with_timeout`](Self::with_timeout).
    create_snapshot(body: &SnapshotCreate) -> () = Call::put("/snapshot/create", body);

    /// `PUT /snapshot/load`: makes the machine out of files, before anything else.
    load_snapshot(body: &SnapshotLoad) -> () = Call::put("/snapshot/load", body);
}
