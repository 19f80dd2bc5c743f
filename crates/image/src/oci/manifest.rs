//! Indexes, manifests and configurations (OCI image specification: image-index.md, manifest.md,
//! config.md). Docker's own forms have the same fields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::{Error, Result};

/// What an index entry is annotated with that has a name.
const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// As containerd writes it, with the registry in front.
const FULL_NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Levels of x86-64 that every CPU of ours has; empty is the first.
const VARIANTS: [&str; 3] = ["", "v1", "v2"];

/// What leads to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// Where the blob is in an archive that does not name it by its digest.
    #[serde(skip)]
    path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: String,
}

/// What a reference leads to.
#[derive(Debug, Clone)]
pub enum Document {
    /// Images for several platforms, or of several names.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// Images for several platforms, or of several names.
#[derive(Debug, Clone, Deserialize)]
pub struct Index {
    manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The digests of the layers' archives.
    pub diff_ids: Vec<Digest>,
    /// What to run, and how.
    pub run: Run,
}

/// What to run, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "PascalCase"))]
pub struct Run {
    /// Variables, as `NAME=VALUE`.
    #[serde(default, deserialize_with = "nullable", alias = "env")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(default, deserialize_with = "nullable", alias = "entrypoint")]
    pub entrypoint: Vec<String>,
    /// Further arguments, which a user may replace.
    #[serde(default, deserialize_with = "nullable", alias = "cmd")]
    pub cmd: Vec<String>,
    /// User and group, as names or numbers, with a colon between; root if empty.
    #[serde(default, deserialize_with = "nullable", alias = "user")]
    pub user: String,
    /// Where to run it.
    #[serde(default, deserialize_with = "nullable", alias = "working_dir")]
    pub working_dir: String,
    /// The signal that ends it.
    #[serde(default, deserialize_with = "nullable", alias = "stop_signal")]
    pub stop_signal: String,
    /// Ports that it listens on, as `80/tcp`.
    #[serde(default, deserialize_with = "keys", alias = "exposed_ports")]
    pub exposed_ports: Vec<String>,
    /// Folders whose content is to be kept.
    #[serde(default, deserialize_with = "keys", alias = "volumes")]
    pub volumes: Vec<String>,
    /// Labels.
    #[serde(default, deserialize_with = "nullable", alias = "labels")]
    pub labels: BTreeMap<String, String>,
}

impl Descriptor {
    /// For a blob that no document describes.
    pub fn of(digest: Digest, size: u64) -> Self {
        Descriptor {
            digest,
            size,
            media_type: String::new(),
            platform: None,
            annotations: BTreeMap::new(),
            path: None,
        }
    }

    /// With the blob's place in an archive.
    pub(super) fn at(self, path: &str) -> Self {
        Descriptor { path: Some(path.to_owned()), ..self }
    }

    pub(super) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Whether it is that of a configuration, by its kind.
    pub(super) fn is_config(&self) -> bool {
        self.media_type.contains("config") || self.media_type.contains("container.image")
    }

    fn is_for_us(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| {
            platform.os == "linux"
                && platform.architecture == "amd64"
                && VARIANTS.contains(&platform.variant.as_str())
        })
    }

    fn has_name(&self, name: &str) -> bool {
        let annotations = [NAME_ANNOTATION, FULL_NAME_ANNOTATION];
        let mut names = annotations.iter().filter_map(|key| self.annotations.get(*key));
        names.any(|known| {
            known == name || known.strip_suffix(name).is_some_and(|n| n.ends_with(['/', ':']))
        })
    }
}

impl Document {
    /// Reads an index or a manifest; `name` is for errors.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Index(Index),
            Manifest(Manifest),
        }
        match parse(bytes, name)? {
            Any::Index(index) => Ok(Document::Index(index)),
            Any::Manifest(manifest) => Ok(Document::Manifest(manifest)),
        }
    }
}

