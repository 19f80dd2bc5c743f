//! Texts in bodies that Firecracker reads as paths, so that it says "expected path string" where
//! they are none.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

/// A path.
pub(crate) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    PathBuf::deserialize(deserializer).map(into_text)
}

/// A path, or nothing.
pub(crate) fn optional_path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<PathBuf>::deserialize(deserializer)?.map(into_text))
}

/// What came as text is text.
fn into_text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
