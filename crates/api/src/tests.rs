//! Bodies and paths, the configuration and its file: to the machine, or to the error that a user
//! sees.

use spec::{InstanceId, VmSpec};

use crate::http::{self, Method};
use crate::{
    BootSource, Configuration, Configure, CpuConfig, CpuConfigSource, Error, MachineConfigUpdate,
    Request, VmConfigFile,
};

const HELLO: &str = r#"{
  "boot-source": {
    "kernel_image_path": "hello-vmlinux.bin",
    "boot_args": "ro console=ttyS0 noapic reboot=k panic=1 pci=off"
  },
  "drives": [
    {"drive_id": "rootfs", "path_on_host": "hello-rootfs.ext4", "is_root_device": true,
     "is_read_only": false}
  ],
  "network-interfaces": [
    {"iface_id": "eth0", "guest_mac": "02:FC:00:00:00:05", "host_dev_name": "fc-88-tap0"}
  ],
  "machine-config": {"vcpu_count": 2, "mem_size_mib": 1024, "ht_enabled": false}
}"#;

/// Makes a configuration of a file's requests, as far as they need nothing of a host.
fn configure(file: VmConfigFile) -> Result<Configuration, Error> {
    let mut config = Configuration::default();
    for request in file.requests(None) {
        apply(&mut config, request)?;
    }
    Ok(config)
}

fn apply(config: &mut Configuration, request: Configure) -> Result<(), Error> {
    match request {
        Configure::Machine(body) => config.update_machine(body.into()),
        Configure::MachineUpdate(body) => config.update_machine(body),
        Configure::BootSource(body) => config.set_boot_source(body).map(drop),
        Configure::Drive(body) => config.put_drive(body).map(drop),
        Configure::NetworkInterface(body) => config.put_interface(body).map(drop),
        Configure::Vsock(body) => config.set_vsock(body).map(drop),
        Configure::Balloon(body) => config.set_balloon(body),
        Configure::Mmds(body) => config.set_mmds(body),
        Configure::Entropy(body) => {
            config.set_entropy(body);
            Ok(())
        }
        other => panic!("{other:?}"),
    }
}

fn spec(text: &str) -> Result<VmSpec, Error> {
    configure(VmConfigFile::parse(text)?)?.to_spec(InstanceId::new("vm").unwrap())
}

