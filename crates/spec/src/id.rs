//! Names of machines and of their devices.

use std::fmt;

use crate::Error;
use crate::error::{check_characters, check_length};
use crate::limits::{DEVICE_ID_MAX, INSTANCE_ID_MAX};

/// The name of a machine: 1 to 64 ASCII letters, digits and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(String);

impl InstanceId {
    /// Takes `value` if it is a valid name.
    pub fn new(value: impl Into<String>) -> Result<Self, Error> {
        let value = value.into();
        let field = "instance id";
        check_length(field, value.len(), 1, INSTANCE_ID_MAX)?;
        let allowed = "ASCII letters, digits and '-'";
        check_characters(field, &value, allowed, |c| c.is_ascii_alphanumeric() || c == '-')?;
        Ok(Self(value))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a device: 1 to 64 ASCII letters, digits and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(String);

impl DeviceId {
    /// Takes `value` if it is a valid name. `field` names it in errors, for example `drive_id`.
    pub fn new(field: &'static str, value: impl Into<String>) -> Result<Self, Error> {
        let value = value.into();
        check_length(field, value.len(), 1, DEVICE_ID_MAX)?;
        let allowed = "ASCII letters, digits and '_'";
        check_characters(field, &value, allowed, |c| c.is_ascii_alphanumeric() || c == '_')?;
        Ok(Self(value))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, instance: Result<(), &str>, device: Result<(), &str>) {
        let got = InstanceId::new(value).map(drop).map_err(|e| e.to_string());
        assert_eq!(got, instance.map_err(str::to_owned), "instance {value:?}");
        let got = DeviceId::new("drive_id", value).map(drop).map_err(|e| e.to_string());
        assert_eq!(got, device.map_err(str::to_owned), "device {value:?}");
    }

    #[test]
    fn ids() {
        check("abc123", Ok(()), Ok(()));
        check(&"x".repeat(64), Ok(()), Ok(()));
        check(
            "a-b",
            Ok(()),
            Err("drive_id \"a-b\" contains '-'; it may contain ASCII letters, digits and '_'"),
        );
        check(
            "a_b",
            Err("instance id \"a_b\" contains '_'; it may contain ASCII letters, digits and '-'"),
            Ok(()),
        );
        check(
            "",
            Err("instance id is 0 bytes long; it must be from 1 to 64"),
            Err("drive_id is 0 bytes long; it must be from 1 to 64"),
        );
        check(
            &"x".repeat(65),
            Err("instance id is 65 bytes long; it must be from 1 to 64"),
            Err("drive_id is 65 bytes long; it must be from 1 to 64"),
        );
        check(
            "é",
            Err("instance id \"é\" contains 'é'; it may contain ASCII letters, digits and '-'"),
            Err("drive_id \"é\" contains 'é'; it may contain ASCII letters, digits and '_'"),
        );
    }
}
