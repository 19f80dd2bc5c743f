//! Guest RAM and the log of who wrote which page.
//!
//! [`GuestMemory`] is vm-memory's mapping with our [`PageLog`] as its dirty bitmap. Devices write
//! through vm-memory, whose every write ends in `PageLog::mark_dirty`; the software CPU writes
//! through the raw [`RamView`] and tells the page's [`PageState`] itself when it first makes a page
//! writable in its TLB. The log therefore serves two readers:
//!
//! - incremental snapshots and live copies ask which pages were written since the last look
//!   ([`PageLog::take_dirty`]);
//! - the software CPU asks whether code it decoded is still what memory holds
//!   ([`PageState::version`]).
//!
//! [`discard()`] gives memory back to the host, which the log counts as a write.
//!
//! This crate holds the only pointers into guest RAM. It refuses accesses outside RAM; it does not
//! know devices, KVM, or instruction sets.

mod discard;
mod page_log;
mod ram;

pub use discard::{DiscardError, discard};
pub use page_log::{LINE_SIZE, PageLog, PageState};
pub use ram::{RamError, RamPage, RamView, allocate, ranges};
pub use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError,
    GuestMemoryRegion,
};

/// Bytes in a guest page frame (Intel SDM Vol. 3A, 4.5).
pub const PAGE_SIZE: u64 = 4096;

/// All of a guest's RAM, with the log of written pages.
pub type GuestMemory = vm_memory::GuestMemoryMmap<PageLog>;
