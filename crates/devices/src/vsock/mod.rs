//! The virtio socket device (virtio 1.2, 5.10), with Firecracker's way to the host.
//!
//! ```text
//!   a program in the guest ──AF_VSOCK──▶ queues ──▶ Muxer ──▶ Host ──▶ a program on the host
//! ```
//!
//! Queues: 0 towards the guest, 1 from the guest, 2 for events. Streams only. [`packet`] reads what
//! the guest sends, a state machine is one connection, and a multiplexer keeps them all over a
//! [`Host`]: on a real one, Unix sockets. A program on the host calls the guest by a [`command`];
//! the guest calls a port of the host, and the host knows who listens there.
//!
//! The host's side is looked after whenever queue 0 is served: because the guest gives buffers,
//! because something happened on the host, or because the alarm says that something took too long.
//! What the guest has no buffers for waits on the host. Every turn is bounded.
//!
//! After a machine was restored from a snapshot, its connections are gone. [`Vsock::reset_transport`]
//! tells the driver so by an event; until the driver has taken note of that, it hears nothing, or
//! it would end new connections together with the old ones.

pub mod command;
mod connection;
mod host;
mod muxer;
pub mod packet;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use memory::GuestMemory;
use metrics::VsockMetrics;
use virtio::bindings::virtio_config::VIRTIO_F_IN_ORDER;
use virtio::bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio::{
    Activated, Answer, Chain, MAX_QUEUE_SIZE, Outcome, Queue, QueueError, Until, VirtioDevice,
    copy_config,
};

pub use self::connection::{CLOSE_TIMEOUT, CONNECT_TIMEOUT, TX_BUFFER_MAX};
pub use self::host::{Host, Ready, Stream};
use self::muxer::Muxer;
pub use self::muxer::{CALLERS_MAX, COMMAND_TIMEOUT, RESETS_MAX};
use self::packet::HEADER_LEN;
use crate::Alarm;

/// Most connections at a time.
pub const CONNECTIONS_MAX: usize = 1023;
/// Most data in one packet to the guest.
pub const DATA_MAX: u64 = 64 * 1024;

/// Queue towards the guest.
const RX: usize = 0;
/// Queue from the guest.
const TX: usize = 1;
/// Queue for events.
const EVENT: usize = 2;

/// Shortest time for the alarm.
const ALARM_MIN: Duration = Duration::from_millis(1);

/// The event that says that all connections are gone (virtio 1.2, 5.10.6.7).
const EVENT_TRANSPORT_RESET: u32 = 0;

/// Ports of the host for its calls: from 2^30 on, and below 2^31.
const HOST_PORT_MIN: u32 = 1 << 30;
const HOST_PORT_MASK: u32 = HOST_PORT_MIN - 1;

/// What is saved of the device, besides its queues. Connections are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VsockState {
    /// The host's port that was used last for a call to the guest.
    pub last_host_port: u32,
}

/// The device.
pub struct Vsock {
    guest_cid: u64,
    muxer: Muxer,
    alarm: Box<dyn Alarm>,
    /// When the alarm will be heard.
    alarm_at: Option<Duration>,
    reset: Reset,
    metrics: Arc<VsockMetrics>,
    active: Option<Activated>,
    /// Kept for its allocation.
    chain: Chain,
}

/// How far the driver knows that its connections are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    /// There is nothing to know.
    None,
    /// The event waits for a buffer.
    Due,
    /// It was given when the driver's index of event buffers was this one; that the driver gives
    /// the buffer back shows that it took note.
    Told(u16),
}

impl Vsock {
    /// A device for the guest with context id `guest_cid`. The alarm belongs to queue 0.
    pub fn new(
        guest_cid: u64,
        host: Box<dyn Host>,
        alarm: Box<dyn Alarm>,
        metrics: Arc<VsockMetrics>,
    ) -> Self {
        Self {
            guest_cid,
            muxer: Muxer::new(guest_cid, host, metrics.clone()),
            alarm,
            alarm_at: None,
            reset: Reset::None,
            metrics,
            active: None,
            chain: Chain::default(),
        }
    }

    /// The state, for saving.
    pub fn state(&self) -> VsockState {
        self.muxer.state()
    }

    /// Takes over a saved state.
    pub fn restore(&mut self, state: VsockState) {
        self.muxer.set_state(state);
    }

    /// Has the driver told, if there is one, that all its connections are gone: for a machine that
    /// was restored, after its queues were. It is told as soon as any queue is served.
    pub fn reset_transport(&mut self) {
        if self
            .active
            .as_ref()
            .and_then(|active| active.queues.get(EVENT))
            .is_some_and(Queue::ready)
        {
            self.reset = Reset::Due;
        }
    }

    /// Gives the guest what there is for it, while it has buffers and may hear it.
    fn send(&mut self, now: Duration) -> Outcome {
        let Self { muxer, active, reset, .. } = self;
        let Some(Activated { memory, queues, interrupt, .. }) = active else {
            return Outcome::Done;
        };
        let Some(queue) = queues.get_mut(RX) else { return Outcome::Done };
        if *reset != Reset::None || !muxer.has_word() {
            return Outcome::Done;
        }
        queue.serve(memory, interrupt, |chain| {
            let len = fill(muxer, memory, chain, now);
            len.map_or(Answer::PutBack(Until::Served), Answer::Used)
        })
    }

