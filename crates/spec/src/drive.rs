//! Disks.

use std::path::PathBuf;

use crate::boot::check_path;
use crate::error::{check_characters, check_length};
use crate::limits::PARTUUID_MAX;
use crate::{DeviceId, Error, RateLimiter};

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    id: DeviceId,
    backend: DriveBackend,
    partuuid: Option<String>,
    /// Whether the guest boots from it.
    pub is_root: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether a flush of the guest reaches the host's disk.
    pub cache: CacheType,
    /// How the host does the input and output.
    pub io_engine: IoEngine,
    /// How much the guest may transfer.
    pub rate_limiter: RateLimiter,
}

/// What holds a disk's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriveBackend {
    /// A file or block device on the host.
    File(PathBuf),
    /// A file with what was written over another disk, which it names and which stays as it is.
    Overlay(PathBuf),
    /// The socket of a vhost-user server.
    VhostUser(PathBuf),
}

/// Whether a flush of the guest reaches the host's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheType {
    /// It does not; the guest is told that there is no cache.
    #[default]
    Unsafe,
    /// It does.
    Writeback,
}

/// How the host does a disk's input and output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IoEngine {
    /// One blocking call after another.
    #[default]
    Sync,
    /// With io_uring.
    Async,
}

impl Drive {
    /// A writable disk that is not the root, with no limits.
    pub fn new(id: DeviceId, backend: DriveBackend) -> Result<Self, Error> {
        match &backend {
            DriveBackend::File(path) | DriveBackend::Overlay(path) => {
                check_path("path_on_host", path)?;
            }
            DriveBackend::VhostUser(path) => check_path("socket", path)?,
        }
        Ok(Self {
            id,
            backend,
            partuuid: None,
            is_root: false,
            read_only: false,
            cache: CacheType::default(),
            io_engine: IoEngine::default(),
            rate_limiter: RateLimiter::default(),
        })
    }

    /// Names the partition of the disk that holds the root file system.
    pub fn set_partuuid(&mut self, partuuid: impl Into<String>) -> Result<(), Error> {
        let (field, partuuid) = ("partuuid", partuuid.into());
        check_length(field, partuuid.len(), 1, PARTUUID_MAX)?;
        let allowed = "hexadecimal digits and '-'";
        check_characters(field, &partuuid, allowed, |c| c.is_ascii_hexdigit() || c == '-')?;
        self.partuuid = Some(partuuid);
        Ok(())
    }

    /// The disk's name.
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// What holds its bytes.
    pub fn backend(&self) -> &DriveBackend {
        &self.backend
    }

    /// The partition that holds the root file system; none if it is the whole disk.
    pub fn partuuid(&self) -> Option<&str> {
        self.partuuid.as_deref()
    }
}

/// The disks of a machine in the guest's order: the root first, then as they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drives(Vec<Drive>);

impl Drives {
    /// Adds a disk, or replaces the one with the same id. Refuses a second root.
    pub fn put(&mut self, drive: Drive) -> Result<(), Error> {
        let other_root = self.root().filter(|root| drive.is_root && root.id != drive.id);
        if let Some(root) = other_root {
            let (first, second) = (root.id.to_string(), drive.id.to_string());
            return Err(Error::SecondRoot { first, second });
        }
        match self.0.iter().position(|d| d.id == drive.id) {
            Some(index) => self.0[index] = drive,
            None => self.0.push(drive),
        }
        self.0.sort_by_key(|d| !d.is_root);
        Ok(())
    }

    /// The disk that the guest boots from.
    pub fn root(&self) -> Option<&Drive> {
        self.0.iter().find(|d| d.is_root)
    }

    /// All disks, in the guest's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Drive> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Drives {
    type Item = &'a Drive;
    type IntoIter = std::slice::Iter<'a, Drive>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(id: &str, is_root: bool) -> Drive {
        let id = DeviceId::new("drive_id", id).unwrap();
        let mut drive = Drive::new(id, DriveBackend::File("/disk".into())).unwrap();
        drive.is_root = is_root;
        drive
    }

    fn check(puts: &[(&str, bool)], expected: &[&str], error: Option<&str>) {
        let mut drives = Drives::default();
        let mut last = None;
        for (id, is_root) in puts {
            last = drives.put(drive(id, *is_root)).err();
        }
        let ids: Vec<_> = drives.iter().map(|d| d.id().as_str()).collect();
        assert_eq!(ids, expected, "{puts:?}");
        assert_eq!(last.map(|e| e.to_string()).as_deref(), error, "{puts:?}");
    }

    #[test]
    fn the_root_comes_first_and_is_one() {
        check(&[("a", false), ("b", false)], &["a", "b"], None);
        check(&[("a", false), ("r", true), ("b", false)], &["r", "a", "b"], None);
        check(&[("a", true), ("b", false), ("a", false)], &["a", "b"], None);
        check(&[("a", false), ("b", false), ("b", true)], &["b", "a"], None);
        check(
            &[("r", true), ("s", true)],
            &["r"],
            Some("drive s cannot be the root device: drive r already is"),
        );
    }

    #[test]
    fn partuuids() {
        for (text, passes) in [
            ("0eaa91a0-01", true),
            ("", false),
            ("x", false),
            ("c60a2f5e-6a4b-4d5f-8a0e-0123456789ab", true),
            ("c60a2f5e-6a4b-4d5f-8a0e-0123456789abc", false),
            ("a b", false),
        ] {
            assert_eq!(drive("d", false).set_partuuid(text).is_ok(), passes, "{text:?}");
        }
    }
}
