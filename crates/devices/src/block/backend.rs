//! A disk's contents, on the host.
//!
//! A back end either does what it is asked before it returns, or begins it and says later that it
//! has ended:
//!
//! ```text
//!   begin ──▶ Ended                          a back end that blocks
//!   begin ──▶ OnItsWay ──submit──▶ … ──▶ ended: (tag, result)
//! ```

use std::io;
use std::sync::Arc;

use memory::GuestMemory;
use virtio::GuestSlice;

use super::request::ID_LEN;

/// Names a transfer that is on its way; below [`IN_FLIGHT_MAX`].
pub type Tag = u16;

/// Most transfers that a disk has on their way at a time, as in Firecracker.
pub const IN_FLIGHT_MAX: u16 = 128;

/// What goes between guest and disk, or makes it last.
#[derive(Debug, Clone, Copy)]
pub enum Transfer<'a> {
    /// Fills all of `into` from `offset` on.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Guest memory.
        into: &'a [GuestSlice<'a>],
    },
    /// Writes all of `from` from `offset` on.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Guest memory.
        from: &'a [GuestSlice<'a>],
    },
    /// Makes durable what was written.
    Flush,
}

/// How far a transfer is.
#[derive(Debug)]
#[must_use]
pub enum Begun {
    /// It is done, or has failed.
    Ended(io::Result<()>),
    /// [`BlockBackend::ended`] will say when it is done.
    OnItsWay,
}

/// A disk's contents, on the host.
///
/// Offsets and lengths are in bytes and lie within [`BlockBackend::len`]. The slices are guest
/// RAM, which the guest may change at the same time; they fit preadv(2) and pwritev(2). A read
/// need not mark the slices as written: the device does. Calls come one at a time, from any thread.
pub trait BlockBackend: Send {
    /// Bytes on the disk. What does not make a whole sector at the end is not shown to the guest.
    fn len(&self) -> u64;

    /// Fills all of `into` from `offset` on.
    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()>;

    /// Writes all of `from` from `offset` on.
    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()>;

    /// Makes durable what was written.
    fn flush(&mut self) -> io::Result<()>;

    /// The disk's identity for the guest: ASCII, padded with zeroes.
    fn id(&self) -> [u8; ID_LEN as usize];

    /// Whether the disk has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The guest does not need these bytes any more; they read as anything from now on.
    /// [`io::ErrorKind::Unsupported`] where the disk cannot make use of that.
    fn discard(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes these bytes zero, and gives their room back to the host if `may_unmap` and it can.
    /// [`io::ErrorKind::Unsupported`] where only writing zeroes would do it.
    fn write_zeroes(&mut self, _offset: u64, _len: u64, _may_unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Begins `transfer`, whose slices are of `memory`. `tag` is not on its way.
    ///
    /// A back end that returns before the transfer has ended keeps `memory` alive until then.
    fn begin(&mut self, _tag: Tag, _memory: &Arc<GuestMemory>, transfer: Transfer<'_>) -> Begun {
        Begun::Ended(match transfer {
            Transfer::Read { offset, into } => self.read_at(offset, into),
            Transfer::Write { offset, from } => self.write_at(offset, from),
            Transfer::Flush => self.flush(),
        })
    }

    /// Sends off what was begun since the last call.
    fn submit(&mut self) {}

    /// A transfer that was on its way and has ended, if there is one.
    fn ended(&mut self) -> Option<(Tag, io::Result<()>)> {
        None
    }

    /// Sends everything off and waits until nothing is on its way: [`BlockBackend::ended`] then
    /// tells of all.
    fn wait(&mut self) {}
}

impl<B: BlockBackend + ?Sized> BlockBackend for Box<B> {
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }
    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        (**self).write_at(offset, from)
    }
    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
    fn id(&self) -> [u8; ID_LEN as usize] {
        (**self).id()
    }
    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        (**self).discard(offset, len)
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        (**self).write_zeroes(offset, len, may_unmap)
    }
    fn begin(&mut self, tag: Tag, memory: &Arc<GuestMemory>, transfer: Transfer<'_>) -> Begun {
        (**self).begin(tag, memory, transfer)
    }
    fn submit(&mut self) {
        (**self).submit();
    }
    fn ended(&mut self) -> Option<(Tag, io::Result<()>)> {
        (**self).ended()
    }
    fn wait(&mut self) {
        (**self).wait();
    }
}
