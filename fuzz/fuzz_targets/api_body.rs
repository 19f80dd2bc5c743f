//! See `sparkler_fuzz::api_body`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::api_body::run);
