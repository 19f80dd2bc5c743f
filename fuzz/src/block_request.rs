//! Requests to a disk: the header alone and a list of extents against the decoder, and then whole
//! requests, cut into arbitrary buffers, against the device with a back end that ends them at once
//! or later.

use std::io;
use std::sync::Arc;

use devices::block::request::{
    Action, Disk, EXTENT_LEN, EXTENTS_MAX, ID_LEN, Operation, REQUEST_MAX, Request, extents,
};
use devices::block::{Begun, Block, BlockBackend, BlockOptions, Tag, Transfer};
use memory::GuestMemory;
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{GuestSlice, MmioTransport, Status};

use crate::source::Source;

/// Bytes on the disk: some sectors, and a part of one more.
const DISK_LEN: u64 = 1_000_000;
/// Most buffers in a request.
const BUFFERS_MAX: usize = 8;

/// Feeds the requests that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    decode(&mut source);
    list(&mut source);
    let flags = source.u8();
    let options = BlockOptions { read_only: flags & 1 != 0, write_back: flags & 2 != 0 };
    let memory = ram();
    let disk = CheckedDisk { options, later: flags & 4 != 0, ended: Vec::new() };
    let block = Block::new(disk, options);
    let line = Arc::new(CountingLine::default());
    let transport = MmioTransport::new(block, memory.clone(), line).expect("its queues fit");
    let mut driver = MockDriver::start(Arc::new(transport), memory, !0);
    for _ in 0..16 {
        if source.is_empty() {
            break;
        }
        request(&mut driver, &mut source);
    }
}

/// What is decoded must be on the disk and in the chain.
fn decode(source: &mut Source<'_>) {
    let (header, sectors) = (source.array(), source.u32());
    let (readable, writable) = (u64::from(source.u32()), u64::from(source.u32()));
    let disk = Disk { len: u64::from(sectors) * 512, read_only: false };
    let Ok(request) = Request::decode(header, readable, writable, disk) else {
        assert!(readable < 16 || writable == 0);
        return;
    };
    assert_eq!(request.status_at, writable - 1);
    match request.operation {
        Ok(Operation::Read { offset, data }) => {
            let len = data.end - data.start;
            assert!(data.end <= request.status_at && len <= REQUEST_MAX);
            assert!(offset + len <= disk.len);
        }
        Ok(Operation::Write { offset, data }) => {
            let len = data.end - data.start;
            assert!(data.start == 16 && data.end <= readable && len <= REQUEST_MAX);
            assert!(offset + len <= disk.len);
        }
        Ok(Operation::GetId { data }) => {
            assert!(data.end <= request.status_at && data.end - data.start == ID_LEN);
        }
        Ok(Operation::Extents { list, .. }) => {
            assert!(list.start == 16 && list.end <= readable && list.end <= 16 + 16 * 16);
        }
        Ok(Operation::Flush) | Err(_) => {}
    }
}

/// Extents that are read must be on the disk.
fn list(source: &mut Source<'_>) {
    let disk = Disk { len: u64::from(source.u16()) * 512, read_only: false };
    let action = if source.u8() & 1 == 0 { Action::Discard } else { Action::WriteZeroes };
    let len = usize::from(source.u8()) * 2;
    let mut bytes = source.bytes(len).to_vec();
    for extent in bytes.chunks_mut(EXTENT_LEN).filter(|extent| extent[0] & 1 == 0) {
        extent.iter_mut().skip(2).for_each(|byte| *byte &= 1);
    }
    let Ok(extents) = extents(action, &bytes, disk) else { return };
    assert!(extents.len() == bytes.len() / EXTENT_LEN && extents.len() <= EXTENTS_MAX);
    assert!(extents.iter().all(|extent| extent.offset + extent.len <= disk.len));
}

