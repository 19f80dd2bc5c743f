//! The socket device between a driver and real Unix sockets.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::{Poller, UnixHost};
use metrics::VsockMetrics;
use sparkler_devices::Alarm;
use sparkler_devices::vsock::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM};
use sparkler_devices::vsock::{
    CALLERS_MAX, CLOSE_TIMEOUT, COMMAND_TIMEOUT, CONNECT_TIMEOUT, CONNECTIONS_MAX, RESETS_MAX,
    TX_BUFFER_MAX, Vsock, VsockState,
};
use tempfile::TempDir;
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{MmioTransport, Notify, Register, Status};

const GUEST_CID: u64 = 3;
const HOST_PORT: u32 = 1 << 30;
/// The guest's port in most tests.
const PORT: u32 = 52;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// Bytes of each of the guest's receive buffers, as Linux makes them.
const BUFFER_LEN: u32 = 4096;
const BUFFERS: usize = 64;

/// Time that a test lets pass.
#[derive(Clone, Default)]
struct Clock(Arc<Mutex<(Duration, Option<Duration>)>>);

impl Alarm for Clock {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn set(&self, delay: Duration) {
        let mut clock = self.0.lock().unwrap();
        clock.1 = Some(clock.0 + delay);
    }
}

impl Clock {
    /// Lets time pass, and says whether the alarm went off.
    fn pass(&self, time: Duration) -> bool {
        let mut clock = self.0.lock().unwrap();
        clock.0 += time;
        let now = clock.0;
        clock.1.take_if(|at| *at <= now).is_some()
    }
}

/// A guest with the device, and the host around it.
struct Guest {
    driver: MockDriver,
    transport: Arc<MmioTransport<Vsock>>,
    clock: Clock,
    metrics: Arc<VsockMetrics>,
    /// The host's events by edges, as an event loop watches them, and by level.
    edges: Poller,
    level: Poller,
    _events: OwnedFd,
    folder: TempDir,
    /// Where the receive buffers are, by the head of their chain.
    buffers: Vec<(u16, u64)>,
    out: u64,
    /// Bytes received from the host, for the credit.
    received: u32,
    buf_alloc: u32,
}

impl Guest {
    /// A guest with receive buffers.
    fn new() -> Self {
        let mut guest = Self::without_buffers();
        guest.give_buffers();
        guest
    }

