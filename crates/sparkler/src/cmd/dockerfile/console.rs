//! The console of a machine that runs a step: what the command writes goes to standard error as it
//! comes, and its status is kept.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::guest::frames::{Decoder, Said};

/// What is known of a step from outside.
#[derive(Clone, Default)]
pub struct Report(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    began: bool,
    status: Option<u32>,
    unmounted: bool,
    timed_out: bool,
    /// What the kernel wrote last, of a machine whose command never began.
    last_words: Vec<u8>,
}

impl Report {
    /// The console's output.
    pub fn output(&self) -> impl Write + Send + 'static {
        Output { decoder: Decoder::default(), report: self.clone() }
    }

    /// Notes the command's status, if it is not known yet.
    pub fn set_status(&self, status: u32) {
        self.known().status.get_or_insert(status);
    }

    /// Notes that the disk is unmounted.
    pub fn set_unmounted(&self) {
        self.known().unmounted = true;
    }

    /// Notes that there was no more time.
    pub fn set_timed_out(&self) {
        self.known().timed_out = true;
    }

    /// Whether there was no more time.
    pub fn timed_out(&self) -> bool {
        self.known().timed_out
    }

    /// The command's status, if it ended and the disk is unmounted.
    pub fn status(&self) -> Option<u32> {
        let known = self.known();
        known.status.filter(|_| known.unmounted)
    }

    /// What the kernel wrote last, if the command never began.
    pub fn last_words(&self) -> Option<String> {
        let known = self.known();
        let said = String::from_utf8_lossy(&known.last_words).into_owned();
        (!known.began && !said.is_empty()).then_some(said)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Output {
    decoder: Decoder,
    report: Report,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = Vec::new();
        self.decoder.feed(bytes, &mut said);
        for piece in &said {
            if let Said::Output(range) | Said::Error(range) = piece {
                // A build goes on where nobody reads what it says.
                let _ = io::stderr().write_all(&bytes[range.clone()]);
            }
        }
        let mut known = self.report.known();
        for piece in &said {
            match piece {
                Said::Begin => known.began = true,
                Said::Ended(status) => known.status = Some(*status),
                Said::Output(_) | Said::Error(_) | Said::Credit => {}
            }
        }
        if !known.began {
            known.last_words = self.decoder.prelude().to_vec();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_counts_once_the_disk_is_unmounted() {
        let report = Report::default();
        let mut output = report.output();
        output.write_all(b"Kernel panic").unwrap();
        assert_eq!(report.last_words().as_deref(), Some("Kernel panic"));
        output.write_all(b"\x10B\x10Z\x03\0\0\0").unwrap();
        assert_eq!((report.last_words(), report.status()), (None, None));
        report.set_unmounted();
        assert_eq!(report.status(), Some(3));
    }
}
