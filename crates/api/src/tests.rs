//! The configuration file, from its text to the machine or to the error that a user sees.

use spec::{InstanceId, VmSpec};

use crate::{Error, VmConfigFile};

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

fn spec(text: &str) -> Result<VmSpec, Error> {
    VmConfigFile::parse(text)?.to_spec(InstanceId::new("vm").unwrap())
}

/// A file with a good boot source, no drives, and `rest`.
fn minimal(rest: &str) -> String {
    format!(r#"{{"boot-source": {{"kernel_image_path": "k"}}, "drives": [] {rest}}}"#)
}

#[test]
fn the_hello_world_file_becomes_a_machine() {
    let file = VmConfigFile::parse(HELLO).unwrap();
    let vm = spec(HELLO).unwrap();
    assert_eq!((vm.vcpus.get(), vm.memory.get()), (2, 1024));
    assert_eq!(vm.boot.kernel().to_str(), Some("hello-vmlinux.bin"));
    assert!(vm.boot.command_line().as_str().starts_with("ro console=ttyS0"));
    let root = vm.drives.root().unwrap();
    assert!(root.id().as_str() == "rootfs" && !root.read_only);
    assert_eq!(vm.network.len(), 1);
    let notices = file.notices();
    assert!(notices.iter().any(|n| n.contains("ht_enabled is deprecated")), "{notices:?}");
    assert!(notices.iter().any(|n| n.contains("network interface eth0")), "{notices:?}");
}

#[test]
fn what_is_left_out_has_firecrackers_defaults() {
    let vm = spec(&minimal("")).unwrap();
    assert_eq!((vm.vcpus.get(), vm.memory.get()), (1, 128));
    assert_eq!(vm.boot.command_line().as_str(), spec::DEFAULT_COMMAND_LINE);
    assert!(vm.entropy.is_none() && vm.drives.is_empty());
    assert!(spec(&minimal(r#", "entropy": {}, "no-such-part": 1"#)).unwrap().entropy.is_some());
}

#[test]
fn what_is_wrong_is_named() {
    let machine = |body: &str| minimal(&format!(r#", "machine-config": {{{body}}}"#));
    let drive = |body: &str| {
        format!(r#"{{"boot-source": {{"kernel_image_path": "k"}}, "drives": [{{{body}}}]}}"#)
    };
    let cases = [
        ("{".into(), "Invalid JSON: EOF while parsing an object"),
        ("[]".into(), "Invalid JSON: invalid"),
        ("{}".into(), "Invalid JSON: missing field `boot-source`"),
        (r#"{"boot-source": {"kernel_image_path": "k"}}"#.into(), "missing field `drives`"),
        (
            r#"{"boot-source": {"kernel": "k"}, "drives": []}"#.into(),
            "unknown field `kernel`, expected one of `kernel_image_path`, `initrd_path`, `boot_args`",
        ),
        (machine(r#""vcpu_count": 0, "mem_size_mib": 1"#), "Machine config error: vcpu_count is 0"),
        (machine(r#""vcpu_count": 33, "mem_size_mib": 1"#), "vcpu_count is 33; it must be from 1"),
        (machine(r#""vcpu_count": 300, "mem_size_mib": 1"#), "invalid value: integer `300`"),
        (machine(r#""vcpu_count": 1, "mem_size_mib": 0"#), "mem_size_mib is 0"),
        (machine(r#""vcpu_count": 1"#), "missing field `mem_size_mib`"),
        (machine(r#""vcpu_count": 3, "mem_size_mib": 8, "smt": true"#), "with smt"),
        (
            machine(r#""vcpu_count": 1, "mem_size_mib": 7, "huge_pages": "2M""#),
            "mem_size_mib is 7; with huge_pages",
        ),
        (
            machine(r#""vcpu_count": 1, "mem_size_mib": 8, "huge_pages": "1G""#),
            "unknown variant `1G`, expected one of `None`, `Transparent`, `2M`",
        ),
        (
            drive(r#""drive_id": "a", "is_root_device": true"#),
            "Drive config error: drive a needs exactly one of path_on_host and socket",
        ),
        (
            drive(r#""drive_id": "a/b", "is_root_device": true, "path_on_host": "d""#),
            "Drive config error: drive_id",
        ),
        (
            drive(r#""drive_id": "a", "is_root_device": true, "socket": "s""#),
            "a vhost-user drive (socket) is not supported",
        ),
        (minimal(r#", "vsock": {"guest_cid": 3, "uds_path": "v"}"#), "vsock is not supported"),
        (
            minimal(
                r#", "network-interfaces": [{"iface_id": "e", "host_dev_name": "t",
                       "guest_mac": "xx"}]"#,
            ),
            "Network config error: guest_mac",
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
