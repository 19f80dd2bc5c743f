//! See `sparkler_fuzz::legacy_devices`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::legacy_devices::run);
