//! A guest that sends any packets, and programs on the host that do as they like: against the
//! parsers alone, and then against the device.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use devices::Alarm;
use devices::vsock::command::{COMMAND_MAX, Command};
use devices::vsock::packet::{HEADER_LEN, HOST_CID, Header, Op, Packet, Refusal};
use devices::vsock::{
    CALLERS_MAX, CONNECTIONS_MAX, DATA_MAX, Host, Ready, Stream, Vsock, VsockState,
};
use memory::GuestMemory;
use virtio::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio::mock::{Buffer, CountingLine, MockDriver, ram};
use virtio::{GuestSlice, MmioTransport, Notify, Register, Status};

use crate::source::Source;

const GUEST_CID: u64 = 3;
/// Most steps of one run.
const STEPS_MAX: usize = 200;
/// Most buffers in a queue at a time, of two descriptors each.
const BUFFERS_MAX: usize = 100;
/// Where the guest's packets are put together.
const OUT: u64 = 0x10_0000;
/// Where it receives.
const IN: u64 = 0x20_0000;

/// Feeds the steps that `data` describes.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    parse(&mut source);
    let outside = Outside::default();
    let memory = ram();
    let line = Arc::new(CountingLine::default());
    let (host, alarm) = (Box::new(outside.clone()), Box::new(outside.clone()));
    let device = Vsock::new(GUEST_CID, host, alarm, Arc::default());
    let transport = MmioTransport::new(device, memory.clone(), line).expect("its queues fit");
    let transport = Arc::new(transport);
    let mut driver = start(&transport, &memory, &mut source);
    // Buffers that the device has not given back, of the queues towards the guest.
    let (mut free, mut events) = (BUFFERS_MAX, BUFFERS_MAX);
    free -= give_buffers(&mut driver, free, &mut source);
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        match source.u8() % 12 {
            0..4 => send(&mut driver, &mut source),
            4 => free -= give_buffers(&mut driver, free, &mut source),
            5 => drop(driver.take_interrupt()),
            6..9 => {
                outside.change(&mut source);
                transport.notify(0);
            }
            9 => {
                outside.lock().now += Duration::from_millis(u64::from(source.u16() % 3000));
                transport.notify(0);
            }
            10 if events > 0 => {
                events -= 1;
                event(&mut driver, &transport, &mut source);
            }
            _ if source.u8() < 8 => {
                driver = start(&transport, &memory, &mut source);
                (free, events) = (BUFFERS_MAX, BUFFERS_MAX);
            }
            _ => driver.kick(usize::from(source.u8() % 3)),
        }
        free += check_received(&mut driver);
        assert!(!driver.status().has(Status::NEEDS_RESET), "all chains are sound");
        assert!(outside.lock().streams.len() <= CONNECTIONS_MAX + CALLERS_MAX);
    }
    driver.write(Register::Status, 0);
    assert!(outside.lock().streams.is_empty(), "a reset leaves a stream open");
    assert!(!outside.lock().listening);
}

/// A driver that accepts any features that the device works with.
fn start(
    transport: &Arc<MmioTransport<Vsock>>,
    memory: &Arc<GuestMemory>,
    source: &mut Source<'_>,
) -> MockDriver {
    let features = source.u64() | 1 << VIRTIO_F_VERSION_1;
    MockDriver::start(transport.clone(), memory.clone(), features)
}

/// What is parsed must be there.
fn parse(source: &mut Source<'_>) {
    let line = source.bytes(40);
    if let Command::Connect { len, .. } = Command::parse(line) {
        assert!(len <= COMMAND_MAX && line[len - 1] == b'\n' && !line[..len - 1].contains(&b'\n'));
    }
    let bytes = source.array();
    let header = Header::from_bytes(bytes);
    assert_eq!(header.to_bytes(), bytes);
    let data_len = u64::from(source.u16());
    match Packet::decode(header, data_len, header.src_cid) {
        Ok(Packet { op: Op::Data(len), .. }) => assert!(u64::from(len) <= data_len),
        Ok(packet) => assert_eq!(packet.header(GUEST_CID).op, header.op),
        Err(Refusal::Drop) => assert_ne!(header.dst_cid, HOST_CID),
        Err(Refusal::Reset(ports)) => assert_eq!(ports.host, header.dst_port),
    }
}

