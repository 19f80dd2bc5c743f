//! All connections of a device, and those who would like one.
//!
//! ```text
//!   host: accept ──▶ Caller ──CONNECT──▶ Connection ◀──REQUEST── guest, and Host::connect
//!                                          │      ▲
//!                  talkers, each in turn ◀─┘      └─ guest's packets, by their ports
//! ```
//!
//! A connection that has something for the guest stands in the queue of talkers, once; the guest's
//! buffers go round. RSTs about connections that do not exist are a queue of their own, and are
//! dropped where a guest that takes none has filled it.
//!
//! What waits for a program on the host may wait as long as it likes: a caller that has not said
//! where to, and what is kept for a reader after its connection's end. Where there is no room for
//! another, the oldest of its kind goes. A command that was begun must be finished in
//! [`COMMAND_TIMEOUT`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use memory::GuestMemory;
use metrics::VsockMetrics;
use virtio::{Chain, GuestSlice};

use super::command::{COMMAND_MAX, Command};
use super::connection::Connection;
use super::host::{Host, Ready, Stream};
use super::packet::{Credit, HEADER_LEN, Header, Op, Packet, Ports, Refusal};
use super::{CONNECTIONS_MAX, VsockState};

/// Most callers that have not said yet where to.
pub const CALLERS_MAX: usize = 1023;
/// Most callers taken at a time.
const ACCEPTS_MAX: usize = 64;
/// Most times that the host is asked in one turn.
const POLLS_MAX: usize = 16;
/// How long a command may take from its first byte on.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Most RSTs that wait for the guest's buffers.
pub const RESETS_MAX: usize = 256;
/// After the host could not give us a caller, it is asked again.
const LISTEN_AGAIN: Duration = Duration::from_millis(100);

/// The token of what is to be done about the host itself; streams have higher ones.
const HOST: u64 = 0;

/// See the module.
pub(super) struct Muxer {
    guest_cid: u64,
    host: Box<dyn Host>,
    metrics: Arc<VsockMetrics>,
    state: VsockState,
    /// By token. Connections that are past wait here for their readers.
    connections: BTreeMap<u64, Slot>,
    /// Tokens of the connections that are not past.
    by_ports: HashMap<Ports, u64>,
    /// By token, so the oldest first.
    callers: BTreeMap<u64, Caller>,
    talkers: VecDeque<u64>,
    resets: VecDeque<Ports>,
    /// When something is to be done about a connection, a caller or the host.
    deadlines: BTreeSet<(Duration, u64)>,
    next_token: u64,
    /// Kept for its allocation.
    ready: Vec<Ready>,
}

struct Slot {
    connection: Connection,
    /// It stands in `talkers`.
    talks: bool,
    /// Its entry in `deadlines`.
    deadline: Option<Duration>,
}

struct Caller {
    stream: Box<dyn Stream>,
    /// Its entry in `deadlines`.
    deadline: Option<Duration>,
}

impl Muxer {
    pub fn new(guest_cid: u64, host: Box<dyn Host>, metrics: Arc<VsockMetrics>) -> Self {
        Self {
            guest_cid,
            host,
            metrics,
            state: VsockState::default(),
            connections: BTreeMap::new(),
            by_ports: HashMap::new(),
            callers: BTreeMap::new(),
            talkers: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_token: HOST + 1,
            ready: Vec::new(),
        }
    }

    pub fn state(&self) -> VsockState {
        self.state
    }

    pub fn set_state(&mut self, state: VsockState) {
        self.state = state;
    }

    /// Begins to take calls.
    pub fn open(&mut self, now: Duration) {
        if let Err(error) = self.host.listen(true) {
            log::warn!("vsock: callers on the host cannot be heard: {error}; trying again");
            self.metrics.muxer_event_fails.inc();
            self.deadlines.insert((now + LISTEN_AGAIN, HOST));
        }
    }

    /// Ends all that there is without a word to the guest, and takes no calls.
    pub fn close(&mut self) {
        if let Err(error) = self.host.listen(false) {
            log::warn!("vsock: callers on the host are still listened to: {error}");
        }
        self.metrics.conns_removed.add(self.connections.len() as u64);
        self.connections = BTreeMap::new();
        self.by_ports = HashMap::new();
        self.callers = BTreeMap::new();
        self.talkers = VecDeque::new();
        self.resets = VecDeque::new();
        self.deadlines = BTreeSet::new();
    }

    /// When [`Muxer::attend`] is to be called even if nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Looks after the host's side: what became ready, and what took too long.
    pub fn attend(&mut self, now: Duration) {
        self.expire(now);
        for _ in 0..POLLS_MAX {
            if !self.poll(now) {
                return;
            }
        }
        // What is left would not be told again.
        self.deadlines.insert((now, HOST));
    }

