//! A command's three streams, framed over one serial line.
//!
//! One byte is special, [`DLE`]; every other byte is data, and `DLE DLE` is one data byte 0x10.
//!
//! | from the guest | meaning |
//! | --- | --- |
//! | `DLE B` | the frames begin; before them the kernel had the line |
//! | `DLE O`, `DLE E` | standard output follows, standard error follows |
//! | `DLE C` | [`CREDIT`] bytes of input were taken |
//! | `DLE Z s s s s` | the command ended with this status (little-endian) |
//!
//! | from the host | meaning |
//! | --- | --- |
//! | `DLE E` | end of input |
//! | `DLE K n` | send signal n to the command |
//!
//! The host sends only after `DLE B`, and has at most [`WINDOW`] data bytes under way.

use std::ops::Range;

/// The byte that begins a sequence.
const DLE: u8 = 0x10;
/// Most bytes of input under way.
const WINDOW: usize = 1024;
/// How many bytes of input one `DLE C` gives back.
const CREDIT: usize = 256;
/// Bytes of the kernel's console that are kept for a guest that dies before its frames begin.
const PRELUDE_MAX: usize = 16 << 10;

/// What the guest's side of the line said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The frames begin: input may be sent.
    Begin,
    /// Standard output: these bytes of what was fed.
    Output(Range<usize>),
    /// Standard error: these bytes of what was fed.
    Error(Range<usize>),
    /// Input was taken; there is room for more.
    Credit,
    /// The command ended.
    Ended(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The line is the kernel's console.
    Console { escaped: bool },
    /// The line carries frames.
    Data,
    /// A [`DLE`] was read.
    Escape,
    /// So many bytes of the status are still to come.
    Status { missing: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Output,
    Error,
}

/// Unframes what the guest sends; keeps its place between calls.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    stream: Stream,
    status: u32,
    prelude: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        let state = State::Console { escaped: false };
        Self { state, stream: Stream::Output, status: 0, prelude: Vec::new() }
    }
}

impl Decoder {
    /// Takes what the guest sent apart; the ranges in `said` are of `bytes`.
    pub fn feed(&mut self, bytes: &[u8], said: &mut Vec<Said>) {
        for (at, &byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::Console { escaped }, byte) => self.console_byte(escaped, byte, said),
                (State::Data, DLE) => State::Escape,
                (State::Data, _) | (State::Escape, DLE) => {
                    self.data(at, said);
                    State::Data
                }
                (State::Escape, byte) => self.sequence(byte, said),
                (State::Status { missing }, byte) => self.status_byte(missing, byte, said),
            };
        }
    }

    /// The last part of what the kernel wrote outside of the frames, for a guest that never came
    /// as far as them.
    pub fn prelude(&self) -> &[u8] {
        let start = self.prelude.len().saturating_sub(PRELUDE_MAX);
        &self.prelude[start..]
    }

    fn console_byte(&mut self, escaped: bool, byte: u8, said: &mut Vec<Said>) -> State {
        if escaped && byte == b'B' {
            self.prelude.pop();
            said.push(Said::Begin);
            return State::Data;
        }
        self.prelude.push(byte);
        if self.prelude.len() >= 2 * PRELUDE_MAX {
            self.prelude.drain(..PRELUDE_MAX);
        }
        State::Console { escaped: byte == DLE }
    }

    fn data(&mut self, at: usize, said: &mut Vec<Said>) {
        match (self.stream, said.last_mut()) {
            (Stream::Output, Some(Said::Output(range)))
            | (Stream::Error, Some(Said::Error(range)))
                if range.end == at =>
            {
                range.end = at + 1;
            }
            (Stream::Output, _) => said.push(Said::Output(at..at + 1)),
            (Stream::Error, _) => said.push(Said::Error(at..at + 1)),
        }
    }

    fn sequence(&mut self, byte: u8, said: &mut Vec<Said>) -> State {
        match byte {
            b'O' => self.stream = Stream::Output,
            b'E' => self.stream = Stream::Error,
            b'C' => said.push(Said::Credit),
            b'Z' => return State::Status { missing: 4 },
            _ => {}
        }
        State::Data
    }

    fn status_byte(&mut self, missing: u8, byte: u8, said: &mut Vec<Said>) -> State {
        self.status = self.status >> 8 | u32::from(byte) << 24;
        if missing > 1 {
            return State::Status { missing: missing - 1 };
        }
        said.push(Said::Ended(self.status));
        State::Console { escaped: false }
    }
}

