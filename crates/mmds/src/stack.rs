//! The service on one network interface: frames in, frames out.
//!
//! ```text
//!   frame of the guest ─▶ classify ─▶ not for the service: on to the network
//!                           │
//!             ARP request ◀─┴─▶ IPv4, TCP ─▶ smoltcp ─▶ Connection ─▶ Service
//!                  │                         │     ▲                  │
//!                  ▼                         ▼     └──── response ────┘
//!               frames that wait for the guest
//! ```
//!
//! Packets are made when the guest takes them, so that what waits are answers that could not wait
//! themselves: to ARP requests, and resets.
//!
//! What the guest sends to the service's address never goes on to the network, whatever it is: the
//! host's own network may have such a service, too. What is no TCP segment, is a fragment or is
//! malformed is dropped; a segment that no connection expects is answered with a reset.
//!
//! The guest's checksums are not looked at: its driver leaves them to the device where it can.

use std::collections::VecDeque;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{self, Socket, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpProtocol, Ipv4Packet, TcpPacket,
};

use crate::Service;
use crate::frame::{self, Content, ETHERNET_HEADER};
use crate::http::REQUEST_BYTES_MAX;
use crate::service::Reply;

/// The service's TCP port.
pub const PORT: u16 = 80;
/// Connections at the same time.
pub const CONNECTIONS_MAX: usize = 30;
/// Bytes of a response that wait for the guest to acknowledge them. The rest waits for these.
pub const SEND_MAX: usize = 4096;
/// Frames that wait for the guest to receive them; a further answer is lost.
pub const FRAMES_MAX: usize = 100;
/// A connection that was silent for so long makes room for a new one, if there is no other room.
pub const IDLE: Duration = Duration::from_secs(10);
/// A connection on which the guest owes an answer for so long is reset.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of an IPv4 packet to the guest, at most; the guest says how much it takes, if less.
const PACKET_MAX: usize = 1500;
/// No router passes on what the service sends.
const HOPS: u8 = 1;

/// The service on one network interface.
pub struct Stack {
    service: Service,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    link: Link,
}

/// One connection.
struct Connection {
    handle: SocketHandle,
    /// When the guest last sent something.
    heard: Duration,
    /// The response that is under way, and how much of it the socket has taken.
    response: Vec<u8>,
    taken: usize,
    /// No further request is read.
    closing: bool,
}

/// The way to the guest.
struct Link {
    /// The guest's MAC address: the one it last used.
    guest: [u8; 6],
    frames: VecDeque<Vec<u8>>,
    lost: u64,
}

impl Stack {
    /// A stack for `service`. `seed` must be random: sequence numbers begin with it.
    pub fn new(service: Service, seed: u64) -> Self {
        let mut link = Link { guest: frame::MAC, frames: VecDeque::new(), lost: 0 };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut wire = Wire { link: &mut link, packet: None };
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let address = IpCidr::new(IpAddress::Ipv4(service.config().address), 32);
        interface.update_ip_addrs(|addresses| {
            addresses.push(address).expect("there is room for one");
        });
        let sockets = SocketSet::new(Vec::new());
        Self { service, interface, sockets, connections: Vec::new(), link }
    }

    /// Takes a frame that the guest sends at `now`, if it is for the service. If it is not, false,
    /// the frame is for the network.
    pub fn transmit(&mut self, frame: &[u8], now: Duration) -> bool {
        let service = self.service.clone();
        let (address, metrics) = (service.config().address, service.metrics());
        if frame.len() < ETHERNET_HEADER {
            metrics.rx_bad_eth.inc();
        }
        let Some(frame) = frame::classify(frame, address) else { return false };
        metrics.rx_accepted.inc();
        self.link.guest = frame.from;
        match frame.content {
            Content::ArpRequest(asker) => {
                self.link.push(frame::arp_reply(address, frame.from, asker));
            }
            Content::Ipv4(packet) => self.receive_packet(packet, now),
        }
        metrics.tx_errors.add(std::mem::take(&mut self.link.lost));
        true
    }