    /// Whether [`Muxer::speak`] may have something for the guest.
    pub fn has_word(&self) -> bool {
        !self.resets.is_empty() || !self.talkers.is_empty()
    }

    /// The next packet for the guest, with its data in `room`.
    pub fn speak(&mut self, room: &[GuestSlice<'_>], now: Duration) -> Option<Header> {
        if let Some(ports) = self.resets.pop_front() {
            let packet = Packet { ports, credit: Credit::default(), op: Op::Reset };
            return Some(packet.header(self.guest_cid));
        }
        while let Some(token) = self.talkers.pop_front() {
            let Some(slot) = self.connections.get_mut(&token) else { continue };
            slot.talks = false;
            let packet = slot.connection.speak(room, now);
            self.settle(token);
            if let Some(packet) = packet {
                return Some(packet.header(self.guest_cid));
            }
        }
        None
    }

    /// Takes the packet in `chain`, from the guest.
    pub fn receive(&mut self, memory: &GuestMemory, chain: &Chain) {
        match Packet::parse(memory, chain, self.guest_cid) {
            Ok(packet) => self.route(&packet, memory, chain),
            Err(Refusal::Drop) => log::debug!("vsock: a packet of the guest's is dropped"),
            Err(Refusal::Reset(ports)) => match self.by_ports.get(&ports).copied() {
                Some(token) => self.change(token, Connection::abort),
                None => self.refuse(ports),
            },
        }
    }

    fn route(&mut self, packet: &Packet, memory: &GuestMemory, chain: &Chain) {
        let Packet { ports, credit, op } = *packet;
        let Some(token) = self.by_ports.get(&ports).copied() else {
            match op {
                Op::Request => self.connect(ports, credit),
                Op::Reset => {}
                Op::Response
                | Op::Shutdown(_)
                | Op::Data(_)
                | Op::CreditUpdate
                | Op::CreditRequest => self.refuse(ports),
            }
            return;
        };
        let data = match op {
            Op::Data(len) => chain.readable_slices(memory, HEADER_LEN..HEADER_LEN + u64::from(len)),
            Op::Request
            | Op::Response
            | Op::Reset
            | Op::Shutdown(_)
            | Op::CreditUpdate
            | Op::CreditRequest => Ok(Vec::new()),
        };
        self.change(token, |connection| match data {
            Ok(data) => connection.receive(op, credit, &data),
            Err(_) => connection.abort(),
        });
    }

    /// The guest calls.
    fn connect(&mut self, ports: Ports, credit: Credit) {
        if !self.make_room() {
            log::info!("vsock: {CONNECTIONS_MAX} connections are open; another one is refused");
            return self.refuse(ports);
        }
        let token = self.token();
        match self.host.connect(ports.host, token) {
            Ok(stream) => {
                let metrics = self.metrics.clone();
                self.add(token, Connection::answer(ports, stream, metrics, credit));
            }
            Err(error) => {
                log::debug!("vsock: nobody answers the guest's call to port {ports:?}: {error}");
                self.refuse(ports);
            }
        }
    }

    /// Acts on what became ready, and says whether there may be more.
    fn poll(&mut self, now: Duration) -> bool {
        let mut ready = std::mem::take(&mut self.ready);
        let mut more = self.host.poll(&mut ready).unwrap_or_else(|error| {
            log::warn!("vsock: the host's sockets cannot be asked: {error}");
            self.metrics.muxer_event_fails.inc();
            false
        });
        for event in ready.drain(..) {
            match event {
                Ready::Caller => more |= self.accept(now),
                Ready::Stream { token, readable, writable } => {
                    self.stream_ready(token, readable, writable, now);
                }
            }
        }
        self.ready = ready;
        more
    }

    /// Takes callers, and says whether there may be more.
    fn accept(&mut self, now: Duration) -> bool {
        for _ in 0..ACCEPTS_MAX {
            let token = self.token();
            let stream = match self.host.accept(token) {
                Ok(stream) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.listen_later(&error, now);
                    return false;
                }
            };
            if self.callers.len() >= CALLERS_MAX
                && let Some(oldest) = self.callers.keys().next().copied()
            {
                self.forget_caller(oldest);
            }
            self.callers.insert(token, Caller { stream, deadline: None });
            self.hear_caller(token, now);
        }
        true
    }

    fn listen_later(&mut self, error: &io::Error, now: Duration) {
        log::warn!("vsock: a caller on the host cannot be taken: {error}; trying again");
        self.metrics.muxer_event_fails.inc();
        // Or the set would stay ready for the caller; should that fail, it does.
        let _ = self.host.listen(false);
        self.deadlines.insert((now + LISTEN_AGAIN, HOST));
    }

    fn stream_ready(&mut self, token: u64, readable: bool, writable: bool, now: Duration) {
        if self.callers.contains_key(&token) {
            return self.hear_caller(token, now);
        }
        self.change(token, |connection| connection.host_ready(readable, writable));
    }

