//! See `sparkler_fuzz::image_layers`.
#![cfg_attr(fuzzing, no_main)]

sparkler_fuzz::target!(sparkler_fuzz::image_layers::run);
