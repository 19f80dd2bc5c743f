//! The API's thread: a socket, up to ten clients, and a channel to the main thread.
//!
//! ```text
//!   clients ──http──▶ queue ──one at a time──▶ Inbox of the main thread
//!      ▲                                               │
//!      └──────────────── answer ◀──────────────────────┘
//! ```
//!
//! Nothing here blocks but the wait for events, so a client that stops half way through a request,
//! or does not read its answer, delays nobody. A client that leaves while its request is carried
//! out keeps its place until then. An eleventh client is told so and sent away.
//!
//! Refused, with Firecracker's words: a path on which something exists already, which is never
//! removed; neither is the socket when the process ends, because a supervisor that sees it go
//! might take the name for another machine.

mod channel;
mod connection;
mod count;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::metrics::Gauge;
use api::http::{self, Method, Response, SERVER_FULL, Status};
use api::{Operate, Request, SnapshotType, VmState};
use host::{Event, Poller};
use log::{Level, debug, error, info, log_enabled, warn};
use thiserror::Error;

use crate::logger::UNRESTRICTED;
use crate::metrics;
pub(crate) use channel::{Answer, Inbox};
use channel::{Caller, Reply};
use connection::{Connection, Outcome};

/// Clients at a time.
const CONNECTIONS_MAX: usize = 10;

/// How long the next client waits after one for whom there were no descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

const TOKEN_LISTENER: u64 = 0;
const TOKEN_ANSWERED: u64 = 1;
/// The connection in place n has token `TOKEN_CONNECTION + n`.
const TOKEN_CONNECTION: u64 = 2;

/// The API cannot be offered. The texts and names are those that tooling matches.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Something exists where the socket should be.
    #[error("Failed to open the API socket at: {0}. Check that it is not already used.")]
    FailedToBindSocket(String),
    /// The socket cannot be made.
    #[error("Failed to bind and run the HTTP server: IO error: {source} ({path})")]
    FailedToBindAndRunHttpServer {
        /// Where.
        path: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The host gives no thread, or no descriptors.
    #[error("Failed to start the API's thread: {0}")]
    Thread(io::Error),
}

/// The API's socket; clients can connect from now on.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let failed = |source: io::Error| {
            let path = path.display().to_string();
            match source.kind() {
                ErrorKind::AddrInUse => ServerError::FailedToBindSocket(path),
                _ => ServerError::FailedToBindAndRunHttpServer { path, source },
            }
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        info!("Listening on API socket ({path:?}).");
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves it, from a thread of its own. Requests come out of the inbox.
    pub fn serve(self, payload_max: usize) -> Result<(Server, Inbox), ServerError> {
        let (caller, inbox) = channel::channel().map_err(ServerError::Thread)?;
        let poller = Poller::new().map_err(ServerError::Thread)?;
        poller.add_input(&self.listener, TOKEN_LISTENER).map_err(ServerError::Thread)?;
        poller.add_input(caller.answered(), TOKEN_ANSWERED).map_err(ServerError::Thread)?;
        let mut clients = Clients {
            listener: self.listener,
            caller,
            poller,
            connections: Default::default(),
            queue: VecDeque::new(),
            under_way: None,
            payload_max,
        };
        let thread = thread::Builder::new().name("fc_api".to_owned()).spawn(move || {
            info!("API server started.");
            if let Err(error) = clients.run() {
                error!("The API at {} cannot go on: {error}", self.path.display());
            }
        });
        Ok((Server { thread: thread.map_err(ServerError::Thread)? }, inbox))
    }
}

/// The running thread. It ends when its [`Inbox`] is dropped.
pub(crate) struct Server {
    thread: JoinHandle<()>,
}

impl Server {
    /// Waits until the thread has sent its last answers.
    pub fn join(self) {
        // A panic has been reported where it happened.
        let _ = self.thread.join();
    }
}

/// What the thread holds.
struct Clients {
    listener: UnixListener,
    caller: Caller,
    poller: Poller,
    connections: [Option<Connection>; CONNECTIONS_MAX],
    /// Requests in the order in which they came, with their clients' places.
    queue: VecDeque<(usize, http::Request)>,
    under_way: Option<UnderWay>,
    payload_max: usize,
}

