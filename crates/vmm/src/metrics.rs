//! Writes the metrics: one JSON object a line, into a file or a named pipe.
//!
//! ```text
//!   nowhere ──configure──▶ a file ──flush──▶ a line ──written, or missed──▶ a file
//! ```
//!
//! A process has one [`registry`], because its log, its signal handlers and its panics count as
//! well. Lines are written at the start of the machine, at intervals, on request, and as the last
//! thing before the process ends, in whatever way. Writing never waits: a line for which the pipe
//! has no room, or the disk no space, has missed its time, and that is counted. It goes first the
//! next time; until it does no other is made, and what happens meanwhile is told later.
//!
//! It refuses a second configuration, as Firecracker does.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, OnceLock, TryLockError};

use host::{signals, system};
use log::error;
use metrics::{Line, Metrics};
use thiserror::Error;

/// Longest line in bytes: 80 devices of the kind that counts most, and as much as one request can
/// bring along as properties.
const LINE_MAX: usize = 160 << 10;
/// `O_NONBLOCK`.
const O_NONBLOCK: i32 = 0o4000;

static PROCESS: OnceLock<Writer> = OnceLock::new();

/// The metrics of this process, for its devices, its vCPUs and its API to count in.
pub fn registry() -> &'static Arc<Metrics> {
    &process().metrics
}

/// Says where the metrics of machine `id` go, once in a process.
pub fn configure(id: &str, config: &api::Metrics) -> Result<(), MetricsError> {
    process().configure(id, config)
}

/// Writes a line now: for requests. False if metrics go nowhere.
pub fn flush() -> Result<bool, MetricsError> {
    process().flush()
}

/// Writes a line now, and a failure into the log: for all other occasions.
pub fn flush_or_log() {
    if let Err(error) = flush() {
        error!("{error}");
    }
}

/// Makes a panic the last thing that the metrics tell. Call it once, at the start.
pub fn flush_on_panic() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        previous(info);
        process().metrics.vmm.panic_count.set(1);
        let _ = process().try_flush();
    }));
}

/// Writes a line from within the handler of a fatal `signal`, if the signal did not interrupt the
/// writing of one.
pub(crate) fn last_word(signal: i32) {
    let Some(process) = PROCESS.get() else { return };
    let counts = &process.metrics.signals;
    match signal {
        signals::SIGSYS => process.metrics.seccomp.num_faults.set(1),
        signals::SIGBUS => counts.sigbus.set(1),
        signals::SIGSEGV => counts.sigsegv.set(1),
        signals::SIGXFSZ => counts.sigxfsz.set(1),
        signals::SIGXCPU => counts.sigxcpu.set(1),
        signals::SIGHUP => counts.sighup.set(1),
        signals::SIGILL => counts.sigill.set(1),
        _ => {}
    }
    let _ = process.try_flush();
}

/// Counts SIGPIPE from within its handler.
pub(crate) fn count_sigpipe() {
    if let Some(process) = PROCESS.get() {
        process.metrics.signals.sigpipe.inc();
    }
}

fn process() -> &'static Writer {
    PROCESS.get_or_init(Writer::default)
}

/// Metrics that do not go where they should. The texts are Firecracker's as far as it has them.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// They go somewhere already.
    #[error(
        "Cannot initialize the metrics system due to bad user input: Reinitialization of metrics \
         not allowed."
    )]
    AlreadyConfigured,
    /// The file cannot be opened.
    #[error(
        "Cannot initialize the metrics system due to bad user input: {source} ({path}: name a \
         writable file or an existing named pipe)"
    )]
    Open {
        /// Its name.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A line was missed.
    #[error("Failed to write metrics: {0}")]
    Write(io::Error),
    /// A line is longer than any sensible one.
    #[error("Failed to write metrics: a line has more than {LINE_MAX} bytes; set fewer properties")]
    TooLong,
}

/// Metrics, and where they go.
#[derive(Default)]
struct Writer {
    metrics: Arc<Metrics>,
    sink: Mutex<Option<Sink>>,
}

