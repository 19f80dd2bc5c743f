//! How far downloads and builds are: bars on a terminal, nothing elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use image::progress::{Progress, Unit};
use indicatif::{ProgressBar, ProgressStyle};

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(100);

/// One line on standard error: a spinner, or a bar where the whole is known. It comes with the
/// first step: work that finds everything done shows nothing.
pub struct Bar {
    shown: bool,
    line: Mutex<Option<Line>>,
}

struct Line {
    bar: ProgressBar,
    /// What the style was made for: the unit, and whether the whole is known.
    style: Option<(Unit, bool)>,
}

impl Bar {
    /// A bar if standard error is a terminal, else silence.
    pub fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal(), line: Mutex::new(None) }
    }

    fn with_line(&self, act: impl FnOnce(&mut Line)) {
        if self.shown {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            act(line.get_or_insert_with(Line::new));
        }
    }
}

impl Line {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(TICK);
        Self { bar, style: None }
    }

    fn restyle(&mut self, unit: Unit, whole_known: bool) {
        if self.style.replace((unit, whole_known)) == Some((unit, whole_known)) {
            return;
        }
        let template = match (unit, whole_known) {
            (Unit::Bytes, true) => "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}",
            (Unit::Bytes, false) => "{spinner} {msg} {bytes}",
            (Unit::Files, true) => "{msg} [{bar:30}] {pos}/{len} files",
            (Unit::Files, false) => "{spinner} {msg} {pos} files",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
    }
}

impl Progress for Bar {
    fn step(&self, what: &str) {
        self.with_line(|line| {
            line.style = None;
            line.bar.set_style(ProgressStyle::default_spinner());
            line.bar.set_message(what.to_owned());
        });
    }

    fn amount(&self, done: u64, total: Option<u64>, unit: Unit) {
        self.with_line(|line| {
            line.restyle(unit, total.is_some());
            line.bar.set_length(total.unwrap_or(0));
            line.bar.set_position(done);
        });
    }

    fn done(&self) {
        if let Some(line) = self.line.lock().unwrap_or_else(PoisonError::into_inner).take() {
            line.bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.done();
    }
}
