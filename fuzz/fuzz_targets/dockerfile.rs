//! See `sparkler_fuzz::dockerfile`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::dockerfile::run);
