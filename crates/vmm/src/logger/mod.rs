//! The log, in Firecracker's format, on standard output, in a file, or in a named pipe:
//!
//! ```text
//! 2026-08-21T12:08:08.123456789 [my-vm:main:INFO:crates/vmm/src/run.rs:12] text
//!                                            └ --show-level └ --show-log-origin
//! ```
//!
//! Times are local; the distance from UTC is asked for once, at the start. The log never stops the
//! machine: a line that cannot be written at once is dropped, and counted. Nor can the guest flood
//! it: each place in the source may log ten lines of level Info and above in five seconds, and then
//! says how many it kept back. Lines with the target [`UNRESTRICTED`] are exempt.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{OnceLock, RwLock};

use api::LogLevel;
use host::{signals, system};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::exit::FATAL_SIGNALS;
use crate::metrics;
use limit::{Limits, Verdict};
use line::{Line, Timestamp};

mod limit;
mod line;

/// The target of lines that may come as often as they like: those about an API request, of which
/// there is one for each that a client makes. `info!(target: UNRESTRICTED, "…")`.
pub const UNRESTRICTED: &str = "unrestricted";

/// Longest log line, in bytes; what is longer is cut.
const LINE_MAX: usize = 16 << 10;
/// Longest line of a signal handler, whose stack is small.
const LAST_WORD_MAX: usize = 256;
/// What a pipe that has room takes without waiting (`PIPE_BUF`).
const PIPE_CHUNK: usize = 4096;
/// `O_NONBLOCK`: a named pipe that nobody reads must not stop the machine.
const O_NONBLOCK: i32 = 0o4000;
/// Standard output.
const STDOUT_FD: i32 = 1;

static LOGGER: OnceLock<Logger> = OnceLock::new();
/// Where a signal handler writes its line.
static LAST_WORD_FD: AtomicI32 = AtomicI32::new(STDOUT_FD);

struct Logger {
    id: String,
    utc_offset: i64,
    settings: RwLock<Settings>,
    limits: Limits,
}

#[derive(Default)]
struct Settings {
    file: Option<File>,
    show_level: bool,
    show_origin: bool,
    module: Option<String>,
}

/// Starts the log of machine `id`: level Info, to standard output. Later calls change nothing.
pub fn start(id: &str) {
    let logger = LOGGER.get_or_init(|| Logger {
        id: id.to_owned(),
        utc_offset: system::local_time_offset(),
        settings: RwLock::default(),
        limits: Limits::default(),
    });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Applies what flags, a configuration or a request say, now and while the machine runs; what they
/// do not say stays as it was.
pub fn configure(config: &api::Logger) -> Result<(), LogFileError> {
    let Some(logger) = LOGGER.get() else { return Ok(()) };
    let file = config.log_path.as_deref().map(open).transpose()?;
    if let Ok(mut settings) = logger.settings.write() {
        if let Some(file) = file {
            LAST_WORD_FD.store(file.as_raw_fd(), Ordering::SeqCst);
            settings.file = Some(file);
        }
        settings.show_level = config.show_level.unwrap_or(settings.show_level);
        settings.show_origin = config.show_log_origin.unwrap_or(settings.show_origin);
        if config.module.is_some() {
            settings.module.clone_from(&config.module);
        }
    }
    if let Some(level) = config.level {
        log::set_max_level(filter(level));
    }
    Ok(())
}

/// The log file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open log file {path}: {source}; name a writable file or an existing named pipe")]
pub struct LogFileError {
    path: String,
    source: std::io::Error,
}

fn open(path: &str) -> Result<File, LogFileError> {
    // Reading as well lets a named pipe be opened before its reader comes.
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).custom_flags(O_NONBLOCK);
    options.open(path).map_err(|source| LogFileError { path: path.to_owned(), source })
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Ok(settings) = self.settings.read() else { return };
        let module = record.module_path().unwrap_or("");
        let wanted = settings.module.as_ref().is_none_or(|wanted| module.starts_with(wanted));
        if !wanted || !self.enabled(record.metadata()) {
            return;
        }
        match self.verdict(record) {
            Verdict::Log { suppressed: 0 } => {}
            Verdict::Log { suppressed } => self.write(
                &settings,
                &Record::builder()
                    .level(Level::Warn)
                    .file(Some(file!()))
                    .line(Some(line!()))
                    .args(format_args!(
                        "{suppressed} messages were suppressed due to rate limiting"
                    ))
                    .build(),
            ),
            Verdict::Suppress => {
                metrics::registry().logger.rate_limited_log_count.inc();
                return;
            }
        }
        self.write(&settings, record);
    }

    fn flush(&self) {}
}

