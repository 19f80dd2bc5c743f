//! Standard input without a buffer, and whether standard output moves.
//!
//! Rust's own standard input reads ahead into a buffer, which an epoll set does not know of.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

/// Reads what standard input has, at most `into.len()` bytes; 0 is its end. Waits if there is
/// nothing yet.
pub fn read_stdin(into: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut *into) {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Whether standard output takes bytes at once. False where its reader is slow, and while a
/// terminal is stopped; true where a write would fail.
pub fn stdout_moves() -> bool {
    let stdout = rustix::stdio::stdout();
    let mut set = [PollFd::new(&stdout, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut set, Some(&at_once)), Ok(0))
}
