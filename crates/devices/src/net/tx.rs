//! Sending: from the guest's buffers to the tap, or to the detour.

use memory::GuestMemory;
use virtio::{Activated, Answer, BufferError, Chain, Outcome, Queue, Until};

use super::frame::{ETHERNET_LEN, FRAME_MAX, HEADER_LEN, Headers};
use super::{Detoured, Link, TX, Tap};

/// What became of a frame.
enum Sent {
    /// It is done with: sent, taken by the detour, or dropped.
    Done,
    /// The limiter refuses it for now.
    Later,
}

/// Why a frame is dropped.
enum Fault {
    /// A buffer is not RAM, or is for the device to write.
    Buffers,
    /// No whole header, or too large.
    Length,
    /// From an address that is not the guest's.
    Spoofed,
}

impl<T: Tap> Link<T> {
    /// Sends what there is, in one bounded turn. What the detour took may have an answer, so then
    /// the guest also receives.
    pub(super) fn transmit(&mut self, active: &mut Activated) -> Outcome {
        let reason = if self.tx.take_unblocked() {
            &self.metrics.tx_rate_limiter_event_count
        } else {
            &self.metrics.tx_queue_event_count
        };
        reason.inc();
        let sent = self.transmit_turn(active);
        if !self.answer_expected {
            return sent;
        }
        let received = self.receive(active);
        // The transport goes on with this queue, and so with both.
        self.answer_expected = received == Outcome::More;
        let mut worst_first = [Outcome::Broken, Outcome::More].into_iter();
        worst_first.find(|outcome| [sent, received].contains(outcome)).unwrap_or(Outcome::Done)
    }

    fn transmit_turn(&mut self, active: &mut Activated) -> Outcome {
        let Activated { memory, queues, interrupt, .. } = active;
        let Some(queue) = queues.get_mut(TX) else { return Outcome::Done };
        let mut frames = 0;
        let outcome = queue.serve(memory, interrupt, |chain| {
            frames += 1;
            match self.send(memory, chain) {
                Ok(Sent::Done) => Answer::Used(0),
                Ok(Sent::Later) => {
                    self.metrics.tx_rate_limiter_throttled.inc();
                    Answer::PutBack(Until::Served)
                }
                Err(fault) => {
                    self.count_dropped(fault);
                    Answer::Used(0)
                }
            }
        });
        if frames == 0 {
            self.metrics.no_tx_avail_buffer.inc();
        }
        self.metrics.tx_remaining_reqs_count.add(remaining(memory, queue));
        outcome
    }

    /// Sends the frame in `chain`.
    fn send(&mut self, memory: &GuestMemory, chain: &Chain) -> Result<Sent, Fault> {
        if chain.writable_len() > 0 {
            return Err(Fault::Buffers);
        }
        let len = chain.readable_len();
        if len < (HEADER_LEN + ETHERNET_LEN) as u64 || len > FRAME_MAX as u64 {
            return Err(Fault::Length);
        }
        let headers = Headers::read(memory, chain)?;
        if self.detour(memory, chain, &headers)? {
            return Ok(Sent::Done);
        }
        let spoofed = self.options.mac.is_some_and(|mac| headers.source() != Some(mac));
        if spoofed && self.options.drop_spoofed {
            return Err(Fault::Spoofed);
        }
        let rest = chain.readable_slices(memory, headers.bytes().len() as u64..len)?;
        if !self.tx.allows(len) {
            return Ok(Sent::Later);
        }
        if spoofed {
            self.metrics.tx_spoofed_mac_count.inc();
        }
        let start = self.tx.now();
        let sent = self.tap.write(headers.bytes(), &rest);
        self.metrics.tap_write_agg.record(self.tx.now().saturating_sub(start));
        match sent {
            Ok(()) => {
                self.metrics.tx_count.inc();
                self.metrics.tx_packets_count.inc();
                self.metrics.tx_bytes_count.add(len);
            }
            Err(error) => {
                log::warn!("cannot write to the tap: {error}; a frame of the guest is lost");
                self.metrics.tap_write_fails.inc();
            }
        }
        Ok(Sent::Done)
    }

    /// Offers the frame to the detour, if it may be for it, and says whether it took it.
    fn detour(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        headers: &Headers,
    ) -> Result<bool, BufferError> {
        let Some(Detoured { detour, alarm }) = &mut self.detoured else { return Ok(false) };
        if headers.ipv4_target() != Some(detour.address()) {
            return Ok(false);
        }
        // At most FRAME_MAX.
        self.frame.resize(chain.readable_len() as usize - HEADER_LEN, 0);
        chain.read_at(memory, HEADER_LEN as u64, &mut self.frame)?;
        let taken = detour.transmit(&self.frame, alarm.now());
        self.answer_expected |= taken;
        Ok(taken)
    }

    fn count_dropped(&self, fault: Fault) {
        let counter = match fault {
            Fault::Buffers => &self.metrics.tx_fails,
            Fault::Length => &self.metrics.tx_malformed_frames,
            Fault::Spoofed => &self.metrics.tx_spoofed_mac_count,
        };
        counter.inc();
    }
}

/// How many frames wait in `queue`.
fn remaining(memory: &GuestMemory, queue: &Queue) -> u64 {
    let taken = queue.state().next_avail;
    queue.available_index(memory).map_or(0, |index| u64::from(index.wrapping_sub(taken)))
}

impl From<BufferError> for Fault {
    fn from(_: BufferError) -> Self {
        Fault::Buffers
    }
}
