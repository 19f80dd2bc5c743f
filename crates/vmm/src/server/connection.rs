//! One client.
//!
//! ```text
//!   Reading ──request──▶ Waiting ──answer──▶ Reading
//!      └──malformed──▶ Ending: the last answer, then all input is thrown away until it ends
//! ```
//!
//! A client is read from only while it is owed nothing and has taken all that was sent to it, so it
//! can make this process hold no more than one request, one answer, and what one read brings.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use api::http::{self, CONTINUE, Incoming, Parser, Response};
use log::warn;

use crate::logger::UNRESTRICTED;

/// Most bytes read at a time.
const READ_MAX: usize = 4096;

/// What a connection does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Waiting,
    Ending,
}

/// What came of an event on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Open,
    /// A request came; it is owed an answer.
    Request(http::Request),
    /// The client has gone.
    Closed,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interest {
    pub input: bool,
    pub output: bool,
}

/// A client's connection.
pub(super) struct Connection {
    stream: UnixStream,
    parser: Parser,
    state: State,
    /// What is to be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Serves a client whose requests have bodies of at most `payload_max` bytes.
    pub fn new(stream: UnixStream, payload_max: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (out, sent) = (Vec::new(), 0);
        Ok(Self { stream, parser: Parser::new(payload_max), state: State::Reading, out, sent })
    }

    /// What to wait for.
    pub fn interest(&self) -> Interest {
        let output = self.sent < self.out.len();
        Interest { input: !output && self.state != State::Waiting, output }
    }

    /// Whether a request of the client waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// The client sent something, or has gone.
    pub fn readable(&mut self) -> Outcome {
        let mut bytes = [0; READ_MAX];
        let read = match self.stream.read(&mut bytes) {
            Ok(0) => return Outcome::Closed,
            Ok(read) => read,
            Err(error) if is_passing(&error) => return Outcome::Open,
            Err(_) => return Outcome::Closed,
        };
        if self.state == State::Reading {
            self.parser.push(&bytes[..read]);
        }
        self.proceed()
    }

    /// The client takes bytes again.
    pub fn writable(&mut self) -> Outcome {
        self.proceed()
    }

    /// The answer to the client's request.
    pub fn answer(&mut self, response: &Response) -> Outcome {
        self.state = State::Reading;
        self.out.extend_from_slice(&response.to_bytes());
        self.proceed()
    }

    /// Sends what can be sent, and looks for the next request once all is sent.
    fn proceed(&mut self) -> Outcome {
        loop {
            match self.send() {
                Ok(true) => {}
                Ok(false) => return Outcome::Open,
                Err(_) => return Outcome::Closed,
            }
            match self.state {
                State::Waiting => return Outcome::Open,
                State::Ending => {
                    // A client that is in the midst of sending must read its answer nevertheless,
                    // so the stream stays open for what it sends.
                    let _ = self.stream.shutdown(Shutdown::Write);
                    return Outcome::Open;
                }
                State::Reading => match self.parser.take() {
                    Ok(None) => return Outcome::Open,
                    Ok(Some(Incoming::Continue)) => self.out.extend_from_slice(CONTINUE),
                    Ok(Some(Incoming::Request(request))) => {
                        self.state = State::Waiting;
                        return Outcome::Request(request);
                    }
                    Err(error) => {
                        warn!(target: UNRESTRICTED, "A client of the API is not understood: {error}");
                        self.state = State::Ending;
                        self.out.extend_from_slice(&Response::malformed(&error).to_bytes());
                    }
                },
            }
        }
    }

    /// Sends as much as the client takes. True if that is all.
    fn send(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_passing(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
