//! Signals: taken from a descriptor by an event loop, noticed in passing, or the last thing a process
//! sees.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

pub use libc::{
    SIGBUS, SIGHUP, SIGILL, SIGINT, SIGPIPE, SIGSEGV, SIGSYS, SIGTERM, SIGWINCH, SIGXCPU, SIGXFSZ,
};

/// Signals that wait in a descriptor instead of interrupting the process.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks `signals` in this thread and the threads it starts from now on, and collects them.
    /// Call it before any other thread runs, or that thread will receive them the old way.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let set = signal_set(signals);
        // SAFETY: `set` is an initialised set; the old mask is not asked for.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: `set` is an initialised set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next waiting signal's number, if there is one.
    pub fn next(&self) -> Option<i32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut info) {
            // `ssi_signo` is the structure's first field, a u32 (signalfd(2)).
            Ok(n) if n == info.len() => {
                i32::try_from(u32::from_ne_bytes([info[0], info[1], info[2], info[3]])).ok()
            }
            _ => None,
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a process does when a fatal signal strikes: says its last word, and ends.
///
/// It runs inside a signal handler: no allocation, no locks, no `println!`; `write` to a
/// descriptor and [`end`] are fine.
pub type LastWord = fn(signal: i32);

static LAST_WORD: OnceLock<LastWord> = OnceLock::new();

/// Calls `last_word` when one of `signals` arrives. The first call in a process decides.
pub fn on_fatal(signals: &[i32], last_word: LastWord) -> io::Result<()> {
    LAST_WORD.get_or_init(|| last_word);
    for &signal in signals {
        // The alternate stack that Rust's runtime gives each thread serves after an overflow. It is
        // small, so that all other signals have the thread's own.
        let flags = if signal == libc::SIGSEGV { libc::SA_ONSTACK } else { 0 };
        set_handler(signal, fatal, flags)?;
    }
    Ok(())
}

/// What a process does when a signal passes that does it no harm. It runs inside a signal handler,
/// as [`LastWord`] does, and what was interrupted goes on.
pub type Notice = fn(signal: i32);

static NOTICE: OnceLock<Notice> = OnceLock::new();

/// Calls `notice` when `signal` arrives. The first call in a process decides.
pub fn on_harmless(signal: i32, notice: Notice) -> io::Result<()> {
    NOTICE.get_or_init(|| notice);
    set_handler(signal, harmless, libc::SA_RESTART)
}

/// `handler` is async-signal-safe.
fn set_handler(signal: i32, handler: extern "C" fn(i32), flags: i32) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value, and each field that counts is set below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    // SAFETY: `action` is valid, and the callers pass the two handlers below, which are
    // async-signal-safe as `LastWord` and `Notice` demand.
    if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn harmless(signal: i32) {
    // SAFETY: the location is this thread's own, and valid as long as the thread is.
    let errno = unsafe { *libc::__errno_location() };
    if let Some(notice) = NOTICE.get() {
        notice(signal);
    }
    // What was interrupted may be about to read it.
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

extern "C" fn fatal(signal: i32) {
    if let Some(last_word) = LAST_WORD.get() {
        last_word(signal);
    }
    end(128 + signal);
}

/// Ends the process at once: no destructors, no exit handlers. Safe in a signal handler.
pub fn end(code: i32) -> ! {
    // SAFETY: _exit takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// Writes a handler's last line to the descriptor numbered `fd`, as far as it takes it. Safe in a
/// signal handler; a number that is no open descriptor is harmless.
pub fn write(fd: i32, line: &[u8]) {
    // SAFETY: the pointer and length are a live slice's; write checks the descriptor itself.
    unsafe { libc::write(fd, line.as_ptr().cast(), line.len()) };
}

/// Ends the process by `signal`'s own default action, so that the parent sees it in the status.
pub fn end_by(signal: i32) -> ! {
    let set = signal_set(&[signal]);
    // SAFETY: restores the default action and lets the pending signal through; all arguments are
    // valid, and whatever happens the process ends below.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::raise(signal);
    }
    end(128 + signal)
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is read; an invalid signal number makes
    // sigaddset fail, and changes nothing.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for &signal in signals {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::*;

    #[test]
    fn a_harmless_signal_is_noticed_and_passes() {
        static SEEN: AtomicI32 = AtomicI32::new(0);
        on_harmless(libc::SIGWINCH, |signal| SEEN.store(signal, Ordering::SeqCst)).unwrap();
        // SAFETY: the handler is set, and the signal comes to this thread before raise returns.
        assert_eq!(unsafe { libc::raise(libc::SIGWINCH) }, 0);
        assert_eq!(SEEN.load(Ordering::SeqCst), libc::SIGWINCH);
    }

    #[test]
    fn a_blocked_signal_is_read_from_the_descriptor() {
        let signals = SignalFd::new(&[libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next(), None);
        // SAFETY: the signal is blocked in this thread, and sent to this thread only.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        assert_eq!(signals.next(), Some(libc::SIGUSR2));
    }
}
