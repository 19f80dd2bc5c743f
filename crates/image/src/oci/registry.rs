//! Registries: manifests and blobs over HTTP, with the ways to log in (OCI distribution
//! specification, "Pull"; Docker registry, "Token Authentication").
//!
//! ```text
//! GET --200--> done      401 Basic --> again, with the name and password
//!     \--401--> log in:  401 Bearer -> GET the realm, with them --token--> again, with the token
//! ```
//!
//! A connection that breaks off in the middle of a blob goes on where it was; one on which nothing
//! comes for a while is given up. The whole protocol is blocking, on the caller's thread.
//!
//! The HTTP client is ureq: it is small, blocking, and has timeouts for every step. The protocol's
//! own libraries bring an async runtime, which nothing else here needs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::digest::{Digest, Digesting};
use super::manifest::{Descriptor, Document};
use super::reference::Reference;
use super::{Blob, Blobs, DOCUMENT_MAX, Image};
use crate::credentials::Credentials;
use crate::progress::{Progress, Unit};
use crate::store::Store;
use crate::{Error, Result};

/// How often a blob's connection may break without a byte more.
const ATTEMPTS: u32 = 3;
/// How long is waited after a server said that it is busy.
const PAUSE: Duration = Duration::from_secs(1);
/// Most bytes of a token, and of a message from a registry.
const TOKEN_MAX: u64 = 1 << 20;
const MESSAGE_MAX: u64 = 16 << 10;
/// Most characters of a message that are shown.
const MESSAGE_SHOWN: usize = 300;
const BUFFER: usize = 128 << 10;
/// The kinds of documents that we can read.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// Where Debian has the certificates that its users trust.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How a registry is spoken to.
#[derive(Debug, Clone)]
pub struct Options {
    /// A host that is asked instead of the one in the reference.
    pub mirror: Option<String>,
    /// Without TLS.
    pub plain_http: bool,
    /// How long nothing may come.
    pub patience: Duration,
    /// The file with credentials; Docker's own if none is given.
    pub credentials: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let patience = Duration::from_secs(30);
        Options { mirror: None, plain_http: false, patience, credentials: None }
    }
}

/// A repository of a registry, from which blobs go into the store.
pub struct Registry<'a> {
    store: &'a Store,
    agent: Agent,
    /// `https://HOST/v2/REPOSITORY`.
    base: String,
    host: String,
    repository: String,
    credentials: Option<Credentials>,
    /// What a log-in gave: the header for further requests.
    authorization: Mutex<Option<String>>,
}

impl<'a> Registry<'a> {
    /// The repository of a reference. Nothing is asked yet but for credentials.
    pub fn new(store: &'a Store, reference: &Reference, options: &Options) -> Result<Self> {
        let host = options.mirror.clone().unwrap_or_else(|| reference.host().to_owned());
        let known = if options.mirror.is_some() { &host } else { reference.registry() };
        let scheme = if options.plain_http { "http" } else { "https" };
        let repository = reference.repository.clone();
        Ok(Registry {
            store,
            agent: agent(options)?,
            base: format!("{scheme}://{host}/v2/{repository}"),
            credentials: Credentials::find(known, options.credentials.as_deref())?,
            host,
            repository,
            authorization: Mutex::default(),
        })
    }

    /// The image for linux/amd64 that a reference leads to.
    pub fn image(&self, reference: &Reference, progress: &dyn Progress) -> Result<Image> {
        let bytes = self.resolve(reference)?;
        let name = reference.to_string();
        let manifest = match Document::parse(&bytes, &name)? {
            Document::Index(index) => {
                let named = index.for_linux_amd64().map_err(|error| error.within(&name))?;
                return Image::find(self, &named, progress);
            }
            Document::Manifest(manifest) => manifest,
        };
        Image::of(self, manifest, progress)
    }

    /// The document that a reference leads to.
    fn resolve(&self, reference: &Reference) -> Result<Vec<u8>> {
        let name = reference.manifest();
        let url = format!("{}/manifests/{name}", self.base);
        let mut response = self.get(&url, &[(header::ACCEPT.as_str(), ACCEPTED)])?;
        let bytes = self.read(&mut response, DOCUMENT_MAX)?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest {
            expected.expect(digest, &reference.to_string())?;
        }
        Ok(bytes)
    }

