//! What a guest sends on a connection to the metadata service, in pieces of any size.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use mmds::{REQUEST_BYTES_MAX, Reply, STORE_BYTES_DEFAULT, Service, Store};
use serde_json::json;
use spec::{Mmds, MmdsVersion};

use crate::source::Source;

/// The longest that can come back: the whole document, with headers.
const RESPONSE_MAX: usize = STORE_BYTES_DEFAULT + 2 * REQUEST_BYTES_MAX;
/// Beginnings that bytes alone would hardly find.
const BEGINNINGS: [&[u8]; 6] = [
    b"",
    b"GET /",
    b"GET /latest/meta-data/id HTTP/1.1\r\n",
    b"PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: ",
    b"\r\nX-metadata-token: ",
    b" HTTP/1.0\r\n\r\n",
];

/// Feeds the pieces that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let service = service(source.u8());
    let mut arrived = Vec::new();
    let mut now = Duration::ZERO;
    while !source.is_empty() {
        let choice = source.u8();
        arrived.extend(BEGINNINGS[usize::from(choice) % BEGINNINGS.len()]);
        arrived.extend(source.bytes(usize::from(choice >> 3)));
        arrived.truncate(REQUEST_BYTES_MAX);
        now += Duration::from_millis(choice.into());
        while let Reply::Send { response, request, last } = service.reply(&arrived, now) {
            assert!(response.starts_with(b"HTTP/1.") && response.len() <= RESPONSE_MAX);
            assert!(request > 0 && request <= arrived.len());
            arrived.drain(..request);
            if last {
                return;
            }
        }
    }
}

/// A service of any version, with something to find.
pub(crate) fn service(choice: u8) -> Service {
    let store = Store::new(STORE_BYTES_DEFAULT);
    let document = json!({"latest": {"meta-data": {"id": "x", "list": [1, "y"]}}, "a/b": null});
    store.put(document).expect("it is short");
    let config = Mmds {
        interfaces: Vec::new(),
        version: if choice & 1 == 0 { MmdsVersion::V1 } else { MmdsVersion::V2 },
        address: Ipv4Addr::new(169, 254, 169, 254),
        imds_compat: choice & 2 != 0,
    };
    Service::new(store, config, "fuzz", [0; 32], Arc::default())
}
