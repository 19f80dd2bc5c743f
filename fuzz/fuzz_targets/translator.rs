//! See `sparkler_fuzz::translator`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::translator::run);
