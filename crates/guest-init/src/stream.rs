//! A command's three streams, framed over one serial line.
//!
//! With `sparkler.tty=raw` the console is no terminal but a wire, eight bits
//! clean in both directions. One byte is special, [`DLE`]; every other byte is
//! data. In both directions `DLE DLE` is one data byte 0x10.
//!
//! From the guest:
//!
//! | sequence | meaning |
//! | --- | --- |
//! | `DLE 'B'` | the frames begin: what came before was the kernel's console |
//! | `DLE 'O'` | the data that follows is standard output (so it is after `B`) |
//! | `DLE 'E'` | the data that follows is standard error |
//! | `DLE 'C'` | [`CREDIT`] bytes of input were taken: that many more may be sent |
//! | `DLE 'Z' s s s s` | the command ended with this status (little-endian, bytes as they are); the console follows |
//!
//! From the host, which starts only after `B` and never has more than
//! [`WINDOW`] data bytes under way that no `C` has answered:
//!
//! | sequence | meaning |
//! | --- | --- |
//! | `DLE 'E'` | end of input |
//! | `DLE 'K' n` | send signal number n to the command's process group |
//!
//! Any other sequence is ignored. The window keeps even a fully stuffed input
//! within the terminal's buffer of 4095 bytes, so the line needs no hardware
//! flow control. The kernel's messages are turned off in between, except those
//! of a panic, after which nothing matters.

/// The byte that begins a sequence.
pub const DLE: u8 = 0x10;
/// Most bytes of input that the host may have under way.
pub const WINDOW: usize = 1024;
/// How many bytes of input one `DLE 'C'` gives back.
pub const CREDIT: usize = 256;

const _: () = assert!(2 * WINDOW < 4095 && WINDOW.is_multiple_of(CREDIT));

/// The frames begin.
pub const BEGIN: u8 = b'B';
/// Standard output follows.
pub const OUTPUT: u8 = b'O';
/// Standard error follows.
pub const ERROR: u8 = b'E';
/// Input was taken.
pub const CREDITED: u8 = b'C';
/// The command ended.
pub const ENDED: u8 = b'Z';
/// The input ends.
pub const END_OF_INPUT: u8 = b'E';
/// A signal's number follows.
pub const KILL: u8 = b'K';

/// Which of its two streams the command wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// Frames what the guest sends.
#[derive(Debug, Default)]
pub struct Encoder {
    last: Option<Source>,
}

impl Encoder {
    /// The sequence that begins the frames; output is selected.
    pub fn begin(&mut self, to: &mut Vec<u8>) {
        self.last = Some(Source::Output);
        to.extend([DLE, BEGIN]);
    }

    /// Data of one of the command's streams.
    pub fn data(&mut self, source: Source, data: &[u8], to: &mut Vec<u8>) {
        if self.last != Some(source) {
            self.last = Some(source);
            to.extend([DLE, if source == Source::Output { OUTPUT } else { ERROR }]);
        }
        for &byte in data {
            if byte == DLE {
                to.push(DLE);
            }
            to.push(byte);
        }
    }

    /// The command's end.
    pub fn ended(&mut self, status: u32, to: &mut Vec<u8>) {
        to.extend([DLE, ENDED]);
        to.extend(status.to_le_bytes());
    }
}

/// What the host sent besides data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The input ends here.
    EndOfInput,
    /// A signal for the command.
    Signal(i32),
}

/// Unframes what the host sends; keeps its place between calls.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    Escape,
    Signal,
}

impl Decoder {
    /// Takes received bytes apart into data and controls.
    pub fn feed(&mut self, bytes: &[u8], data: &mut Vec<u8>, controls: &mut Vec<Control>) {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (State::Data, DLE) => State::Escape,
                (State::Data, byte) | (State::Escape, byte @ DLE) => {
                    data.push(byte);
                    State::Data
                }
                (State::Escape, KILL) => State::Signal,
                (State::Escape, END_OF_INPUT) => {
                    controls.push(Control::EndOfInput);
                    State::Data
                }
                (State::Escape, _) => State::Data,
                (State::Signal, number) => {
                    controls.push(Control::Signal(number.into()));
                    State::Data
                }
            };
        }
    }
}

/// Counts input taken and says how many credits that is.
#[derive(Debug, Default)]
pub struct Credits {
    taken: usize,
}

impl Credits {
    /// `count` more bytes were taken; appends the credits that are now due.
    pub fn take(&mut self, count: usize, to: &mut Vec<u8>) {
        self.taken += count;
        while self.taken >= CREDIT {
            self.taken -= CREDIT;
            to.extend([DLE, CREDITED]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frames: &[u8], data: &[u8], controls: &[Control]) {
        for chunk in 1..=frames.len() {
            let mut decoder = Decoder::default();
            let (mut got, mut seen) = (vec![], vec![]);
            frames.chunks(chunk).for_each(|part| decoder.feed(part, &mut got, &mut seen));
            assert_eq!((got.as_slice(), seen.as_slice()), (data, controls), "chunks of {chunk}");
        }
    }

    #[test]
    fn decoding_does_not_depend_on_how_bytes_arrive() {
        check(b"abc", b"abc", &[]);
        check(b"a\x10\x10b", b"a\x10b", &[]);
        check(b"a\x10E", b"a", &[Control::EndOfInput]);
        check(b"\x10K\x10b", b"b", &[Control::Signal(16)]);
        check(b"a\x10?b", b"ab", &[]);
    }

    #[test]
    fn encoding_names_a_stream_once_and_stuffs_its_data() {
        let mut encoder = Encoder::default();
        let mut wire = vec![];
        encoder.begin(&mut wire);
        encoder.data(Source::Output, b"o", &mut wire);
        encoder.data(Source::Output, b"\x10", &mut wire);
        encoder.data(Source::Error, b"e", &mut wire);
        encoder.data(Source::Output, b"p", &mut wire);
        encoder.ended(0x102, &mut wire);
        assert_eq!(wire, b"\x10Bo\x10\x10\x10Ee\x10Op\x10Z\x02\x01\0\0");
    }

    #[test]
    fn credits_are_given_for_whole_units() {
        let mut credits = Credits::default();
        let mut wire = vec![];
        credits.take(CREDIT - 1, &mut wire);
        assert_eq!(wire, b"");
        credits.take(CREDIT + 1, &mut wire);
        assert_eq!(wire, b"\x10C\x10C");
    }
}
