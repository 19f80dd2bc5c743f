//! One connection between a program in the guest and one on the host (virtio 1.2, 5.10.6).
//!
//! ```text
//!   the host calls ──▶ Calling ──REQUEST──▶ Called ──RESPONSE──┐
//!                                              │ too late      ▼
//!   the guest calls ──▶ Answering ───RESPONSE──│───────────▶ Open
//!                                              ▼               │ both ends shut, or a fault
//!                     RST from the guest     Ended ◀───────────┘
//!                            └──▶ Past ◀──RST──┘
//! ```
//!
//! Packets of the guest come in through [`Connection::receive`], the host's stream through
//! [`Connection::host_ready`]; what the guest is to hear is fetched with [`Connection::speak`]
//! when it has a buffer for it. Time is given; nothing waits.
//!
//! Data towards the guest stay in the host's stream until the guest has both credit and a buffer.
//! Data from the guest go to the stream at once; what it does not take is kept, up to
//! [`TX_BUFFER_MAX`], which is the credit that the guest is given. A guest that sends more, or
//! anything out of turn, is answered with RST. After the end, what is kept is still written to the
//! host for as long as somebody is there to take it.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown as Direction;
use std::sync::Arc;
use std::time::Duration;

use metrics::VsockMetrics;
use virtio::GuestSlice;
use vm_memory::bitmap::Bitmap;

use super::host::Stream;
use super::packet::{Credit, Op, Packet, Ports, Shutdown};

/// Most bytes from the guest that a connection keeps for the host.
pub const TX_BUFFER_MAX: u32 = 64 * 1024;
/// How long the guest may take to answer a call.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the guest may take to agree to the end, once it has read everything.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The guest is told of room that it does not know of once there is so much.
const CREDIT_STEP: u32 = TX_BUFFER_MAX / 2;
/// Bytes copied at a time from the guest to what is kept.
const COPY_STEP: usize = 4096;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Calling,
    Called,
    Answering,
    Open,
    /// RST is to be sent.
    Ended,
    /// The guest knows of the end.
    Past,
}

/// What one side will still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    sends: bool,
    takes: bool,
}

/// CREDIT_REQUEST: it is asked once, until there is an answer that helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    None,
    Due,
    Asked,
}

/// A connection.
pub struct Connection {
    ports: Ports,
    stream: Box<dyn Stream>,
    metrics: Arc<VsockMetrics>,
    phase: Phase,
    guest: Side,
    host: Side,
    /// What of the host's side the guest has been told.
    told: Shutdown,
    /// There may be something to read from the stream.
    readable: bool,
    /// The guest's buffer, as it said last.
    credit: Credit,
    /// Bytes sent to the guest, modulo 2^32.
    sent: u32,
    question: Question,
    /// What the stream did not take yet.
    kept: VecDeque<u8>,
    /// Bytes from the guest that are no longer kept, modulo 2^32.
    forwarded: u32,
    /// What of `forwarded` the guest has been told.
    forwarded_told: u32,
    /// The guest has asked for its credit.
    credit_due: bool,
    deadline: Option<Duration>,
}

impl Connection {
    /// A call from the host at time `now`.
    pub fn call(
        ports: Ports,
        stream: Box<dyn Stream>,
        metrics: Arc<VsockMetrics>,
        now: Duration,
    ) -> Self {
        let mut connection = Self::new(ports, stream, metrics, Phase::Calling);
        connection.deadline = Some(now + CONNECT_TIMEOUT);
        connection
    }

    /// A call from the guest, with `credit` for the host, that is answered by `stream`.
    pub fn answer(
        ports: Ports,
        stream: Box<dyn Stream>,
        metrics: Arc<VsockMetrics>,
        credit: Credit,
    ) -> Self {
        Self { credit, ..Self::new(ports, stream, metrics, Phase::Answering) }
    }

