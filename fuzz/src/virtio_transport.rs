//! A driver that does anything: register accesses of any offset and width, rings and descriptors
//! of any content, resets, saving and restoring at any time, against a device that touches all
//! that a chain offers.

use std::sync::Arc;

use bus::Device;
use memory::{Bytes, GuestAddress, GuestMemory};
use virtio::mock::{CountingLine, Descriptor, MockDriver, ram};
use virtio::{Activated, Answer, Chain, MmioTransport, Outcome, Register, Status, VirtioDevice};

use crate::source::Source;

/// Most steps of one run.
const STEPS_MAX: usize = 256;
/// Bytes that the device touches in a chain's parts.
const TOUCH_MAX: u64 = 64 * 1024;

/// Feeds the steps that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let memory = ram();
    let line = Arc::new(CountingLine::default());
    let new = || {
        MmioTransport::new(Toucher::default(), memory.clone(), line.clone())
            .expect("its queues fit")
    };
    let mut transport = Arc::new(new());
    let mut driver = MockDriver::start(transport.clone(), memory.clone(), source.u64());
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        match source.u8() % 10 {
            0 | 1 => {
                let offset = u64::from(source.u8()) * 4;
                transport.write(offset, &source.array::<4>());
            }
            2 => {
                let (offset, len) = (u64::from(source.u16() % 0x1001), 1 << (source.u8() % 4));
                transport.write(offset, source.bytes(len));
            }
            3 => {
                let (offset, len) = (u64::from(source.u16() % 0x1001), 1 << (source.u8() % 4));
                transport.read(offset, &mut [0; 8][..len]);
            }
            4 => write_memory(&memory, &mut source),
            5 => describe(&driver, &mut source),
            6 => driver.offer(usize::from(source.u8() % 2), source.u16() % 300),
            7 => driver.kick(usize::from(source.u8() % 3)),
            8 => drop(driver.take_interrupt()),
            _ => {
                let saved = transport.state();
                let restored = new();
                if restored.restore(&saved).is_ok() {
                    let kept = restored.state();
                    assert_eq!(
                        (kept.queues, kept.driver_features),
                        (saved.queues, saved.driver_features)
                    );
                }
                if source.u8() & 1 == 0 {
                    transport = Arc::new(restored);
                } else {
                    driver = MockDriver::start(transport.clone(), memory.clone(), source.u64());
                }
            }
        }
    }
    check_reset(&transport);
}

/// Whatever happened, a reset makes the device as new.
fn check_reset(transport: &MmioTransport<Toucher>) {
    transport.write(Register::Status.offset(), &[0; 4]);
    let state = transport.state();
    assert_eq!(Status(state.status), Status::default());
    assert_eq!((state.driver_features, state.interrupt_status), (0, 0));
    assert!(state.queues.iter().all(|queue| !queue.ready && queue.next_avail == 0));
    assert!(transport.update(|device| device.active.is_none()));
}

fn write_memory(memory: &GuestMemory, source: &mut Source<'_>) {
    let address = u64::from(source.u16());
    let len = usize::from(source.u8() % 33);
    // Always inside: the memory is larger than 64 KiB.
    let _ = memory.write_slice(source.bytes(len), GuestAddress(address));
}

fn describe(driver: &MockDriver, source: &mut Source<'_>) {
    let at = u16::from(source.u8());
    let address = match source.u8() % 4 {
        0 => u64::from(source.u16()),
        1 => 0x10_0000 + u64::from(source.u16()),
        2 => 0x3F_F000 + u64::from(source.u16() % 0x2000),
        _ => source.u64(),
    };
    let len = if source.u8() & 1 == 0 { u32::from(source.u16()) } else { source.u32() };
    let (flags, next) = (source.u16(), source.u16() % 300);
    driver.describe(usize::from(source.u8() % 2), at, Descriptor { address, len, flags, next });
}

/// Reads all that it may read and writes all that it may write, up to a bound.
#[derive(Default)]
struct Toucher {
    active: Option<Activated>,
}

impl VirtioDevice for Toucher {
    fn device_type(&self) -> u32 {
        42
    }
    fn device_features(&self) -> u64 {
        0xFF
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 16]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        virtio::copy_config(b"touch", offset, data);
    }
    fn activate(&mut self, activated: Activated) {
        assert!(self.active.is_none(), "activated twice without a reset");
        self.active = Some(activated);
    }
    fn process_queue(&mut self, index: usize) -> Outcome {
        let active = self.active.as_mut().expect("only an active device is called");
        let Activated { memory, queues, interrupt, .. } = active;
        queues[index].serve(memory, interrupt, |chain| Answer::Used(touch(memory, chain)))
    }
    fn reset(&mut self) {
        self.active = None;
    }
    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

fn touch(memory: &GuestMemory, chain: &Chain) -> u32 {
    let (readable, writable) = (chain.readable_len(), chain.writable_len());
    assert!(readable + writable <= u64::from(u32::MAX));
    assert!(chain.readable().len() + chain.writable().len() <= virtio::MAX_CHAIN_LEN);
    let mut bytes = vec![0; readable.min(TOUCH_MAX) as usize];
    let _ = chain.read_at(memory, 0, &mut bytes);
    let end = writable.min(TOUCH_MAX);
    if let Ok(slices) = chain.writable_slices(memory, 0..end) {
        assert_eq!(slices.iter().map(|s| s.len() as u64).sum::<u64>(), end);
    }
    assert!(chain.writable_slices(memory, writable..writable + 1).is_err());
    match chain.write_at(memory, 0, &vec![0xC3; end as usize]) {
        Ok(()) => end as u32,
        Err(_) => 0,
    }
}
