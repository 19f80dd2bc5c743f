//! See `sparkler_fuzz::virtio_net`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::virtio_net::run);
