//! The log, in Firecracker's format, on standard output, in a file, or in a named pipe:
//!
//! ```text
//! 2026-08-21T12:08:08.123456789 [my-vm:main:INFO:crates/vmm/src/run.rs:12] text
//!                                            └ --show-level └ --show-log-origin
//! ```
//!
//! Times are local; the distance from UTC is asked for once, at the start. The log never stops the
//! machine: a line that cannot be written is dropped.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{OnceLock, RwLock};
use std::time::Duration;

use api::LogLevel;
use host::{signals, system};
use log::{LevelFilter, Log, Metadata, Record};

use crate::exit::FATAL_SIGNALS;

/// Longest log line, in bytes; what is longer is cut.
const LINE_MAX: usize = 16 << 10;
/// `O_NONBLOCK`: a named pipe that nobody reads must not stop the machine.
const O_NONBLOCK: i32 = 0o4000;

static LOGGER: OnceLock<Logger> = OnceLock::new();
/// Where a signal handler writes its line.
static LAST_WORD_FD: AtomicI32 = AtomicI32::new(1);

struct Logger {
    id: String,
    utc_offset: i64,
    settings: RwLock<Settings>,
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
    });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Applies what flags or a configuration say; what they do not say stays as it was.
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
        let mut line = Line::new();
        line.start(self, std::thread::current().name().unwrap_or("-"));
        if settings.show_level {
            let _ = write!(line, ":{}", record.level());
        }
        if settings.show_origin {
            let file = record.file().unwrap_or("?");
            let _ = write!(line, ":{file}:{}", record.line().unwrap_or(0));
        }
        let _ = write!(line, "] {}", record.args());
        let _ = match &settings.file {
            Some(file) => { file }.write_all(line.finish()),
            None => write_stdout(line.finish()),
        };
    }

    fn flush(&self) {}
}

fn write_stdout(line: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line)?;
    stdout.flush()
}

/// A line of bounded length, written without allocation: a signal handler uses it too.
struct Line {
    bytes: [u8; LINE_MAX],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; LINE_MAX], len: 0 }
    }

    fn start(&mut self, logger: &Logger, thread: &str) {
        let stamp = Timestamp::new(system::unix_time(), logger.utc_offset);
        let _ = write!(self, "{stamp} [{}:{thread}", logger.id);
    }

    /// The line with its end.
    fn finish(&mut self) -> &[u8] {
        self.len = self.len.min(LINE_MAX - 1);
        self.bytes[self.len] = b'\n';
        &self.bytes[..=self.len]
    }
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let room = &mut self.bytes[self.len..];
        let n = text.len().min(room.len());
        room[..n].copy_from_slice(&text[..n]);
        self.len += n;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A point in local time, as `2026-08-21T12:08:08.123456789`.
struct Timestamp {
    days: i64,
    second_of_day: i64,
    nanos: u32,
}

impl Timestamp {
    fn new(unix_time: Duration, utc_offset: i64) -> Self {
        let seconds = i64::try_from(unix_time.as_secs()).unwrap_or(0).saturating_add(utc_offset);
        Self {
            days: seconds.div_euclid(86_400),
            second_of_day: seconds.rem_euclid(86_400),
            nanos: unix_time.subsec_nanos(),
        }
    }

    /// Year, month and day in the Gregorian calendar, counted in years that begin in March.
    fn date(&self) -> (i64, i64, i64) {
        let days = self.days + 719_468; // since 0000-03-01
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let year = era * 400 + year_of_era;
        if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month, day) = self.date();
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let second = self.second_of_day % 60;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}",
            self.nanos
        )
    }
}

/// Signals that end the process as they always do, once the terminal is put back.
const ORDINARY_SIGNALS: [i32; 2] = [signals::SIGINT, signals::SIGTERM];

/// Makes the signals of [`FATAL_SIGNALS`] end the process with a log line and their exit code, and
/// SIGINT and SIGTERM leave the terminal as it was found.
pub fn end_on_fatal_signals() -> std::io::Result<()> {
    signals::on_fatal(&FATAL_SIGNALS.map(|(signal, _)| signal), last_word)?;
    signals::on_fatal(&ORDINARY_SIGNALS, last_word)
}

/// Runs in a signal handler.
fn last_word(signal: i32) {
    host::terminal::restore();
    let known = FATAL_SIGNALS.iter().find(|(number, _)| *number == signal);
    let Some(&(_, code)) = known else { signals::end_by(signal) };
    if let Some(logger) = LOGGER.get() {
        let mut line = Line::new();
        line.start(logger, "main");
        let _ = write!(line, "] Shutting down VM after intercepting signal {signal}, code {code}.");
        signals::write(LAST_WORD_FD.load(Ordering::SeqCst), line.finish());
    }
    signals::end(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_civil_time() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000000"),
            (951_782_399, 0, "2000-02-28T23:59:59.000000000"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000"),
            (1_787_314_088, 0, "2026-08-21T12:08:08.000000000"),
            (1_787_314_088, -13 * 3600, "2026-08-20T23:08:08.000000000"),
            (1_767_225_599, 3600, "2026-01-01T00:59:59.000000000"),
        ];
        for (seconds, offset, expected) in cases {
            let stamp = Timestamp::new(Duration::from_secs(seconds), offset);
            assert_eq!(stamp.to_string(), expected);
        }
        let nanos = Timestamp::new(Duration::new(1, 123_456_789), 0).to_string();
        assert!(nanos.ends_with("01.123456789"));
    }

    #[test]
    fn long_lines_are_cut() {
        let mut line = Line::new();
        let _ = write!(line, "{}", "x".repeat(LINE_MAX * 2));
        assert_eq!(line.finish().len(), LINE_MAX);
        assert_eq!(line.finish().last(), Some(&b'\n'));
    }
}