    /// Fetches a blob into a file that has none of it yet.
    fn fetch(&self, descriptor: &Descriptor, file: &File, progress: &dyn Progress) -> Result<()> {
        let url = format!("{}/blobs/{}", self.base, descriptor.digest);
        let (mut done, mut failures) = (0, 0);
        while done < descriptor.size {
            let before = done;
            let result = self.fetch_from(&url, &mut done, descriptor.size, file, progress);
            if result.is_ok() && done == descriptor.size {
                break;
            }
            // What is too short without an error is a broken connection, too.
            failures = if done > before { 0 } else { failures + 1 };
            if failures == ATTEMPTS || is_final(&result) {
                let short = format!("it sent {done} of {} bytes", descriptor.size);
                return Err(result.err().unwrap_or_else(|| self.failed(&url, short)));
            }
            std::thread::sleep(PAUSE);
        }
        let whole = File::try_clone(file).map_err(|error| self.failed(&url, error.to_string()))?;
        let blob = Blob { file: Arc::new(whole), range: 0..descriptor.size };
        let section = super::layer::Section::new(&blob, &|_| ());
        let found = Digesting::new(section).finish();
        let found = found.map_err(|error| self.failed(&url, error.to_string()))?;
        descriptor.digest.expect(found, &format!("a blob of {}", self.host))
    }

    /// Appends to the file from `done` on.
    fn fetch_from(
        &self,
        url: &str,
        done: &mut u64,
        size: u64,
        file: &File,
        progress: &dyn Progress,
    ) -> Result<()> {
        let range = format!("bytes={done}-");
        let headers: &[(&str, &str)] = if *done > 0 { &[("range", &range)] } else { &[] };
        let response = self.get(url, headers)?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // It begins at the beginning.
            *done = 0;
        }
        let mut body = response.into_body().into_with_config().limit(size - *done + 1).reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count =
                body.read(&mut buffer).map_err(|error| self.failed(url, error.to_string()))?;
            if count == 0 {
                return Ok(());
            }
            if count as u64 > size - *done {
                return Err(self.failed(url, format!("it sent more than {size} bytes")));
            }
            write_at(file, &buffer[..count], *done)
                .map_err(Error::file("write", self.store.root()))?;
            *done += count as u64;
            progress.amount(*done, Some(size), Unit::Bytes);
        }
    }

    /// A request, with logging in where that is asked for.
    fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response<Body>> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let response = self.request(url, headers, known.as_deref())?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.successful(url, response);
        }
        let authorization = self.log_in(url, response.headers())?;
        let response = self.request(url, headers, Some(&authorization))?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        self.successful(url, response)
    }

    fn request(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Response<Body>> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        request.call().map_err(|error| self.failed(url, explain(&error)))
    }

    /// The response, or what the registry said was wrong.
    fn successful(&self, url: &str, mut response: Response<Body>) -> Result<Response<Body>> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.read(&mut response, MESSAGE_MAX).unwrap_or_default();
        let said = message(&body);
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let found = match &self.credentials {
                    Some(credentials) => {
                        format!("it does not take the credentials of {}", credentials.origin())
                    }
                    None => {
                        format!("it wants credentials: log in with `docker login {}`", self.host)
                    }
                };
                self.failed(url, format!("{found} ({said})"))
            }
            StatusCode::NOT_FOUND => self.failed(url, format!("there is no such image ({said})")),
            status => Error::Registry {
                url: url.to_owned(),
                why: format!("{status} ({said})"),
                status: status.as_u16(),
            },
        })
    }

    /// Does what a 401 response asks for; the header for further requests.
    fn log_in(&self, url: &str, headers: &HeaderMap) -> Result<String> {
        let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> =
            challenges.filter_map(|value| Challenge::parse(value.to_str().ok()?)).collect();
        let is = |scheme: &'static str| move |challenge: &&Challenge| challenge.scheme == scheme;
        if let Some(bearer) = challenges.iter().find(is("bearer")) {
            return self.token(bearer);
        }
        match (challenges.iter().find(is("basic")), &self.credentials) {
            (Some(_), Some(credentials)) => Ok(credentials.basic()),
            (Some(_), None) => Err(self.failed(
                url,
                format!("it wants credentials: log in with `docker login {}`", self.host),
            )),
            (None, _) => Err(self.failed(url, "it wants a log-in of an unknown kind".to_owned())),
        }
    }

    /// A token for pulling from this repository.
    fn token(&self, challenge: &Challenge) -> Result<String> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let realm = challenge.parameter("realm").unwrap_or_default();
        let secure = realm.starts_with("https://");
        if !secure && (self.base.starts_with("https://") || !realm.starts_with("http://")) {
            return Err(self.failed(
                &self.base,
                format!("it wants a log-in at `{realm}`, which is not secure"),
            ));
        }
        let scope = format!("repository:{}:pull", self.repository);
        let mut query = vec![("scope", scope.as_str())];
        query.extend(challenge.parameter("service").map(|service| ("service", service)));
        let mut request = self.agent.get(realm).query_pairs(query);
        if let Some(credentials) = &self.credentials {
            request = request.header(header::AUTHORIZATION, credentials.basic());
        }
        let response = request.call().map_err(|error| self.failed(realm, explain(&error)))?;
        let mut response = self.successful(realm, response)?;
        let bytes = self.read(&mut response, TOKEN_MAX)?;
        let token: Token = super::manifest::parse(&bytes, realm)?;
        let token = token.token.or(token.access_token);
        let usable = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        usable
            .map(|token| format!("Bearer {token}"))
            .ok_or_else(|| self.failed(realm, "it gave no token".to_owned()))
    }

    fn read(&self, response: &mut Response<Body>, limit: u64) -> Result<Vec<u8>> {
        let read = response.body_mut().with_config().limit(limit).read_to_vec();
        read.map_err(|error| self.failed(&self.base, explain(&error)))
    }

    fn failed(&self, url: &str, why: String) -> Error {
        Error::Registry { url: url.to_owned(), why, status: 0 }
    }
}

