//! See `sparkler_fuzz::virtio_balloon`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::virtio_balloon::run);