impl Index {
    /// Reads an index.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        parse(bytes, name)
    }

    /// The image for linux/amd64.
    pub fn for_linux_amd64(&self) -> Result<Descriptor> {
        let ours = self.manifests.iter().find(|descriptor| descriptor.is_for_us());
        ours.cloned().ok_or_else(|| {
            let platforms =
                self.manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
            let list: Vec<String> = platforms
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            Error::format(
                "the image",
                format!("it is for {}, not for linux/amd64", list.join(", ")),
            )
        })
    }

    /// The image of this name, or the only one.
    pub fn named(&self, name: Option<&str>) -> Result<Descriptor> {
        let found: Vec<&Descriptor> = match name {
            Some(name) => {
                self.manifests.iter().filter(|descriptor| descriptor.has_name(name)).collect()
            }
            None => self.manifests.iter().collect(),
        };
        match (found.as_slice(), name) {
            ([one], _) => Ok((*one).clone()),
            // One image for several platforms.
            ([_, ..], None) if found.iter().all(|descriptor| descriptor.platform.is_some()) => {
                self.for_linux_amd64()
            }
            ([_, ..], _) => Err(Error::format(
                "the index",
                format!("it has several images; name one of them: {}", self.names().join(", ")),
            )),
            ([], _) => {
                let name = name.unwrap_or("any name");
                let why = format!("it has no image `{name}`, but: {}", self.names().join(", "));
                Err(Error::format("the index", why))
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.manifests
            .iter()
            .filter_map(|descriptor| descriptor.annotations.get(NAME_ANNOTATION))
            .map(String::as_str)
            .collect()
    }
}

impl Config {
    /// Reads a configuration.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
            #[serde(default, deserialize_with = "nullable")]
            config: Run,
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            #[serde(default, deserialize_with = "nullable")]
            diff_ids: Vec<Digest>,
        }
        let file: File = parse(bytes, name)?;
        // Some tools leave it out; an index would have said it.
        let (os, architecture) = (file.os.as_str(), file.architecture.as_str());
        if !["", "linux"].contains(&os) || !["", "amd64"].contains(&architecture) {
            let why = format!("it is for {os}/{architecture}, not for linux/amd64");
            return Err(Error::format(name, why));
        }
        Ok(Config { diff_ids: file.rootfs.diff_ids, run: file.config })
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], name: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::format(name, format!("as JSON: {error}")))
}

/// Docker writes null for what is empty.
fn nullable<'de, T, D>(deserializer: D) -> std::result::Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A set, as JSON has it: an object whose values mean nothing; or a list, as we write it.
fn keys<'de, D>(deserializer: D) -> std::result::Result<Vec<String>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Set {
        Object(BTreeMap<String, serde_json::Value>),
        List(Vec<String>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Set::Object(object)) => object.into_keys().collect(),
        Some(Set::List(list)) => list,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn index(entries: &[(&str, &str)]) -> Index {
        let list: Vec<String> = entries
            .iter()
            .zip(1..)
            .map(|((platform, name), size)| {
                let platform = match platform.split_once('/') {
                    Some((os, rest)) => {
                        let (arch, variant) = rest.split_once('/').unwrap_or((rest, ""));
                        format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#)
                    }
                    None => String::new(),
                };
                format!(
                    r#"{{"digest":"{D}","size":{size}{platform},"annotations":{{"{NAME_ANNOTATION}":"{name}"}}}}"#
                )
            })
            .collect();
        Index::parse(format!(r#"{{"manifests":[{}]}}"#, list.join(",")).as_bytes(), "test").unwrap()
    }

    #[test]
    fn the_platform_is_chosen() {
        let size = |entries: &[(&str, &str)]| index(entries).for_linux_amd64().map(|d| d.size);
        assert_eq!(size(&[("linux/arm64", ""), ("linux/amd64", "")]).unwrap(), 2);
        assert_eq!(size(&[("linux/amd64/v3", ""), ("linux/amd64/v2", "")]).unwrap(), 2);
        let error = size(&[("linux/arm64", ""), ("windows/amd64", "")]).unwrap_err().to_string();
        assert!(error.contains("linux/arm64, windows/amd64"), "{error}");
    }

    #[test]
    fn the_name_is_chosen() {
        let two = index(&[("", "a"), ("", "b")]);
        assert_eq!(two.named(Some("b")).unwrap().size, 2);
        assert!(two.named(None).unwrap_err().to_string().contains("several images"));
        assert!(two.named(Some("c")).unwrap_err().to_string().contains("no image `c`"));
        assert_eq!(index(&[("", "a")]).named(None).unwrap().size, 1);
    }

    #[test]
    fn configurations_of_docker_and_ours() {
        let text = format!(
            r#"{{"config":{{"Env":["A=1"],"Cmd":null,"Entrypoint":["/x"],"User":"1:2",
            "ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{D}"]}}}}"#
        );
        let config = Config::parse(text.as_bytes(), "test").unwrap();
        assert_eq!(config.run.exposed_ports, ["80/tcp"]);
        assert_eq!((config.run.entrypoint.len(), config.run.cmd.len()), (1, 0));
        let ours = serde_json::to_string(&config.run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&ours).unwrap(), config.run);
        let arm = r#"{"os":"linux","architecture":"arm64","rootfs":{}}"#;
        for bad in ["", "{}", r#"{"rootfs":{"diff_ids":["md5:0"]}}"#, arm] {
            assert!(Config::parse(bad.as_bytes(), "test").is_err(), "{bad}");
        }
    }
}
