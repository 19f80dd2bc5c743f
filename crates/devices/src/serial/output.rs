//! The bytes on their way from the guest to the sink.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use metrics::UartMetrics;

use super::OUTPUT_BUFFER;
use crate::rate::TokenBucket;

/// A buffer before the sink.
pub(super) struct Output {
    sink: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    /// Bytes that the sink refused.
    pub dropped: u64,
    pub limit: Option<Limit>,
    pub metrics: Arc<UartMetrics>,
}

/// How many bytes may be sent.
pub(super) struct Limit {
    /// One token a byte.
    pub bucket: TokenBucket,
    /// The time.
    pub clock: Box<dyn Fn() -> Duration + Send>,
}

impl Output {
    pub fn new(sink: Box<dyn Write + Send>) -> Self {
        let buffer = Vec::with_capacity(OUTPUT_BUFFER);
        Self { sink, buffer, dropped: 0, limit: None, metrics: Arc::default() }
    }

    /// Takes a byte that the guest sends, unless it is one too many.
    pub fn push(&mut self, byte: u8) {
        self.metrics.write_count.inc();
        if let Some(Limit { bucket, clock }) = &mut self.limit
            && !bucket.take(1, clock())
        {
            self.metrics.rate_limiter_dropped_bytes.inc();
            return;
        }
        self.buffer.push(byte);
        if byte == b'\n' || self.buffer.len() >= OUTPUT_BUFFER {
            self.flush();
        }
    }

    /// Hands what is in the buffer to the sink; what that refuses is dropped.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => break,
                Ok(len) => rest = rest.get(len..).unwrap_or(&[]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if !rest.is_empty() {
            self.metrics.error_count.inc();
        }
        self.metrics.missed_write_count.add(rest.len() as u64);
        self.metrics.flush_count.inc();
        self.dropped += rest.len() as u64;
        // A sink that cannot flush has dropped nothing that could be counted.
        let _ = self.sink.flush();
        self.buffer.clear();
    }
}