    fn without_buffers() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = UnixHost::bind(&folder.path().join("v.sock")).unwrap();
        let events = host.events().unwrap();
        let (edges, level) = (Poller::new().unwrap(), Poller::new().unwrap());
        edges.add_edge(&events, 0).unwrap();
        level.add_input(&events, 0).unwrap();
        let (clock, metrics) = (Clock::default(), Arc::new(VsockMetrics::default()));
        let device =
            Vsock::new(GUEST_CID, Box::new(host), Box::new(clock.clone()), metrics.clone());
        let memory = ram();
        let line = Arc::new(CountingLine::default());
        let transport = Arc::new(MmioTransport::new(device, memory.clone(), line).unwrap());
        let mut driver = MockDriver::start(transport.clone(), memory, !0);
        let out = driver.allocate(HEADER_LEN + 2 * u64::from(TX_BUFFER_MAX));
        Self {
            driver,
            transport,
            clock,
            metrics,
            edges,
            level,
            _events: events,
            folder,
            buffers: Vec::new(),
            out,
            received: 0,
            buf_alloc: 256 << 10,
        }
    }

    fn give_buffers(&mut self) {
        for _ in 0..BUFFERS {
            let at = self.driver.allocate(u64::from(BUFFER_LEN));
            let head = self.driver.add(0, &[Buffer::In(at, BUFFER_LEN)]);
            self.buffers.push((head, at));
        }
        self.driver.kick(0);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new driver, which sets its queues up but for what `change` does to that.
    fn start_again(&mut self, change: impl FnOnce(&MockDriver)) {
        self.driver.negotiate(!0);
        self.driver.set_up_queues(256);
        change(&self.driver);
        self.driver.write(Register::Status, 15);
        self.buffers.clear();
        self.give_buffers();
    }

    /// A listener for the guest's calls to `port`.
    fn listener(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(&format!("v.sock_{port}"))).unwrap()
    }

    /// A program that connects and says `text`.
    fn caller(&self, text: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("v.sock")).unwrap();
        stream.write_all(text).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Serves the host's side as an event loop does, until nothing happens any more. Whatever the
    /// guest does, nothing may be left then that no edge would tell of.
    fn pump(&mut self) {
        let mut ready = Vec::new();
        for turns in 0.. {
            self.edges.wait(&mut ready, Some(Duration::ZERO)).unwrap();
            if ready.is_empty() {
                break;
            }
            assert!(turns < 10_000, "the device itself makes the events");
            self.transport.notify(0);
            self.driver.take_interrupt();
        }
        self.level.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty(), "something on the host was not taken note of");
    }

    fn pass(&mut self, time: Duration) {
        if self.clock.pass(time) {
            self.transport.notify(0);
            self.driver.take_interrupt();
        }
    }

    fn header(&self, op: u16, ports: (u32, u32), len: u32) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: ports.1,
            dst_port: ports.0,
            len,
            kind: TYPE_STREAM,
            op,
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.received,
        }
    }

    /// Sends a packet on the connection with `ports` of host and guest.
    fn send(&mut self, op: u16, ports: (u32, u32), data: &[u8]) {
        self.send_raw(self.header(op, ports, data.len() as u32), data);
    }

    fn send_shutdown(&mut self, ports: (u32, u32), flags: u32) {
        self.send_raw(Header { flags, ..self.header(SHUTDOWN, ports, 0) }, &[]);
    }

    fn send_raw(&mut self, header: Header, data: &[u8]) {
        self.driver.poke(self.out, &header.to_bytes());
        self.driver.poke(self.out + HEADER_LEN, data);
        let mut chain = vec![Buffer::Out(self.out, HEADER_LEN as u32)];
        if !data.is_empty() {
            chain.push(Buffer::Out(self.out + HEADER_LEN, data.len() as u32));
        }
        let head = self.driver.add(1, &chain);
        self.driver.kick(1);
        let used = self.driver.take_used(1).expect("what the guest sends is always taken");
        assert_eq!((used.head, used.len), (u32::from(head), 0));
        self.driver.take_interrupt();
    }

    /// The next packet from the host; its buffer goes back.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let used = self.driver.take_used(0)?;
        let (_, at) = *self.buffers.iter().find(|(head, _)| u32::from(*head) == used.head).unwrap();
        let header = self.driver.peek(at, HEADER_LEN as usize);
        let header = Header::from_bytes(header.try_into().unwrap());
        assert_eq!(used.len, HEADER_LEN as u32 + header.len);
        assert_eq!((header.src_cid, header.dst_cid, header.kind), (HOST_CID, GUEST_CID, 1));
        let data = self.driver.peek(at + HEADER_LEN, header.len as usize);
        self.received = self.received.wrapping_add(header.len);
        self.driver.offer(0, used.head as u16);
        self.driver.kick(0);
        Some((header, data))
    }

    /// All packets from the host that are there: operation, ports of host and guest, flags.
    fn ops(&mut self) -> Vec<(u16, (u32, u32), u32)> {
        let packets = std::iter::from_fn(|| self.receive());
        packets.map(|(h, _)| (h.op, (h.src_port, h.dst_port), h.flags)).collect()
    }

    /// The operations of all packets from the host.
    fn words(&mut self) -> Vec<u16> {
        self.ops().into_iter().map(|(op, _, _)| op).collect()
    }

    /// All data from the host, which is told of room when it asks.
    fn data(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((header, data)) = self.receive() {
            all.extend(data);
            if header.op == CREDIT_REQUEST {
                self.send(CREDIT_UPDATE, (header.src_port, header.dst_port), &[]);
            }
        }
        all
    }

    /// A connection from the host to [`PORT`], with the host's end.
    fn called(&mut self) -> (UnixStream, (u32, u32)) {
        let mut stream = self.caller(b"CONNECT 52\n");
        self.pump();
        let (request, _) = self.receive().expect("a call");
        assert_eq!((request.op, request.dst_port), (REQUEST, PORT));
        let ports = (request.src_port, PORT);
        self.send(RESPONSE, ports, &[]);
        assert_eq!(read(&mut stream), format!("OK {}\n", ports.0).as_bytes());
        (stream, ports)
    }

    /// A connection from the guest to port `port` of the host, with the host's end.
    fn calls(&mut self, port: u32) -> (UnixStream, (u32, u32)) {
        let listener = self.listener(port);
        let ports = (port, 1024);
        self.send(REQUEST, ports, &[]);
        assert_eq!(self.ops(), [(RESPONSE, ports, 0)]);
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (stream, ports)
    }
}

