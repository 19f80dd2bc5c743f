//! What can be wrong with a specification.

use thiserror::Error;

/// A value that a machine cannot have. Always the asker's mistake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A number outside of its range.
    #[error("{field} is {value}; it must be from {min} to {max}")]
    Range {
        /// The field's name, as users know it.
        field: &'static str,
        /// What was asked for.
        value: u64,
        /// The smallest value that is allowed.
        min: u64,
        /// The largest value that is allowed.
        max: u64,
    },
    /// A text that is empty or too long.
    #[error("{field} is {len} bytes long; it must be from {min} to {max}")]
    Length {
        /// The field's name.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The smallest length that is allowed.
        min: usize,
        /// The largest length that is allowed.
        max: usize,
    },
    /// A text with a character that does not belong there.
    #[error("{field} {value:?} contains {character:?}; it may contain {allowed}")]
    Character {
        /// The field's name.
        field: &'static str,
        /// The whole text.
        value: String,
        /// The first character that is refused.
        character: char,
        /// What is allowed, in words.
        allowed: &'static str,
    },
    /// A text that does not have the form it must have.
    #[error("{field} is {value:?}; it must be {form}")]
    Form {
        /// The field's name.
        field: &'static str,
        /// What was asked for.
        value: String,
        /// The form, in words or by example.
        form: &'static str,
    },
    /// A second drive that wants to be the root.
    #[error("drive {second} cannot be the root device: drive {first} already is")]
    SecondRoot {
        /// The drive that is the root.
        first: String,
        /// The drive that is refused.
        second: String,
    },
    /// Two interfaces with one MAC address.
    #[error("network interface {second} cannot have MAC address {mac}: interface {first} has it")]
    MacInUse {
        /// The address.
        mac: String,
        /// The interface that has it.
        first: String,
        /// The interface that is refused.
        second: String,
    },
    /// A named CPU template on a processor of another maker. The text is Firecracker's.
    #[error("CPU vendor mismatched between actual CPU and CPU template.")]
    CpuVendor,
    /// A named CPU template on a processor that it is not made for. The text is Firecracker's.
    #[error("The current CPU model is not permitted to apply the CPU template.")]
    CpuModel,
}

/// Checks that `len` is within the limits.
pub(crate) fn check_length(
    field: &'static str,
    len: usize,
    min: usize,
    max: usize,
) -> Result<(), Error> {
    if (min..=max).contains(&len) { Ok(()) } else { Err(Error::Length { field, len, min, max }) }
}

/// Checks that every character of `value` passes.
pub(crate) fn check_characters(
    field: &'static str,
    value: &str,
    allowed: &'static str,
    passes: impl Fn(char) -> bool,
) -> Result<(), Error> {
    match value.chars().find(|c| !passes(*c)) {
        None => Ok(()),
        Some(character) => {
            Err(Error::Character { field, value: value.to_owned(), character, allowed })
        }
    }
}
