//! See `sparkler_fuzz::cpu_config`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::cpu_config::run);