/// All that there is to read now.
fn read(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    bytes
}

/// Whether the device has closed its end, perhaps with something in it that it did not read.
fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn the_device_is_what_the_driver_looks_for() {
    let guest = Guest::new();
    assert_eq!(guest.driver.config(0, 10), [3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let in_order = 1 << 35;
    assert_eq!(guest.driver.offered(), in_order | virtio::RING_FEATURES);
    assert_eq!(guest.driver.status(), Status(15));
    assert_eq!(guest.driver.read(Register::DeviceId), 19);
}

#[test]
fn the_host_calls_the_guest() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.called();
    assert_eq!(ports.0, HOST_PORT);
    stream.write_all(&text(10_000)).unwrap();
    guest.pump();
    assert_eq!(guest.data(), text(10_000));
    guest.send(RW, ports, b"to the host");
    assert_eq!(read(&mut stream), b"to the host");
    drop(stream);
    guest.pump();
    assert_eq!(guest.ops(), [(SHUTDOWN, ports, 3)]);
    guest.send(RST, ports, &[]);
    assert!(guest.ops().is_empty());
    let m = &guest.metrics;
    assert_eq!((m.conns_added.count(), m.conns_removed.count(), m.conns_killed.count()), (1, 1, 0));
    assert_eq!((m.rx_bytes_count.count(), m.tx_bytes_count.count()), (10_000, 11));
    let (_stream, next) = guest.called();
    assert_eq!(next.0, HOST_PORT + 1);
}

#[test]
fn bytes_behind_the_command_are_the_guests() {
    let mut guest = Guest::new();
    let mut stream = guest.caller(b"connect 52\nearly");
    guest.pump();
    assert_eq!(guest.ops(), [(REQUEST, (HOST_PORT, PORT), 0)]);
    guest.send(RESPONSE, (HOST_PORT, PORT), &[]);
    assert_eq!(guest.data(), b"early");
    assert_eq!(read(&mut stream), b"OK 1073741824\n");
}

#[test]
fn nobody_in_the_guest_answers() {
    let mut guest = Guest::new();
    let mut refused = guest.caller(b"CONNECT 99\n");
    guest.pump();
    assert_eq!(guest.ops(), [(REQUEST, (HOST_PORT, 99), 0)]);
    guest.send(RST, (HOST_PORT, 99), &[]);
    assert!(is_closed(&mut refused));
    let mut ignored = guest.caller(b"CONNECT 98\n");
    guest.pump();
    assert_eq!(guest.ops(), [(REQUEST, (HOST_PORT + 1, 98), 0)]);
    guest.pass(CONNECT_TIMEOUT - Duration::from_millis(1));
    assert!(!is_closed(&mut ignored) && guest.ops().is_empty());
    guest.pass(Duration::from_millis(1));
    assert!(is_closed(&mut ignored));
    assert_eq!(guest.ops(), [(RST, (HOST_PORT + 1, 98), 0)]);
    assert_eq!(guest.metrics.conns_killed.count(), 1);
    // It answers after all.
    guest.send(RESPONSE, (HOST_PORT + 1, 98), &[]);
    assert_eq!(guest.ops(), [(RST, (HOST_PORT + 1, 98), 0)]);
}

#[test]
fn the_guest_calls_the_host() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.calls(7000);
    guest.send(RW, ports, b"hello");
    assert_eq!(read(&mut stream), b"hello");
    stream.write_all(b"and back").unwrap();
    guest.pump();
    assert_eq!(guest.data(), b"and back");
    guest.send_shutdown(ports, 3);
    assert_eq!(guest.ops(), [(RST, ports, 0)]);
    assert!(is_closed(&mut stream));
}

