//! How the program ends: messages and exit codes, in one place.

use std::process::ExitCode;

/// `sparkler` itself failed; as `docker run` says it.
pub const FAILED: u8 = 125;
/// A signal's number is added to this, as shells do.
pub const SIGNALLED: u8 = 128;
/// What `kill -l INT` says.
const SIGINT: u8 = 2;

/// Prints why the program failed, on one line, and gives the exit code for it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}");
    eprintln!("sparkler: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
    match error.downcast_ref() {
        Some(image::Error::Interrupted) => ExitCode::from(SIGNALLED + SIGINT),
        Some(_) | None => ExitCode::from(FAILED),
    }
}

/// Prints what is wrong with the command line, or the help that was asked for.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to do if even that cannot be printed.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
}

/// The exit code for a status that a guest's command ended with.
pub fn guest_status(status: u32) -> u8 {
    u8::try_from(status).unwrap_or(u8::MAX)
}
