//! Requests to the API, one after the other: routes, bodies, and what a configuration makes of them.
//! A refused request says why in one text, and what is accepted makes a machine.

use api::http::{self, Method};
use api::{Configuration, Configure, Error, Request};
use spec::InstanceId;

use crate::source::Source;

/// Requests that are understood, to be spoiled.
const REQUESTS: [(Method, &str, &str); 20] = [
    (Method::Get, "/balloon/hinting/status", ""),
    (Method::Put, "/actions", r#"{"action_type":"InstanceStart"}"#),
    (Method::Put, "/balloon", r#"{"amount_mib":1,"deflate_on_oom":true,"free_page_hinting":true}"#),
    (Method::Put, "/boot-source", r#"{"kernel_image_path":"k","boot_args":"quiet"}"#),
    (
        Method::Put,
        "/cpu-config",
        r#"{"cpuid_modifiers":[{"leaf":"0x1","subleaf":"0x0","flags":0,"modifiers":
            [{"register":"eax","bitmap":"0b1x0"}]}],"msr_modifiers":[{"addr":"0x10","bitmap":"0b1"}]}"#,
    ),
    (
        Method::Put,
        "/drives/a",
        r#"{"drive_id":"a","is_root_device":true,"path_on_host":"f","partuuid":"0eaa91a0-01",
            "rate_limiter":{"ops":{"size":1,"refill_time":2,"one_time_burst":3}}}"#,
    ),
    (Method::Put, "/drives/b", r#"{"drive_id":"b","is_root_device":false,"path_on_host":"f"}"#),
    (Method::Put, "/entropy", r#"{"rate_limiter":{"bandwidth":{"size":1,"refill_time":2}}}"#),
    (Method::Put, "/hotplug/memory", r#"{"total_size_mib":1024,"slot_size_mib":128}"#),
    (Method::Put, "/logger", r#"{"level":"Info","log_path":"l"}"#),
    (Method::Put, "/machine-config", r#"{"vcpu_count":2,"mem_size_mib":128,"smt":true}"#),
    (Method::Put, "/metrics", r#"{"metrics_path":"m","properties":{"a":"b"}}"#),
    (Method::Put, "/mmds/config", r#"{"network_interfaces":["n"],"ipv4_address":"169.254.1.1"}"#),
    (
        Method::Put,
        "/network-interfaces/n",
        r#"{"iface_id":"n","host_dev_name":"t","guest_mac":"06:00:ac:10:00:02","mtu":1500}"#,
    ),
    (Method::Put, "/serial", r#"{"rate_limiter":{"size":1,"refill_time":2}}"#),
    (Method::Put, "/snapshot/load", r#"{"snapshot_path":"a","mem_file_path":"b"}"#),
    (Method::Put, "/vsock", r#"{"guest_cid":3,"uds_path":"v"}"#),
    (Method::Patch, "/machine-config", r#"{"cpu_template":"T2","huge_pages":"2M"}"#),
    (Method::Patch, "/vm", r#"{"state":"Paused"}"#),
    (Method::Delete, "/drives/a", ""),
];
/// What takes the place of something else.
const PIECES: [&str; 12] =
    ["0", "-1", "null", "\"\"", "{}", "[]", "18446744073709551615", "1e99", ",", "}", "\"a\"", "/"];

/// Carries out the requests that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mut config = Configuration::default();
    while !source.is_empty() {
        let request = request(&mut source);
        match Request::parse(&request) {
            Err(error) => assert!(!error.to_string().is_empty(), "{request:?}"),
            Ok(request) => {
                // The notice goes into the log.
                let _ = request.deprecation();
                let mut next = config.clone();
                if let Request::Configure(body) = request
                    && apply(&mut next, body).is_ok()
                {
                    config = next;
                }
            }
        }
        check(&config);
    }
}

fn request(source: &mut Source<'_>) -> http::Request {
    let (method, path, body) = REQUESTS[usize::from(source.u8()) % REQUESTS.len()];
    let (mut path, mut body) = (path.as_bytes().to_vec(), body.as_bytes().to_vec());
    let spoils = source.u8();
    for _ in 0..spoils & 3 {
        spoil(&mut body, source);
    }
    if spoils & 0xC0 == 0xC0 {
        spoil(&mut path, source);
    }
    let path = String::from_utf8_lossy(&path).into_owned();
    http::Request { method, path, body: (!body.is_empty()).then_some(body) }
}

/// Replaces some bytes by others.
fn spoil(text: &mut Vec<u8>, source: &mut Source<'_>) {
    let at = usize::from(source.u16()) % (text.len() + 1);
    let end = (at + usize::from(source.u8() % 16)).min(text.len());
    let choice = usize::from(source.u8());
    let random = [source.u8()];
    let piece = PIECES.get(choice % 16).map_or(&random[..], |piece| piece.as_bytes());
    text.splice(at..end, piece.iter().copied());
}

fn apply(config: &mut Configuration, request: Configure) -> Result<(), Error> {
    match request {
        Configure::Balloon(body) => config.set_balloon(body),
        Configure::BootSource(body) => config.set_boot_source(body).map(drop),
        Configure::Cpu(body) => config.set_cpu(body),
        Configure::Drive(body) => config.put_drive(body).map(drop),
        Configure::Machine(body) => config.update_machine(body.into()),
        Configure::MachineUpdate(body) => config.update_machine(body),
        Configure::Mmds(body) => config.set_mmds(body),
        Configure::NetworkInterface(body) => config.put_interface(body).map(drop),
        Configure::Vsock(body) => config.set_vsock(body).map(drop),
        Configure::Entropy(body) => {
            config.set_entropy(body);
            Ok(())
        }
        Configure::Serial(body) => {
            config.set_serial(body);
            Ok(())
        }
        Configure::MemoryHotplug(body) => body.check().map_err(Error::MemoryHotplugConfig),
        // What a host would do, and what no version of it can.
        Configure::Logger(_) | Configure::Metrics(_) | Configure::Pmem(_) => Ok(()),
    }
}

/// What is configured can be told, and makes a machine or says what is missing.
fn check(config: &Configuration) {
    serde_json::to_string(config).expect("it is JSON");
    match config.to_spec(InstanceId::new("vm").expect("a good name")) {
        Ok(vm) => assert!(vm.drives.iter().filter(|drive| drive.is_root).count() <= 1),
        // No kernel, more memory than a machine has, or a template that is not for it.
        Err(error) => assert!(matches!(error, Error::Start(_)), "{error}"),
    }
}