#[test]
fn nobody_on_the_host_answers() {
    let mut guest = Guest::new();
    guest.send(REQUEST, (7000, 1024), &[]);
    assert_eq!(guest.ops(), [(RST, (7000, 1024), 0)]);
    // A socket without a listener, and one whose queue is full.
    drop(guest.listener(7001));
    guest.send(REQUEST, (7001, 1024), &[]);
    assert_eq!(guest.ops(), [(RST, (7001, 1024), 0)]);
    assert_eq!(guest.metrics.conns_added.count(), 0);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.called();
    stream.write_all(b"question").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    guest.pump();
    let (question, bytes) = guest.receive().unwrap();
    assert_eq!((question.op, &bytes[..]), (RW, &b"question"[..]));
    assert_eq!(guest.ops(), [(SHUTDOWN, ports, 2)]);
    guest.send(RW, ports, b"answer");
    guest.send_shutdown(ports, 2);
    assert_eq!(read(&mut stream), b"answer");
    assert!(is_closed(&mut stream));
    drop(stream);
    guest.pump();
    assert_eq!(guest.ops(), [(SHUTDOWN, ports, 3)]);
    guest.send_shutdown(ports, 3);
    assert_eq!(guest.ops(), [(RST, ports, 0)]);
}

#[test]
fn a_guest_that_reads_no_more_stops_the_host() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.called();
    guest.send_shutdown(ports, 1);
    let error = stream.write_all(&text(1 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    guest.send(RW, ports, b"still sending");
    assert_eq!(read(&mut stream), b"still sending");
    drop(stream);
    guest.pump();
    assert_eq!(guest.ops(), [(SHUTDOWN, ports, 1)]);
}

#[test]
fn senseless_packets_are_dropped_or_reset() {
    let ports = (7000, 1024);
    let check = |change: fn(Header) -> Header, data: &[u8], expected: Option<u16>| {
        for connected in [false, true] {
            let mut guest = Guest::new();
            let mut stream = connected.then(|| guest.calls(7000).0);
            let header = change(guest.header(RW, ports, data.len() as u32));
            guest.send_raw(header, data);
            let words = guest.words();
            assert_eq!(words, Vec::from_iter(expected), "{header:?}, connected: {connected}");
            if let Some(stream) = &mut stream {
                assert_eq!(is_closed(stream), expected.is_some() || header.op == RST);
            }
            assert_eq!(guest.driver.status(), Status(15));
        }
    };
    check(|h| Header { op: 0, ..h }, &[], Some(RST));
    check(|h| Header { op: 8, ..h }, &[], Some(RST));
    check(|h| Header { op: 0xFFFF, ..h }, &[], Some(RST));
    check(|h| Header { op: RESPONSE, ..h }, &[], Some(RST));
    check(|h| Header { kind: 2, ..h }, &[], Some(RST));
    check(|h| Header { kind: 0, ..h }, &[], Some(RST));
    check(|h| Header { len: 1, ..h }, &[], Some(RST));
    check(|h| Header { len: u32::MAX, ..h }, b"four", Some(RST));
    check(|h| Header { op: RST, ..h }, &[], None);
    check(|h| Header { src_cid: 4, ..h }, b"spoof", None);
    check(|h| Header { dst_cid: 3, ..h }, b"loop", None);
    check(|h| Header { dst_cid: 1 << 32 | 2, ..h }, b"far", None);
    check(|h| h, &[1; TX_BUFFER_MAX as usize + 1], Some(RST));
}

#[test]
fn broken_chains_are_no_packets() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.calls(7000);
    let out = guest.out;
    let header = guest.header(RW, ports, 16).to_bytes();
    guest.driver.poke(out, &header);
    let len = HEADER_LEN as u32;
    let nowhere = 0xC000_0000;
    let chains: [(&[Buffer], Option<u16>); 5] = [
        (&[Buffer::Out(out, len - 1)], None),
        (&[Buffer::In(out, len)], None),
        (&[Buffer::Out(nowhere, len + 16)], None),
        (&[Buffer::Out(out, 3), Buffer::Out(out + 3, len - 3 + 16)], None),
        (&[Buffer::Out(out, len), Buffer::Out(nowhere, 16)], Some(RST)),
    ];
    for (chain, expected) in chains {
        guest.driver.add(1, chain);
        guest.driver.kick(1);
        assert_eq!(guest.driver.take_used(1).map(|used| used.len), Some(0));
        assert_eq!(guest.words(), Vec::from_iter(expected), "{chain:x?}");
    }
    assert_eq!(read(&mut stream).len(), 16);
    assert_eq!(guest.driver.status(), Status(15));
}