impl Writer {
    fn configure(&self, id: &str, config: &api::Metrics) -> Result<(), MetricsError> {
        let mut sink = self.sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if sink.is_some() {
            return Err(MetricsError::AlreadyConfigured);
        }
        *sink = Some(Sink::open(id, config)?);
        Ok(())
    }

    fn flush(&self) -> Result<bool, MetricsError> {
        let mut sink = self.sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.flush_into(&mut sink)
    }

    /// Like [`Writer::flush`], but gives up if somebody else is at it: that may be who calls.
    fn try_flush(&self) -> Result<bool, MetricsError> {
        match self.sink.try_lock() {
            Ok(mut sink) => self.flush_into(&mut sink),
            Err(TryLockError::Poisoned(poisoned)) => self.flush_into(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Ok(false),
        }
    }

    fn flush_into(&self, sink: &mut Option<Sink>) -> Result<bool, MetricsError> {
        let Some(sink) = sink else { return Ok(false) };
        let told = sink.flush(&self.metrics);
        match &told {
            Ok(()) => {}
            Err(MetricsError::TooLong) => self.metrics.logger.metrics_fails.inc(),
            Err(_) => self.metrics.logger.missed_metrics_count.inc(),
        }
        told.map(|()| true)
    }
}

/// The file, and the line that is on its way there. Nothing is allocated once it is open: a signal
/// handler writes as well.
struct Sink {
    file: File,
    id: Option<String>,
    properties: Option<BTreeMap<String, String>>,
    line: Box<[u8]>,
    /// The part of `line` that is not written yet.
    rest: std::ops::Range<usize>,
}

impl Sink {
    fn open(id: &str, config: &api::Metrics) -> Result<Self, MetricsError> {
        let mut options = OpenOptions::new();
        // Reading as well lets a named pipe be opened before its reader comes.
        options.read(true).append(true).create(true).custom_flags(O_NONBLOCK);
        let path = &config.metrics_path;
        let file = options
            .open(path)
            .map_err(|source| MetricsError::Open { path: path.clone(), source })?;
        Ok(Self {
            file,
            id: config.emit_id.then(|| id.to_owned()),
            properties: config.properties.clone(),
            line: vec![0; LINE_MAX].into_boxed_slice(),
            rest: 0..0,
        })
    }

    fn flush(&mut self, metrics: &Metrics) -> Result<(), MetricsError> {
        self.write_rest()?;
        let length = self.format(metrics)?;
        self.rest = 0..length;
        match self.write_rest() {
            // The reader has its start, and will get the rest.
            Err(_) if self.rest.start > 0 => Ok(()),
            other => other,
        }
    }

    fn format(&mut self, metrics: &Metrics) -> Result<usize, MetricsError> {
        let now = system::unix_time().as_millis();
        let line = Line {
            metrics,
            utc_timestamp_ms: u64::try_from(now).unwrap_or(u64::MAX),
            id: self.id.as_deref(),
            properties: self.properties.as_ref(),
        };
        let mut text = Text { bytes: &mut self.line, length: 0 };
        // What is written cannot fail, so only the length says whether there was room.
        let _ = serde_json::to_writer(&mut text, &line);
        let _ = text.write(b"\n");
        let length = text.length;
        if length > LINE_MAX { Err(MetricsError::TooLong) } else { Ok(length) }
    }

    fn write_rest(&mut self) -> Result<(), MetricsError> {
        while !self.rest.is_empty() {
            match (&self.file).write(&self.line[self.rest.clone()]) {
                Ok(0) => return Err(MetricsError::Write(ErrorKind::WriteZero.into())),
                Ok(written) => self.rest.start += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(MetricsError::Write(error)),
            }
        }
        Ok(())
    }
}

/// Takes any number of bytes, keeps those that fit, and knows how many there were.
struct Text<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl Write for Text<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let start = self.length.min(self.bytes.len());
        let room = &mut self.bytes[start..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text[..fits]);
        self.length = self.length.saturating_add(text.len());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;
    use std::process::Command;