/// The request that the main thread has.
struct UnderWay {
    place: usize,
    since: Instant,
    /// What it is called in the log when it is through, and where its duration is noted.
    timed: Option<(&'static str, &'static Gauge)>,
    deprecated: bool,
}

impl Clients {
    fn run(&mut self) -> io::Result<()> {
        let mut ready: Vec<Event> = Vec::new();
        loop {
            self.poller.wait(&mut ready, None)?;
            for event in &ready {
                match event.token {
                    TOKEN_LISTENER => {}
                    TOKEN_ANSWERED => _ = self.caller.answered().clear(),
                    token => self.connection_event(token, event)?,
                }
            }
            if !self.take_answer()? {
                return Ok(());
            }
            self.dispatch()?;
            // Last, so that an event of a connection that ended just now is not taken for one of
            // its successor.
            if ready.iter().any(|event| event.token == TOKEN_LISTENER) {
                self.accept()?;
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_passing(&error) => return Ok(()),
            Err(error) => {
                warn!("A client of the API cannot connect: {error}");
                thread::sleep(ACCEPT_RETRY);
                return Ok(());
            }
        };
        let Some(place) = self.connections.iter().position(Option::is_none) else {
            send_away(stream);
            return Ok(());
        };
        let admitted = Connection::new(stream, self.payload_max).and_then(|connection| {
            self.poller.add_input(&connection, token_of(place))?;
            Ok(connection)
        });
        match admitted {
            Ok(connection) => self.connections[place] = Some(connection),
            Err(error) => warn!("A client of the API cannot be served: {error}"),
        }
        Ok(())
    }

    fn connection_event(&mut self, token: u64, event: &Event) -> io::Result<()> {
        let place = usize::try_from(token - TOKEN_CONNECTION).unwrap_or(usize::MAX);
        let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) else {
            return Ok(());
        };
        let interest = connection.interest();
        let outcome = if interest.output && event.writable {
            connection.writable()
        } else if interest.input && event.readable {
            connection.readable()
        } else if event.hung_up {
            Outcome::Closed
        } else {
            Outcome::Open
        };
        self.settle(place, outcome)
    }

