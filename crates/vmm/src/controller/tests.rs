//! The state machine, with a host and a machine that only take notes.

use api::http::{self, Method};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A host that opens whatever is not called "missing".
#[derive(Default)]
struct Notes(Vec<String>);

fn open(path: &std::path::Path) -> Result<(), String> {
    if path.ends_with("missing") { Err("it is missing".into()) } else { Ok(()) }
}

impl Resources for Notes {
    type Machine = VmSpec;

    fn logger(&mut self, _config: &api::Logger) -> Result<(), String> {
        Err("no log here".into())
    }

    fn metrics(&mut self, _config: &api::Metrics) -> Result<(), String> {
        Err("no metrics here".into())
    }

    fn boot_source(&mut self, boot: &spec::BootSource) -> Result<(), BootSourceError> {
        let path = boot.kernel().clone();
        open(&path).map_err(|reason| BootSourceError::Kernel { path, reason })
    }

    fn drive(&mut self, drive: &spec::Drive) -> Result<(), String> {
        self.0.push(format!("drive {}", drive.id()));
        match drive.backend() {
            spec::DriveBackend::File(path) | spec::DriveBackend::VhostUser(path) => open(path),
            spec::DriveBackend::Overlay(_) => panic!("no request asks for it"),
        }
    }

    fn interface(&mut self, interface: &spec::NetworkInterface) -> Result<(), String> {
        open(interface.host_device().as_ref())
    }

    fn vsock(&mut self, vsock: &spec::Vsock) -> Result<(), String> {
        open(vsock.socket())
    }

    fn start(&mut self, spec: VmSpec) -> Result<VmSpec, String> {
        open(spec.boot.command_line().as_str().as_ref()).map(|()| spec)
    }
}

/// A machine that does what it is told, but for amounts of 13.
impl Running for Notes {
    fn pause(&mut self) -> Result<(), String> {
        self.note("pause")
    }

    fn resume(&mut self) -> Result<(), String> {
        self.note("resume")
    }

    fn send_ctrl_alt_del(&mut self) -> Result<(), String> {
        Err("no keyboard".into())
    }

    fn update_drive(
        &mut self,
        id: &str,
        path: Option<&str>,
        limiter: Option<RateLimiter>,
    ) -> Result<(), String> {
        open(path.unwrap_or_default().as_ref())?;
        self.note(&format!("drive {id} {path:?} {}", limiter.is_some()))
    }

    fn update_interface(
        &mut self,
        id: &str,
        rx: Option<RateLimiter>,
        tx: Option<RateLimiter>,
    ) -> Result<(), String> {
        self.note(&format!("interface {id} {} {}", rx.is_some(), tx.is_some()))
    }

    fn set_balloon(&mut self, amount_mib: u32) -> Result<(), String> {
        if amount_mib == 13 { Err("not 13".into()) } else { self.note("balloon") }
    }

    fn balloon_stats(&mut self) -> Result<BalloonStats, String> {
        Ok(BalloonStats { target_mib: 1, free_memory: Some(2), ..BalloonStats::default() })
    }

    fn set_balloon_stats_interval(&mut self, seconds: u16) -> Result<(), String> {
        if seconds == 0 { Err("not now".into()) } else { self.note("interval") }
    }

    fn start_hinting(&mut self, acknowledge_on_stop: bool) -> Result<(), String> {
        self.note(&format!("hinting {acknowledge_on_stop}"))
    }

    fn stop_hinting(&mut self) -> Result<(), String> {
        self.note("no hinting")
    }

    fn hinting_status(&mut self) -> Result<HintingStatus, String> {
        Ok(HintingStatus { host_cmd: 1, guest_cmd: None })
    }
}

impl Notes {
    fn note(&mut self, text: &str) -> Result<(), String> {
        self.0.push(text.to_owned());
        Ok(())
    }
}

/// A client with a machine of its own.
struct Client {
    controller: Controller,
    notes: Notes,
    started: bool,
}

impl Client {
    fn new() -> Self {
        let id = InstanceId::new("vm").unwrap();
        let controller = Controller::new(id, false, Store::new(100));
        Self { controller, notes: Notes::default(), started: false }
    }

