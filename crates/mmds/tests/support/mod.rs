//! A guest for the stack's tests: smoltcp as the client, and a link that may lose, double and
//! reorder frames.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use metrics::MmdsMetrics;
use serde_json::Value;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Packet};
use sparkler_mmds::{PORT, STORE_BYTES_DEFAULT, Service, Stack, Store};
use spec::{Mmds, MmdsVersion};

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Time that passes when nothing happens.
const STEP: Duration = Duration::from_millis(10);

/// A service, and what it counts.
pub fn service(
    version: MmdsVersion,
    imds_compat: bool,
    document: Value,
) -> (Service, Arc<MmdsMetrics>) {
    let store = Store::new(STORE_BYTES_DEFAULT);
    store.put(document).unwrap();
    let metrics = Arc::new(MmdsMetrics::default());
    let config = Mmds { interfaces: Vec::new(), version, address: ADDRESS, imds_compat };
    (Service::new(store, config, "vm", [7; 32], metrics.clone()), metrics)
}

/// What happens to a frame on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    IsLost,
    IsDoubled,
    /// It arrives behind the next one.
    IsLate,
}

/// The guest, the stack and the link between them.
pub struct World {
    pub stack: Stack,
    pub now: Duration,
    pub guest: Guest,
    /// The fates of the next frames, in both directions; then all arrive.
    pub fates: VecDeque<Fate>,
}

/// The guest's side.
pub struct Guest {
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    pub wire: Wire,
}

/// The guest's network device.
#[derive(Default)]
pub struct Wire {
    pub sent: VecDeque<Vec<u8>>,
    pub arrived: VecDeque<Vec<u8>>,
    pub mtu: usize,
}

impl World {
    pub fn new(service: Service, mtu: usize) -> Self {
        let mut wire = Wire { mtu, ..Wire::default() };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC)));
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(GUEST.into(), 16)).unwrap();
        });
        let guest = Guest { interface, sockets: SocketSet::new(Vec::new()), wire };
        let stack = Stack::new(service, 42);
        Self { stack, now: Duration::from_secs(1), guest, fates: VecDeque::new() }
    }

    /// Begins a connection from the guest's `port`, with buffers of `buffer` bytes.
    pub fn connect(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let bytes = |count: usize| SocketBuffer::new(vec![0; count]);
        let mut socket = Socket::new(bytes(buffer), bytes(buffer));
        socket.set_ack_delay(None);
        let remote = (ADDRESS, PORT);
        socket.connect(self.guest.interface.context(), remote, port).unwrap();
        self.guest.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.guest.sockets.get_mut(handle)
    }

    /// Lets frames travel and some time pass.
    pub fn step(&mut self) {
        let at = Instant::from_micros(self.now.as_micros() as i64);
        let Guest { interface, sockets, wire } = &mut self.guest;
        interface.poll(at, wire, sockets);
        let mut late = None;
        while let Some(frame) = self.guest.wire.sent.pop_front() {
            for frame in self.deliver(frame, &mut late) {
                assert!(self.stack.transmit(&frame, self.now), "a frame passed by: {frame:02x?}");
            }
        }
        late.map(|frame: Vec<u8>| self.stack.transmit(&frame, self.now));
        let (mut frame, mut late) = (Vec::new(), None);
        while self.stack.receive(&mut frame, self.now) {
            check_frame(&frame, self.guest.wire.mtu);
            let frames = self.deliver(std::mem::take(&mut frame), &mut late);
            self.guest.wire.arrived.extend(frames);
        }
        self.guest.wire.arrived.extend(late);
        let wait = self.stack.next_poll(self.now);
        assert_ne!(wait, Some(Duration::ZERO), "the stack wants to be called for nothing");
        self.now += STEP;
    }

    fn deliver(&mut self, frame: Vec<u8>, late: &mut Option<Vec<u8>>) -> Vec<Vec<u8>> {
        let fate = self.fates.pop_front().unwrap_or(Fate::Arrives);
        let before = late.take();
        let mut arriving = match fate {
            Fate::Arrives => vec![frame],
            Fate::IsLost => vec![],
            Fate::IsDoubled => vec![frame.clone(), frame],
            Fate::IsLate => {
                *late = Some(frame);
                vec![]
            }
        };
        arriving.extend(before);
        arriving
    }

    /// Sends `request` on the connection, in pieces of at most `piece` bytes, and takes what comes
    /// back until `enough` says so or the connection ends; at most `steps` steps.
    pub fn exchange(
        &mut self,
        handle: SocketHandle,
        request: &[u8],
        (piece, steps): (usize, usize),
        enough: impl Fn(&[u8]) -> bool,
    ) -> Vec<u8> {
        let (mut sent, mut answer) = (0, Vec::new());
        for _ in 0..steps {
            self.step();
            let socket = self.socket(handle);
            if socket.can_send() && sent < request.len() {
                let end = request.len().min(sent + piece);
                sent += socket.send_slice(&request[sent..end]).unwrap();
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), answer.extend_from_slice(bytes))).unwrap();
            }
            if enough(&answer) || matches!(socket.state(), State::Closed | State::CloseWait) {
                break;
            }
        }
        answer
    }
}

/// What every frame to the guest is like.
fn check_frame(frame: &[u8], mtu: usize) {
    assert_eq!(frame[..12], [&GUEST_MAC[..], &sparkler_mmds::MAC].concat(), "addresses");
    if frame[12..14] == [8, 0] {
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(packet.verify_checksum());
        assert_eq!(packet.hop_limit(), 1);
        assert!(frame.len() - 14 <= mtu, "{} bytes on a link of {mtu}", frame.len());
    }
}

impl phy::Device for Wire {
    type RxToken<'t> = Arrived;
    type TxToken<'t> = Leaving<'t>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((Arrived(frame), Leaving(&mut self.sent)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

pub struct Arrived(Vec<u8>);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

/// The bodies of the responses in `bytes`, as (status, body); panics where they are malformed.
pub fn responses(bytes: &[u8]) -> Vec<(u16, String)> {
    let mut text = std::str::from_utf8(bytes).unwrap();
    let mut all = Vec::new();
    while !text.is_empty() {
        let (head, rest) = text.split_once("\r\n\r\n").expect("headers end");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.split("Content-Length: ").nth(1).expect("a length");
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        all.push((status, rest[..length].to_owned()));
        text = &rest[length..];
    }
    all
}

/// Whether `bytes` has so many whole responses.
pub fn has_responses(bytes: &[u8], count: usize) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut rest = text;
    for _ in 0..count {
        let Some((head, behind)) = rest.split_once("\r\n\r\n") else { return false };
        let length = head.split("Content-Length: ").nth(1).expect("a length");
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        let Some(behind) = behind.get(length..) else { return false };
        rest = behind;
    }
    true
}
