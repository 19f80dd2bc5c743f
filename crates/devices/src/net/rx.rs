//! Receiving: from the detour and the tap into the guest's buffers.

use std::io::ErrorKind;

use virtio::bindings::virtio_net as wire;
use virtio::{Activated, Interrupt, Outcome, Queue, QueueError, Turn};

use super::buffers::{Buffers, Room, Shape};
use super::frame::{ETHERNET_LEN, FRAME_MAX, HEADER_LEN};
use super::{Detoured, Link, NetOptions, RX, Tap, offload};

/// The MTU where none is set: Ethernet's.
const MTU_DEFAULT: u16 = 1500;
/// Room is made for a frame of at least so many bytes: a full Ethernet frame.
const EXPECTED_MIN: usize = HEADER_LEN + ETHERNET_LEN + MTU_DEFAULT as usize;

/// What became of one look for a frame.
enum Look {
    /// The guest has one more, of so many bytes.
    Frame(usize),
    /// One was dropped.
    Dropped,
    /// The guest has no buffers.
    NoBuffers,
    /// There is none, or the guest may not have it yet.
    Nothing,
}

/// Frames on their way to the guest that are not in its memory.
#[derive(Default)]
pub(super) struct Staging {
    /// A whole frame, with its header, for which there was no room; or none, if it is empty.
    held: Vec<u8>,
    /// Where the end of a frame goes that is longer than expected; made at the first read.
    overflow: Vec<u8>,
    /// Bytes of the last frame: the next is likely to need as much room.
    expected: usize,
}

impl<T: Tap> Link<T> {
    /// Receives what there is, in one bounded turn.
    pub(super) fn receive(&mut self, active: &mut Activated) -> Outcome {
        self.starved = false;
        self.answer_expected = false;
        let shape = shape(active, self.options);
        let Activated { memory, queues, interrupt, .. } = active;
        let Some(queue) = queues.get_mut(RX).filter(|queue| queue.ready()) else {
            return Outcome::Done;
        };
        let mut buffers = Buffers::new(memory, shape);
        let turn = self.receive_turn(queue, &mut buffers, interrupt);
        self.metrics.rx_fails.add(buffers.put_back(queue));
        // Also after a broken chain: the driver gets what was received before it.
        let signalled = queue.signal(memory, interrupt);
        self.set_detour_alarm();
        turn.and_then(|outcome| signalled.map(|()| outcome)).unwrap_or_else(|error| {
            log::debug!("virtio-net receive queue given up: {error}");
            Outcome::Broken
        })
    }

    /// Counts what has the queue served, as far as that can be told: the guest notifies only when
    /// it had no buffers.
    pub(super) fn count_receive_event(&mut self) {
        let reason = if self.rx.take_unblocked() {
            &self.metrics.rx_event_rate_limiter_count
        } else if self.starved {
            &self.metrics.rx_queue_event_count
        } else {
            &self.metrics.rx_tap_event_count
        };
        reason.inc();
    }

    fn receive_turn(
        &mut self,
        queue: &mut Queue,
        buffers: &mut Buffers<'_>,
        interrupt: &Interrupt,
    ) -> Result<Outcome, QueueError> {
        let mut turn = Turn::default();
        queue.disable_notification(buffers.memory())?;
        while turn.look() {
            match self.look(queue, buffers)? {
                Look::Frame(len) => {
                    turn.spend(len as u64);
                    self.metrics.rx_count.inc();
                    self.metrics.rx_packets_count.inc();
                    self.metrics.rx_bytes_count.add(len as u64);
                }
                Look::Dropped => self.metrics.rx_fails.inc(),
                Look::Nothing => return Ok(Outcome::Done),
                // Before the chains that do not suffice go back, so that only new ones count.
                Look::NoBuffers if queue.enable_notification(buffers.memory())? => {}
                Look::NoBuffers => {
                    self.metrics.no_rx_avail_buffer.inc();
                    self.starved = true;
                    return Ok(Outcome::Done);
                }
            }
            if turn.pauses() {
                queue.signal(buffers.memory(), interrupt)?;
            }
        }
        Ok(Outcome::More)
    }

