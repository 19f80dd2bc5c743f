//! The virtio entropy device (virtio 1.2, 5.4): fills the guest's buffers with random bytes.
//!
//! A request gets at most [`REQUEST_MAX`] bytes; a longer one comes back filled that far, which
//! the specification allows. Where the source fails or a buffer is not RAM, the request comes back
//! with what it has. One that the rate limiter refuses stays in the queue.

use std::sync::Arc;

use memory::GuestMemory;
use metrics::EntropyMetrics;
use virtio::bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio::{Activated, Answer, Chain, MAX_QUEUE_SIZE, Outcome, Until, VirtioDevice};

use crate::rate::RateLimiter;

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
    supply: Supply<S>,
    active: Option<Activated>,
}

/// What the queue is connected to.
struct Supply<S> {
    source: S,
    limiter: Option<RateLimiter>,
    metrics: Arc<EntropyMetrics>,
}

impl<S: EntropySource> Rng<S> {
    /// A device that draws from `source`.
    pub fn new(source: S) -> Self {
        let supply = Supply { source, limiter: None, metrics: Arc::default() };
        Self { supply, active: None }
    }

    /// Has requests wait for the `limiter`, whose alarm has queue 0 served.
    #[must_use]
    pub fn limited(mut self, limiter: RateLimiter) -> Self {
        self.supply.limiter = Some(limiter);
        self
    }

    /// Has events counted in `metrics`.
    #[must_use]
    pub fn counted(mut self, metrics: Arc<EntropyMetrics>) -> Self {
        self.supply.metrics = metrics;
        self
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
        let Self { supply, active } = self;
        let Some(Activated { memory, queues, interrupt, .. }) = active else {
            return Outcome::Done;
        };
        let Some(queue) = queues.get_mut(index) else { return Outcome::Done };
        if supply.limiter.as_mut().is_some_and(RateLimiter::take_unblocked) {
            supply.metrics.rate_limiter_event_count.inc();
        }
        queue.serve(memory, interrupt, |chain| supply.answer(memory, chain))
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

impl<S: EntropySource> Supply<S> {
    /// Fills `chain`, if the limiter allows.
    fn answer(&mut self, memory: &GuestMemory, chain: &Chain) -> Answer {
        let wanted = chain.writable_len().min(REQUEST_MAX as u64) as usize;
        if self.limiter.as_mut().is_some_and(|limiter| !limiter.allows(wanted as u64)) {
            self.metrics.entropy_rate_limiter_throttled.inc();
            return Answer::PutBack(Until::Served);
        }
        let done = self.fill(memory, chain, wanted);
        self.metrics.entropy_event_count.inc();
        self.metrics.entropy_bytes.add(done as u64);
        if done < wanted || wanted == 0 {
            self.metrics.entropy_event_fails.inc();
        }
        Answer::Used(done as u32)
    }

    fn fill(&mut self, memory: &GuestMemory, chain: &Chain, wanted: usize) -> usize {
        let mut buffer = [0; STEP];
        let mut done = 0;
        while done < wanted {
            let bytes = &mut buffer[..STEP.min(wanted - done)];
            if let Err(error) = self.source.fill(bytes) {
                log::warn!("the guest's request for entropy stays short: {error}");
                self.metrics.host_rng_fails.inc();
                break;
            }
            if chain.write_at(memory, done as u64, bytes).is_err() {
                break;
            }
            done += bytes.len();
        }
        done
    }
}
