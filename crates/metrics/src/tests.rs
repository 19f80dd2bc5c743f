//! The document as a whole: its keys and their order, what is told once and what always.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::{Counter, Latency, Line, Metrics};

/// Firecracker's document, for a machine with one device of each kind for which nothing happened.
const DOCUMENT: &str = include_str!("document.json");

fn machine() -> Metrics {
    let metrics = Metrics::new();
    metrics.block.add("rootfs");
    metrics.net.add("eth0");
    metrics.pmem.add("data");
    metrics.vhost_user_block.add("scratch");
    metrics
}

fn line(metrics: &Metrics) -> Line<'_> {
    Line { metrics, utc_timestamp_ms: 7, id: None, properties: None }
}

fn tell(metrics: &Metrics) -> Value {
    serde_json::to_value(line(metrics)).expect("a line is JSON")
}

#[test]
fn keys_and_their_order_are_firecrackers() {
    let text = serde_json::to_string_pretty(&line(&machine())).expect("a line is JSON");
    assert_eq!(text, DOCUMENT.trim_end());
}

#[test]
fn a_machine_without_devices_has_all_groups_but_theirs() {
    let document: Value = serde_json::from_str(DOCUMENT).expect("the document is JSON");
    let mut expected = document.as_object().expect("an object").clone();
    expected.retain(|key, _| {
        !["_rootfs", "_eth0", "_data", "_scratch"].iter().any(|id| key.ends_with(id))
    });
    assert_eq!(tell(&Metrics::new()), Value::Object(expected));
}

#[test]
fn id_and_properties_stand_behind_the_time() {
    let metrics = Metrics::new();
    let properties = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let line = Line { id: Some("vm"), properties: Some(&properties), ..line(&metrics) };
    let text = serde_json::to_string(&line).expect("a line is JSON");
    let start = r#"{"utc_timestamp_ms":7,"id":"vm","properties":{"zone":"a"},"api_server":"#;
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn counters_tell_what_is_new_and_gauges_what_is() {
    let metrics = machine();
    metrics.put_api_requests.drive_count.inc();
    metrics.latencies_us.pause_vm.set_us(Duration::from_millis(3));
    for drives in [1, 0] {
        let told = tell(&metrics);
        assert_eq!(told["put_api_requests"]["drive_count"], drives);
        assert_eq!(told["latencies_us"]["pause_vm"], 3000);
    }
    assert_eq!(metrics.put_api_requests.drive_count.count(), 1);
}

#[test]
fn a_sum_is_that_of_its_devices() {
    let metrics = machine();
    let (first, second) = (metrics.net.add("eth0"), metrics.net.add("eth1"));
    first.rx_count.add(3);
    second.rx_count.add(4);
    first.tap_write_agg.record(Duration::from_micros(10));
    second.tap_write_agg.record(Duration::from_micros(20));
    let told = tell(&metrics);
    let rx = |told: &Value, key: &str| told[key]["rx_count"].as_u64();
    assert_eq!(
        [rx(&told, "net_eth0"), rx(&told, "net_eth1"), rx(&told, "net")],
        [Some(3), Some(4), Some(7)]
    );
    let sum: Map<String, Value> = [("min_us", 0), ("max_us", 0), ("sum_us", 30)]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into_iter()
        .collect();
    assert_eq!(told["net"]["tap_write_agg"], Value::Object(sum));
    assert_eq!(rx(&tell(&metrics), "net"), Some(0));
}

#[test]
fn a_device_is_told_while_it_is_there() {
    let metrics = Metrics::new();
    let drive = metrics.block.add("a");
    drive.read_count.inc();
    assert_eq!(metrics.block.add("a").read_count.count(), 1, "the same id is the same device");
    metrics.block.remove("a");
    assert!(tell(&metrics).get("block_a").is_none());
}

#[test]
fn latencies_hold_the_extremes() {
    let latency = Latency::default();
    for us in [5, 9, 2, 7] {
        latency.record(Duration::from_micros(us));
    }
    let told = [latency.min_us.get(), latency.max_us.get(), latency.sum_us.count()];
    assert_eq!(told, [2, 9, 23]);
    latency.record(Duration::MAX);
    assert_eq!(latency.max_us.get(), u64::MAX);
}

#[test]
fn a_counter_goes_round() {
    let counter = Counter::new();
    counter.add(u64::MAX);
    assert_eq!(counter.take(), u64::MAX);
    counter.add(3);
    assert_eq!(counter.take(), 3);
}