#[test]
fn unusable_receive_buffers_go_back() {
    let mut guest = Guest::without_buffers();
    for buffer in [
        Buffer::In(0x20_0000, HEADER_LEN as u32),
        Buffer::Out(0x20_0000, 4096),
        Buffer::In(0xC000_0000, 4096),
    ] {
        guest.driver.add(0, &[buffer]);
    }
    guest.send(REQUEST, (7000, 1024), &[]);
    for _ in 0..3 {
        assert_eq!(guest.driver.take_used(0).map(|used| used.len), Some(0));
    }
    guest.give_buffers();
    assert_eq!(guest.words(), [RST]);
}

#[test]
fn calls_wait_for_the_guests_buffers() {
    let mut guest = Guest::without_buffers();
    let mut streams: Vec<_> = (0..10).map(|_| guest.caller(b"CONNECT 52\n")).collect();
    guest.pump();
    guest.give_buffers();
    let calls = guest.ops();
    assert!(calls.iter().all(|(op, ports, _)| *op == REQUEST && ports.1 == PORT));
    assert_eq!(calls.len(), 10);
    for (_, ports, _) in calls {
        guest.send(RESPONSE, ports, &[]);
    }
    assert!(streams.iter_mut().all(|stream| read(stream).starts_with(b"OK ")));
}

#[test]
fn the_guest_takes_its_time() {
    let mut guest = Guest::new();
    let (mut stream, _) = guest.called();
    let sent = text(8 << 20);
    let mut written = 0;
    // First the guest's buffers are full, then the socket is.
    while let Ok(len) = stream.write(&sent[written..]) {
        written += len;
        guest.pump();
    }
    assert!(written > BUFFERS * 4000 && written < sent.len());
    assert!(guest.data() == sent[..written]);
}

#[test]
fn replies_to_a_guest_that_takes_none_are_bounded() {
    let mut guest = Guest::without_buffers();
    for port in 0..2 * RESETS_MAX as u32 {
        guest.send(RW, (7000, port), b"?");
    }
    guest.give_buffers();
    let mut words = 0;
    while guest.receive().is_some() {
        words += 1;
    }
    assert_eq!(words, RESETS_MAX);
}

#[test]
fn the_host_takes_its_time() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.calls(7000);
    // The socket takes some, and then the device keeps as much as it promised.
    let chunk = text(TX_BUFFER_MAX as usize);
    let (mut sent, mut forwarded) = (0u32, 0);
    loop {
        let room = TX_BUFFER_MAX - (sent - forwarded);
        if room == 0 {
            break;
        }
        guest.send(RW, ports, &chunk[..room as usize]);
        sent += room;
        guest.send(CREDIT_REQUEST, ports, &[]);
        while let Some((header, _)) = guest.receive() {
            assert_eq!((header.op, header.buf_alloc), (CREDIT_UPDATE, TX_BUFFER_MAX));
            forwarded = header.fwd_cnt;
        }
        assert!(sent < 16 << 20, "a socket takes it all");
    }
    guest.pump();
    assert!(guest.ops().is_empty());
    let mut bytes = Vec::new();
    while bytes.len() < sent as usize {
        bytes.extend(read(&mut stream));
        guest.pump();
    }
    assert_eq!(bytes.len(), sent as usize);
    let (update, _) = guest.receive().expect("the guest hears of its room");
    assert_eq!((update.op, update.fwd_cnt), (CREDIT_UPDATE, sent));
    // And again, until the guest does not keep to it.
    while !guest.words().contains(&RST) {
        guest.send(RW, ports, &chunk[..20_000]);
    }
    while !read(&mut stream).is_empty() {}
    assert!(is_closed(&mut stream));
}

#[test]
fn a_program_may_vanish_at_any_time() {
    let mut guest = Guest::new();
    for text in [&b""[..], b"CONN", b"CONNECT 52\n"] {
        drop(guest.caller(text));
        guest.pump();
    }
    // The guest does not know that the caller has gone, nor could it.
    assert_eq!(guest.ops(), [(REQUEST, (HOST_PORT, PORT), 0)]);
    guest.send(RESPONSE, (HOST_PORT, PORT), &[]);
    assert_eq!(guest.ops(), [(RST, (HOST_PORT, PORT), 0)]);
    // Nothing of the guest's has been read: the host's end is reset.
    let (stream, ports) = guest.called();
    guest.send(RW, ports, b"unread");
    drop(stream);
    guest.pump();
    assert_eq!(guest.ops(), [(RST, ports, 0)]);
    // Data, and gone.
    let (mut stream, ports) = guest.called();
    stream.write_all(b"last words").unwrap();
    drop(stream);
    guest.pump();
    guest.send(RW, ports, b"to nobody");
    assert_eq!(guest.data(), b"last words");
    guest.pass(CLOSE_TIMEOUT);
    guest.send(CREDIT_UPDATE, ports, &[]);
    guest.pass(CLOSE_TIMEOUT);
    assert_eq!(guest.words().last(), Some(&RST));
    let m = &guest.metrics;
    assert_eq!(m.conns_added.count(), m.conns_removed.count());
}