    /// Sends a request like `PUT /vsock {…}`, and gives the answer: a body, or nothing, or the
    /// fault message.
    fn send(&mut self, request: &str) -> Result<String, String> {
        let mut words = request.splitn(3, ' ');
        let method = match words.next() {
            Some("GET") => Method::Get,
            Some("PUT") => Method::Put,
            Some("PATCH") => Method::Patch,
            _ => Method::Delete,
        };
        let path = words.next().unwrap().to_owned();
        let body = words.next().map(|body| body.as_bytes().to_vec());
        let parsed = Request::parse(&http::Request { method, path, body });
        let answer = self.carry_out(parsed.map_err(|error| error.to_string())?);
        answer.map(Option::unwrap_or_default).map_err(|error| error.to_string())
    }

    fn carry_out(&mut self, request: Request) -> Answer {
        if self.started {
            return self.controller.running(request, &mut self.notes);
        }
        let (answer, next) = self.controller.before_start(request, &mut self.notes);
        self.started = matches!(next, Next::Run(_));
        answer
    }

    fn check(&mut self, request: &str, expected: Result<&str, &str>) {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(self.send(request), expected, "{request}");
    }

    fn config(&mut self) -> Value {
        serde_json::from_str(&self.send("GET /vm/config").unwrap()).unwrap()
    }
}

const DONE: Result<&str, &str> = Ok("");
const START: &str = r#"PUT /actions {"action_type": "InstanceStart"}"#;
const BOOT: &str = r#"PUT /boot-source {"kernel_image_path": "k"}"#;
const DRIVE: &str =
    r#"PUT /drives/d {"drive_id": "d", "is_root_device": true, "path_on_host": "f"}"#;
const INTERFACE: &str = r#"PUT /network-interfaces/n {"iface_id": "n", "host_dev_name": "t",
    "guest_mac": "06:00:AC:10:00:02"}"#;
const BALLOON: &str = r#"PUT /balloon {"amount_mib": 1, "deflate_on_oom": true}"#;

