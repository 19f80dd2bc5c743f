//! See `sparkler_fuzz::kernel_loader`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::kernel_loader::run);
