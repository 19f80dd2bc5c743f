//! A session with a guest over its serial console.
//!
//! | kind | used | output | input |
//! | --- | --- | --- | --- |
//! | terminal | both ends are terminals | as it is | keys, but for the way out |
//! | framed | a command, or a shell, with an end that is no terminal | told apart, byte for byte | byte for byte, with its end |
//! | plain | an image's own init, with an end that is no terminal | as it is | as it is |
//!
//! Output is written on the vCPU's thread, input comes through the event loop; what the two share
//! is behind a lock that is never held while writing.

use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm::{Console, Control, End, Input, Stop, Wish};

use super::frames::{Decoder, Encoder, Said};
use super::keys::Keys;

/// This many signals end a machine whose command does not end by them.
const SIGNALS_MAX: u32 = 3;

/// Which kind of session it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keys and screen.
    Terminal,
    /// Frames.
    Framed,
    /// Bytes as they are.
    Plain,
}

/// What is known of a session from outside.
#[derive(Clone)]
pub struct Session(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    encoder: Encoder,
    began: bool,
    status: Option<u32>,
    /// The kernel's last words, of a framed session.
    prelude: Vec<u8>,
    /// Nobody reads our output any more.
    broken_pipe: bool,
}

impl Session {
    /// A session that has not begun.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// The console for the machine.
    pub fn console(&self, kind: Kind, control: &Control) -> Console {
        let pipe = Pipe { session: self.clone(), control: control.clone() };
        match kind {
            Kind::Terminal => {
                Console { output: Box::new(Direct(pipe)), input: Some(Box::<Typed>::default()) }
            }
            Kind::Plain => Console { output: Box::new(Direct(pipe)), ..Console::plain() },
            Kind::Framed => Console {
                output: Box::new(FramedOutput { decoder: Decoder::default(), pipe }),
                input: Some(Box::new(FramedInput { session: self.clone(), signals: 0 })),
            },
        }
    }

    /// The command's status, once it has ended.
    pub fn status(&self) -> Option<u32> {
        self.shared().status
    }

    /// Notes the command's status, if it is not known yet.
    pub fn set_status(&self, status: u32) {
        self.shared().status.get_or_insert(status);
    }

    /// Whether the reader of our output went away.
    pub fn broken_pipe(&self) -> bool {
        self.shared().broken_pipe
    }

    /// What the kernel wrote, if the frames never began.
    pub fn last_words(&self) -> Option<Vec<u8>> {
        let mut shared = self.shared();
        (!shared.began && !shared.prelude.is_empty()).then(|| std::mem::take(&mut shared.prelude))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our own output streams, and what happens when nobody reads them.
struct Pipe {
    session: Session,
    control: Control,
}

impl Pipe {
    fn write(&self, to: &mut dyn Write, bytes: &[u8]) {
        let written = to.write_all(bytes).and_then(|()| to.flush());
        if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            self.session.shared().broken_pipe = true;
            self.control.end(End::Stopped(Stop::Program));
        }
    }
}

struct Direct(Pipe);

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&mut io::stdout(), bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is typed on a terminal.
#[derive(Default)]
struct Typed {
    keys: Keys,
}

impl Input for Typed {
    fn bytes(&mut self, bytes: &[u8], to_guest: &mut Vec<u8>) -> Wish {
        self.keys.feed(bytes, to_guest)
    }
}

struct FramedOutput {
    decoder: Decoder,
    pipe: Pipe,
}

impl FramedOutput {
    /// Acts on what the guest said. The streams were written before.
    fn note(&self, said: &[Said]) {
        let mut shared = self.pipe.session.shared();
        for piece in said {
            match piece {
                Said::Begin => {
                    shared.began = true;
                    shared.encoder.begin();
                }
                Said::Credit => shared.encoder.credit(),
                Said::Ended(status) => shared.status = Some(*status),
                Said::Output(_) | Said::Error(_) => continue,
            }
            self.pipe.control.wake();
        }
        if !shared.began {
            shared.prelude = self.decoder.prelude().to_vec();
        }
    }
}

impl Write for FramedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = Vec::new();
        self.decoder.feed(bytes, &mut said);
        for piece in &said {
            match piece {
                Said::Output(range) => self.pipe.write(&mut io::stdout(), &bytes[range.clone()]),
                Said::Error(range) => self.pipe.write(&mut io::stderr(), &bytes[range.clone()]),
                Said::Begin | Said::Credit | Said::Ended(_) => {}
            }
        }
        self.note(&said);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FramedInput {
    session: Session,
    signals: u32,
}

impl Input for FramedInput {
    fn room(&self) -> usize {
        self.session.shared().encoder.room()
    }

    fn bytes(&mut self, bytes: &[u8], to_guest: &mut Vec<u8>) -> Wish {
        self.session.shared().encoder.data(bytes, to_guest);
        Wish::GoOn
    }

    fn end(&mut self, to_guest: &mut Vec<u8>) {
        self.session.shared().encoder.end_of_input(to_guest);
    }

    fn signal(&mut self, signal: i32, to_guest: &mut Vec<u8>) -> Wish {
        self.signals += 1;
        let mut shared = self.session.shared();
        match u8::try_from(signal) {
            Ok(number) if shared.began && self.signals < SIGNALS_MAX => {
                shared.encoder.signal(number, to_guest);
                Wish::GoOn
            }
            Ok(_) | Err(_) => Wish::Leave,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_session_waits_for_the_guest() {
        let (session, control) = (Session::new(), Control::new().unwrap());
        let mut console = session.console(Kind::Framed, &control);
        let mut input = console.input.take().unwrap();
        assert_eq!(input.room(), 0);
        assert_eq!(input.signal(2, &mut Vec::new()), Wish::Leave);
        console.output.write_all(b"panic!").unwrap();
        console.output.write_all(b"\x10B").unwrap();
        assert_eq!((input.room(), session.last_words()), (1024, None));
        let mut to_guest = Vec::new();
        assert_eq!(input.signal(15, &mut to_guest), Wish::GoOn);
        input.bytes(b"a\x10", &mut to_guest);
        input.end(&mut to_guest);
        assert_eq!(to_guest, b"\x10K\x0fa\x10\x10\x10E");
        assert_eq!(input.signal(15, &mut to_guest), Wish::Leave);
        console.output.write_all(b"\x10Z\x07\0\0\0").unwrap();
        assert_eq!(session.status(), Some(7));
    }

    #[test]
    fn a_guest_that_dies_early_leaves_its_last_words() {
        let (session, control) = (Session::new(), Control::new().unwrap());
        let mut console = session.console(Kind::Framed, &control);
        console.output.write_all(b"Kernel panic").unwrap();
        assert_eq!(session.last_words().as_deref(), Some(&b"Kernel panic"[..]));
    }
}
