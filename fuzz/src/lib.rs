//! The bodies of the fuzz targets: what a guest can feed to sparkler, as functions over bytes.
//!
//! Each module has a `run`, which must never panic and always end soon, whatever it is given. The
//! programs in `fuzz_targets/` hand them to libFuzzer, or replay files where there is none.
#![forbid(unsafe_code)]

pub mod api_body;
pub mod api_http;
pub mod block_request;
pub mod cpu_config;
pub mod decoder;
pub mod dockerfile;
pub mod ext4_reader;
pub mod image_layers;
pub mod kernel_loader;
pub mod legacy_devices;
pub mod mmds_frames;
pub mod mmds_http;
mod source;
#[cfg(test)]
mod tests;
pub mod translator;
pub mod virtio_balloon;
pub mod virtio_net;
pub mod virtio_transport;
pub mod virtio_vsock;

use std::path::Path;

/// Makes a function over bytes the program of a fuzz target.
#[macro_export]
macro_rules! target {
    ($run:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $run(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay($run, std::env::args_os().skip(1))
        }
    };
}

/// Gives each of the files to `run`.
pub fn replay(
    run: fn(&[u8]),
    files: impl Iterator<Item = std::ffi::OsString>,
) -> std::io::Result<()> {
    for file in files {
        println!("{}", Path::new(&file).display());
        run(&std::fs::read(&file)?);
    }
    Ok(())
}
