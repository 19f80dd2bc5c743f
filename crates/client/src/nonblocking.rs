//! The client for tasks on tokio.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::InstanceInfo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::answer::{Answer, Parser};
use crate::call::Call;
use crate::error::Excerpt;
use crate::{Error, READY_INTERVAL, TIMEOUT};

/// A client of one VMM's API socket: [`Client`](crate::Client), for tasks on tokio.
#[derive(Debug, Clone)]
pub struct AsyncClient {
    path: Arc<PathBuf>,
    timeout: Duration,
}

impl AsyncClient {
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
    pub async fn wait_ready(&self, patience: Duration) -> Result<InstanceInfo, Error> {
        let start = Instant::now();
        loop {
            match self.with_timeout(self.timeout.min(patience)).instance().await {
                Err(Error::Connect { .. }) if start.elapsed() < patience => {
                    tokio::time::sleep(READY_INTERVAL).await;
                }
                answer => return answer,
            }
        }
    }

    pub(crate) async fn call<T: DeserializeOwned>(&self, call: &Call<T>) -> Result<T, Error> {
        let request = call.to_bytes()?;
        let exchange = self.exchange(call, &request);
        let answer = tokio::time::timeout(self.timeout, exchange)
            .await
            .map_err(|_| Error::Timeout { call: call.to_string(), timeout: self.timeout })??;
        call.read(&answer)
    }

    async fn exchange<T>(&self, call: &Call<T>, request: &[u8]) -> Result<Answer, Error> {
        let mut stream = UnixStream::connect(&*self.path).await.map_err(|source| {
            let path = self.path.to_path_buf();
            Error::Connect { path, source }
        })?;
        let failed = |source| Error::Io { call: call.to_string(), source };
        // A VMM that refuses the connection answers before it has read the request.
        let written = stream.write_all(request).await;
        let mut parser = Parser::default();
        let mut chunk = [0; 4096];
        loop {
            let read = stream.read(&mut chunk).await.map_err(failed)?;
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