/// Frames what the host sends, and counts how much it may.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Bytes that may be sent without waiting for a credit.
    room: usize,
    ended: bool,
}

impl Encoder {
    /// The frames began.
    pub fn begin(&mut self) {
        self.room = WINDOW;
    }

    /// The guest took [`CREDIT`] bytes.
    pub fn credit(&mut self) {
        self.room = WINDOW.min(self.room + CREDIT);
    }

    /// How many bytes of input may be sent now.
    pub fn room(&self) -> usize {
        if self.ended { 0 } else { self.room }
    }

    /// Frames input, at most [`Encoder::room`] bytes.
    pub fn data(&mut self, data: &[u8], to: &mut Vec<u8>) {
        self.room -= data.len().min(self.room);
        for &byte in data {
            if byte == DLE {
                to.push(DLE);
            }
            to.push(byte);
        }
    }

    /// The input ends; said once.
    pub fn end_of_input(&mut self, to: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.ended, true) {
            to.extend([DLE, b'E']);
        }
    }

    /// Signal `number` for the command.
    pub fn signal(&mut self, number: u8, to: &mut Vec<u8>) {
        to.extend([DLE, b'K', number]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `chunks` and joins what each stream said.
    fn check(chunks: &[&[u8]], output: &[u8], error: &[u8], ended: Option<u32>) -> Decoder {
        let mut decoder = Decoder::default();
        let (mut out, mut err, mut status) = (Vec::new(), Vec::new(), None);
        for chunk in chunks {
            let mut said = Vec::new();
            decoder.feed(chunk, &mut said);
            for piece in said {
                match piece {
                    Said::Output(range) => out.extend_from_slice(&chunk[range]),
                    Said::Error(range) => err.extend_from_slice(&chunk[range]),
                    Said::Ended(code) => status = Some(code),
                    Said::Begin | Said::Credit => {}
                }
            }
        }
        assert_eq!((&*out, &*err, status), (output, error, ended), "{chunks:?}");
        decoder
    }

    #[test]
    fn streams_are_told_apart() {
        check(&[b"boot\n\x10Bhello"], b"hello", b"", None);
        check(&[b"\x10Ba\x10Eb\x10Oc"], b"ac", b"b", None);
        check(&[b"\x10B1\x10\x102"], b"1\x102", b"", None);
        check(&[b"\x10Bx\x10Z\x2a\0\0\0console"], b"x", b"", Some(42));
        check(&[b"no frames \x10 at all"], b"", b"", None);
    }

    #[test]
    fn frames_may_be_cut_anywhere() {
        let all = b"k\x10Bone\x10\x10two\x10Ebad\x10Ofine\x10C\x10Z\x01\x02\0\0rest";
        for cut in 0..all.len() {
            check(&[&all[..cut], &all[cut..]], b"one\x10twofine", b"bad", Some(0x201));
        }
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        let decoder = check(&bytes, b"one\x10twofine", b"bad", Some(0x201));
        assert_eq!(decoder.prelude(), b"krest");
    }

    #[test]
    fn a_long_prelude_keeps_its_end() {
        let mut decoder = Decoder::default();
        let text: Vec<u8> = (0..3 * PRELUDE_MAX).map(|i| b'a' + (i % 26) as u8).collect();
        decoder.feed(&text, &mut Vec::new());
        assert_eq!(decoder.prelude(), &text[text.len() - PRELUDE_MAX..]);
    }

    #[test]
    fn input_stays_within_the_window() {
        let mut encoder = Encoder::default();
        assert_eq!(encoder.room(), 0);
        encoder.begin();
        let mut sent = Vec::new();
        encoder.data(&[b'x'; WINDOW - 1], &mut sent);
        assert_eq!(encoder.room(), 1);
        encoder.data(&[DLE], &mut sent);
        assert_eq!((encoder.room(), sent.len()), (0, WINDOW + 1));
        encoder.credit();
        assert_eq!(encoder.room(), CREDIT);
        encoder.end_of_input(&mut sent);
        encoder.end_of_input(&mut sent);
        assert_eq!(&sent[WINDOW + 1..], [DLE, b'E']);
        assert_eq!(encoder.room(), 0);
    }
}
