//! What can be wrong with a request or a configuration file.

use thiserror::Error;

/// A request that cannot be granted. The prefixes are Firecracker's: its clients match them.
#[derive(Debug, Error)]
pub enum Error {
    /// The text is not JSON, or not of the expected shape.
    #[error("Invalid JSON: {0}")]
    Json(serde_json::Error),
    /// `boot-source` asks for what cannot be.
    #[error("Boot source error: {0}")]
    BootSource(spec::Error),
    /// `machine-config` asks for what cannot be.
    #[error("Machine config error: {0}")]
    MachineConfig(MachineConfigError),
    /// A drive asks for what cannot be.
    #[error("Drive config error: {0}")]
    Drive(DriveError),
    /// A network interface asks for what cannot be.
    #[error("Network config error: {0}")]
    Network(spec::Error),
    /// The request is understood, but this version cannot do it.
    #[error("{0} is not supported by this version; remove it from the configuration")]
    Unsupported(&'static str),
}

/// What can be wrong with a machine's size.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MachineConfigError {
    /// A value is outside of its limits.
    #[error(transparent)]
    Value(#[from] spec::Error),
    /// Threads come in pairs.
    #[error("vcpu_count is {0}; with smt it must be 1 or even")]
    OddWithSmt(u8),
    /// 2 MiB pages do not cover the memory exactly.
    #[error("mem_size_mib is {0}; with huge_pages it must be a multiple of 2")]
    OddWithHugePages(u64),
}

/// What can be wrong with a drive.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DriveError {
    /// A value is outside of its limits.
    #[error(transparent)]
    Value(#[from] spec::Error),
    /// Neither file nor socket, or both.
    #[error("drive {0} needs exactly one of path_on_host and socket")]
    OneBackend(String),
}