    /// Gives the next frame to the guest: one that was held, else the detour's, else the tap's.
    fn look(&mut self, queue: &mut Queue, buffers: &mut Buffers<'_>) -> Result<Look, QueueError> {
        if !self.staging.held.is_empty() || self.hold_from_detour() {
            return self.deliver_held(queue, buffers);
        }
        let expected = self.staging.expected.clamp(EXPECTED_MIN, FRAME_MAX);
        buffers.gather(queue, expected)?;
        if buffers.room() == 0 {
            return Ok(Look::NoBuffers);
        }
        self.deliver_from_tap(queue, buffers)
    }

    fn deliver_held(
        &mut self,
        queue: &mut Queue,
        buffers: &mut Buffers<'_>,
    ) -> Result<Look, QueueError> {
        let len = self.staging.held.len();
        let look = match buffers.gather(queue, len)? {
            Room::Enough => {
                buffers.write(0, &self.staging.held);
                buffers.finish(queue, len)?;
                Look::Frame(len)
            }
            Room::Short => return Ok(Look::NoBuffers),
            Room::Never => Look::Dropped,
        };
        self.staging.held.clear();
        Ok(look)
    }

    fn deliver_from_tap(
        &mut self,
        queue: &mut Queue,
        buffers: &mut Buffers<'_>,
    ) -> Result<Look, QueueError> {
        if !self.rx.admits(1) {
            self.metrics.rx_rate_limiter_throttled.inc();
            return Ok(Look::Nothing);
        }
        let Staging { held, overflow, expected } = &mut self.staging;
        if overflow.is_empty() {
            *overflow = vec![0; FRAME_MAX];
        }
        let len = match self.tap.read(buffers.slices(), overflow) {
            Ok(len) if len > HEADER_LEN && len <= FRAME_MAX => len,
            Ok(_) => {
                buffers.spoil();
                return Ok(Look::Dropped);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Look::Nothing),
            Err(error) => {
                log::warn!("cannot read from the tap: {error}; the guest receives nothing now");
                self.metrics.tap_read_fails.inc();
                buffers.spoil();
                return Ok(Look::Nothing);
            }
        };
        self.rx.charge(len as u64);
        *expected = len;
        let inside = buffers.room();
        let rest = overflow.get(..len.saturating_sub(inside)).unwrap_or(&[]);
        match buffers.gather(queue, len)? {
            Room::Enough => {
                buffers.write(inside, rest);
                buffers.finish(queue, len)?;
                Ok(Look::Frame(len))
            }
            Room::Short => {
                buffers.spoil();
                buffers.read(inside, held);
                held.extend_from_slice(rest);
                Ok(Look::NoBuffers)
            }
            Room::Never => {
                buffers.spoil();
                Ok(Look::Dropped)
            }
        }
    }

    /// Takes the detour's next frame, and says whether there was one. It is complete: no checksum
    /// to make, nothing to cut.
    fn hold_from_detour(&mut self) -> bool {
        let Some(Detoured { detour, alarm }) = &mut self.detoured else { return false };
        let any = detour.receive(&mut self.frame, alarm.now());
        if any {
            self.staging.held.resize(HEADER_LEN, 0);
            self.staging.held.extend_from_slice(&self.frame);
        }
        any
    }

    /// Has the queue served when the detour wants it.
    fn set_detour_alarm(&mut self) {
        if let Some(Detoured { detour, alarm }) = &mut self.detoured
            && let Some(delay) = detour.next_poll(alarm.now())
        {
            alarm.set(delay);
        }
    }
}

impl Staging {
    /// Forgets the frame that is held.
    pub fn clear(&mut self) {
        self.held.clear();
    }
}

/// What the driver's buffers have to be like (virtio 1.2, 5.1.6.3.1).
fn shape(active: &Activated, options: NetOptions) -> Shape {
    if active.has_feature(wire::VIRTIO_NET_F_MRG_RXBUF) {
        return Shape { mergeable: true, chain_min: HEADER_LEN };
    }
    let offload = offload(active);
    if offload.tso4 || offload.tso6 || offload.ufo {
        return Shape { mergeable: false, chain_min: FRAME_MAX };
    }
    let mtu = options.mtu.filter(|_| active.has_feature(wire::VIRTIO_NET_F_MTU));
    let mtu = usize::from(mtu.unwrap_or(MTU_DEFAULT).max(MTU_DEFAULT));
    Shape { mergeable: false, chain_min: HEADER_LEN + ETHERNET_LEN + mtu }
}
