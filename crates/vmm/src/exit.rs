//! Exit codes, one table: Firecracker's, because what supervises a VMM reads them.

use host::signals;

/// How a VMM process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest powered off or reset, or there was nothing to run.
    Ok = 0,
    /// Something failed; the message says what.
    Generic = 1,
    /// A flag's value makes no sense where Firecracker singles it out (`--level`).
    BadConfiguration = 152,
    /// The flags could not be understood.
    ArgumentParsing = 153,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// The signals that end the process with a code of their own: (signal, exit code).
pub const FATAL_SIGNALS: [(i32, i32); 7] = [
    (signals::SIGSYS, 148),
    (signals::SIGBUS, 149),
    (signals::SIGSEGV, 150),
    (signals::SIGXFSZ, 151),
    (signals::SIGXCPU, 154),
    (signals::SIGHUP, 156),
    (signals::SIGILL, 157),
];