/// Sends one request. Its chain is sound, so the device answers and goes on.
fn request(driver: &mut MockDriver, source: &mut Source<'_>) {
    let mut header = source.array::<16>();
    if source.u8() & 3 != 0 {
        header[1..8].fill(0);
        header[10..].fill(0);
        // Every kind of request that there is.
        header[0] = [0, 1, 4, 8, 11, 13, 255, header[0]][usize::from(header[0] & 7)];
    }
    driver.poke(0x10_0000, &header);
    let mut buffers = vec![Buffer::Out(0x10_0000, 16 - u32::from(source.u8() % 2))];
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    for _ in 0..usize::from(source.u8()) % BUFFERS_MAX {
        let address = match source.u8() % 4 {
            0 => 0x3F_F000 + u64::from(source.u16()),
            1 => source.u64(),
            _ => 0x10_0000 + u64::from(source.u32() % 0x20_0000),
        };
        let len = match source.u8() % 4 {
            0 => u32::from(source.u8()),
            1 => u32::from(source.u8()) * 512,
            2 => 1,
            _ => source.u32() % 0x1000_0000,
        };
        match source.u8() % 2 {
            0 => readable.push(Buffer::Out(address, len)),
            _ => writable.push(Buffer::In(address, len)),
        }
    }
    buffers.append(&mut readable);
    buffers.append(&mut writable);
    let head = if source.u8() & 1 == 0 {
        driver.add(0, &buffers)
    } else {
        driver.add_indirect(0, &buffers)
    };
    driver.kick(0);
    let used = driver.take_used(0).expect("a sound chain comes back");
    assert_eq!(used.head, u32::from(head));
    assert!(!driver.status().has(Status::NEEDS_RESET));
    let room: u64 =
        buffers.iter().map(|b| if let Buffer::In(_, len) = b { u64::from(*len) } else { 0 }).sum();
    assert!(u64::from(used.len) <= room);
    driver.take_interrupt();
}

/// A disk that is not there, but watches that nobody reaches beyond it.
struct CheckedDisk {
    options: BlockOptions,
    /// Transfers end after they were begun.
    later: bool,
    ended: Vec<(Tag, io::Result<()>)>,
}

impl CheckedDisk {
    fn check(offset: u64, slices: &[GuestSlice<'_>]) {
        let len: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        assert!(len <= REQUEST_MAX && offset + len <= DISK_LEN);
        assert!(len.is_multiple_of(512) && offset.is_multiple_of(512));
    }
}

impl BlockBackend for CheckedDisk {
    fn len(&self) -> u64 {
        DISK_LEN
    }
    fn read_at(&mut self, offset: u64, into: &[GuestSlice<'_>]) -> io::Result<()> {
        Self::check(offset, into);
        into.iter().for_each(|slice| slice.copy_from(&vec![0x5A; slice.len()]));
        Ok(())
    }
    fn write_at(&mut self, offset: u64, from: &[GuestSlice<'_>]) -> io::Result<()> {
        assert!(!self.options.read_only);
        Self::check(offset, from);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        assert!(self.options.write_back);
        Ok(())
    }
    fn id(&self) -> [u8; 20] {
        [b'x'; 20]
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        assert!(!self.options.read_only && offset + len <= DISK_LEN);
        Ok(())
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, _may_unmap: bool) -> io::Result<()> {
        assert!(!self.options.read_only && offset + len <= DISK_LEN);
        Ok(())
    }
    fn begin(&mut self, tag: Tag, _memory: &Arc<GuestMemory>, transfer: Transfer<'_>) -> Begun {
        let result = match transfer {
            Transfer::Read { offset, into } => self.read_at(offset, into),
            Transfer::Write { offset, from } => self.write_at(offset, from),
            Transfer::Flush => self.flush(),
        };
        if !self.later {
            return Begun::Ended(result);
        }
        self.ended.push((tag, result));
        Begun::OnItsWay
    }
    fn ended(&mut self) -> Option<(Tag, io::Result<()>)> {
        self.ended.pop()
    }
}