impl Blobs for Registry<'_> {
    fn document(&self, descriptor: &Descriptor, _progress: &dyn Progress) -> Result<Vec<u8>> {
        let digest = &descriptor.digest;
        // Indexes and manifests have a place of their own, and configurations are blobs.
        let (place, kind) = match descriptor.is_config() {
            true => ("blobs", "*/*"),
            false => ("manifests", ACCEPTED),
        };
        let url = format!("{}/{place}/{digest}", self.base);
        let mut response = self.get(&url, &[(header::ACCEPT.as_str(), kind)])?;
        let bytes = self.read(&mut response, DOCUMENT_MAX)?;
        digest.check(&bytes, &url)?;
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor, progress: &dyn Progress) -> Result<Blob> {
        let path = self.store.blob(&descriptor.digest, |file| {
            progress.step(&format!("fetching {}", &descriptor.digest.hex()[..12]));
            self.fetch(descriptor, file, progress)
        })?;
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        let len = file.metadata().map_err(Error::file("read", &path))?.len();
        Ok(Blob { file: Arc::new(file), range: 0..len })
    }

    fn damaged(&self, descriptor: &Descriptor) {
        self.store.forget_blob(&descriptor.digest);
    }
}

/// Whether trying again makes no sense: the server has said no.
fn is_final(result: &Result<()>) -> bool {
    match result {
        Err(Error::Registry { status, .. }) => (400..500).contains(status) && *status != 429,
        Err(Error::File { .. }) => true,
        Err(_) | Ok(()) => false,
    }
}

fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

fn agent(options: &Options) -> Result<Agent> {
    let patience = Some(options.patience);
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("sparkler/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(patience)
        .timeout_recv_response(patience)
        .timeout_per_read(patience)
        .https_only(false);
    if options.plain_http {
        return Ok(config.build().new_agent());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates()?))
        .unversioned_rustls_crypto_provider(provider)
        .build();
    Ok(config.tls_config(tls).build().new_agent())
}

/// The certificates that this host trusts.
fn certificates() -> Result<Vec<Certificate<'static>>> {
    let path = std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| CERTIFICATES.into());
    let path = Path::new(&path);
    let pem = std::fs::read(path).map_err(Error::file("read the trusted certificates in", path))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(certificates.collect())
}

fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "it does not answer".to_owned(),
        other => other.to_string(),
    }
}

/// What a registry says in an error's body (OCI distribution specification, "Error Codes").
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(said) => {
            let each = said.errors.iter().map(|error| format!("{}: {}", error.code, error.message));
            each.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(MESSAGE_SHOWN).collect();
    if text.trim().is_empty() { "it does not say why".to_owned() } else { text }
}

/// What a registry wants to be told (RFC 9110, section 11.6.1).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// In small letters.
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((name, behind)) = rest.split_once('=') {
            let behind = behind.trim_start();
            let (value, next) = match behind.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => behind.split_once(',').map_or((behind, ""), |(value, next)| (value, next)),
            };
            let name = name.trim_start_matches([',', ' ']).trim().to_ascii_lowercase();
            parameters.push((name, value.to_owned()));
            rest = next.trim_start_matches([',', ' ']);
        }
        Some(Challenge { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Credentials {
    /// The header for a request.
    fn basic(&self) -> String {
        format!("Basic {}", Base64::encode_string(self.pair().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let text =
            r#"Bearer realm="https://auth.example/token",service="registry, example",scope=x"#;
        let challenge = Challenge::parse(text).unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.parameter("realm"), Some("https://auth.example/token"));
        assert_eq!(challenge.parameter("service"), Some("registry, example"));
        assert_eq!(challenge.parameter("scope"), Some("x"));
        assert_eq!(Challenge::parse("Basic").unwrap().scheme, "basic");
        assert_eq!(Challenge::parse(r#"Basic realm="x"#), None);
    }

    #[test]
    fn messages_are_short_and_plain() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[1m"}]}"#;
        assert_eq!(message(body), "DENIED: no[1m");
        assert_eq!(message(&[b'x'; 9000]).len(), MESSAGE_SHOWN);
        assert_eq!(message(b""), "it does not say why");
    }
}
