//! What each verb does, a module each.

pub mod completions;
pub mod dockerfile;
pub mod doctor;
pub mod image;
pub mod kernel;
pub mod run;
pub mod version;