    /// Puts the next frame for the guest at `now` into `into`, whose content it replaces; false if
    /// there is none.
    pub fn receive(&mut self, into: &mut Vec<u8>, now: Duration) -> bool {
        if self.link.frames.is_empty() {
            self.send_packets(now);
        }
        let Some(frame) = self.link.frames.pop_front() else { return false };
        let metrics = self.service.metrics();
        metrics.tx_count.inc();
        metrics.tx_frames.inc();
        metrics.tx_bytes.add(frame.len() as u64);
        *into = frame;
        true
    }

    /// In how long there may be a frame for the guest, although it sends nothing; none if there
    /// will not be any.
    pub fn next_poll(&mut self, now: Duration) -> Option<Duration> {
        if !self.link.frames.is_empty() {
            return Some(Duration::ZERO);
        }
        self.interface.poll_delay(instant(now), &self.sockets).map(Duration::from)
    }

    fn receive_packet(&mut self, packet: &[u8], now: Duration) {
        let service = self.service.clone();
        let metrics = service.metrics();
        let Ok(ip) = Ipv4Packet::new_checked(packet) else { return metrics.rx_accepted_err.inc() };
        if ip.next_header() != IpProtocol::Tcp {
            return metrics.rx_accepted_unusual.inc();
        }
        let segment = TcpPacket::new_checked(ip.payload());
        let (Ok(segment), false) = (segment, ip.more_frags() || ip.frag_offset() != 0) else {
            return metrics.rx_accepted_err.inc();
        };
        metrics.rx_count.inc();
        let remote = IpEndpoint::new(ip.src_addr().into(), segment.src_port());
        if segment.dst_port() != PORT {
            metrics.rx_accepted_err.inc();
        } else if segment.syn() && !segment.ack() && !segment.rst() {
            self.admit(remote, now);
        } else if self.position(remote).is_none() {
            metrics.rx_accepted_unusual.inc();
        }
        let mut wire = Wire { link: &mut self.link, packet: Some(packet) };
        self.interface.poll_ingress_single(instant(now), &mut wire, &mut self.sockets);
        if let Some(connection) =
            self.connections.iter_mut().find(|c| c.is_with(remote, &self.sockets))
        {
            connection.heard = now;
            connection.serve(self.sockets.get_mut(connection.handle), &self.service, now);
        }
        self.forget_closed();
    }

    /// Frames for what sockets have to send, at most one each.
    fn send_packets(&mut self, now: Duration) {
        let mut wire = Wire { link: &mut self.link, packet: None };
        self.interface.poll_egress(instant(now), &mut wire, &mut self.sockets);
        self.forget_closed();
    }

    /// Makes a socket that listens for a new connection of `remote`, if it is new and there is
    /// room. A SYN that finds no socket is answered with a reset.
    fn admit(&mut self, remote: IpEndpoint, now: Duration) {
        if let Some(index) = self.position(remote) {
            // The guest may use a port again that only waits for segments of old (RFC 9293, 3.6.1).
            if self.state(index) != State::TimeWait {
                return;
            }
            self.forget(index);
        }
        if self.connections.len() >= CONNECTIONS_MAX && !self.evict(now) {
            return;
        }
        let buffer = |bytes: usize| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(REQUEST_BYTES_MAX), buffer(SEND_MAX));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.listen(PORT).expect("a new socket can listen");
        self.service.metrics().connections_created.inc();
        let handle = self.sockets.add(socket);
        let (response, taken, closing) = (Vec::new(), 0, false);
        self.connections.push(Connection { handle, heard: now, response, taken, closing });
    }

    /// Makes room: ends the connection that was silent for longest, if one was for long enough.
    fn evict(&mut self, now: Duration) -> bool {
        // What only waits for segments of old is at its end, however short its silence.
        let ended = |index: &usize| self.state(*index) == State::TimeWait;
        let silence = |index: &usize| now.saturating_sub(self.connections[*index].heard);
        let all = 0..self.connections.len();
        if let Some(index) = all.clone().find(ended) {
            self.forget(index);
        } else if let Some(index) = all.filter(|i| silence(i) > IDLE).max_by_key(silence) {
            // Its reset leaves first.
            self.socket(index).abort();
            self.send_packets(now);
        }
        self.connections.len() < CONNECTIONS_MAX
    }

    /// Removes the sockets that have nothing to say any more, or never had.
    fn forget_closed(&mut self) {
        for index in (0..self.connections.len()).rev() {
            let socket = self.socket(index);
            let told = socket.remote_endpoint().is_none();
            if socket.state() == State::Listen || (socket.state() == State::Closed && told) {
                self.forget(index);
            }
        }
    }

    fn forget(&mut self, index: usize) {
        let connection = self.connections.swap_remove(index);
        self.sockets.remove(connection.handle);
        self.service.metrics().connections_destroyed.inc();
    }

    fn position(&self, remote: IpEndpoint) -> Option<usize> {
        self.connections.iter().position(|c| c.is_with(remote, &self.sockets))
    }

    fn socket(&mut self, index: usize) -> &mut Socket<'static> {
        self.sockets.get_mut(self.connections[index].handle)
    }

    fn state(&self, index: usize) -> State {
        self.sockets.get::<Socket<'_>>(self.connections[index].handle).state()
    }
}

