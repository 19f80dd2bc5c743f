//! See `sparkler_fuzz::mmds_frames`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::mmds_frames::run);