impl Logger {
    fn verdict(&self, record: &Record<'_>) -> Verdict {
        let limited = record.level() <= Level::Info && record.target() != UNRESTRICTED;
        match (record.file_static(), record.line()) {
            (Some(file), Some(line)) if limited => {
                self.limits.ask((file, line), system::monotonic())
            }
            _ => Verdict::Log { suppressed: 0 },
        }
    }

    fn write(&self, settings: &Settings, record: &Record<'_>) {
        let mut line = Line::<LINE_MAX>::new();
        self.start_line(&mut line, std::thread::current().name().unwrap_or("-"));
        if settings.show_level {
            let _ = write!(line, ":{}", record.level());
        }
        if settings.show_origin {
            let file = record.file().unwrap_or("?");
            let _ = write!(line, ":{file}:{}", record.line().unwrap_or(0));
        }
        let _ = write!(line, "] {}", record.args());
        let written = match &settings.file {
            Some(file) => { file }.write_all(line.finish()),
            None => write_stdout(line.finish()),
        };
        if written.is_err() {
            metrics::registry().logger.missed_log_count.inc();
        }
    }

    fn start_line<const MAX: usize>(&self, line: &mut Line<MAX>, thread: &str) {
        let stamp = Timestamp::new(system::unix_time(), self.utc_offset);
        let _ = write!(line, "{stamp} [{}:{thread}", self.id);
    }
}