/// The guest sends a packet: mostly one that belongs to a connection that may be there.
fn send(driver: &mut MockDriver, source: &mut Source<'_>) {
    let choice = source.u8();
    let len = u32::from(source.u16());
    let header = match choice {
        0..8 => Header::from_bytes(source.array()),
        _ => likely_header(choice, len, source),
    };
    driver.poke(OUT, &header.to_bytes());
    let data = if choice & 31 == 31 { 0xC000_0000 } else { OUT + HEADER_LEN };
    let chain = [Buffer::Out(OUT, HEADER_LEN as u32), Buffer::Out(data, len)];
    let head = driver.add(1, &chain);
    driver.kick(1);
    let used = driver.take_used(1).expect("what the guest sends is taken");
    assert_eq!((used.head, used.len), (u32::from(head), 0));
}

/// A header of a connection that may well be there.
fn likely_header(choice: u8, len: u32, source: &mut Source<'_>) -> Header {
    let port = u32::from(choice >> 3 & 1);
    Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: port,
        dst_port: if choice & 16 == 0 { 7 } else { (1 << 30) + u32::from(choice >> 5 & 3) },
        len: if choice & 7 == 7 { u32::from(source.u16()) } else { len },
        kind: 1,
        // Requests, responses and data more often than the rest.
        op: [1, 1, 2, 2, 5, 5, 5, 5, 5, 5, 5, 4, 6, 7, 3, 8][usize::from(source.u8() % 16)],
        flags: u32::from(source.u8() & 3),
        buf_alloc: u32::from(source.u16()),
        fwd_cnt: if choice & 3 == 3 { u32::from(source.u16()) } else { 0 },
    }
}

/// Gives buffers to receive, no more than `max`, and says how many.
fn give_buffers(driver: &mut MockDriver, max: usize, source: &mut Source<'_>) -> usize {
    let count = usize::from(source.u8() % 16).min(max);
    for _ in 0..count {
        let len = match source.u8() % 4 {
            0 => u32::from(source.u8()),
            1 => u32::from(source.u16()) * 2,
            _ => 4096,
        };
        let address = if source.u8() & 15 == 0 { 0xC000_0000 } else { IN };
        driver.add(0, &[Buffer::In(address, len / 2), Buffer::In(address, len - len / 2)]);
    }
    driver.kick(0);
    count
}

/// Takes what was received, and says how many buffers that were.
fn check_received(driver: &mut MockDriver) -> usize {
    let used = std::iter::from_fn(|| driver.take_used(0));
    used.inspect(|used| assert!(u64::from(used.len) <= HEADER_LEN + DATA_MAX)).count()
}

/// A restored device, and the driver's part in that.
fn event(driver: &mut MockDriver, transport: &MmioTransport<Vsock>, source: &mut Source<'_>) {
    if source.u8() & 1 == 0 {
        driver.add(2, &[Buffer::In(IN, u32::from(source.u8() % 8))]);
        driver.kick(2);
        return;
    }
    let last_host_port = source.u32();
    transport.update(|device| {
        device.restore(VsockState { last_host_port });
        device.reset_transport();
    });
}

/// Everything outside of the guest.
#[derive(Clone, Default)]
struct Outside(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Duration,
    listening: bool,
    /// What the next callers will say.
    callers: Vec<Vec<u8>>,
    /// Nobody can be reached, by either side.
    refuses: bool,
    streams: BTreeMap<u64, Program>,
    ready: Vec<Ready>,
}

/// The other end of a stream.
#[derive(Default)]
struct Program {
    writes: Vec<u8>,
    done: bool,
    gone: bool,
    fails: bool,
    room: usize,
}

