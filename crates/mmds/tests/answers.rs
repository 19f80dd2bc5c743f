//! What the guest gets for which request, through frames.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use spec::MmdsVersion::{self, V1, V2};

use support::{World, has_responses, responses, service};

const NO_TOKEN: &str = "No MMDS token provided. Use `X-metadata-token` or \
    `X-aws-ec2-metadata-token` header to specify the session token.";
const BAD_TOKEN: &str = "MMDS token not valid.";
const UNSUPPORTED: &str = "Cannot retrieve value. The value has an unsupported type.";
const JSON: &str = "Accept: application/json\r\n";

fn document() -> Value {
    json!({
        "latest": {
            "meta-data": {
                "ami-id": "ami-1", "list": ["first", "second"], "empty": "", "object": {"a": "b"},
            },
            "Limits": {"CPU": 512},
            "Usage": {"CPU": 12.12},
        }
    })
}

/// Sends one request, and gives the whole response as text.
fn ask(world: &mut World, request: &str) -> String {
    let handle = world.connect(40000 + (world.now.as_millis() % 10000) as u16, 4096);
    let answer = world.exchange(handle, request.as_bytes(), (4096, 500), |a| has_responses(a, 1));
    world.socket(handle).close();
    world.step();
    String::from_utf8(answer).unwrap()
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}\r\n")
}

fn put(path: &str, headers: &str) -> String {
    format!("PUT {path} HTTP/1.1\r\n{headers}\r\n")
}

