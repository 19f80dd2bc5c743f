//! See `sparkler_fuzz::decoder`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::decoder::run);