    /// Takes what the guest sends.
    fn receive(&mut self) -> Outcome {
        let Self { muxer, active, .. } = self;
        let Some(Activated { memory, queues, interrupt, .. }) = active else {
            return Outcome::Done;
        };
        let Some(queue) = queues.get_mut(TX) else { return Outcome::Done };
        queue.serve(memory, interrupt, |chain| {
            muxer.receive(memory, chain);
            Answer::Used(0)
        })
    }

    /// Tells the driver of the reset, or finds that it took note.
    fn tell_reset(&mut self) -> Result<(), QueueError> {
        let Some(Activated { memory, queues, interrupt, .. }) = &mut self.active else {
            return Ok(());
        };
        let Some(queue) = queues.get_mut(EVENT) else { return Ok(()) };
        match self.reset {
            Reset::None => {}
            Reset::Due => {
                // Before the look, or a buffer that comes in between would not be announced.
                queue.enable_notification(memory)?;
                if queue.pop(memory, &mut self.chain)? {
                    let event = EVENT_TRANSPORT_RESET.to_le_bytes();
                    let written = self.chain.write_at(memory, 0, &event).map_or(0, |()| 4);
                    self.reset = Reset::Told(queue.available_index(memory)?);
                    queue.add_used(memory, self.chain.head(), written)?;
                    queue.enable_notification(memory)?;
                    queue.signal(memory, interrupt)?;
                }
            }
            Reset::Told(index) => {
                if queue.available_index(memory)? != index {
                    self.reset = Reset::None;
                }
            }
        }
        Ok(())
    }

    /// A turn on queue `index`.
    fn turn(&mut self, index: usize, now: Duration) -> Outcome {
        let received = match index {
            RX => {
                self.metrics.rx_queue_event_count.inc();
                self.muxer.attend(now);
                Outcome::Done
            }
            TX => {
                self.metrics.tx_queue_event_count.inc();
                self.receive()
            }
            _ => Outcome::Done,
        };
        let sent = match received {
            Outcome::Done | Outcome::More => self.tell_reset().map(|()| self.send(now)),
            Outcome::Broken => Ok(Outcome::Broken),
        };
        match sent {
            Ok(Outcome::Done) => received,
            Ok(sent @ (Outcome::More | Outcome::Broken)) => sent,
            Err(error) => {
                log::debug!("vsock: queue given up: {error}");
                Outcome::Broken
            }
        }
    }

    fn count_failure(&self, index: usize) {
        match index {
            RX => self.metrics.rx_queue_event_fails.inc(),
            TX => self.metrics.tx_queue_event_fails.inc(),
            _ => self.metrics.ev_queue_event_fails.inc(),
        }
    }

    fn set_alarm(&mut self, now: Duration) {
        let next = self.muxer.next_deadline();
        if next == self.alarm_at {
            return;
        }
        self.alarm_at = next;
        if let Some(at) = next {
            self.alarm.set(at.saturating_sub(now).max(ALARM_MIN));
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn device_features(&self) -> u64 {
        1 << VIRTIO_F_IN_ORDER
    }

    fn queue_sizes(&self) -> &[u16] {
        &[MAX_QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        // There is nothing to write.
        self.metrics.cfg_fails.inc();
    }

    fn activate(&mut self, activated: Activated) {
        self.active = Some(activated);
        self.muxer.open(self.alarm.now());
    }

    fn process_queue(&mut self, index: usize) -> Outcome {
        let now = self.alarm.now();
        if self.alarm_at.is_some_and(|at| at <= now) {
            self.alarm_at = None;
        }
        let outcome = self.turn(index, now);
        if outcome == Outcome::Broken {
            self.count_failure(index);
            self.muxer.close();
        }
        self.set_alarm(now);
        outcome
    }

    fn reset(&mut self) {
        self.active = None;
        self.reset = Reset::None;
        self.muxer.close();
    }

    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

impl VsockState {
    /// The next port of the host for a call to the guest.
    fn take_host_port(&mut self) -> u32 {
        let next = self.last_host_port.wrapping_add(1);
        self.last_host_port = next & HOST_PORT_MASK | HOST_PORT_MIN;
        self.last_host_port
    }
}

impl Default for VsockState {
    fn default() -> Self {
        Self { last_host_port: HOST_PORT_MIN - 1 }
    }
}

/// Puts a packet into `chain` and says how long it is; None if there is none. A chain that can hold
/// no packet with data goes back empty.
fn fill(muxer: &mut Muxer, memory: &GuestMemory, chain: &Chain, now: Duration) -> Option<u32> {
    if !muxer.has_word() {
        return None;
    }
    let end = chain.writable_len().min(HEADER_LEN + DATA_MAX);
    let header_fits = chain.writable_slices(memory, 0..HEADER_LEN).is_ok();
    let room = chain.writable_slices(memory, HEADER_LEN..end).unwrap_or_default();
    if !header_fits || room.is_empty() {
        log::debug!("vsock: a buffer of the guest's cannot be used");
        return Some(0);
    }
    let header = muxer.speak(&room, now)?;
    match chain.write_at(memory, 0, &header.to_bytes()) {
        Ok(()) => Some(HEADER_LEN as u32 + header.len),
        Err(_) => Some(0),
    }
}
