//! Requests to a disk: the header alone against the decoder, and then the whole request, cut into
//! arbitrary buffers, against the device.

use std::io;
use std::sync::Arc;

use devices::block::request::{Disk, ID_LEN, Operation, REQUEST_MAX, Request};
use devices::block::{Block, BlockBackend, BlockOptions};
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
    let options = source.u8();
    let options = BlockOptions { read_only: options & 1 != 0, write_back: options & 2 != 0 };
    let memory = ram();
    let block = Block::new(CheckedDisk { options }, options);
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
        Ok(Operation::Flush) | Err(_) => {}
    }
}

/// Sends one request. Its chain is sound, so the device answers and goes on.
fn request(driver: &mut MockDriver, source: &mut Source<'_>) {
    let mut header = source.array::<16>();
    if source.u8() & 3 != 0 {
        header[1..8].fill(0);
        header[10..].fill(0);
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
}
