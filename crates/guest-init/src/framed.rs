//! Moves a framed command's bytes between its pipes and the serial line, in
//! the form that `stream` describes.
//!
//! All descriptors but the serial line's output are non-blocking. Writing to
//! the line blocks, which is right: a command that writes faster than the
//! line takes is to wait.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{OptionalActions, Termios, tcdrain, tcgetattr, tcsetattr};

use crate::stream::{Control, Credits, Decoder, Encoder, Source};

/// Most that is read at once.
const CHUNK: usize = 16 * 1024;
/// Kernel messages of this level and above are not shown: all but a panic's.
const SILENT: &str = "1";
const PRINTK: &str = "/proc/sys/kernel/printk";

/// The serial line and the command's ends of its pipes.
pub struct Framed {
    line: File,
    before: Option<Termios>,
    printk: Option<String>,
    encoder: Encoder,
    decoder: Decoder,
    credits: Credits,
    input: Option<OwnedFd>,
    pending: VecDeque<u8>,
    input_ends: bool,
    outputs: Vec<(Source, OwnedFd)>,
    group: Option<Pid>,
    ended: bool,
}

impl Framed {
    /// Makes the line raw, silences the kernel and begins the frames.
    pub fn new(line: File) -> io::Result<Self> {
        let before = tcgetattr(&line).ok();
        if let Some(mut raw) = before.clone() {
            raw.make_raw();
            tcsetattr(&line, OptionalActions::Now, &raw)?;
        }
        let printk = fs::read_to_string(PRINTK).ok();
        // Without this the kernel could talk into the frames; still usable.
        let _ = fs::write(PRINTK, SILENT);
        let mut framed = Framed {
            line,
            before,
            printk,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            credits: Credits::default(),
            input: None,
            pending: VecDeque::new(),
            input_ends: false,
            outputs: Vec::new(),
            group: None,
            ended: false,
        };
        let mut wire = Vec::new();
        framed.encoder.begin(&mut wire);
        framed.line.write_all(&wire)?;
        Ok(framed)
    }

    /// Takes over the pipes of the started command.
    pub fn attach(&mut self, child: &mut Child) -> io::Result<()> {
        self.group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        self.input = child.stdin.take().map(OwnedFd::from);
        self.outputs.extend(child.stdout.take().map(|fd| (Source::Output, fd.into())));
        self.outputs.extend(child.stderr.take().map(|fd| (Source::Error, fd.into())));
        let mut pipes = self.input.iter().chain(self.outputs.iter().map(|(_, fd)| fd));
        pipes.try_for_each(|fd| set_nonblocking(fd.as_fd()))
    }

    /// What to wait for.
    pub fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut list = vec![(self.line.as_fd(), PollFlags::IN)];
        if let Some(input) = self.input.as_ref().filter(|_| !self.pending.is_empty()) {
            list.push((input.as_fd(), PollFlags::OUT));
        }
        list.extend(self.outputs.iter().map(|(_, fd)| (fd.as_fd(), PollFlags::IN)));
        list
    }

    /// Moves what can be moved without waiting for the command.
    pub fn transfer(&mut self) {
        if is_readable(self.line.as_fd()) {
            self.receive();
        }
        self.feed_input();
        self.send_outputs();
    }

    /// After the command's end: whether all that it wrote has been sent. What
    /// processes that it left behind write later is not waited for.
    pub fn drained(&mut self) -> bool {
        self.ended = true;
        while self.send_outputs() {}
        true
    }

    /// A message of init's own, on standard error.
    pub fn error_text(&mut self, text: &str) {
        let mut wire = Vec::new();
        self.encoder.data(Source::Error, text.as_bytes(), &mut wire);
        self.send(&wire);
    }

    /// Reports the status and gives the line back to the kernel.
    pub fn finish(mut self, status: u32) {
        let mut wire = Vec::new();
        self.encoder.ended(status, &mut wire);
        self.send(&wire);
        // Past this point only the console's looks are at stake.
        let _ = tcdrain(&self.line);
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.line, OptionalActions::Drain, before);
        }
        if let Some(printk) = &self.printk {
            let _ = fs::write(PRINTK, printk);
        }
    }

    fn receive(&mut self) {
        let mut bytes = [0; 4096];
        let Ok(count) = rustix::io::read(&self.line, &mut bytes) else { return };
        let (mut data, mut controls) = (Vec::new(), Vec::new());
        self.decoder.feed(&bytes[..count], &mut data, &mut controls);
        self.pending.extend(data);
        for control in controls {
            match control {
                Control::EndOfInput => self.input_ends = true,
                Control::Signal(number) => self.signal(number),
            }
        }
    }

    fn signal(&self, number: i32) {
        if let (Some(group), Some(signal)) = (self.group, Signal::from_named_raw(number)) {
            // The group may have ended in this moment.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Gives pending input to the command; credits count as the pipe takes it.
    fn feed_input(&mut self) {
        let mut wire = Vec::new();
        while let Some(input) = &self.input {
            if self.pending.is_empty() {
                break;
            }
            match rustix::io::write(input, self.pending.as_slices().0) {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.credits.take(count, &mut wire);
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                Err(_) => self.input = None,
            }
        }
        if self.input.is_none() {
            // Nobody reads any more: take the rest, so that the host can end.
            self.credits.take(self.pending.len(), &mut wire);
            self.pending.clear();
        }
        if self.input_ends && self.pending.is_empty() {
            self.input = None;
        }
        self.send(&wire);
    }

    /// Sends one chunk of each output; whether there was any.
    fn send_outputs(&mut self) -> bool {
        let mut bytes = vec![0; CHUNK];
        let mut wire = Vec::new();
        let encoder = &mut self.encoder;
        self.outputs.retain(|(source, fd)| match rustix::io::read(fd, bytes.as_mut_slice()) {
            Ok(0) => false,
            Ok(count) => {
                encoder.data(*source, &bytes[..count], &mut wire);
                true
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => true,
            Err(_) => false,
        });
        self.send(&wire);
        !wire.is_empty()
    }

    fn send(&mut self, wire: &[u8]) {
        if let Err(error) = self.line.write_all(wire) {
            // There is no other way to the host; the panic log may show it.
            let _ = fs::write("/dev/kmsg", format!("init: cannot write to the console: {error}"));
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut one = [rustix::event::PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut one, Some(&now)), Ok(n) if n > 0)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}
