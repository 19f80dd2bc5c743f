//! What stands between the guest's serial line and this process's own streams.
//!
//! Output is written on the vCPU's thread, so a reader that is slow slows the guest down and loses
//! nothing. Input comes through the event loop, which reads standard input only while the guest
//! takes what it was given.

use std::io::Write;

/// The two ends of a console.
pub struct Console {
    /// Takes what the guest writes.
    pub output: Box<dyn Write + Send>,
    /// Makes of standard input what the guest reads. Nothing is read without it.
    pub input: Option<Box<dyn Input>>,
}

impl Console {
    /// Standard input and output, as they are: Firecracker's console.
    pub fn plain() -> Self {
        Self { output: Box::new(std::io::stdout()), input: Some(Box::new(Plain)) }
    }
}

/// What an [`Input`] wants after what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The machine goes on.
    GoOn,
    /// The user wants the machine to stop.
    Leave,
}

/// Makes of standard input, and of signals, what the guest reads. Called by the event loop.
pub trait Input: Send {
    /// At most so many bytes of standard input can be taken now.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Standard input brought `bytes`; appends what the guest is to read.
    fn bytes(&mut self, bytes: &[u8], to_guest: &mut Vec<u8>) -> Wish;

    /// Standard input ended.
    fn end(&mut self, _to_guest: &mut Vec<u8>) {}

    /// A signal came. [`Wish::Leave`], the default, ends the machine.
    fn signal(&mut self, _signal: i32, _to_guest: &mut Vec<u8>) -> Wish {
        Wish::Leave
    }
}

/// Bytes as they are.
struct Plain;

impl Input for Plain {
    fn bytes(&mut self, bytes: &[u8], to_guest: &mut Vec<u8>) -> Wish {
        to_guest.extend_from_slice(bytes);
        Wish::GoOn
    }
}