    /// Notes what became of a connection.
    fn settle(&mut self, place: usize, outcome: Outcome) -> io::Result<()> {
        let Some(connection) = self.connections.get(place).and_then(Option::as_ref) else {
            return Ok(());
        };
        match outcome {
            // Its request is carried out nevertheless; answering it finds nobody.
            Outcome::Closed if connection.is_waiting() => self.poller.remove(connection),
            Outcome::Closed => {
                self.connections[place] = None;
                Ok(())
            }
            Outcome::Open | Outcome::Request(_) => {
                let interest = connection.interest();
                let changed = self.poller.change(
                    connection,
                    token_of(place),
                    interest.input,
                    interest.output,
                );
                if let Outcome::Request(request) = outcome {
                    self.queue.push_back((place, request));
                }
                match changed {
                    // It left while it waited.
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        self.connections[place] = None;
                        Ok(())
                    }
                    other => other,
                }
            }
        }
    }

    /// Takes the answer of the main thread, if there is one. False if that has gone.
    fn take_answer(&mut self) -> io::Result<bool> {
        loop {
            let answer = match self.caller.reply() {
                Reply::Nothing => return Ok(true),
                Reply::Gone => return Ok(false),
                Reply::Answer(answer) => answer,
            };
            let Some(done) = self.under_way.take() else { continue };
            let granted = answer.is_ok();
            let response = Response { deprecated: done.deprecated, ..respond(answer) };
            if let Some((name, duration)) = done.timed.filter(|_| granted) {
                let taken = done.since.elapsed();
                duration.set_us(taken);
                let micros = taken.as_micros();
                info!(target: UNRESTRICTED, "'{name}' API request took {micros} us.");
            }
            self.answer(done.place, &response, done.since)?;
        }
    }

    /// Hands the next request over, if the main thread has none.
    fn dispatch(&mut self) -> io::Result<()> {
        while self.under_way.is_none() {
            let Some((place, request)) = self.queue.pop_front() else { return Ok(()) };
            let since = Instant::now();
            info!(target: UNRESTRICTED, "The API server received a {}.", describe(&request));
            let parsed = Request::parse(&request);
            count::count(&request, parsed.is_err());
            match parsed {
                Ok(parsed) => {
                    let deprecation = parsed.deprecation();
                    if let Some(notice) = deprecation {
                        warn!(target: UNRESTRICTED, "{notice}");
                        metrics::registry().deprecated_api.deprecated_http_api_calls.inc();
                    }
                    let (timed, deprecated) = (timed(&parsed), deprecation.is_some());
                    self.under_way = Some(UnderWay { place, since, timed, deprecated });
                    self.caller.ask(parsed);
                }
                Err(error) => {
                    let response = refuse(Status::BadRequest, &error.to_string());
                    self.answer(place, &response, since)?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, place: usize, response: &Response, since: Instant) -> io::Result<()> {
        let micros = since.elapsed().as_micros();
        debug!(target: UNRESTRICTED, "Total previous API call duration: {micros} us.");
        let connection = self.connections.get_mut(place).and_then(Option::as_mut);
        let Some(connection) = connection else { return Ok(()) };
        let outcome = connection.answer(response);
        self.settle(place, outcome)
    }
}

fn token_of(place: usize) -> u64 {
    TOKEN_CONNECTION + place as u64
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
    )
}

/// Tells a client that there are too many. If it does not listen, it is not told.
fn send_away(mut stream: UnixStream) {
    if stream.set_nonblocking(true).is_ok() {
        let _ = stream.write(SERVER_FULL);
    }
}

/// The answer, as HTTP has it, and its line in the log.
fn respond(answer: Answer) -> Response {
    let response = match answer {
        Ok(None) => Response::no_content(),
        Ok(Some(body)) => Response::ok(body),
        Err(error) => return refuse(error.status(), &error.to_string()),
    };
    let (code, reason) = (response.status.code(), response.status.reason());
    info!(
        target: UNRESTRICTED,
        "The request was executed successfully. Status code: {code} {reason}."
    );
    response
}

fn refuse(status: Status, message: &str) -> Response {
    let (code, reason) = (status.code(), status.reason());
    error!(
        target: UNRESTRICTED,
        "Received Error. Status code: {code} {reason}. Message: {message}"
    );
    Response::fault(status, message)
}

/// A request for the log. Metadata may be secret, and CPU templates are long.
fn describe(request: &http::Request) -> String {
    let method = match request.method {
        Method::Get => "Get",
        Method::Put => "Put",
        Method::Patch => "Patch",
        Method::Delete => "Delete",
    };
    let what = format!("{method} request on {:?}", request.path);
    match (request.path.as_str(), &request.body) {
        ("/mmds", _) | (_, None) => what,
        ("/cpu-config", Some(_)) if !log_enabled!(Level::Debug) => {
            format!("{what}; its body is logged at level Debug")
        }
        (_, Some(body)) => {
            let body = std::str::from_utf8(body).unwrap_or("inconvertible to UTF-8");
            format!("{what} with body {body:?}")
        }
    }
}

/// What requests whose duration is of interest are called, and where it is noted.
fn timed(request: &Request) -> Option<(&'static str, &'static Gauge)> {
    let metrics = &metrics::registry().latencies_us;
    match request {
        Request::Operate(Operate::VmState(VmState::Paused)) => {
            Some(("pause vm", &metrics.pause_vm))
        }
        Request::Operate(Operate::VmState(VmState::Resumed)) => {
            Some(("resume vm", &metrics.resume_vm))
        }
        Request::Operate(Operate::CreateSnapshot(body)) => Some(match body.snapshot_type {
            SnapshotType::Full => ("create full snapshot", &metrics.full_create_snapshot),
            SnapshotType::Diff => ("create diff snapshot", &metrics.diff_create_snapshot),
        }),
        Request::LoadSnapshot(_) => Some(("load snapshot", &metrics.load_snapshot)),
        Request::Operate(_)
        | Request::Tell(_)
        | Request::Metadata(_)
        | Request::Configure(_)
        | Request::Start => None,
    }
}
