//! See `sparkler_fuzz::mmds_http`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::mmds_http::run);
