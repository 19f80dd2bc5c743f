//! The host's half of what sparkler's init says and hears on the serial line: the frames in which
//! a command's streams cross it, and the keys that never reach it. The guest's half, with the same
//! tables, is `crates/guest-init`.

pub mod frames;
pub mod keys;
pub mod session;