impl Connection {
    fn is_with(&self, remote: IpEndpoint, sockets: &SocketSet<'_>) -> bool {
        sockets.get::<Socket<'_>>(self.handle).remote_endpoint() == Some(remote)
    }

    /// Answers what has arrived, as far as the guest takes the answers.
    fn serve(&mut self, socket: &mut Socket<'_>, service: &Service, now: Duration) {
        while self.flush(socket) {
            if self.closing {
                self.hang_up(socket);
                break;
            }
            let mut buffer = [0; REQUEST_BYTES_MAX];
            // An error says that nothing can arrive any more, hence that nothing has.
            let arrived = socket.peek_slice(&mut buffer).unwrap_or(0);
            match service.reply(&buffer[..arrived], now) {
                Reply::Wait if arrived == REQUEST_BYTES_MAX => {
                    socket.abort();
                    break;
                }
                Reply::Wait if socket.state() == State::CloseWait => self.closing = true,
                Reply::Wait => break,
                Reply::Send { response, request, last } => {
                    (self.response, self.taken, self.closing) = (response, 0, last);
                    discard(socket, request);
                }
            }
        }
        // A connection without business may stay for ever.
        let owed = socket.state() != State::Established || socket.send_queue() > 0;
        socket.set_timeout(owed.then(|| PATIENCE.into()));
    }

    /// Hands the response on. Whether it is through.
    fn flush(&mut self, socket: &mut Socket<'_>) -> bool {
        let rest = self.response.get(self.taken..).unwrap_or_default();
        // A socket that cannot send takes nothing, now or ever; it is on its way out.
        self.taken += socket.send_slice(rest).unwrap_or(rest.len());
        let done = self.taken >= self.response.len();
        if done {
            self.response = Vec::new();
            self.taken = 0;
        }
        done
    }

    /// Says that nothing follows, and listens no more.
    fn hang_up(&self, socket: &mut Socket<'_>) {
        socket.close();
        discard(socket, usize::MAX);
    }
}

/// Drops the oldest bytes that arrived.
fn discard(socket: &mut Socket<'_>, mut bytes: usize) {
    while bytes > 0 && socket.can_recv() {
        let dropped = socket.recv(|oldest| {
            let count = oldest.len().min(bytes);
            (count, count)
        });
        bytes -= dropped.unwrap_or(bytes);
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

impl Link {
    fn push(&mut self, frame: Vec<u8>) {
        if self.frames.len() < FRAMES_MAX {
            self.frames.push_back(frame);
        } else {
            self.lost += 1;
        }
    }
}

/// The link as smoltcp sees it: a device for IP packets, with at most one that has arrived.
struct Wire<'a> {
    link: &'a mut Link,
    packet: Option<&'a [u8]>,
}

impl phy::Device for Wire<'_> {
    type RxToken<'t>
        = Arrived<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Leaving<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived<'_>, Leaving<'_>)> {
        Some((Arrived(self.packet.take()?), Leaving(self.link)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = PACKET_MAX;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// A packet from the guest.
struct Arrived<'a>(&'a [u8]);

impl phy::RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// A packet to the guest.
struct Leaving<'a>(&'a mut Link);

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = frame::ipv4(self.0.guest, length);
        let result = f(&mut frame[ETHERNET_HEADER..]);
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_HEADER..]);
        packet.set_hop_limit(HOPS);
        packet.fill_checksum();
        self.0.push(frame);
        result
    }
}
