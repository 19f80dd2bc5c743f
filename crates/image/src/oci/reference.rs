//! Names of images in registries: `[HOST/]REPOSITORY[:TAG][@DIGEST]` (OCI distribution
//! specification, "Pulling manifests"; what is left out is filled in as Docker does it).

use std::fmt;

use super::digest::Digest;
use crate::{Error, Result};

const HUB: &str = "docker.io";
/// Where Docker's hub really is.
const HUB_HOST: &str = "registry-1.docker.io";
const HUB_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Most characters of a name without its tag.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// The name of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: String,
    /// The repository's path.
    pub repository: String,
    tag: String,
    /// Its digest, if it was given.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::Reference { text: text.to_owned(), why: why.to_owned() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    Digest::parse(digest).ok_or_else(|| bad("its digest is no sha256 digest"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // Else the colon is that of a port.
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (rest, DEFAULT_TAG),
        };
        let (host, repository) = match name.split_once('/') {
            Some((host, repository)) if is_host(host) => (host, repository.to_owned()),
            _ => (HUB, name.to_owned()),
        };
        let repository = match host {
            HUB if !repository.contains('/') => format!("{HUB_NAMESPACE}{repository}"),
            _ => repository,
        };
        if repository.len() > NAME_MAX || !repository.split('/').all(is_path_part) {
            return Err(bad(
                "a repository's name has small letters, digits, and `.`, `_`, `-` or `/` between them",
            ));
        }
        if tag.is_empty()
            || tag.len() > TAG_MAX
            || !tag.bytes().all(is_tag_byte)
            || tag.starts_with(['.', '-'])
        {
            return Err(bad("a tag has letters, digits, `_`, `.` and `-`"));
        }
        Ok(Reference { host: host.to_owned(), repository, tag: tag.to_owned(), digest })
    }

    /// The registry's name, which credentials are kept under.
    pub fn registry(&self) -> &str {
        &self.host
    }

    /// Where to connect to.
    pub fn host(&self) -> &str {
        if self.host == HUB { HUB_HOST } else { &self.host }
    }

    /// What the registry knows the manifest by.
    pub fn manifest(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone(), |digest| digest.to_string())
    }

    /// The name that people use: without what Docker fills in.
    pub fn familiar(&self) -> String {
        let name = match self.host.as_str() {
            HUB => {
                self.repository.strip_prefix(HUB_NAMESPACE).unwrap_or(&self.repository).to_owned()
            }
            host => format!("{host}/{}", self.repository),
        };
        format!("{name}:{}", self.tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.host, self.repository, self.tag)?;
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The first part of a name is a host if it cannot be a part of a path on Docker's hub.
fn is_host(part: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let begins = part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    (part == "localhost" || part.contains(['.', ':'])) && begins && part.bytes().all(usual)
}

fn is_path_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| plain(byte) || b"._-".contains(&byte);
    part.bytes().all(inner)
        && part.bytes().next().is_some_and(plain)
        && part.bytes().last().is_some_and(plain)
}

fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, full: &str, familiar: &str) {
        let reference = Reference::parse(text).unwrap();
        assert_eq!(
            (reference.to_string().as_str(), reference.familiar().as_str()),
            (full, familiar)
        );
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        check("alpine", "docker.io/library/alpine:latest", "alpine:latest");
        check("alpine:3.19", "docker.io/library/alpine:3.19", "alpine:3.19");
        check("me/tool", "docker.io/me/tool:latest", "me/tool:latest");
        check("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1");
        check("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest");
        check("localhost/x:1", "localhost/x:1", "localhost/x:1");
        let digest = Digest::of(b"");
        check(&format!("a@{digest}"), &format!("docker.io/library/a:latest@{digest}"), "a:latest");
        assert_eq!(Reference::parse("a").unwrap().host(), "registry-1.docker.io");
    }

    #[test]
    fn what_is_no_reference() {
        for text in [
            "",
            ":tag",
            "A",
            "a:",
            "a@sha256:0",
            "a//b",
            "../a",
            "-a",
            "a b",
            "h.io/",
            "a:b c",
            "a:-b",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