    /// A caller has said something: perhaps where to.
    fn hear_caller(&mut self, token: u64, now: Duration) {
        let Some(caller) = self.callers.get_mut(&token) else { return };
        let mut bytes = [0; COMMAND_MAX];
        let command = match caller.stream.peek(&mut bytes) {
            Ok(0) => Command::Refused,
            Ok(len) => Command::parse(&bytes[..len.min(COMMAND_MAX)]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => Command::Refused,
        };
        match command {
            Command::Unfinished if caller.deadline.is_none() => {
                caller.deadline = Some(now + COMMAND_TIMEOUT);
                self.deadlines.insert((now + COMMAND_TIMEOUT, token));
            }
            Command::Unfinished => {}
            Command::Connect { port, len } => {
                if let Some(mut stream) = self.forget_caller(token)
                    && stream.read_bytes(&mut bytes[..len]).is_ok_and(|read| read == len)
                {
                    self.call(token, port, stream, now);
                }
            }
            Command::Refused => {
                log::info!("vsock: a program on the host did not say CONNECT and a port");
                self.metrics.conn_event_fails.inc();
                self.forget_caller(token);
            }
        }
    }

    /// The host calls port `guest` of the guest.
    fn call(&mut self, token: u64, guest: u32, stream: Box<dyn Stream>, now: Duration) {
        if !self.make_room() {
            log::info!("vsock: {CONNECTIONS_MAX} connections are open; another one is refused");
            return;
        }
        let ports = self.host_port(guest);
        self.add(token, Connection::call(ports, stream, self.metrics.clone(), now));
    }

    /// A port on the host that has no connection to port `guest` of the guest.
    fn host_port(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports { host: self.state.take_host_port(), guest };
            // There are a billion ports, and not so many connections.
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Whether there is room for a connection, if need be in place of one that is past.
    fn make_room(&mut self) -> bool {
        if self.connections.len() < CONNECTIONS_MAX {
            return true;
        }
        let past = self.connections.iter().find(|(_, slot)| slot.connection.is_past());
        let past = past.map(|(token, _)| *token);
        past.is_some_and(|token| self.remove(token).is_some())
    }

    fn add(&mut self, token: u64, connection: Connection) {
        self.metrics.conns_added.inc();
        self.by_ports.insert(connection.ports(), token);
        self.connections.insert(token, Slot { connection, talks: false, deadline: None });
        self.settle(token);
    }

    /// Changes a connection, if it is still there, and draws the conclusions.
    fn change(&mut self, token: u64, change: impl FnOnce(&mut Connection)) {
        if let Some(slot) = self.connections.get_mut(&token) {
            change(&mut slot.connection);
            self.settle(token);
        }
    }

    /// Brings the tables up to date with a connection that may have changed.
    fn settle(&mut self, token: u64) {
        let Some(slot) = self.connections.get_mut(&token) else { return };
        let connection = &slot.connection;
        let ports = connection.ports();
        if connection.is_past() && self.by_ports.get(&ports) == Some(&token) {
            self.by_ports.remove(&ports);
        }
        if connection.is_over() {
            self.remove(token);
            return;
        }
        if connection.has_word() && !slot.talks {
            slot.talks = true;
            self.talkers.push_back(token);
        }
        let (before, deadline) = (slot.deadline, connection.deadline());
        if before != deadline {
            slot.deadline = deadline;
            self.deadlines.extend(deadline.map(|at| (at, token)));
            before.map(|at| self.deadlines.remove(&(at, token)));
        }
    }

    fn remove(&mut self, token: u64) -> Option<Slot> {
        let slot = self.connections.remove(&token)?;
        self.metrics.conns_removed.inc();
        if slot.talks {
            self.talkers.retain(|talker| *talker != token);
        }
        slot.deadline.map(|at| self.deadlines.remove(&(at, token)));
        Some(slot)
    }

    fn forget_caller(&mut self, token: u64) -> Option<Box<dyn Stream>> {
        let caller = self.callers.remove(&token)?;
        caller.deadline.map(|at| self.deadlines.remove(&(at, token)));
        Some(caller.stream)
    }

    /// There is no such connection, and the guest is to know.
    fn refuse(&mut self, ports: Ports) {
        if self.resets.len() < RESETS_MAX {
            self.resets.push_back(ports);
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some(&(at, token)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            if token == HOST {
                self.open(now);
            } else if let Some(slot) = self.connections.get_mut(&token) {
                slot.deadline = None;
                self.change(token, |connection| connection.expire(now));
            } else {
                self.forget_caller(token);
            }
        }
    }

    fn token(&mut self) -> u64 {
        let token = self.next_token;
        // 2^64 streams take longer than there is time.
        self.next_token += 1;
        token
    }
}
