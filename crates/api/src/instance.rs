//! What the API says about the machine as a whole, and the actions on it.

use serde::{Deserialize, Serialize};

/// The answer to `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct InstanceInfo {
    /// The machine's name.
    pub id: String,
    /// How far it is.
    pub state: InstanceState,
    /// The version of Firecracker whose API this is.
    pub vmm_version: String,
    /// Whose API this is.
    pub app_name: String,
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum InstanceState {
    /// It is being configured.
    #[default]
    #[serde(rename = "Not started")]
    NotStarted,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
}

/// The answer to `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Version {
    /// The version of Firecracker whose API this is.
    pub firecracker_version: String,
}

/// The body of `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// What is to be done.
    pub action_type: Action,
}

/// What can be done with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Action {
    /// Write the metrics now.
    FlushMetrics,
    /// Start it.
    InstanceStart,
    /// Press Ctrl, Alt and Del.
    SendCtrlAltDel,
}
