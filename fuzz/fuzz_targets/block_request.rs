//! See `sparkler_fuzz::block_request`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::block_request::run);
