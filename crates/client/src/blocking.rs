//! The client for threads.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api::InstanceInfo;
use serde::de::DeserializeOwned;

use crate::answer::{Answer, Parser};
use crate::call::Call;
use crate::error::Excerpt;
use crate::{Error, READY_INTERVAL, TIMEOUT};

/// A client of one VMM's API socket. Each call waits for its answer.
#[derive(Debug, Clone)]
pub struct Client {
    path: Arc<PathBuf>,
    timeout: Duration,
}

impl Client {
    /// A client of the VMM at the socket `path`. Nothing is connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: Arc::new(path.into()), timeout: TIMEOUT }
    }

    /// The same client, with calls that may take as long as `timeout`.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Waits until the VMM answers, for at most `patience`: for one that was just started. The
    /// error is that of the last try.
    pub fn wait_ready(&self, patience: Duration) -> Result<InstanceInfo, Error> {
        let start = Instant::now();
        loop {
            match self.with_timeout(self.timeout.min(patience)).instance() {
                Err(Error::Connect { .. }) if start.elapsed() < patience => {
                    thread::sleep(READY_INTERVAL);
                }
                answer => return answer,
            }
        }
    }

    pub(crate) fn call<T: DeserializeOwned>(&self, call: &Call<T>) -> Result<T, Error> {
        let request = call.to_bytes()?;
        let stream = UnixStream::connect(&*self.path).map_err(|source| {
            let path = self.path.to_path_buf();
            Error::Connect { path, source }
        })?;
        let deadline = Instant::now() + self.timeout;
        call.read(&self.exchange(call, &stream, &request, deadline)?)
    }

    fn exchange<T>(
        &self,
        call: &Call<T>,
        mut stream: &UnixStream,
        request: &[u8],
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let failed = |source: std::io::Error| match source.kind() {
            // What a socket says when its own timeout is over.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Error::Timeout { call: call.to_string(), timeout: self.timeout }
            }
            _ => Error::Io { call: call.to_string(), source },
        };
        stream.set_write_timeout(Some(left(deadline))).map_err(failed)?;
        // A VMM that refuses the connection answers before it has read the request.
        let written = stream.write_all(request);
        let mut parser = Parser::default();
        let mut chunk = [0; 4096];
        loop {
            stream.set_read_timeout(Some(left(deadline))).map_err(failed)?;
            let read = match stream.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(failed)?,
            };
            let makes_no_sense = |why| Error::Answer { call: call.to_string(), why };
            if read == 0 {
                written.map_err(failed)?;
                let so_far = Excerpt(parser.so_far());
                return Err(makes_no_sense(format!("the connection ended behind {so_far}")));
            }
            if let Some(answer) = parser.push(&chunk[..read]).map_err(makes_no_sense)? {
                return Ok(answer);
            }
        }
    }
}

/// The time until `deadline`; never none, which a socket takes for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
