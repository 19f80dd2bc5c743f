//! The virtio entropy device (virtio 1.2, 5.4): fills the guest's buffers with random bytes.
//!
//! A request gets at most [`REQUEST_MAX`] bytes; a longer one comes back filled that far, which
//! the specification allows. Where the source fails or a buffer is not RAM, the request comes back
//! with what it has.

use memory::GuestMemory;
use virtio::bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio::{Activated, Chain, MAX_QUEUE_SIZE, Outcome, VirtioDevice};

/// Most bytes for one request.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Bytes taken from the source at a time.
const STEP: usize = 4096;

/// Where random bytes come from: on a host, getrandom(2).
pub trait EntropySource: Send {
    /// Fills all of `bytes`, or fails.
    fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The device.
pub struct Rng<S> {
    source: S,
    active: Option<Activated>,
}

impl<S: EntropySource> Rng<S> {
    /// A device that draws from `source`.
    pub fn new(source: S) -> Self {
        Self { source, active: None }
    }
}

impl<S: EntropySource> VirtioDevice for Rng<S> {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn device_features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[MAX_QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activated: Activated) {
        self.active = Some(activated);
    }

    fn process_queue(&mut self, index: usize) -> Outcome {
        let Self { source, active } = self;
        let Some(Activated { memory, queues, interrupt, .. }) = active else {
            return Outcome::Done;
        };
        let Some(queue) = queues.get_mut(index) else { return Outcome::Done };
        queue.serve(memory, interrupt, |chain| fill(source, memory, chain))
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

impl<S: EntropySource + ?Sized> EntropySource for Box<S> {
    fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        (**self).fill(bytes)
    }
}

/// Fills `chain` and says how far.
fn fill(source: &mut impl EntropySource, memory: &GuestMemory, chain: &Chain) -> u32 {
    let wanted = chain.writable_len().min(REQUEST_MAX as u64) as usize;
    let mut buffer = [0; STEP];
    let mut done = 0;
    while done < wanted {
        let bytes = &mut buffer[..STEP.min(wanted - done)];
        let filled = source.fill(bytes).map_err(|error| {
            log::warn!("the guest's request for entropy stays short: {error}");
        });
        if filled.is_err() || chain.write_at(memory, done as u64, bytes).is_err() {
            break;
        }
        done += bytes.len();
    }
    done as u32
}