    use serde_json::Value;

    use super::*;

    fn config(path: &Path) -> api::Metrics {
        let metrics_path = path.to_str().unwrap().to_owned();
        api::Metrics { metrics_path, emit_id: false, properties: None }
    }

    fn lines(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    #[test]
    fn a_file_gets_a_line_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let writer = Writer::default();
        assert!(!writer.flush().unwrap(), "they go nowhere yet");
        let properties = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let config = api::Metrics { emit_id: true, properties: Some(properties), ..config(&path) };
        writer.configure("vm", &config).unwrap();
        writer.metrics.vcpu.exit_io_in.add(5);
        for _ in 0..2 {
            assert!(writer.flush().unwrap());
        }
        let told = lines(&std::fs::read_to_string(&path).unwrap());
        let counts: Vec<_> = told.iter().map(|line| line["vcpu"]["exit_io_in"].as_u64()).collect();
        assert_eq!(counts, [Some(5), Some(0)]);
        assert_eq!((&told[0]["id"], &told[0]["properties"]["zone"]), (&"vm".into(), &"a".into()));
        let now = u64::try_from(system::unix_time().as_millis()).unwrap();
        assert!(now - told[0]["utc_timestamp_ms"].as_u64().unwrap() < 10_000);
    }

    #[test]
    fn a_second_place_is_refused_and_a_bad_one_named() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::default();
        let bad = folder.path().join("no/such/folder");
        let error = writer.configure("vm", &config(&bad)).unwrap_err().to_string();
        assert!(error.contains("bad user input") && error.contains("no/such/folder"), "{error}");
        writer.configure("vm", &config(&folder.path().join("metrics"))).unwrap();
        let again = writer.configure("vm", &config(&folder.path().join("other"))).unwrap_err();
        assert!(again.to_string().ends_with("Reinitialization of metrics not allowed."));
    }

    /// Nobody reads the pipe until it is full: what missed its time is counted, lines stay whole,
    /// and no count is lost.
    #[test]
    fn a_pipe_without_a_reader_never_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let writer = Writer::default();
        writer.configure("vm", &config(&path)).unwrap();
        let mut events = 0;
        let missed = &writer.metrics.logger.missed_metrics_count;
        while missed.count() < 3 {
            writer.metrics.vcpu.failures.inc();
            events += 1;
            let _ = writer.flush();
            assert!(events < 1000, "a pipe has an end");
        }
        let mut reader = OpenOptions::new();
        let mut reader = reader.read(true).custom_flags(O_NONBLOCK).open(&path).unwrap();
        let mut text = Vec::new();
        let _ = reader.read_to_end(&mut text);
        assert!(writer.flush().unwrap());
        let _ = reader.read_to_end(&mut text);
        let told = lines(&String::from_utf8(text).unwrap());
        let sum = |group: &str, field: &str| -> u64 {
            told.iter().map(|line| line[group][field].as_u64().unwrap()).sum()
        };
        assert_eq!(sum("logger", "missed_metrics_count"), missed.count());
        assert_eq!(sum("vcpu", "failures"), events);
    }

    #[test]
    fn a_full_disk_is_counted() {
        let writer = Writer::default();
        writer.configure("vm", &config(Path::new("/dev/full"))).unwrap();
        let error = writer.flush().unwrap_err().to_string();
        assert!(error.starts_with("Failed to write metrics: "), "{error}");
        assert_eq!(writer.metrics.logger.missed_metrics_count.count(), 1);
    }

    #[test]
    fn properties_without_end_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let properties = Some(BTreeMap::from([("much".to_owned(), "x".repeat(LINE_MAX))]));
        let writer = Writer::default();
        writer.configure("vm", &api::Metrics { properties, ..config(&path) }).unwrap();
        assert!(matches!(writer.flush(), Err(MetricsError::TooLong)));
        assert_eq!(writer.metrics.logger.metrics_fails.count(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
}
