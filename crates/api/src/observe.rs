//! `logger` and `metrics`: what the VMM tells about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// `logger`. The flags of the command line say the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// The file or named pipe that log lines go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "crate::text::optional_path")]
    pub log_path: Option<String>,
    /// The least important level that is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// Whether a line names its level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub show_level: Option<bool>,
    /// Whether a line names its place in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub show_log_origin: Option<bool>,
    /// Only lines of modules whose path starts so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// `metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// The file or named pipe that metrics go to.
    #[serde(deserialize_with = "crate::text::path")]
    pub metrics_path: String,
    /// Whether each line carries the machine's id.
    #[serde(default)]
    pub emit_id: bool,
    /// What each line carries besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<BTreeMap<String, String>>,
}

/// How important a log line is. Parsed without regard to case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub enum LogLevel {
    /// Nothing is logged.
    Off,
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// The course of events.
    #[default]
    Info,
    /// For people who debug.
    Debug,
    /// All.
    Trace,
}

/// All names of levels; `Warning` is a second name.
const LEVELS: [(&str, LogLevel); 7] = [
    ("Off", LogLevel::Off),
    ("Trace", LogLevel::Trace),
    ("Debug", LogLevel::Debug),
    ("Info", LogLevel::Info),
    ("Warn", LogLevel::Warn),
    ("Warning", LogLevel::Warn),
    ("Error", LogLevel::Error),
];

/// The text names no level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownLevel(pub String);

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no log level: use one of Off, Trace, Debug, Info, Warn, Error", self.0)
    }
}

impl std::error::Error for UnknownLevel {}

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let found = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, level)| *level).ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const NAMES: &[&str] = &["Off", "Trace", "Debug", "Info", "Warn", "Error"];
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::unknown_variant(&text, NAMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_parsed_without_regard_to_case() {
        let cases = [
            ("info", Some(LogLevel::Info)),
            ("WARNING", Some(LogLevel::Warn)),
            ("Warn", Some(LogLevel::Warn)),
            ("oFF", Some(LogLevel::Off)),
            ("", None),
            ("loud", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse().ok(), expected, "{text}");
            let json: Result<LogLevel, _> = serde_json::from_value(text.into());
            assert_eq!(json.ok(), expected, "{text} in JSON");
        }
    }
}