impl Outside {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread has panicked")
    }

    /// Something happens on the host.
    fn change(&self, source: &mut Source<'_>) {
        let mut state = self.lock();
        let (choice, which) = (source.u8(), usize::from(source.u8()));
        if choice % 4 == 0 {
            let port = source.u8() % 2;
            let text = match choice >> 5 {
                0 => source.bytes(40).to_vec(),
                1 => b"CONNECT ".to_vec(),
                _ => format!("CONNECT {port}\nearly").into_bytes(),
            };
            state.callers.push(text);
            return;
        }
        if choice == 255 {
            state.refuses = !state.refuses;
        }
        let count = state.streams.len().max(1);
        let Some((&token, program)) = state.streams.iter_mut().nth(which % count) else { return };
        match choice >> 5 {
            0 => program.writes.extend(source.bytes(40)),
            1 => program.writes.extend(vec![7; usize::from(source.u16())]),
            2 => program.done = true,
            3 => program.gone = true,
            4 => program.fails = true,
            _ => program.room += usize::from(source.u16()),
        }
        state.ready.push(Ready::Stream { token, readable: choice & 4 == 0, writable: true });
    }

    fn stream(&self, token: u64, writes: Vec<u8>) -> Box<dyn Stream> {
        let program = Program { writes, room: 5000, ..Program::default() };
        assert!(self.lock().streams.insert(token, program).is_none(), "a token twice");
        Box::new(Channel { outside: self.clone(), token })
    }
}

impl Alarm for Outside {
    fn now(&self) -> Duration {
        self.lock().now
    }
    fn set(&self, delay: Duration) {
        assert!(!delay.is_zero());
    }
}

impl Host for Outside {
    fn listen(&mut self, on: bool) -> io::Result<()> {
        self.lock().listening = on;
        Ok(())
    }

    fn accept(&mut self, token: u64) -> io::Result<Box<dyn Stream>> {
        let mut state = self.lock();
        if state.refuses {
            return Err(io::Error::other("too many descriptors"));
        }
        let Some(text) = state.callers.pop() else { return Err(io::ErrorKind::WouldBlock.into()) };
        drop(state);
        Ok(self.stream(token, text))
    }

    fn connect(&mut self, port: u32, token: u64) -> io::Result<Box<dyn Stream>> {
        if self.lock().refuses || port != 7 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(self.stream(token, Vec::new()))
    }

    fn poll(&mut self, ready: &mut Vec<Ready>) -> io::Result<bool> {
        let mut state = self.lock();
        ready.append(&mut state.ready);
        if state.listening && !state.callers.is_empty() {
            ready.push(Ready::Caller);
        }
        Ok(false)
    }
}

/// The device's end of a stream.
struct Channel {
    outside: Outside,
    token: u64,
}

impl Channel {
    fn with<R>(&self, use_it: impl FnOnce(&mut Program) -> R) -> R {
        let mut state = self.outside.lock();
        use_it(state.streams.get_mut(&self.token).expect("open until it is dropped"))
    }

    fn look(&self, len: usize) -> io::Result<usize> {
        assert!(len > 0);
        self.with(|program| match program.writes.len().min(len) {
            _ if program.fails => Err(io::ErrorKind::ConnectionReset.into()),
            0 if program.done || program.gone => Ok(0),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        })
    }
}

impl Stream for Channel {
    fn read(&mut self, into: &[GuestSlice<'_>]) -> io::Result<usize> {
        let len = self.look(into.iter().map(|slice| slice.len()).sum())?;
        self.with(|program| drop(program.writes.drain(..len)));
        Ok(len)
    }

    fn write(&mut self, from: &[GuestSlice<'_>]) -> io::Result<usize> {
        self.write_bytes(&vec![0; from.iter().map(|slice| slice.len()).sum()])
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.look(into.len())?;
        self.with(|program| into[..len].copy_from_slice(&program.writes[..len]));
        Ok(len)
    }

    fn read_bytes(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.peek(into)?;
        self.with(|program| drop(program.writes.drain(..len)));
        Ok(len)
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        assert!(!from.is_empty());
        self.with(|program| match program.room.min(from.len()) {
            _ if program.gone || program.fails => Err(io::ErrorKind::BrokenPipe.into()),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            len => {
                program.room -= len;
                Ok(len)
            }
        })
    }

    fn shutdown(&mut self, _how: Shutdown) {}

    fn is_heard(&self) -> bool {
        self.with(|program| !program.gone)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.outside.lock().streams.remove(&self.token);
    }
}
