//! Credentials for registries, where Docker keeps them: `config.json` in `$DOCKER_CONFIG` or
//! `~/.docker`, in the file itself or with a helper program (docker login's documentation,
//! "Credential stores").

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64ct::{Base64Unpadded, Encoding};
use serde::Deserialize;

use crate::{Error, Result};

/// How Docker's file names its own hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const HUB: &str = "docker.io";

/// A user's name and password.
pub struct Credentials {
    user: String,
    secret: String,
    origin: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Credentials {
    /// Those for a registry, if this file has any, or Docker's if no file is given.
    pub fn find(registry: &str, file: Option<&Path>) -> Result<Option<Self>> {
        let Some(path) = file.map(PathBuf::from).or_else(docker_file) else { return Ok(None) };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        Self::in_file(&text, &path.display().to_string(), registry)
    }

    /// Where they were found.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Name and password with a colon between.
    pub(crate) fn pair(&self) -> String {
        format!("{}:{}", self.user, self.secret)
    }

    fn in_file(text: &[u8], origin: &str, registry: &str) -> Result<Option<Self>> {
        let config: DockerConfig = serde_json::from_slice(text)
            .map_err(|error| Error::format(origin, format!("as JSON: {error}")))?;
        let keys: Vec<&str> = if registry == HUB { vec![HUB_KEY, HUB] } else { vec![registry] };
        let helper = keys.iter().find_map(|key| config.cred_helpers.get(*key));
        if let Some(helper) = helper.or(config.creds_store.as_ref()) {
            return ask(helper, keys[0]);
        }
        let host = |key: &str| {
            key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/').to_owned()
        };
        let auth = config
            .auths
            .iter()
            .find(|(key, _)| keys.contains(&key.as_str()) || keys.contains(&host(key).as_str()));
        let Some((_, auth)) = auth else { return Ok(None) };
        let damaged = || Error::format(origin, format!("the entry for {registry} is damaged"));
        let (user, secret) = match (&auth.auth, &auth.username, &auth.password) {
            (_, Some(user), Some(password)) => (user.clone(), password.clone()),
            (Some(auth), _, _) if !auth.is_empty() => {
                let bytes = Base64Unpadded::decode_vec(auth.trim_end_matches('='));
                let bytes = bytes.map_err(|_| damaged())?;
                let pair = String::from_utf8(bytes).map_err(|_| damaged())?;
                let (user, secret) = pair.split_once(':').ok_or_else(damaged)?;
                (user.to_owned(), secret.trim_end_matches('\0').to_owned())
            }
            _ => return Ok(None),
        };
        Ok(Some(Credentials { user, secret, origin: origin.to_owned() }))
    }
}

impl fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

fn docker_file() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let folder = set("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}

/// Asks a helper program, which is told the registry and answers with JSON.
fn ask(helper: &str, registry: &str) -> Result<Option<Credentials>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let program = format!("docker-credential-{helper}");
    let failed = |why: String| Error::format(&program, why);
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("Docker's configuration names it, but: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read has an answer or an error for us all the same.
        let _ = input.write_all(registry.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        // It says so, too, where it has none.
        return Ok(None);
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("its answer is no JSON: {error}")))?;
    Ok(Some(Credentials { user: answer.username, secret: answer.secret, origin: program }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, registry: &str, pair: Option<&str>) {
        let found = Credentials::in_file(text.as_bytes(), "test", registry).unwrap();
        assert_eq!(found.map(|found| found.pair()).as_deref(), pair, "{text}");
    }

    #[test]
    fn entries_of_the_file() {
        let text = r#"{"auths":{"a:5000":{"auth":"dXNlcjpwYTpzcw=="},"https://b/":{"username":"u","password":"p"},
            "https://index.docker.io/v1/":{"auth":"aHViOng="},"empty":{}}}"#;
        check(text, "a:5000", Some("user:pa:ss"));
        check(text, "b", Some("u:p"));
        check(text, "docker.io", Some("hub:x"));
        check(text, "empty", None);
        check(text, "c", None);
        check("{}", "a", None);
        for bad in ["", r#"{"auths":{"a":{"auth":"?"}}}"#, r#"{"auths":{"a":{"auth":"dXNlcg=="}}}"#]
        {
            assert!(Credentials::in_file(bad.as_bytes(), "test", "a").is_err(), "{bad}");
        }
    }
}
