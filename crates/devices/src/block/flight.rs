//! Requests whose transfer is on its way.

use std::time::Duration;

use virtio::Chain;

use super::backend::{IN_FLIGHT_MAX, Tag};
use super::request::Operation;

/// A request that the back end has not ended yet.
pub struct Pending {
    /// Its buffers.
    pub chain: Chain,
    /// What is being done.
    pub operation: Operation,
    /// Where in the writable part the status byte is.
    pub status_at: u64,
    /// When it began.
    pub since: Duration,
}

/// The requests on their way, by tag. It grows as far as it is used.
#[derive(Default)]
pub struct Flight {
    pending: Vec<Option<Pending>>,
    /// Tags below `pending.len()` that are not in use.
    free: Vec<Tag>,
    /// Kept for their allocations.
    spare: Vec<Chain>,
}

impl Flight {
    /// The tag that the next request gets; None while there are [`IN_FLIGHT_MAX`].
    pub fn vacant(&self) -> Option<Tag> {
        // Less than IN_FLIGHT_MAX, so it fits.
        let next = self.pending.len() as Tag;
        self.free.last().copied().or((next < IN_FLIGHT_MAX).then_some(next))
    }

    /// Takes `chain` and what is known of its request under the tag that is vacant; leaves another
    /// chain in its place.
    pub fn occupy(&mut self, chain: &mut Chain, pending: impl FnOnce(Chain) -> Pending) {
        let spare = self.spare.pop().unwrap_or_default();
        let pending = pending(std::mem::replace(chain, spare));
        match self.free.pop().and_then(|tag| self.pending.get_mut(usize::from(tag))) {
            Some(slot) => *slot = Some(pending),
            None => self.pending.push(Some(pending)),
        }
    }

    /// The request under `tag`, which is vacant again.
    pub fn release(&mut self, tag: Tag) -> Option<Pending> {
        let pending = self.pending.get_mut(usize::from(tag))?.take()?;
        self.free.push(tag);
        Some(pending)
    }

    /// Keeps the allocation of a chain that is done.
    pub fn recycle(&mut self, chain: Chain) {
        self.spare.push(chain);
    }
}
