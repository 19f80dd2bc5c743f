//! What the host gives a virtual machine: a terminal, disks in files, taps, passt, randomness, events,
//! signals, and answers about itself.
//!
//! Every module is a thin, safe wrapper of a few system calls. There is no policy here: which
//! signal ends a machine, how a finding of [`probe`] is explained, or when a disk is opened, is
//! for the callers to say.

mod disk;
mod entropy;
mod events;
mod overlay;
mod passt;
pub mod probe;
pub mod signals;
mod stdio;
pub mod system;
mod tap;
pub mod terminal;
mod unix;
mod uring;

pub use disk::{DiskClaim, DiskError, FileDisk};
pub use entropy::HostEntropy;
pub use events::{Event, EventFd, Poller, TimerFd};
pub use overlay::{OverlayDisk, OverlayError};
pub use passt::Passt;
pub use signals::SignalFd;
pub use stdio::{read_stdin, stdout_moves};
pub use tap::{Tap, TapError};
pub use unix::{UnixError, UnixHost};
pub use uring::UringDisk;
