//! The metadata service (MMDS).
#![forbid(unsafe_code)]