    /// Whose connection it is.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// When [`Connection::expire`] is to be called.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Whether the guest knows of the end, and may use the ports for another connection.
    pub fn is_past(&self) -> bool {
        self.phase == Phase::Past
    }

    /// Whether nothing is left to do for either side.
    pub fn is_over(&self) -> bool {
        self.is_past() && self.kept.is_empty()
    }

    /// Whether [`Connection::speak`] may have something to say.
    pub fn has_word(&self) -> bool {
        match self.phase {
            Phase::Calling | Phase::Answering | Phase::Ended => true,
            Phase::Called | Phase::Past => false,
            Phase::Open => {
                self.can_read()
                    || self.shutdown() != self.told
                    || self.owes_credit()
                    || self.has_question()
            }
        }
    }

    /// A packet from the guest: what it is for, the guest's `credit`, and the bytes of [`Op::Data`].
    pub fn receive(&mut self, op: Op, credit: Credit, data: &[GuestSlice<'_>]) {
        if matches!(self.phase, Phase::Ended | Phase::Past) {
            if op == Op::Reset {
                self.phase = Phase::Past;
            }
            return;
        }
        self.credit = credit;
        if self.room() > 0 {
            self.question = Question::None;
        }
        let open = matches!(self.phase, Phase::Open | Phase::Answering);
        match op {
            Op::Reset => self.end(Phase::Past),
            Op::Response if self.phase == Phase::Called => self.established(),
            Op::Data(_) if open && self.guest.sends => self.take(data),
            Op::Shutdown(shutdown) if open => self.guest_shuts(shutdown),
            Op::CreditUpdate if open => {}
            Op::CreditRequest if open => self.credit_due = true,
            Op::Request
            | Op::Response
            | Op::Data(_)
            | Op::Shutdown(_)
            | Op::CreditUpdate
            | Op::CreditRequest => self.abort(),
        }
    }

    /// The host's stream has become readable or writable.
    pub fn host_ready(&mut self, readable: bool, writable: bool) {
        if writable {
            self.flush();
        }
        if !readable {
            return;
        }
        if self.host.sends && self.guest.takes {
            self.readable = true;
        } else if !self.stream.is_heard() {
            self.host_is_gone();
        }
    }

    /// The deadline has passed.
    pub fn expire(&mut self, now: Duration) {
        self.deadline = None;
        match self.phase {
            Phase::Calling | Phase::Called => self.kill(),
            Phase::Open if self.credit.fwd_cnt == self.sent => self.kill(),
            // Or the RST would take away from the guest what it has not read yet.
            Phase::Open => {
                self.question = Question::Due;
                self.deadline = Some(now + CLOSE_TIMEOUT);
            }
            Phase::Answering | Phase::Ended | Phase::Past => {}
        }
    }

    /// Ends it for a fault of the guest or the host: the guest gets RST, and nothing is kept.
    pub fn abort(&mut self) {
        self.end(Phase::Ended);
        self.host_is_gone();
    }

    /// What the guest is to hear next, if anything. Data are read to `room`, of at least one byte.
    pub fn speak(&mut self, room: &[GuestSlice<'_>], now: Duration) -> Option<Packet> {
        let op = match self.phase {
            Phase::Calling => {
                self.phase = Phase::Called;
                Op::Request
            }
            Phase::Answering => {
                self.open();
                Op::Response
            }
            Phase::Open => self.speak_open(room, now)?,
            Phase::Ended => {
                self.phase = Phase::Past;
                Op::Reset
            }
            Phase::Called | Phase::Past => return None,
        };
        self.forwarded_told = self.forwarded;
        self.credit_due = false;
        let credit = Credit { buf_alloc: TX_BUFFER_MAX, fwd_cnt: self.forwarded };
        Some(Packet { ports: self.ports, credit, op })
    }

    fn new(
        ports: Ports,
        stream: Box<dyn Stream>,
        metrics: Arc<VsockMetrics>,
        phase: Phase,
    ) -> Self {
        let all = Side { sends: true, takes: true };
        Self {
            ports,
            stream,
            metrics,
            phase,
            guest: all,
            host: all,
            told: Shutdown::default(),
            readable: false,
            credit: Credit::default(),
            sent: 0,
            question: Question::None,
            kept: VecDeque::new(),
            forwarded: 0,
            forwarded_told: 0,
            credit_due: false,
            deadline: None,
        }
    }

    fn speak_open(&mut self, room: &[GuestSlice<'_>], now: Duration) -> Option<Op> {
        if let Some(len) = self.read(room) {
            return Some(Op::Data(len));
        }
        // The read may have ended it; that is the next word.
        if self.phase != Phase::Open {
            return None;
        }
        let shutdown = self.shutdown();
        if shutdown != self.told {
            self.told = shutdown;
            if shutdown == Shutdown::BOTH {
                self.deadline = Some(now + CLOSE_TIMEOUT);
            }
            return Some(Op::Shutdown(shutdown));
        }
        if self.owes_credit() {
            return Some(Op::CreditUpdate);
        }
        if self.has_question() {
            self.question = Question::Asked;
            return Some(Op::CreditRequest);
        }
        None
    }

    /// What the host's side will not do any more.
    fn shutdown(&self) -> Shutdown {
        Shutdown { receive: !self.host.takes, send: !self.host.sends }
    }

    /// Bytes that the guest has room for. A guest that counts wrongly has none.
    fn room(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.credit.fwd_cnt);
        self.credit.buf_alloc.saturating_sub(under_way)
    }

    fn can_read(&self) -> bool {
        self.readable && self.guest.takes && self.room() > 0
    }

    fn owes_credit(&self) -> bool {
        self.credit_due || self.forwarded.wrapping_sub(self.forwarded_told) >= CREDIT_STEP
    }

    fn has_question(&self) -> bool {
        match self.question {
            Question::None => self.readable && self.guest.takes && self.room() == 0,
            Question::Due => true,
            Question::Asked => false,
        }
    }

    /// Reads from the stream what the guest has room for.
    fn read(&mut self, room: &[GuestSlice<'_>]) -> Option<u32> {
        if !self.can_read() {
            return None;
        }
        match self.stream.read(&cut(room, 0, self.room() as usize)) {
            Ok(0) => {
                self.readable = false;
                self.host.sends = false;
                if !self.stream.is_heard() {
                    self.host_is_gone();
                }
                None
            }
            Ok(len) => {
                mark_written(room, len);
                // No longer than the room, which is less than 4 GiB.
                let len = len as u32;
                self.sent = self.sent.wrapping_add(len);
                self.metrics.rx_packets_count.inc();
                self.metrics.rx_bytes_count.add(len.into());
                Some(len)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            Err(error) => {
                log::debug!("vsock: {:?}: cannot read from the host: {error}", self.ports);
                self.metrics.rx_read_fails.inc();
                self.abort();
                None
            }
        }
    }

    /// Takes data from the guest: to the stream, or to what is kept.
    fn take(&mut self, data: &[GuestSlice<'_>]) {
        let len: usize = data.iter().map(|slice| slice.len()).sum();
        if len > TX_BUFFER_MAX as usize - self.kept.len() {
            log::debug!("vsock: {:?}: the guest sends more than it may", self.ports);
            return self.abort();
        }
        self.metrics.tx_packets_count.inc();
        self.metrics.tx_bytes_count.add(len as u64);
        let written = if len > 0 && self.host.takes && self.kept.is_empty() {
            let written = self.stream.write(data);
            self.written(written, len)
        } else {
            0
        };
        if !self.host.takes {
            self.forward(len);
        } else {
            self.forward(written);
            self.keep(data, written);
        }
    }

    /// Keeps `data` from byte `start` on.
    fn keep(&mut self, data: &[GuestSlice<'_>], start: usize) {
        let mut step = [0; COPY_STEP];
        for slice in cut(data, start, usize::MAX) {
            let mut done = 0;
            while let Ok(rest) = slice.offset(done)
                && !rest.is_empty()
            {
                let copied = rest.copy_to(&mut step[..]);
                self.kept.extend(&step[..copied]);
                done += copied;
            }
        }
    }

    /// Writes what is kept, as far as the stream takes it.
    fn flush(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        while !self.kept.is_empty() {
            let (bytes, len) = (self.kept.as_slices().0, self.kept.as_slices().0.len());
            let result = self.stream.write_bytes(bytes);
            let written = self.written(result, len);
            self.kept.drain(..written.min(self.kept.len()));
            self.forward(written);
            if !self.host.takes {
                self.metrics.tx_flush_fails.inc();
            }
            if written < len {
                return;
            }
        }
        self.kept = VecDeque::new();
        self.pass_on_end();
    }

    /// What a write of `len` bytes has done. A write that failed ends the host's taking.
    fn written(&mut self, result: io::Result<usize>, len: usize) -> usize {
        match result {
            Ok(written) => written.min(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                log::debug!("vsock: {:?}: cannot write to the host: {error}", self.ports);
                self.metrics.tx_write_fails.inc();
                self.host_is_gone();
                0
            }
        }
    }

    fn forward(&mut self, len: usize) {
        // At most what is kept: 64 KiB.
        self.forwarded = self.forwarded.wrapping_add(len as u32);
    }

    /// Nobody takes the guest's data any more: they count as forwarded.
    fn host_is_gone(&mut self) {
        self.host.takes = false;
        let kept = std::mem::take(&mut self.kept);
        self.forward(kept.len());
    }

    /// The guest granted the host's call: the caller hears of it.
    fn established(&mut self) {
        self.deadline = None;
        let answer = format!("OK {}\n", self.ports.host);
        match self.stream.write_bytes(answer.as_bytes()) {
            Ok(len) if len == answer.len() => self.open(),
            // A caller that cannot even take that is gone.
            Ok(_) | Err(_) => self.abort(),
        }
    }

    fn open(&mut self) {
        self.phase = Phase::Open;
        self.readable = self.guest.takes;
    }

    fn guest_shuts(&mut self, shutdown: Shutdown) {
        let before = self.guest;
        self.guest.sends &= !shutdown.send;
        self.guest.takes &= !shutdown.receive;
        if !self.guest.sends && !self.guest.takes {
            return self.end(Phase::Ended);
        }
        if before.takes && !self.guest.takes {
            self.readable = false;
            self.stream.shutdown(Direction::Read);
        }
        if before.sends {
            self.pass_on_end();
        }
    }

    /// Tells the host that the guest sends no more, once it has everything.
    fn pass_on_end(&mut self) {
        if !self.guest.sends && self.kept.is_empty() {
            self.stream.shutdown(Direction::Write);
        }
    }

    fn kill(&mut self) {
        self.metrics.conns_killed.inc();
        self.abort();
    }

    fn end(&mut self, phase: Phase) {
        self.phase = phase;
        self.readable = false;
        self.deadline = None;
    }
}

/// The bytes of `slices` from `start` on, at most `max` of them.
fn cut<'m>(slices: &[GuestSlice<'m>], start: usize, max: usize) -> Vec<GuestSlice<'m>> {
    let (mut skip, mut left) = (start, max);
    let mut pieces = Vec::with_capacity(slices.len());
    for slice in slices {
        let from = skip.min(slice.len());
        let len = (slice.len() - from).min(left);
        skip -= from;
        left -= len;
        if let Ok(piece) = slice.subslice(from, len)
            && len > 0
        {
            pieces.push(piece);
        }
    }
    pieces
}

/// Logs the first `len` bytes of `slices` as written.
fn mark_written(slices: &[GuestSlice<'_>], len: usize) {
    let mut left = len;
    for slice in slices {
        let here = left.min(slice.len());
        slice.bitmap().mark_dirty(0, here);
        left -= here;
    }
}