#[test]
fn values_in_all_forms() {
    let text = [
        ("/latest", "Limits/\nUsage/\nmeta-data/"),
        ("/", "latest/"),
        ("/latest/meta-data/", "ami-id\nempty\nlist\nobject/"),
        ("/latest/meta-data/ami-id/", "ami-1"),
        ("//latest//meta-data/list/0", "first"),
        ("/latest/meta-data/empty", ""),
        ("/latest/Limits/CPU", UNSUPPORTED),
        ("/latest/Usage/CPU", UNSUPPORTED),
        ("/latest/meta-data/list", UNSUPPORTED),
        ("/latest/x", "Resource not found: /latest/x."),
        ("http://169.254.169.254/latest/meta-data/ami-id", "ami-1"),
        ("http://169.254.169.254", "Invalid URI."),
    ];
    let json = [
        ("/latest/meta-data/ami-id", "\"ami-1\""),
        ("/latest/meta-data/object/", r#"{"a":"b"}"#),
        ("/latest/Limits/CPU", "512"),
        ("/latest/Usage/CPU", "12.12"),
        ("/latest/x", "Resource not found: /latest/x."),
    ];
    let status = |body: &str| match body {
        UNSUPPORTED => 501,
        "Invalid URI." => 400,
        body if body.starts_with("Resource not found") => 404,
        _ => 200,
    };
    for version in [V1, V2] {
        for compat in [false, true] {
            let check = |accept: &str, path: &str, expected: &str, content: &str| {
                let (service, _) = service(version, compat, document());
                let mut world = World::new(service, 1500);
                let lifetime = "X-metadata-token-ttl-seconds: 60\r\n";
                let token = ask(&mut world, &put("/latest/api/token", lifetime));
                let (_, token) = responses(token.as_bytes()).remove(0);
                let headers = format!("{accept}X-metadata-token: {token}\r\n");
                let answer = ask(&mut world, &get(path, &headers));
                let expected = (status(expected), expected.to_owned());
                assert_eq!(responses(answer.as_bytes()), [expected], "{version:?} {accept}{path}");
                assert!(answer.contains(content), "{version:?} {accept}{path}: {answer}");
            };
            let plain = "Content-Type: text/plain\r\n";
            for (path, expected) in text {
                check("", path, expected, plain);
                check("Accept: */*\r\n", path, expected, plain);
            }
            for (path, expected) in json {
                if compat {
                    continue;
                }
                let content =
                    if status(expected) == 200 { "application/json" } else { "text/plain" };
                check(JSON, path, expected, content);
            }
            if compat {
                check(JSON, "/latest/meta-data/ami-id", "ami-1", plain);
                check(JSON, "/latest/Limits/CPU", UNSUPPORTED, plain);
            }
        }
    }
}

#[test]
fn tokens_are_asked_for_in_version_2_and_counted_in_both() {
    for (version, header, expected, counts) in [
        (V1, "", (200, "ami-1"), (1, 0)),
        (V1, "X-metadata-token: INVALID_TOKEN\r\n", (200, "ami-1"), (0, 1)),
        (V2, "", (401, NO_TOKEN), (1, 0)),
        (V2, "X-metadata-token: INVALID_TOKEN\r\n", (401, BAD_TOKEN), (0, 1)),
        (V2, "X-aws-ec2-metadata-token: \r\n", (401, BAD_TOKEN), (0, 1)),
    ] {
        let (service, metrics) = service(version, false, document());
        let mut world = World::new(service, 1500);
        let answer = ask(&mut world, &get("/latest/meta-data/ami-id", header));
        let (status, body) = expected;
        assert_eq!(
            responses(answer.as_bytes()),
            [(status, body.to_owned())],
            "{version:?} {header}"
        );
        let counted = (metrics.rx_no_token.count(), metrics.rx_invalid_token.count());
        assert_eq!(counted, counts, "{version:?} {header}");
    }
}

#[test]
fn a_token_serves_under_both_names_until_it_expires() {
    for name in ["X-metadata-token", "x-AWS-ec2-metadata-token"] {
        let (service, metrics) = service(V2, false, document());
        let mut world = World::new(service, 1500);
        let answer =
            ask(&mut world, &put("/latest//api/token", &format!("{name}-ttl-seconds: 2\r\n")));
        assert!(answer.contains(&format!("\r\n{name}-ttl-seconds: 2\r\n")), "{answer}");
        let (status, token) = responses(answer.as_bytes()).remove(0);
        assert_eq!(status, 200);
        let request = get("/latest/meta-data/ami-id", &format!("{name}: {token}\r\n"));
        let first = ask(&mut world, &request);
        assert_eq!(responses(first.as_bytes()), [(200, "ami-1".to_owned())]);
        assert_eq!(metrics.rx_no_token.count() + metrics.rx_invalid_token.count(), 0);
        world.now += Duration::from_secs(2);
        let second = ask(&mut world, &request);
        assert_eq!(responses(second.as_bytes()), [(401, BAD_TOKEN.to_owned())]);
    }
}

#[test]
fn what_is_refused() {
    let no_lifetime = "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or \
        `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.";
    let range = |seconds: u32| {
        format!(
            "Invalid time to live value provided for token: {seconds}. Please provide a value \
             between 1 and 21600."
        )
    };
    let lifetime = |value: &str| format!("X-metadata-token-ttl-seconds: {value}\r\n");
    let cases: Vec<(String, u16, String)> = vec![
        (put("/latest/api/token", ""), 400, no_lifetime.into()),
        (put("/latest/api/token", &lifetime("0")), 400, range(0)),
        (put("/latest/api/token", &lifetime("21601")), 400, range(21601)),
        (
            put("/latest/api/token", &lifetime("x")),
            400,
            "Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; Value:x"
                .into(),
        ),
        (
            put("/latest/api/toke", &lifetime("60")),
            404,
            "Resource not found: /latest/api/toke.".into(),
        ),
        (
            put(
                "/latest/api/token",
                "X-Forwarded-For: foo\r\nX-metadata-token-ttl-seconds: 60\r\n",
            ),
            400,
            "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For".into(),
        ),
        ("PATCH / HTTP/1.1\r\n\r\n".into(), 405, "Not allowed HTTP method.".into()),
        ("DELETE / HTTP/1.1\r\n\r\n".into(), 405, "Not allowed HTTP method.".into()),
        ("POST / HTTP/1.1\r\n\r\n".into(), 501, "Unsupported HTTP method.".into()),
        ("GET / HTTP/3.0\r\n\r\n".into(), 501, "Unsupported HTTP version.".into()),
        (
            "GET / HTTP/1.1\r\nContent-Length: 100\r\n\r\nsome body".into(),
            400,
            "Invalid request.".into(),
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: 100\r\n\r\nsome body".into(),
            400,
            "Invalid request.".into(),
        ),
    ];
    for version in [V1, V2] {
        for (request, status, body) in &cases {
            let (service, _) = service(version, false, document());
            let answer = ask(&mut World::new(service, 1500), request);
            assert_eq!(responses(answer.as_bytes()), [(*status, body.clone())], "{request:?}");
            assert_eq!(*status == 405, answer.contains("\r\nAllow: GET, PUT\r\n"), "{answer}");
        }
    }
}

#[test]
fn an_empty_store_holds_null() {
    for (headers, expected) in [(JSON, (200, "null")), ("", (501, UNSUPPORTED))] {
        let (service, _) = service(V1, false, Value::Null);
        let answer = ask(&mut World::new(service, 1500), &get("/", headers));
        assert_eq!(responses(answer.as_bytes()), [(expected.0, expected.1.to_owned())]);
    }
}

#[test]
fn requests_share_a_connection() {
    let (service, _) = service(V1, false, document());
    let mut world = World::new(service, 1500);
    let handle = world.connect(40000, 4096);
    let one = get("/latest/meta-data/ami-id", "");
    let some = |count| move |answer: &[u8]| has_responses(answer, count);
    let first = world.exchange(handle, one.as_bytes(), (1, 500), some(1));
    assert_eq!(responses(&first), [(200, "ami-1".to_owned())]);
    let second = world.exchange(handle, one.repeat(30).as_bytes(), (4096, 500), some(30));
    assert_eq!(responses(&second), vec![(200, "ami-1".to_owned()); 30]);
    let last = get("/", "Connection: close\r\n") + &one;
    let third = world.exchange(handle, last.as_bytes(), (4096, 500), |_| false);
    assert_eq!(responses(&third), [(200, "latest/".to_owned())], "nothing follows");
}

#[test]
fn a_large_value_arrives_whatever_the_window() {
    for length in [1458, 1460, 1462, 2920, 51190] {
        let value: String = ('a'..='z').cycle().take(length).collect();
        for (mtu, buffer) in [(1500, 65535), (576, 4096), (1500, 1000)] {
            let (service, _) = service(MmdsVersion::V1, false, json!({"v": value}));
            let mut world = World::new(service, mtu);
            let handle = world.connect(40000, buffer);
            let answer = world
                .exchange(handle, get("/v", "").as_bytes(), (4096, 20000), |a| has_responses(a, 1));
            assert_eq!(responses(&answer), [(200, value.clone())], "{length} over {mtu}, {buffer}");
        }
    }
}
