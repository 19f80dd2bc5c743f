//! What the event loop waits for on behalf of queues: doorbells, taps, sockets, alarms.
//!
//! All is watched for edges: nothing has to be read to make a descriptor quiet, and a device takes
//! all there is, or all that the guest has room for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::Poller;
use virtio::Notify;

/// Tokens below this one are the event loop's own.
pub(crate) const TOKEN_WATCH: u64 = 16;

/// A growing set of descriptors, each with the queue that waits for it.
pub(crate) struct Watches {
    poller: Poller,
    list: Mutex<Vec<Watch>>,
}

struct Watch {
    /// Kept open for as long as it is watched.
    _fd: OwnedFd,
    device: Arc<dyn Notify>,
    queue: u32,
}

impl Watches {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { poller: Poller::new()?, list: Mutex::default() })
    }

    /// Has queue `queue` of `device` served whenever something happens on `fd`.
    pub fn add(&self, fd: OwnedFd, device: Arc<dyn Notify>, queue: u32) -> io::Result<()> {
        let mut list = self.lock();
        self.poller.add_edge(&fd, TOKEN_WATCH + list.len() as u64)?;
        list.push(Watch { _fd: fd, device, queue });
        Ok(())
    }

    /// The set, for the event loop to wait for and to add its own descriptors to.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Something happened on the descriptor with this token.
    pub fn notify(&self, token: u64) {
        let index = usize::try_from(token.wrapping_sub(TOKEN_WATCH)).unwrap_or(usize::MAX);
        let watch = self.lock().get(index).map(|watch| (watch.device.clone(), watch.queue));
        if let Some((device, queue)) = watch {
            device.notify(queue);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watch>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
