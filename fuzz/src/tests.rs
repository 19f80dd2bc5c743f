//! All targets over a fixed set of pseudo-random inputs, and over their corpora where there are
//! any: so that a target that has rotted is found without a fuzzer.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Inputs for each target.
const INPUTS: u64 = 2000;
/// Bytes in the longest that is made anew.
const INPUT_MAX: u64 = 700;
/// Inputs that are kept to make others of.
const POOL_MAX: usize = 256;

/// SplitMix64: enough to scatter bytes, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }
}

fn check(name: &str, run: fn(&[u8])) {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    for file in std::fs::read_dir(corpus).into_iter().flatten().flatten() {
        run(&std::fs::read(file.path()).unwrap());
    }
    let mut random = Random(1);
    let deadline = seconds().map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut pool: Vec<Vec<u8>> = Vec::new();
    for count in 0.. {
        let is_over = deadline.map_or(count >= INPUTS, |deadline| Instant::now() >= deadline);
        if is_over {
            break;
        }
        let input = match pool.is_empty() || random.next() % 2 == 0 {
            true => fresh(&mut random),
            false => mutated(&pool, &mut random),
        };
        run(&input);
        if pool.len() < POOL_MAX {
            pool.push(input);
        } else if random.next() % 16 == 0 {
            let place = random.next() as usize % POOL_MAX;
            pool[place] = input;
        }
    }
}

/// How long each target runs, if it is to run longer than its fixed number of inputs takes.
fn seconds() -> Option<u64> {
    std::env::var("SPARKLER_FUZZ_SECONDS").ok()?.parse().ok()
}

fn fresh(random: &mut Random) -> Vec<u8> {
    let len = random.next() % INPUT_MAX;
    // Few different bytes in one input, and many in another.
    let mask = [0xFF, 0x0F, 0x81, 0x03][random.next() as usize % 4];
    (0..len).map(|_| random.next() as u8 & mask).collect()
}

/// One of the inputs before, with some bytes changed, cut off, or those of another behind them.
fn mutated(pool: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut pick = || random.next() as usize % pool.len();
    let (mut input, other) = (pool[pick()].clone(), &pool[pick()]);
    match random.next() % 4 {
        0 => input.truncate(random.next() as usize % (input.len() + 1)),
        1 => input.extend(other),
        _ => {}
    }
    input.truncate(4 * INPUT_MAX as usize);
    for _ in 0..random.next() % 8 {
        if !input.is_empty() {
            let at = random.next() as usize % input.len();
            input[at] = random.next() as u8;
        }
    }
    input
}

#[test]
fn virtio_transport() {
    check("virtio_transport", crate::virtio_transport::run);
}

#[test]
fn block_request() {
    check("block_request", crate::block_request::run);
}

#[test]
fn legacy_devices() {
    check("legacy_devices", crate::legacy_devices::run);
}

#[test]
fn kernel_loader() {
    check("kernel_loader", crate::kernel_loader::run);
}

#[test]
fn decoder() {
    check("decoder", crate::decoder::run);
}

#[test]
fn translator() {
    check("translator", crate::translator::run);
}

#[test]
fn mmds_frames() {
    check("mmds_frames", crate::mmds_frames::run);
}

#[test]
fn mmds_http() {
    check("mmds_http", crate::mmds_http::run);
}

#[test]
fn virtio_vsock() {
    check("virtio_vsock", crate::virtio_vsock::run);
}

#[test]
fn virtio_net() {
    check("virtio_net", crate::virtio_net::run);
}

#[test]
fn virtio_balloon() {
    check("virtio_balloon", crate::virtio_balloon::run);
}

#[test]
fn cpu_config() {
    check("cpu_config", crate::cpu_config::run);
}

#[test]
fn api_body() {
    check("api_body", crate::api_body::run);
}

#[test]
fn api_http() {
    check("api_http", crate::api_http::run);
}

#[test]
fn image_layers() {
    check("image_layers", crate::image_layers::run);
}

#[test]
fn dockerfile() {
    check("dockerfile", crate::dockerfile::run);
}

#[test]
fn ext4_reader() {
    check("ext4_reader", crate::ext4_reader::run);
}