#[test]
fn a_machine_is_configured_started_paused_and_resumed() {
    let mut client = Client::new();
    let instance = |state: &str| {
        format!(
            r#"{{"id":"vm","state":"{state}","vmm_version":"1.17.0","app_name":"Firecracker"}}"#
        )
    };
    client.check("GET /", Ok(&instance("Not started")));
    client.check(
        START,
        Err("Start microvm error: Cannot start microvm without kernel configuration."),
    );
    for request in [BOOT, DRIVE, INTERFACE, BALLOON] {
        client.check(request, DONE);
    }
    client.check(START, DONE);
    client.check("GET /", Ok(&instance("Running")));
    for (state, name) in [("Paused", "Paused"), ("Paused", "Paused"), ("Resumed", "Running")] {
        client.check(&format!(r#"PATCH /vm {{"state": "{state}"}}"#), DONE);
        client.check("GET /", Ok(&instance(name)));
    }
    assert_eq!(client.notes.0, ["drive d", "pause", "pause", "resume"]);
}

#[test]
fn what_the_host_cannot_open_changes_nothing() {
    let mut client = Client::new();
    let before = client.config();
    for (request, expected) in [
        (
            r#"PUT /boot-source {"kernel_image_path": "missing"}"#,
            "Boot source error: The kernel file cannot be opened: it is missing",
        ),
        (
            r#"PUT /drives/d {"drive_id": "d", "is_root_device": true, "path_on_host": "missing"}"#,
            "Drive config error: Unable to create the virtio block device: Virtio backend error: \
             it is missing",
        ),
        (
            r#"PUT /network-interfaces/n {"iface_id": "n", "host_dev_name": "missing"}"#,
            "Network config error: Could not create the network device: it is missing",
        ),
        (
            r#"PUT /vsock {"guest_cid": 3, "uds_path": "missing"}"#,
            "Vsock config error: Cannot create backend for vsock device: it is missing",
        ),
        (r#"PUT /logger {}"#, "Logger error: no log here"),
        (r#"PUT /metrics {"metrics_path": "m"}"#, "Metrics error: no metrics here"),
    ] {
        client.check(request, Err(expected));
    }
    assert_eq!(client.config(), before);
    client.check(r#"PUT /boot-source {"kernel_image_path": "k", "boot_args": "missing"}"#, DONE);
    client.check(START, Err("Start microvm error: it is missing"));
    client.check(BOOT, DONE);
    client.check(START, DONE);
}

#[test]
fn bodies_are_checked_against_what_is_there() {
    let mut client = Client::new();
    let vcpus = "Machine config error: The number of vCPUs must be greater than 0, less than 32 \
                 and must be 1 or an even number if SMT is enabled.";
    let memory = "Machine config error: The memory size (MiB) is either 0, or not a multiple of \
                  the configured page size.";
    for (request, expected) in [
        (r#"PATCH /machine-config {"vcpu_count": 0}"#, Err(vcpus)),
        (r#"PATCH /machine-config {"vcpu_count": 33}"#, Err(vcpus)),
        (r#"PATCH /machine-config {"vcpu_count": 3, "smt": true}"#, Err(vcpus)),
        (r#"PATCH /machine-config {"vcpu_count": 3}"#, DONE),
        (r#"PATCH /machine-config {"smt": true}"#, Err(vcpus)),
        (r#"PATCH /machine-config {"mem_size_mib": 0}"#, Err(memory)),
        (r#"PATCH /machine-config {"mem_size_mib": 3, "huge_pages": "2M"}"#, Err(memory)),
        (
            r#"PUT /balloon {"amount_mib": 129, "deflate_on_oom": true}"#,
            Err("Balloon config error: Amount of pages requested is too large."),
        ),
        (r#"PUT /balloon {"amount_mib": 128, "deflate_on_oom": true}"#, DONE),
        (
            r#"PATCH /machine-config {"mem_size_mib": 127}"#,
            Err("Machine config error: The memory size (MiB) is smaller than the previously set \
              balloon device target size."),
        ),
        (DRIVE, DONE),
        (DRIVE, DONE),
        (
            r#"PUT /drives/e {"drive_id": "e", "is_root_device": true, "path_on_host": "f"}"#,
            Err("Drive config error: A root block device already exists!"),
        ),
        (
            r#"PUT /drives/e {"drive_id": "e", "is_root_device": false}"#,
            Err(
                "Drive config error: Unable to create the virtio block device: Invalid block config.",
            ),
        ),
        (INTERFACE, DONE),
        (INTERFACE, DONE),
        (
            r#"PUT /network-interfaces/m {"iface_id": "m", "host_dev_name": "t", "guest_mac": "06:00:ac:10:00:02"}"#,
            Err("Network config error: The MAC address is already in use: 06:00:ac:10:00:02"),
        ),
        (
            r#"PUT /mmds/config {"network_interfaces": []}"#,
            Err(
                "MMMDS config error: The list of network interface IDs that allow forwarding MMDS \
              requests is empty.",
            ),
        ),
        (
            r#"PUT /mmds/config {"network_interfaces": ["n", "foo"]}"#,
            Err(
                "MMMDS config error: The list of network interface IDs provided contains at least \
              one ID that does not correspond to any existing network interface.",
            ),
        ),
        (
            r#"PUT /mmds/config {"network_interfaces": ["n"], "ipv4_address": "169.254.255.1"}"#,
            Err("MMMDS config error: The MMDS IPv4 address is not link local."),
        ),
        (
            r#"PUT /mmds/config {"network_interfaces": ["n"], "ipv4_address": "169.254.169.250"}"#,
            DONE,
        ),
        (
            r#"PUT /vsock {"guest_cid": 2, "uds_path": "v"}"#,
            Err(
                "Vsock config error: Cannot create vsock device: guest_cid is 2; it must be from 3 to 4294967295",
            ),
        ),
        (
            r#"PUT /hotplug/memory {"total_size_mib": 1000}"#,
            Err(
                "Memory hotplug config error: Total size must be a multiple of slot size (128 MiB)",
            ),
        ),
        (
            r#"PUT /hotplug/memory {"total_size_mib": 128, "block_size_mib": 3}"#,
            Err("Memory hotplug config error: Block size must be a power of 2"),
        ),
    ] {
        client.check(request, expected);
    }
    assert_eq!(client.config()["machine-config"]["vcpu_count"], 3);
}

#[test]
fn the_configuration_is_told_as_it_is() {
    let mut client = Client::new();
    let limiter =
        r#"{"bandwidth": {"size": 0, "refill_time": 1}, "ops": {"size": 5, "refill_time": 9}}"#;
    let drive = format!(
        r#"PUT /drives/e {{"drive_id": "e", "is_root_device": false, "path_on_host": "f",
            "rate_limiter": {limiter}}}"#
    );
    for request in [
        &drive,
        DRIVE,
        INTERFACE,
        BOOT,
        BALLOON,
        r#"PUT /vsock {"guest_cid": 3, "uds_path": "v", "vsock_id": "old"}"#,
        r#"PUT /entropy {"rate_limiter": {}}"#,
        r#"PUT /mmds/config {"version": "V2", "network_interfaces": ["n"]}"#,
    ] {
        client.check(request, DONE);
    }
    let expected = serde_json::json!({
        "balloon": {"amount_mib": 1, "deflate_on_oom": true, "stats_polling_interval_s": 0,
                    "free_page_hinting": false, "free_page_reporting": false},
        "drives": [
            {"drive_id": "d", "partuuid": null, "is_root_device": true, "cache_type": "Unsafe",
             "is_read_only": false, "path_on_host": "f", "rate_limiter": null,
             "io_engine": "Sync", "socket": null},
            {"drive_id": "e", "partuuid": null, "is_root_device": false, "cache_type": "Unsafe",
             "is_read_only": false, "path_on_host": "f",
             "rate_limiter": {"bandwidth": null,
                              "ops": {"size": 5, "one_time_burst": null, "refill_time": 9}},
             "io_engine": "Sync", "socket": null},
        ],
        "boot-source": {"kernel_image_path": "k", "initrd_path": null},
        "cpu-config": null,
        "logger": null,
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "smt": false,
                           "track_dirty_pages": false, "huge_pages": "None"},
        "metrics": null,
        "mmds-config": {"version": "V2", "network_interfaces": ["n"],
                        "ipv4_address": "169.254.169.254", "imds_compat": false},
        "network-interfaces": [
            {"iface_id": "n", "host_dev_name": "t", "guest_mac": "06:00:ac:10:00:02", "mtu": null,
             "rx_rate_limiter": null, "tx_rate_limiter": null},
        ],
        "vsock": {"guest_cid": 3, "uds_path": "v"},
        "entropy": {"rate_limiter": null},
        "pmem": [],
        "memory-hotplug": null,
    });
    assert_eq!(client.config(), expected);
    client.check(START, DONE);
    assert_eq!(client.config(), expected);
}

#[test]
fn a_running_machine_is_changed() {
    let mut client = Client::new();
    for request in [BOOT, DRIVE, INTERFACE, BALLOON, START] {
        client.check(request, DONE);
    }
    let not_found = "Failed perform action on device: Device not found";
    for (request, expected) in [
        (r#"PATCH /drives/d {"drive_id": "d", "path_on_host": "g"}"#, DONE),
        (
            r#"PATCH /drives/d {"drive_id": "d", "rate_limiter": {"ops": {"size": 1, "refill_time": 2}}}"#,
            DONE,
        ),
        (
            r#"PATCH /drives/d {"drive_id": "d"}"#,
            Err("Drive config error: Unable to patch the block device: Block: Running method \
              expected different backend. Please verify the request arguments."),
        ),
        (
            r#"PATCH /drives/d {"drive_id": "d", "path_on_host": "missing"}"#,
            Err(
                "Drive config error: Unable to patch the block device: Block: Virtio backend error: \
              it is missing Please verify the request arguments.",
            ),
        ),
        (
            r#"PATCH /drives/e {"drive_id": "e", "path_on_host": "g"}"#,
            Err(&format!(
                "Drive config error: Unable to patch the block device: {not_found} Please \
                       verify the request arguments."
            )),
        ),
        (
            r#"PATCH /network-interfaces/n {"iface_id": "n", "tx_rate_limiter": {"ops": {"size": 0, "refill_time": 2}}}"#,
            DONE,
        ),
        (
            r#"PATCH /network-interfaces/m {"iface_id": "m"}"#,
            Err(&format!("Network config error: Unable to update the network device: {not_found}")),
        ),
        (r#"PATCH /balloon {"amount_mib": 4}"#, DONE),
        (r#"PATCH /balloon {"amount_mib": 13}"#, Err("Balloon update error: Balloon: not 13")),
        (
            r#"PATCH /balloon {"amount_mib": 129}"#,
            Err("Balloon update error: Balloon: Amount of pages requested is too large."),
        ),
        (
            r#"PATCH /balloon/statistics {"stats_polling_interval_s": 0}"#,
            Err("Balloon update error: Balloon: not now"),
        ),
        (r#"PATCH /balloon/statistics {"stats_polling_interval_s": 5}"#, DONE),
        (
            "GET /balloon/statistics",
            Ok(
                r#"{"target_pages":0,"actual_pages":0,"target_mib":1,"actual_mib":0,"free_memory":2}"#,
            ),
        ),
        ("PATCH /balloon/hinting/start", DONE),
        (r#"PATCH /balloon/hinting/start {"acknowledge_on_stop": false}"#, DONE),
        ("PATCH /balloon/hinting/stop", DONE),
        ("GET /balloon/hinting/status", Ok(r#"{"host_cmd":1,"guest_cmd":null}"#)),
        (
            r#"PUT /actions {"action_type": "SendCtrlAltDel"}"#,
            Err("Internal VMM error: I8042 error: no keyboard"),
        ),
        (r#"PUT /actions {"action_type": "FlushMetrics"}"#, DONE),
        ("GET /hotplug/memory", Err(&format!("Internal VMM error: {not_found}"))),
        (DRIVE, Err("PCI is not enabled")),
        ("DELETE /drives/d", Err("PCI is not enabled")),
    ] {
        client.check(request, expected);
    }
    assert_eq!(
        client.notes.0[1..],
        [
            "drive d Some(\"g\") false",
            "drive d None true",
            "interface n false true",
            "balloon",
            "interval",
            "hinting true",
            "hinting false",
            "no hinting",
        ]
    );
    let config = client.config();
    assert_eq!(config["drives"][0]["path_on_host"], "g");
    assert_eq!(config["drives"][0]["rate_limiter"]["ops"]["size"], 1);
    let balloon = &config["balloon"];
    assert_eq!(
        (&balloon["amount_mib"], &balloon["stats_polling_interval_s"]),
        (&4.into(), &5.into())
    );
}

#[test]
fn a_machine_without_a_balloon_says_so() {
    let mut client = Client::new();
    client.check("GET /balloon", Err("Balloon config error: No balloon device found."));
    client.check(BOOT, DONE);
    client.check(START, DONE);
    let not_found = "Failed perform action on device: Device not found";
    for (request, prefix) in [
        ("GET /balloon", "Internal VMM error: "),
        ("GET /balloon/statistics", "Internal VMM error: "),
        (r#"PATCH /balloon {"amount_mib": 1}"#, "Balloon update error: "),
        (r#"PATCH /balloon/statistics {"stats_polling_interval_s": 1}"#, "Balloon update error: "),
        ("PATCH /balloon/hinting/start", "Balloon update error: "),
        ("GET /balloon/hinting/status", "Balloon update error: "),
    ] {
        client.check(request, Err(&format!("{prefix}{not_found}")));
    }
}

#[test]
fn metadata_before_and_after_the_start() {
    let large = format!(r#"{{"a": "{}"}}"#, "x".repeat(100));
    let too_large = "MMDS limit exceeded error: The MMDS patch request doesn't fit.";
    let missing = "MMDS error: The MMDS data store is not initialized.";
    let mut client = Client::new();
    client.check("GET /mmds", Ok("{}"));
    client.check(r#"PATCH /mmds {"a": 1}"#, Err(missing));
    client.check(&format!("PUT /mmds {large}"), Err(too_large));
    client.check(r#"PUT /mmds {"a": {"b": 1}, "c": 2}"#, DONE);
    client.check(BOOT, DONE);
    client.check(START, DONE);
    client.check(r#"PATCH /mmds {"a": {"b": null}}"#, DONE);
    client.check(&format!("PATCH /mmds {large}"), Err(too_large));
    client.check("GET /mmds", Ok(r#"{"a":{},"c":2}"#));
    let mut without = Client::new();
    without.check(BOOT, DONE);
    without.check(START, DONE);
    for request in ["GET /mmds", r#"PUT /mmds {"a": 1}"#, r#"PATCH /mmds {"a": 1}"#] {
        without.check(request, Err(missing));
    }
}

#[test]
fn a_snapshot_ends_a_process_only_if_nothing_else_was_asked_for() {
    let load = |client: &mut Client| {
        let mem_backend = Some(api::MemoryBackend {
            backend_path: "m".into(),
            backend_type: api::MemoryBackendType::File,
        });
        let body = api::SnapshotLoad { mem_backend, ..api::SnapshotLoad::default() };
        client.controller.before_start(Request::LoadSnapshot(body), &mut client.notes)
    };
    let mut fresh = Client::new();
    assert!(fresh.send("GET /vm/config").is_ok());
    assert!(matches!(load(&mut fresh), (Err(_), Next::End(_))));
    let mut configured = Client::new();
    let _ = configured.send(r#"PUT /boot-source {"kernel_image_path": "missing"}"#);
    let (answer, next) = load(&mut configured);
    assert!(matches!(next, Next::Configure));
    assert_eq!(
        answer.unwrap_err().to_string(),
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring \
         boot-specific resources."
    );
}

/// Requests to shuffle, good ones and bad ones.
const ANY: [&str; 24] = [
    START,
    BOOT,
    DRIVE,
    INTERFACE,
    BALLOON,
    "GET /",
    "GET /vm/config",
    "GET /balloon",
    "GET /mmds",
    r#"PUT /boot-source {"kernel_image_path": "missing"}"#,
    r#"PUT /drives/d {"drive_id": "d", "is_root_device": false, "path_on_host": "missing"}"#,
    r#"PUT /drives/e {"drive_id": "e", "is_root_device": true, "path_on_host": "f"}"#,
    r#"PUT /network-interfaces/m {"iface_id": "m", "host_dev_name": "t", "guest_mac": "06:00:ac:10:00:02"}"#,
    r#"PUT /mmds/config {"network_interfaces": ["n"]}"#,
    r#"PUT /mmds {"a": 1}"#,
    r#"PATCH /mmds {"b": 2}"#,
    r#"PATCH /machine-config {"mem_size_mib": 2}"#,
    r#"PATCH /machine-config {"vcpu_count": 33}"#,
    r#"PATCH /drives/d {"drive_id": "d", "path_on_host": "g"}"#,
    r#"PATCH /balloon {"amount_mib": 2}"#,
    r#"PATCH /vm {"state": "Paused"}"#,
    r#"PATCH /vm {"state": "Resumed"}"#,
    r#"PUT /entropy {}"#,
    r#"PUT /vsock {"guest_cid": 3, "uds_path": "missing"}"#,
];

proptest! {
    /// In whatever order requests come: a refused one changes nothing, what is accepted makes a
    /// machine, and the state is what was done last.
    #[test]
    fn any_order(requests in prop::collection::vec(prop::sample::select(&ANY[..]), 0..30)) {
        let mut client = Client::new();
        let mut state = "Not started";
        for request in requests {
            let before = client.config();
            match client.send(request) {
                Err(_) => prop_assert_eq!(client.config(), before, "{}", request),
                Ok(_) if request == START => state = "Running",
                Ok(_) if request.contains("Paused") => state = "Paused",
                Ok(_) if request.contains("Resumed") => state = "Running",
                Ok(_) => {}
            }
            let instance: Value = serde_json::from_str(&client.send("GET /").unwrap()).unwrap();
            prop_assert_eq!(&instance["state"], state);
            let spec = client.controller.config.to_spec(InstanceId::new("vm").unwrap());
            let has_kernel = client.config()["boot-source"]["kernel_image_path"] != "";
            prop_assert_eq!(spec.is_ok(), has_kernel);
        }
    }
}
