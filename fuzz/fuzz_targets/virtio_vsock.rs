//! See `sparkler_fuzz::virtio_vsock`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::virtio_vsock::run);
