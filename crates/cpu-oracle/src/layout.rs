//! Where things lie: the same virtual addresses in this process and in the guest.
//!
//! | address | what |
//! | --- | --- |
//! | 0x10000000 | two pages of code, to be read and executed |
//! | 0x10010000 | two pages of data, to be read and written |
//! | 0x10012000 | a page of data, to be read only |
//!
//! Nothing else is mapped near them.

/// The page size of both.
pub const PAGE: u64 = 4096;
/// First byte of the code pages.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code pages.
pub const CODE_LEN: u64 = 2 * PAGE;
/// First byte of the data pages.
pub const DATA: u64 = 0x1001_0000;
/// Bytes of data that may be written.
pub const WRITABLE_LEN: u64 = 2 * PAGE;
/// Bytes of data, with the page that is read only.
pub const DATA_LEN: u64 = 3 * PAGE;
/// The base of GS on both sides.
pub const GS_BASE: u64 = 0x1_2340;
