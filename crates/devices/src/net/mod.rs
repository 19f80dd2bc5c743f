//! The virtio network device (virtio 1.2, 5.1), over a tap of the host.
//!
//! ```text
//!   guest ──queue 1──▶ transmit ──┬──▶ Tap
//!                                 └──▶ Detour     what is for the metadata service
//!   guest ◀──queue 0── receive ◀──┬─── Detour     first
//!                                 └─── Tap
//! ```
//!
//! Two queues. Frames go between guest memory and the tap without a copy, but for the first bytes
//! of those that are sent, which are looked at and must not change after that, and for the end of a
//! frame that is longer than the one received before it. One for which the guest has no room is
//! held until it has; it is lost if the machine is saved meanwhile, as on any wire. Offered: checksums and
//! segmentation by the other side for TCP and UDP, both ways (the tap carries the same headers, so
//! the host's kernel does it), MRG_RXBUF, and MAC and MTU if they are set. The driver's choice goes
//! to the tap when it is ready. There is no control queue.
//!
//! **Serving.** Queue 0 has to be served (`Notify::notify`) whenever the tap becomes readable, which
//! is watched for edges; queue 1 when the driver says so. A turn on queue 0 ends when the tap is
//! empty, so that the next edge comes; when the guest has no buffers, which makes it notify; when
//! the limiter refuses, which sets its alarm; or at its bound, after which the transport goes on.
//! While the tap is empty the guest is not asked to notify of new buffers.
//!
//! **Limits.** A request is a frame with its header. What is received is charged when its size is
//! known, so that the bucket may owe the rest of one frame. Frames to and from the detour are free,
//! and pass while the limiters are closed: they are not traffic of the host's network.
//!
//! **Refused.** Frames from the guest without a whole header, larger than [`FRAME_MAX`], in buffers
//! that are not RAM or that the device should write: they are dropped and counted, and their
//! buffers come back. A frame with a sender other than the interface's MAC address is counted, and
//! dropped if [`NetOptions::drop_spoofed`] says so.

mod buffers;
mod frame;
mod rx;
mod tx;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use metrics::NetMetrics;
use spec::MacAddress;
use virtio::bindings::virtio_ids::VIRTIO_ID_NET;
use virtio::bindings::virtio_net as wire;
use virtio::{Activated, GuestSlice, MAX_QUEUE_SIZE, Outcome, VirtioDevice, copy_config};

pub use self::frame::{FRAME_MAX, HEADER_LEN, Headers};
use crate::Alarm;
use crate::rate::{Change, RateLimiter};

/// The queue of received frames.
pub const RX: usize = 0;
/// The queue of frames to send.
pub const TX: usize = 1;

/// Bytes of configuration space, up to `mtu` (virtio 1.2, 5.1.4).
const CONFIG_LEN: usize = 12;
/// Offsets in it.
const CONFIG_MAC: usize = 0;
const CONFIG_MTU: usize = 10;

/// The host's end of the wire. Nothing blocks: [`io::ErrorKind::WouldBlock`] says that there is no
/// frame now, and [`io::ErrorKind::Interrupted`] does not come.
///
/// Each frame is preceded by a header of [`HEADER_LEN`] bytes (`virtio_net_hdr_v1`). The slices are
/// guest RAM, which the guest may change at the same time; there are fewer than 1024.
pub trait Tap: Send {
    /// Reads the next frame into the row of `into` and, as far as it is longer than that, into
    /// `overflow`, and says how many bytes it has. What does not fit there is lost. The slices need
    /// not be marked as written: the device does that.
    fn read(&mut self, into: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<usize>;

    /// Sends the frame that begins with `head` and goes on with the row of `rest`.
    fn write(&mut self, head: &[u8], rest: &[GuestSlice<'_>]) -> io::Result<()>;

    /// Says what frames the guest takes that are not ready for a wire.
    fn set_offload(&mut self, offload: Offload) -> io::Result<()>;
}

/// What may come to the guest unfinished, because it was not sent over a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Without checksums. The others come with it only.
    pub checksum: bool,
    /// TCP over IPv4 that is not cut into segments.
    pub tso4: bool,
    /// TCP over IPv6 that is not cut into segments.
    pub tso6: bool,
    /// UDP that is not cut into fragments.
    pub ufo: bool,
}

/// Somebody on the guest's wire who is not on the host's: the metadata service.
///
/// Frames are Ethernet frames, without a header of the device. Times come from one clock that never
/// goes back.
pub trait Detour: Send {
    /// Who it is: only ARP for this address and IPv4 to it are offered to [`Detour::transmit`].
    fn address(&self) -> Ipv4Addr;

    /// The guest sends `frame`. False if it is to go to the tap.
    fn transmit(&mut self, frame: &[u8], now: Duration) -> bool;

    /// Puts the next frame for the guest in place of what is in `into`; false if there is none.
    fn receive(&mut self, into: &mut Vec<u8>, now: Duration) -> bool;

    /// In how long there may be a frame for the guest although it sends nothing.
    fn next_poll(&mut self, now: Duration) -> Option<Duration>;
}

/// A detour, and the alarm for it, which belongs to queue 0 and to nothing else.
pub struct Detoured {
    /// Who is there.
    pub detour: Box<dyn Detour>,
    /// Has queue 0 served when the detour has something to send.
    pub alarm: Box<dyn Alarm>,
}

/// How an interface presents itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetOptions {
    /// The guest's address; it chooses one if there is none.
    pub mac: Option<MacAddress>,
    /// The largest packet, if the guest is to be told.
    pub mtu: Option<u16>,
    /// Frames from another address than `mac` are dropped, and not only counted.
    pub drop_spoofed: bool,
}

/// The device.
pub struct Net<T> {
    link: Link<T>,
    active: Option<Activated>,
}

/// All that the queues are connected to.
struct Link<T> {
    tap: T,
    options: NetOptions,
    rx: RateLimiter,
    tx: RateLimiter,
    detoured: Option<Detoured>,
    metrics: Arc<NetMetrics>,
    /// A frame on its way to or from the detour; kept for its allocation.
    frame: Vec<u8>,
    staging: rx::Staging,
    /// The guest had no buffers in the last turn on queue 0, and notifies of new ones.
    starved: bool,
    /// The detour took a frame, so that it may have an answer.
    answer_expected: bool,
}

impl<T: Tap> Net<T> {
    /// An interface on `tap`. The alarms of `rx` and `tx` have queues 0 and 1 served.
    pub fn new(
        tap: T,
        options: NetOptions,
        rx: RateLimiter,
        tx: RateLimiter,
        detoured: Option<Detoured>,
        metrics: Arc<NetMetrics>,
    ) -> Self {
        let link = Link {
            tap,
            options,
            rx,
            tx,
            detoured,
            metrics,
            frame: Vec::new(),
            staging: rx::Staging::default(),
            starved: false,
            answer_expected: false,
        };
        Self { link, active: None }
    }