/// A file with a good boot source, no drives, and `rest`.
fn minimal(rest: &str) -> String {
    format!(r#"{{"boot-source": {{"kernel_image_path": "k"}}, "drives": [] {rest}}}"#)
}

#[test]
fn the_hello_world_file_becomes_a_machine() {
    let file = VmConfigFile::parse(HELLO).unwrap();
    assert_eq!(file.machine_config.unwrap().ht_enabled, Some(false));
    let vm = spec(HELLO).unwrap();
    assert_eq!((vm.vcpus.get(), vm.memory.get()), (2, 1024));
    assert_eq!(vm.boot.kernel().to_str(), Some("hello-vmlinux.bin"));
    assert!(vm.boot.command_line().as_str().starts_with("ro console=ttyS0"));
    let root = vm.drives.root().unwrap();
    assert!(root.id().as_str() == "rootfs" && !root.read_only);
    let mac = vm.network.iter().next().unwrap().guest_mac.unwrap().to_string();
    assert_eq!(mac, "02:fc:00:00:00:05");
}

#[test]
fn what_is_left_out_has_firecrackers_defaults() {
    let vm = spec(&minimal("")).unwrap();
    assert_eq!((vm.vcpus.get(), vm.memory.get()), (1, 128));
    assert_eq!(vm.boot.command_line().as_str(), spec::DEFAULT_COMMAND_LINE);
    assert!(vm.entropy.is_none() && vm.drives.is_empty() && vm.mmds.is_none());
    assert!(spec(&minimal(r#", "entropy": {}, "no-such-part": 1"#)).unwrap().entropy.is_some());
    let odd = r#", "machine-config": {"vcpu_count": 3, "mem_size_mib": 8, "ht_enabled": true}"#;
    let error = spec(&minimal(odd)).unwrap_err().to_string();
    assert!(error.contains("even number if SMT is enabled"), "{error}");
}

#[test]
fn every_device_reaches_the_machine() {
    let vm = spec(&minimal(
        r#", "network-interfaces": [{"iface_id": "e", "host_dev_name": "t", "mtu": 1400}],
        "vsock": {"guest_cid": 3, "uds_path": "v"},
        "balloon": {"amount_mib": 64, "deflate_on_oom": true, "stats_polling_interval_s": 2},
        "mmds-config": {"version": "V2", "network_interfaces": ["e"]}"#,
    ))
    .unwrap();
    assert_eq!(vm.vsock.unwrap().guest_cid(), 3);
    let balloon = vm.balloon.unwrap();
    assert!(balloon.amount_mib == 64 && balloon.deflate_on_oom && balloon.stats_interval_s == 2);
    let mmds = vm.mmds.unwrap();
    assert_eq!(mmds.interfaces[0].as_str(), "e");
    assert!(mmds.version == spec::MmdsVersion::V2 && mmds.address.to_string() == "169.254.169.254");
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let machine = |body: &str| minimal(&format!(r#", "machine-config": {{{body}}}"#));
    let cases = [
        ("{".into(), "Invalid JSON: EOF while parsing an object"),
        ("[]".into(), "Invalid JSON: invalid"),
        ("{}".into(), "Invalid JSON: missing field `boot-source`"),
        (r#"{"boot-source": {"kernel_image_path": "k"}}"#.into(), "missing field `drives`"),
        (
            r#"{"boot-source": {"kernel": "k"}, "drives": []}"#.into(),
            "unknown field `kernel`, expected one of `kernel_image_path`, `initrd_path`, `boot_args`",
        ),
        (machine(r#""vcpu_count": 300, "mem_size_mib": 1"#), "invalid value: integer `300`"),
        (machine(r#""vcpu_count": 1"#), "missing field `mem_size_mib`"),
        (
            machine(r#""vcpu_count": 1, "mem_size_mib": 8, "ht_enabled": 3"#),
            "invalid type: integer `3`, expected a boolean",
        ),
        (
            machine(r#""vcpu_count": 1, "mem_size_mib": 99999999"#),
            "Start microvm error: Invalid Memory Configuration: mem_size_mib is 99999999",
        ),
    ];
    for (text, expected) in cases {
        let message = spec(&text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}\n gives {message:?}, not {expected:?}");
        assert!(!message.contains('\n'), "{message:?}");
    }
}

#[test]
fn limits_that_do_not_limit_vanish() {
    let text = r#"{"boot-source": {"kernel_image_path": "k"}, "drives": [
        {"drive_id": "a", "is_root_device": false, "path_on_host": "d",
         "rate_limiter": {"bandwidth": {"size": 0, "refill_time": 100},
                          "ops": {"size": 5, "refill_time": 100, "one_time_burst": 7}}}]}"#;
    let vm = spec(text).unwrap();
    let limits = vm.drives.iter().next().unwrap().rate_limiter;
    assert_eq!(limits.bandwidth, None);
    assert_eq!(limits.ops, spec::TokenBucket::new(5, 7, 100));
}

fn parse(method: Method, path: &str, body: &str) -> Result<Request, String> {
    let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
    let request = http::Request { method, path: path.to_owned(), body };
    Request::parse(&request).map_err(|error| error.to_string())
}

/// What a refused request is told.
fn check(method: Method, path: &str, body: &str, expected: &str) {
    assert_eq!(parse(method, path, body).unwrap_err(), expected, "{method} {path} {body}");
}

#[test]
fn requests_that_are_none() {
    use Method::{Delete, Get, Patch, Put};
    let route = |what: &str| format!("Invalid request method and/or path: {what}.");
    for (method, path, body, what) in [
        (Get, "/foo", "", "GET foo"),
        (Get, "/vm", "", "GET vm"),
        (Get, "/vm/foo", "", "GET vm"),
        (Get, "/drives/a", "", "GET drives"),
        (Get, "/hotplug", "", "GET hotplug"),
        (Put, "/foo/bar", "{}", "PUT foo"),
        (Put, "/", "{}", "PUT "),
        (Put, "/snapshot/foo", "{}", "PUT /snapshot/foo"),
        (Put, "/hotplug/disk", "{}", "PUT hotplug"),
        (Patch, "/boot-source", "{}", "PATCH boot-source"),
        (Patch, "/logger", "{}", "PATCH logger"),
        (Delete, "/drives/a", "{}", "DELETE drives"),
    ] {
        check(method, path, body, &route(what));
    }
    for (method, path, body, expected) in [
        (Get, "/", "{}", "GET request cannot have a body."),
        (Put, "/drives/a", "", "Empty PUT request."),
        (Patch, "/drives/a", "", "Empty PATCH request."),
        (Patch, "/machine-config", "{}", "Empty PATCH request."),
        (Patch, "/balloon", "", "Empty PATCH request."),
        (Delete, "/", "", "Empty Delete request."),
        (Put, "/drives", "{}", "The ID cannot be empty."),
        (Put, "/drives//", "{}", "The ID cannot be empty."),
        (Delete, "/drives/", "", "The ID cannot be empty."),
        (
            Put,
            "/drives/a-b",
            "{}",
            "API Resource IDs can only contain alphanumeric characters and underscores.",
        ),
        (
            Put,
            "/drives/a",
            r#"{"drive_id": "b", "is_root_device": true}"#,
            "The id from the path does not match the id from the body!",
        ),
        (
            Patch,
            "/network-interfaces/a",
            r#"{"iface_id": "b"}"#,
            "The id from the path [a] does not match the id from the body [b]!",
        ),
        (Put, "/snapshot", "{}", "Missing snapshot operation type."),
        (Put, "/mmds/foo", "{}", "Unrecognized PUT request path `foo`."),
        (Get, "/balloon/foo", "", "Unrecognized GET request path `foo`."),
        (Get, "/balloon/hinting", "", "Unrecognized GET request path `/hinting/`."),
        (Get, "/balloon/hinting/foo", "", "Unrecognized GET request path `/hinting/foo`."),
        (Patch, "/balloon/hinting/foo", "", "Unrecognized PATCH request path `/hinting/foo`."),
    ] {
        check(method, path, body, expected);
    }
}

#[test]
fn bodies_that_are_none() {
    use Method::{Patch, Put};
    let vcpus = r#"{"vcpu_count": 1}"#;
    for (method, path, body, expected) in [
        (Put, "/actions", "{", "EOF while parsing an object at line 1 column 1"),
        (Put, "/actions", "{}", "missing field `action_type` at line 1 column 2"),
        (
            Put,
            "/actions",
            r#"{"action_type": "a"}"#,
            "unknown variant `a`, expected one of `FlushMetrics`, `InstanceStart`, \
             `SendCtrlAltDel` at line 1 column 19",
        ),
        (Put, "/machine-config", vcpus, "missing field `mem_size_mib` at line 1 column 17"),
        (
            Put,
            "/machine-config",
            r#"{"vcpu_count": 1, "mem_size_mib": 18446744073709551616}"#,
            "invalid type: floating point `1.8446744073709552e+19`, expected usize at line 1 \
             column 54",
        ),
        (
            Patch,
            "/machine-config",
            r#"{"foo": 1}"#,
            "unknown field `foo`, expected one of `vcpu_count`, `mem_size_mib`, `smt`, \
             `cpu_template`, `track_dirty_pages`, `huge_pages` at line 1 column 6",
        ),
        (
            Put,
            "/machine-config",
            r#"{"vcpu_count": 1, "mem_size_mib": 1, "ht_enabled": true}"#,
            "unknown field `ht_enabled`, expected one of `vcpu_count`, `mem_size_mib`, `smt`, \
             `cpu_template`, `track_dirty_pages`, `huge_pages` at line 1 column 49",
        ),
        (
            Put,
            "/drives/a",
            r#"{"foo": 1}"#,
            "unknown field `foo`, expected one of `drive_id`, `partuuid`, `is_root_device`, \
             `cache_type`, `is_read_only`, `path_on_host`, `rate_limiter`, `io_engine`, `socket` \
             at line 1 column 6",
        ),
        (
            Patch,
            "/drives/a",
            r#"{"drive_id": "a", "is_read_only": true}"#,
            "unknown field `is_read_only`, expected one of `drive_id`, `path_on_host`, \
             `rate_limiter` at line 1 column 32",
        ),
        (
            Put,
            "/network-interfaces/a",
            r#"{"iface_id": "a", "host_dev_name": "t", "guest_mac": "a:b"}"#,
            "The provided MAC address is invalid. at line 1 column 59",
        ),
        (
            Put,
            "/mmds/config",
            r#"{"network_interfaces": [], "version": "foo"}"#,
            "unknown variant `foo`, expected `V1` or `V2` at line 1 column 43",
        ),
        (
            Put,
            "/mmds/config",
            r#"{"network_interfaces": [], "ipv4_address": ""}"#,
            "invalid IPv4 address syntax at line 1 column 45",
        ),
        (
            Put,
            "/metrics",
            r#"{"metrics_path": 5}"#,
            "invalid type: integer `5`, expected path string at line 1 column 18",
        ),
        (
            Put,
            "/logger",
            r#"{"level": "loud"}"#,
            "unknown variant `loud`, expected one of `Off`, `Trace`, `Debug`, `Info`, `Warn`, \
             `Error` at line 1 column 17",
        ),
        (
            Put,
            "/snapshot/load",
            r#"{"snapshot_path": "a"}"#,
            "missing field: either `mem_backend` or `mem_file_path` is required",
        ),
        (
            Put,
            "/snapshot/load",
            r#"{"snapshot_path": "a", "mem_file_path": "b",
                "mem_backend": {"backend_type": "File", "backend_path": "b"}}"#,
            "too many fields: either `mem_backend` or `mem_file_path` exclusively is required",
        ),
        (
            Patch,
            "/vm",
            r#"{"state": "Running"}"#,
            "unknown variant `Running`, expected `Paused` or `Resumed` at line 1 column 19",
        ),
        (Put, "/mmds", "\u{FEFF}", "expected value at line 1 column 1"),
    ] {
        let reason =
            format!("An error occurred when deserializing the json body of a request: {expected}.");
        check(method, path, body, &reason);
    }
    let deep = "[".repeat(10_000);
    assert!(parse(Put, "/mmds", &deep).unwrap_err().contains("recursion limit exceeded"));
}

#[test]
fn what_will_go_away_is_noticed() {
    use Method::{Patch, Put};
    let load = r#"{"snapshot_path": "a", "mem_backend":
                   {"backend_type": "File", "backend_path": "b"}"#;
    for (method, path, body, expected) in [
        (
            Put,
            "/machine-config",
            r#"{"vcpu_count": 1, "mem_size_mib": 1, "cpu_template": "None"}"#.to_owned(),
            Some("PUT /machine-config: cpu_template field is deprecated."),
        ),
        (
            Patch,
            "/machine-config",
            r#"{"cpu_template": "T2"}"#.to_owned(),
            Some("PATCH /machine-config: cpu_template field is deprecated."),
        ),
        (
            Put,
            "/vsock",
            r#"{"guest_cid": 3, "uds_path": "a", "vsock_id": "v"}"#.to_owned(),
            Some("PUT /vsock: vsock_id field is deprecated."),
        ),
        (
            Put,
            "/mmds/config",
            r#"{"network_interfaces": []}"#.to_owned(),
            Some("PUT /mmds/config: V1 is deprecated. Use V2 instead."),
        ),
        (Put, "/mmds/config", r#"{"network_interfaces": [], "version": "V2"}"#.to_owned(), None),
        (
            Put,
            "/snapshot/load",
            r#"{"snapshot_path": "a", "mem_file_path": "b"}"#.to_owned(),
            Some("PUT /snapshot/load: mem_file_path field is deprecated."),
        ),
        (
            Put,
            "/snapshot/load",
            format!("{load}, \"enable_diff_snapshots\": true}}"),
            Some("PUT /snapshot/load: enable_diff_snapshots field is deprecated."),
        ),
        (Put, "/snapshot/load", format!("{load}}}"), None),
    ] {
        let request = parse(method, path, &body).unwrap();
        assert_eq!(request.deprecation(), expected, "{path} {body}");
    }
}

#[test]
fn of_a_template_and_single_changes_the_last_counts() {
    let one: CpuConfig =
        serde_json::from_str(r#"{"msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1"}]}"#).unwrap();
    let template = |name: &str| {
        let body = format!(r#"{{"cpu_template": "{name}"}}"#);
        serde_json::from_str::<MachineConfigUpdate>(&body).unwrap()
    };
    let mut config = Configuration::default();
    config
        .set_boot_source(BootSource { kernel_image_path: "k".into(), ..Default::default() })
        .unwrap();
    let of = |config: &Configuration| {
        config.to_spec(InstanceId::new("vm").unwrap()).map(|vm| vm.cpu_template)
    };
    assert_eq!(of(&config).unwrap(), spec::CpuTemplate::default());
    config.update_machine(template("T2")).unwrap();
    assert_eq!(of(&config).unwrap(), spec::NamedTemplate::T2.into());
    config.set_cpu(one.clone()).unwrap();
    assert_eq!(of(&config).unwrap(), one.try_into().unwrap());
    assert_eq!(config.machine().cpu_template, None);
    config.update_machine(template("V1N1")).unwrap();
    let error = of(&config).unwrap_err().to_string();
    assert!(error.starts_with("Start microvm error: Failed to get CPU template: "), "{error}");
    config.update_machine(template("None")).unwrap();
    assert_eq!(of(&config).unwrap(), spec::CpuTemplate::default());
}

#[test]
fn the_cpus_features_may_be_in_a_file_of_their_own() {
    for (text, expected) in [
        (r#", "cpu-config": "cpu.json""#, Ok(Some(CpuConfigSource::File("cpu.json".into())))),
        (r#", "cpu-config": {}"#, Ok(Some(CpuConfigSource::Inline(CpuConfig::default())))),
        (r#", "cpu-config": null"#, Ok(None)),
        (r#", "cpu-config": {"foo": 1}"#, Err("unknown field `foo`")),
    ] {
        let file = VmConfigFile::parse(&minimal(text)).map(|file| file.cpu_config);
        match (file, expected) {
            (Ok(file), Ok(expected)) => assert_eq!(file, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (file, _) => panic!("{text}: {file:?}"),
        }
    }
}

#[test]
fn a_template_that_is_not_named_stays_and_none_takes_it_away() {
    let mut config = Configuration::default();
    for (body, expected) in [
        (r#"{"cpu_template": "T2"}"#, Some("T2")),
        (r#"{"vcpu_count": 2}"#, Some("T2")),
        (r#"{"cpu_template": "None"}"#, None),
    ] {
        let update: MachineConfigUpdate = serde_json::from_str(body).unwrap();
        config.update_machine(update).unwrap();
        let told = serde_json::to_value(config.machine()).unwrap();
        assert_eq!(told.get("cpu_template").and_then(|t| t.as_str()), expected, "{body}");
    }
}