#[test]
fn a_command_may_come_in_pieces_but_not_for_ever() {
    let mut guest = Guest::new();
    let mut silent = guest.caller(b"");
    let mut slow = guest.caller(b"C");
    let mut loris = guest.caller(b"C");
    let mut wrong = guest.caller(b"GET / HTTP/1.1\r\n");
    let mut long = guest.caller(&[b' '; 32]);
    guest.pump();
    assert!(is_closed(&mut wrong) && is_closed(&mut long));
    for (i, byte) in b"ONNECT 52\n".iter().enumerate() {
        guest.pass(COMMAND_TIMEOUT / 11);
        slow.write_all(&[*byte]).unwrap();
        loris.write_all(&[b"ONNECT 000000"[i]]).unwrap();
        guest.pump();
    }
    assert_eq!(guest.words(), [REQUEST]);
    guest.pass(COMMAND_TIMEOUT / 11);
    assert!(!is_closed(&mut silent) && !is_closed(&mut slow));
    guest.pass(Duration::from_millis(10));
    assert!(is_closed(&mut loris) && !is_closed(&mut silent));
    silent.write_all(b"CONNECT 52\n").unwrap();
    guest.pump();
    assert_eq!(guest.words().first(), Some(&REQUEST));
}

#[test]
fn a_thousand_connections_at_once() {
    raise_descriptor_limit();
    let mut guest = Guest::new();
    let mut streams: Vec<UnixStream> = Vec::new();
    let mut requests = Vec::new();
    for i in 0..CONNECTIONS_MAX {
        streams.push(guest.caller(format!("CONNECT {i}\n").as_bytes()));
        if i % 50 == 0 {
            guest.pump();
            requests.extend(guest.ops());
        }
    }
    guest.pump();
    requests.extend(guest.ops());
    assert_eq!(requests.len(), CONNECTIONS_MAX);
    let mut refused = guest.caller(b"CONNECT 5000\n");
    guest.pump();
    assert!(is_closed(&mut refused));
    guest.send(REQUEST, (7000, 1024), &[]);
    assert_eq!(guest.words(), [RST]);
    for (_, ports, _) in &requests {
        guest.send(RESPONSE, *ports, &[]);
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        assert!(read(stream).starts_with(b"OK "));
        stream.write_all(format!("to {i}").as_bytes()).unwrap();
    }
    let mut heard = 0;
    loop {
        guest.pump();
        let Some((header, data)) = guest.receive() else { break };
        assert_eq!(data, format!("to {}", header.dst_port).as_bytes());
        heard += 1;
    }
    assert_eq!(heard, CONNECTIONS_MAX);
    for (_, ports, _) in &requests {
        guest.send(RST, *ports, &[]);
    }
    assert!(streams.iter_mut().all(is_closed));
    let (_stream, _) = guest.called();
}

#[test]
fn a_crowd_of_callers_is_heard_by_one_edge() {
    raise_descriptor_limit();
    let mut guest = Guest::new();
    let streams: Vec<_> = (0..200).map(|_| guest.caller(b"CONNECT 52\n")).collect();
    guest.pump();
    assert_eq!(guest.ops().len(), streams.len());
    // All of them at once.
    drop(streams);
    guest.pump();
}

#[test]
fn a_crowd_too_large_for_one_turn_is_heard_in_the_next() {
    raise_descriptor_limit();
    let mut guest = Guest::new();
    // As many as are taken in one turn, and then some.
    let mut streams: Vec<_> = (0..1024 + 6).map(|_| guest.caller(b"LISTEN 52\n")).collect();
    guest.transport.notify(0);
    assert!(streams[..1024].iter_mut().all(is_closed));
    assert!(!streams[1024..].iter_mut().any(is_closed));
    guest.pass(Duration::from_millis(1));
    assert!(streams[1024..].iter_mut().all(is_closed));
    guest.pump();
}