    /// Changes what the guest may receive: bytes and frames.
    pub fn update_rx(&mut self, bandwidth: Change, ops: Change) {
        self.link.rx.update(bandwidth, ops);
    }

    /// Changes what the guest may send: bytes and frames.
    pub fn update_tx(&mut self, bandwidth: Change, ops: Change) {
        self.link.tx.update(bandwidth, ops);
    }

    /// The host's end.
    pub fn tap(&mut self) -> &mut T {
        &mut self.link.tap
    }
}

impl<T: Tap> VirtioDevice for Net<T> {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn device_features(&self) -> u64 {
        let NetOptions { mac, mtu, .. } = self.link.options;
        [
            (wire::VIRTIO_NET_F_CSUM, true),
            (wire::VIRTIO_NET_F_GUEST_CSUM, true),
            (wire::VIRTIO_NET_F_GUEST_TSO4, true),
            (wire::VIRTIO_NET_F_GUEST_TSO6, true),
            (wire::VIRTIO_NET_F_GUEST_UFO, true),
            (wire::VIRTIO_NET_F_HOST_TSO4, true),
            (wire::VIRTIO_NET_F_HOST_TSO6, true),
            (wire::VIRTIO_NET_F_HOST_UFO, true),
            (wire::VIRTIO_NET_F_MRG_RXBUF, true),
            (wire::VIRTIO_NET_F_MAC, mac.is_some()),
            (wire::VIRTIO_NET_F_MTU, mtu.is_some()),
        ]
        .into_iter()
        .filter(|(_, offered)| *offered)
        .fold(0, |features, (bit, _)| features | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[MAX_QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let NetOptions { mac, mtu, .. } = self.link.options;
        let mut config = [0; CONFIG_LEN];
        config[CONFIG_MAC..CONFIG_MAC + 6].copy_from_slice(&mac.map_or([0; 6], |mac| mac.0));
        config[CONFIG_MTU..CONFIG_MTU + 2].copy_from_slice(&mtu.unwrap_or(0).to_le_bytes());
        copy_config(&config, offset, data);
    }

    /// There is nothing to write: the address is the host's to give (virtio 1.2, 5.1.4.1).
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        self.link.metrics.cfg_fails.inc();
    }

    fn activate(&mut self, activated: Activated) {
        if let Err(error) = self.link.tap.set_offload(offload(&activated)) {
            log::error!(
                "the tap refuses what the guest's driver chose: {error}; no network for it"
            );
            self.link.metrics.activate_fails.inc();
            return;
        }
        self.active = Some(activated);
    }

    fn process_queue(&mut self, index: usize) -> Outcome {
        let Self { link, active } = self;
        let Some(active) = active else { return Outcome::Done };
        let outcome = match index {
            RX => {
                link.count_receive_event();
                link.receive(active)
            }
            TX => link.transmit(active),
            _ => Outcome::Done,
        };
        if outcome == Outcome::Broken {
            link.metrics.event_fails.inc();
        }
        outcome
    }

    fn reset(&mut self) {
        self.active = None;
        self.link.staging.clear();
        self.link.answer_expected = false;
    }

    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

impl<T: Tap + ?Sized> Tap for Box<T> {
    fn read(&mut self, into: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<usize> {
        (**self).read(into, overflow)
    }
    fn write(&mut self, head: &[u8], rest: &[GuestSlice<'_>]) -> io::Result<()> {
        (**self).write(head, rest)
    }
    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        (**self).set_offload(offload)
    }
}

/// What the driver accepted of the offers to receive unfinished frames. A driver may not accept
/// segmentation without checksums (virtio 1.2, 5.1.3.1); from one that does, nothing is taken.
fn offload(activated: &Activated) -> Offload {
    if !activated.has_feature(wire::VIRTIO_NET_F_GUEST_CSUM) {
        return Offload::default();
    }
    Offload {
        checksum: true,
        tso4: activated.has_feature(wire::VIRTIO_NET_F_GUEST_TSO4),
        tso6: activated.has_feature(wire::VIRTIO_NET_F_GUEST_TSO6),
        ufo: activated.has_feature(wire::VIRTIO_NET_F_GUEST_UFO),
    }
}
