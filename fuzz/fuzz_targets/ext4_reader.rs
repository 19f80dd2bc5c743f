//! See `sparkler_fuzz::ext4_reader`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::ext4_reader::run);
