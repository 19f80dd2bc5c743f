//! What the service answers to a request.
//!
//! In version 1, everybody may read; tokens are given and looked at, but only to count who would be
//! refused in version 2, where reading takes a token.

use std::sync::Arc;
use std::time::Duration;

use metrics::MmdsMetrics;
use spec::{Mmds, MmdsVersion};

use crate::http::{self, Method, Parsed, Request, Response, Version};
use crate::store::{Form, single_slashes};
use crate::token::Tokens;
use crate::{Error, Store};

/// Where tokens are to be had.
const TOKEN_PATH: &str = "/latest/api/token";

/// The service. A handle: the stacks of all interfaces share one.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    store: Store,
    config: Mmds,
    tokens: Tokens,
    metrics: Arc<MmdsMetrics>,
}

/// What to do with what has arrived on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Wait for the rest of the request.
    Wait,
    /// Send this.
    Send {
        /// The response.
        response: Vec<u8>,
        /// Bytes of the request that it answers; what is behind them is the next request.
        request: usize,
        /// Whether the connection ends with it.
        last: bool,
    },
}

impl Service {
    /// The service of the instance `instance_id`, which reads `store`. `key` must be random, and
    /// another one in every process.
    pub fn new(
        store: Store,
        config: Mmds,
        instance_id: &str,
        key: [u8; 32],
        metrics: Arc<MmdsMetrics>,
    ) -> Self {
        Self(Arc::new(Shared { store, config, tokens: Tokens::new(key, instance_id), metrics }))
    }

    /// How it was set up.
    pub fn config(&self) -> &Mmds {
        &self.0.config
    }

    pub(crate) fn metrics(&self) -> &MmdsMetrics {
        &self.0.metrics
    }

    /// The reply at `now` to the oldest request in `arrived`, which is all that has arrived on a
    /// connection and was not replied to.
    pub fn reply(&self, arrived: &[u8], now: Duration) -> Reply {
        let (response, request) = match http::parse(arrived) {
            Parsed::Partial => return Reply::Wait,
            Parsed::Complete(request, length) => (self.answer(&request, now), length),
            // Nobody knows where the next request begins.
            Parsed::Bad(error) => (refusal(&error), arrived.len()),
        };
        Reply::Send { response: response.render(), request, last: !response.keep_alive }
    }

    /// The answer to a request.
    fn answer(&self, request: &Request<'_>, now: Duration) -> Response {
        let answer = match (request.path, request.method) {
            ("", _) => Err(Error::InvalidUri),
            (_, Method::Get) => self.read(request, now),
            (_, Method::Put) => self.issue_token(request, now),
            (_, Method::Patch | Method::Delete) => Err(Error::MethodNotAllowed),
        };
        let mut response = answer.unwrap_or_else(|error| refusal(&error));
        response.version = request.version;
        response.keep_alive = request.keep_alive;
        response
    }

    fn read(&self, request: &Request<'_>, now: Duration) -> Result<Response, Error> {
        let Shared { store, config, metrics, .. } = &*self.0;
        let token = match request.token {
            None => {
                metrics.rx_no_token.inc();
                Err(Error::NoToken)
            }
            Some(token) if self.0.tokens.is_valid(token, now) => Ok(()),
            Some(_) => {
                metrics.rx_invalid_token.inc();
                Err(Error::InvalidToken)
            }
        };
        match config.version {
            MmdsVersion::V1 => {}
            MmdsVersion::V2 => token?,
        }
        let json = request.accepts_json && !config.imds_compat;
        let form = if json { Form::Json } else { Form::Text };
        let body = store.lookup(request.path, form)?;
        Ok(Response { json, ..plain(200, body) })
    }

    fn issue_token(&self, request: &Request<'_>, now: Duration) -> Result<Response, Error> {
        if let Some(header) = request.forwarded {
            return Err(Error::Forwarded(header.to_owned()));
        }
        if single_slashes(request.path) != TOKEN_PATH {
            return Err(Error::NotFound(request.path.to_owned()));
        }
        let (name, value) = request.lifetime.ok_or(Error::NoLifetime)?;
        let seconds = value
            .parse()
            .map_err(|_| Error::HeaderValue { name: name.to_owned(), value: value.to_owned() })?;
        let token = self.0.tokens.issue(seconds, now)?;
        let header = Some((name.to_owned(), seconds.to_string()));
        Ok(Response { header, ..plain(200, token) })
    }
}

/// The answer to what is refused. Nothing follows it, unless somebody knows better.
fn refusal(error: &Error) -> Response {
    let status = match error {
        Error::NotInitialized
        | Error::InvalidUri
        | Error::NoLifetime
        | Error::Lifetime(_)
        | Error::HeaderValue { .. }
        | Error::Forwarded(_)
        | Error::InvalidRequest => 400,
        Error::NoToken | Error::InvalidToken => 401,
        Error::NotFound(_) => 404,
        Error::MethodNotAllowed => 405,
        Error::LimitExceeded => 413,
        Error::UnsupportedType | Error::UnsupportedMethod | Error::UnsupportedVersion => 501,
    };
    let allowed = || ("Allow".to_owned(), "GET, PUT".to_owned());
    Response { header: (status == 405).then(allowed), ..plain(status, error.to_string()) }
}

fn plain(status: u16, body: String) -> Response {
    Response {
        version: Version::Http11,
        status,
        json: false,
        header: None,
        body,
        keep_alive: false,
    }
}
