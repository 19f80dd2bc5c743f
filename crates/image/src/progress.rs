//! How work that takes long reports how far it is.

/// Receives reports; the command line draws them, tests ignore them.
pub trait Progress: Sync {
    /// A new step begins, named in a few words, such as `unpacking the kernel`.
    fn step(&self, what: &str);

    /// How much of the current step is done, in bytes or in files, and of how
    /// much, where that is known.
    fn amount(&self, done: u64, total: Option<u64>, unit: Unit);

    /// All steps of one piece of work have ended.
    fn done(&self) {}
}

/// What [`Progress::amount`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files.
    Files,
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _what: &str) {}

    fn amount(&self, _done: u64, _total: Option<u64>, _unit: Unit) {}
}