/// Writes as far as that does not wait: standard output cannot be told not to, because it may be
/// shared with the shell that started the process.
fn write_stdout(line: &[u8]) -> std::io::Result<()> {
    for chunk in line.chunks(PIPE_CHUNK) {
        if !host::stdout_moves() {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(chunk)?;
        stdout.flush()?;
    }
    Ok(())
}

/// Signals that end the process as they always do, once the terminal is put back.
const ORDINARY_SIGNALS: [i32; 2] = [signals::SIGINT, signals::SIGTERM];

/// Whether a SIGPIPE was logged.
static SIGPIPE_LOGGED: AtomicBool = AtomicBool::new(false);

/// Makes the signals of [`FATAL_SIGNALS`] end the process with a log line, a line of metrics and
/// their exit code, SIGINT and SIGTERM leave the terminal as it was found, and SIGPIPE be counted.
pub fn heed_signals() -> std::io::Result<()> {
    signals::on_fatal(&FATAL_SIGNALS.map(|(signal, _)| signal), last_word)?;
    signals::on_fatal(&ORDINARY_SIGNALS, last_word)?;
    signals::on_harmless(signals::SIGPIPE, notice)
}

/// Runs in a signal handler, for SIGPIPE. Only the first is logged: a log that goes into the broken
/// pipe itself would bring the next one. It does not wait for whoever reads standard output.
fn notice(signal: i32) {
    metrics::count_sigpipe();
    let Some(logger) = LOGGER.get() else { return };
    let fd = LAST_WORD_FD.load(Ordering::SeqCst);
    let waits = fd == STDOUT_FD && !host::stdout_moves();
    if waits || SIGPIPE_LOGGED.swap(true, Ordering::SeqCst) {
        return;
    }
    let mut line = Line::<LAST_WORD_MAX>::new();
    logger.start_line(&mut line, "main");
    let _ = write!(line, "] Received signal {signal}, code 0.");
    signals::write(fd, line.finish());
}

/// Runs in a signal handler.
fn last_word(signal: i32) {
    host::terminal::restore();
    let known = FATAL_SIGNALS.iter().find(|(number, _)| *number == signal);
    let Some(&(_, code)) = known else { signals::end_by(signal) };
    if let Some(logger) = LOGGER.get() {
        let mut line = Line::<LAST_WORD_MAX>::new();
        logger.start_line(&mut line, "main");
        let _ = write!(line, "] Shutting down VM after intercepting signal {signal}, code {code}.");
        signals::write(LAST_WORD_FD.load(Ordering::SeqCst), line.finish());
    }
    metrics::last_word(signal);
    signals::end(code);
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn logger(path: &Path, settings: Settings) -> Logger {
        let file = Some(open(path.to_str().unwrap()).unwrap());
        let settings = RwLock::new(Settings { file, ..settings });
        Logger { id: "vm".to_owned(), utc_offset: 0, settings, limits: Limits::default() }
    }

    fn log(logger: &Logger, target: &str, text: &str) {
        logger.log(
            &Record::builder()
                .level(Level::Info)
                .target(target)
                .module_path(Some("crate::module"))
                .file_static(Some("src/module.rs"))
                .line(Some(7))
                .args(format_args!("{text}"))
                .build(),
        );
    }

    /// Logs `texts`, and expects the lines without their time.
    fn check(settings: Settings, target: &str, texts: &[&str], expected: &[&str]) {
        log::set_max_level(LevelFilter::Info);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let logger = logger(&path, settings);
        texts.iter().for_each(|text| log(&logger, target, text));
        let text = std::fs::read_to_string(&path).unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let expected: Vec<String> = expected.iter().map(|e| e.replace("THREAD", &name)).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn lines_show_what_is_asked_for() {
        let all = Settings { show_level: true, show_origin: true, ..Settings::default() };
        check(Settings::default(), "", &["text"], &["[vm:THREAD] text"]);
        check(all, "", &["text"], &["[vm:THREAD:INFO:src/module.rs:7] text"]);
    }

    #[test]
    fn modules_are_chosen_by_the_start_of_their_path() {
        for (wanted, expected) in [
            ("crate::mod", &["[vm:THREAD] text"][..]),
            ("module", &[]),
            ("crate::module::sub", &[]),
        ] {
            let settings = Settings { module: Some(wanted.to_owned()), ..Settings::default() };
            check(settings, "", &["text"], expected);
        }
    }

    #[test]
    fn one_place_logs_ten_lines_at_once_unless_its_target_says_otherwise() {
        let before = metrics::registry().logger.rate_limited_log_count.count();
        check(Settings::default(), "", &["text"; 13], &["[vm:THREAD] text"; 10]);
        let limited = metrics::registry().logger.rate_limited_log_count.count() - before;
        assert!(limited >= 3, "{limited}");
        check(Settings::default(), UNRESTRICTED, &["text"; 13], &["[vm:THREAD] text"; 13]);
    }

    #[test]
    fn what_was_kept_back_is_told_before_the_next_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let logger = logger(&path, Settings { show_level: true, ..Settings::default() });
        log::set_max_level(LevelFilter::Info);
        (0..12).for_each(|_| log(&logger, "", "text"));
        std::thread::sleep(std::time::Duration::from_millis(600));
        log(&logger, "", "text");
        let text = std::fs::read_to_string(&path).unwrap();
        let last: Vec<&str> =
            text.lines().skip(10).map(|l| l.split_once("] ").unwrap().1).collect();
        assert_eq!(last, ["2 messages were suppressed due to rate limiting", "text"]);
        assert!(text.lines().nth(10).unwrap().contains(":WARN]"));
    }

    #[test]
    fn a_pipe_without_a_reader_never_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        log::set_max_level(LevelFilter::Info);
        let logger = logger(&path, Settings::default());
        let before = metrics::registry().logger.missed_log_count.count();
        (0..100).for_each(|_| log(&logger, UNRESTRICTED, &"x".repeat(1000)));
        let missed = metrics::registry().logger.missed_log_count.count() - before;
        assert!((1..100).contains(&missed), "{missed} lines of 100 did not fit into 64 KiB");
    }
}
