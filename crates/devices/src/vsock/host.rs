//! What the device needs of the host: programs that call, programs that can be called, and the
//! streams to both.

use std::io;
use std::net::Shutdown;

use virtio::GuestSlice;

/// The host's side of the device.
///
/// Nothing here waits: what cannot be done at once is [`io::ErrorKind::WouldBlock`]. Every stream
/// has a token of the device's choice, by which [`Host::poll`] speaks of it.
pub trait Host: Send {
    /// Begins to tell of callers, or stops that. Those who call meanwhile are kept waiting.
    fn listen(&mut self, on: bool) -> io::Result<()>;

    /// The stream to a program that calls.
    fn accept(&mut self, token: u64) -> io::Result<Box<dyn Stream>>;

    /// A stream to whoever listens for calls from the guest to `port`.
    fn connect(&mut self, port: u32, token: u64) -> io::Result<Box<dyn Stream>>;

    /// Adds to `ready` what became ready since the last call, and says whether there may be more.
    /// A caller who is still there counts as new each time.
    fn poll(&mut self, ready: &mut Vec<Ready>) -> io::Result<bool>;
}

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// A program calls.
    Caller,
    /// Something about a stream.
    Stream {
        /// Its token.
        token: u64,
        /// There is something to read, or the other end has closed.
        readable: bool,
        /// There is room again after a write that was cut short, or the other end has closed.
        writable: bool,
    },
}

/// A stream to a program on the host. It is closed when it is dropped.
///
/// After a read or write that did less than it was asked for, [`Host::poll`] tells when more is
/// possible.
pub trait Stream: Send {
    /// Fills `into`, of at least one byte; 0 says that the other end sends no more. The slices
    /// need not be marked as written.
    fn read(&mut self, into: &[GuestSlice<'_>]) -> io::Result<usize>;

    /// Sends `from`, of at least one byte.
    fn write(&mut self, from: &[GuestSlice<'_>]) -> io::Result<usize>;

    /// As [`Stream::read`], but what was read will be read again.
    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// As [`Stream::read`], into memory of our own.
    fn read_bytes(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// As [`Stream::write`], from memory of our own.
    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize>;

    /// Ends one direction. An end that is gone already is no concern.
    fn shutdown(&mut self, how: Shutdown);

    /// Whether anybody may still receive what is written.
    fn is_heard(&self) -> bool;
}