#[test]
fn callers_that_say_nothing_make_room() {
    raise_descriptor_limit();
    let mut guest = Guest::new();
    let mut silent = Vec::new();
    for _ in 0..CALLERS_MAX {
        silent.push(guest.caller(b""));
        guest.pump();
    }
    assert!(!is_closed(&mut silent[0]));
    let _one_more = guest.caller(b"CONNECT 52\n");
    guest.pump();
    assert_eq!(guest.words(), [REQUEST]);
    assert!(is_closed(&mut silent[0]) && !is_closed(&mut silent[1]));
}

#[test]
fn a_reset_device_closes_its_streams() {
    let mut guest = Guest::new();
    let (mut called, _) = guest.called();
    let mut caller = guest.caller(b"CONN");
    guest.pump();
    guest.driver.write(Register::Status, 0);
    assert!(is_closed(&mut called) && is_closed(&mut caller));
    // Nobody answers a call now, and nobody is woken by it.
    let mut waiting = guest.caller(b"CONNECT 52\n");
    guest.pump();
    assert!(!is_closed(&mut waiting));
    guest.start_again(|_| ());
    guest.pump();
    assert_eq!(guest.ops(), [(REQUEST, (HOST_PORT + 1, PORT), 0)]);
}

#[test]
fn a_broken_ring_ends_all_connections() {
    let mut guest = Guest::new();
    let (mut stream, _) = guest.called();
    guest.driver.set_available(1, 1000);
    guest.driver.kick(1);
    assert!(guest.driver.status().has(Status::NEEDS_RESET));
    assert!(is_closed(&mut stream));
    let _waiting = guest.caller(b"CONNECT 52\n");
    guest.pump();
    assert_eq!(guest.metrics.tx_queue_event_fails.count(), 1);
}

#[test]
fn a_restored_guest_hears_of_its_lost_connections_first() {
    let mut guest = Guest::new();
    guest.transport.update(|device| {
        assert_eq!(device.state(), VsockState::default());
        device.restore(VsockState { last_host_port: HOST_PORT + 41 });
        device.reset_transport();
    });
    // The driver has no buffer for events yet.
    let _stream = guest.caller(b"CONNECT 52\n");
    guest.pump();
    assert!(guest.ops().is_empty());
    let event = guest.driver.allocate_with(&[0xFF; 4]);
    guest.driver.add(2, &[Buffer::In(event, 4)]);
    guest.driver.kick(2);
    assert_eq!(guest.driver.take_used(2).map(|used| used.len), Some(4));
    assert_eq!(guest.driver.peek(event, 4), [0; 4]);
    assert_eq!(guest.driver.take_interrupt(), 1);
    // It has the event, but has not acted on it.
    guest.driver.kick(2);
    guest.driver.kick(0);
    assert!(guest.ops().is_empty());
    guest.driver.add(2, &[Buffer::In(event, 4)]);
    guest.driver.kick(2);
    assert_eq!(guest.ops(), [(REQUEST, (HOST_PORT + 42, PORT), 0)]);
    assert_eq!(guest.driver.take_used(2), None);
    guest.transport.update(|device| assert_eq!(device.state().last_host_port, HOST_PORT + 42));
}

#[test]
fn a_driver_without_events_is_not_made_to_wait_for_one() {
    let mut guest = Guest::new();
    guest.start_again(|driver| {
        driver.write(Register::QueueSel, 2);
        driver.write(Register::QueueReady, 0);
    });
    guest.transport.update(Vsock::reset_transport);
    let _stream = guest.called();
}

#[test]
fn ports_of_the_host_go_round() {
    let mut guest = Guest::new();
    let last = VsockState { last_host_port: (1 << 31) - 2 };
    guest.transport.update(|device| device.restore(last));
    let (_first, ports) = guest.called();
    assert_eq!(ports.0, (1 << 31) - 1);
    let (_second, ports) = guest.called();
    assert_eq!(ports.0, HOST_PORT);
    // A port that is in use is passed over.
    guest.transport.update(|device| device.restore(last));
    let (_third, ports) = guest.called();
    assert_eq!(ports.0, HOST_PORT + 1);
}

/// More than the usual 1024 descriptors, where the host allows it.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}
