//! Stopping a vCPU from another thread, so that no kick is ever lost.
//!
//! ```text
//!   kicker                                   vCPU thread
//!   pending = true                           run: registers its thread id, looks at `pending`
//!   if a thread is registered:                 KVM_RUN: looks at immediate_exit, then enters the
//!     immediate_exit = 1                                guest; a pending signal stops the entry
//!     signal the thread                        EINTR: unregisters, clears both, returns Kicked
//! ```
//!
//! The flag comes before the signal. A signal that lands before `KVM_RUN` finds the flag already
//! set, which makes `KVM_RUN` return at once; one that lands later interrupts it. Registration and
//! kick hold the same lock, so the signal only ever goes to a thread that is inside of `run`.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use vcpu::Kick;

/// The signal that interrupts `KVM_RUN`: the first real-time signal that libc leaves to programs.
pub(crate) fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Installs the empty handler of [`signal`], once in a process: the default would end the process.
pub(crate) fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An error means that the number is no signal, which `SIGRTMIN` always is.
        let _ = vmm_sys_util::signal::register_signal_handler(signal(), nothing);
    });
}

/// Lets the calling thread receive [`signal`], which its creator may have blocked.
pub(crate) fn unblock_signal() {
    // An error means that the signal was not blocked.
    let _ = vmm_sys_util::signal::unblock_signal(signal());
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// What the vCPU and its kickers share.
#[derive(Default)]
pub(crate) struct Kicker(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    pending: bool,
    running: Option<Running>,
}

/// A thread inside of `run`.
struct Running {
    thread: libc::pid_t,
    immediate_exit: ExitFlag,
}

/// The `immediate_exit` byte of a vCPU's `kvm_run` page.
#[derive(Clone, Copy)]
pub(crate) struct ExitFlag(*mut u8);

// SAFETY: the byte is only accessed atomically, and only while the vCPU that owns the page is
// registered as running, hence alive.
unsafe impl Send for ExitFlag {}

impl ExitFlag {
    /// The flag of the page that `run` points to, which must stay mapped while it is registered.
    pub(crate) fn of(run: &mut kvm_bindings::kvm_run) -> Self {
        Self(&raw mut run.immediate_exit)
    }

    fn set(self, value: u8) {
        // SAFETY: the page is mapped (see `Send` above), and the kernel and we are the only ones
        // who access the byte while it is registered, we always atomically.
        unsafe { AtomicU8::from_ptr(self.0) }.store(value, Ordering::SeqCst);
    }
}

impl Kicker {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The calling thread enters `run`. False if a kick is waiting, which is hereby served.
    pub(crate) fn enter(&self, immediate_exit: ExitFlag) -> bool {
        let mut shared = self.lock();
        if std::mem::take(&mut shared.pending) {
            return false;
        }
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        shared.running = Some(Running { thread, immediate_exit });
        true
    }

    /// The calling thread leaves `run` because of an exit; a kick that came meanwhile stays.
    pub(crate) fn leave(&self) {
        if let Some(running) = self.lock().running.take() {
            running.immediate_exit.set(0);
        }
    }

    /// `KVM_RUN` was interrupted: leaves `run` and says true if that was a kick.
    pub(crate) fn leave_if_kicked(&self) -> bool {
        let mut shared = self.lock();
        if !shared.pending {
            return false;
        }
        shared.pending = false;
        if let Some(running) = shared.running.take() {
            running.immediate_exit.set(0);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        let mut shared = self.lock();
        shared.pending = true;
        let Some(running) = &shared.running else { return };
        running.immediate_exit.set(1);
        // SAFETY: tgkill takes plain numbers. The thread is in `run` and cannot leave while we hold
        // the lock, so its id is not reused.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), running.thread, signal());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_outside_of_run_is_kept_once() {
        let mut byte = 0u8;
        let flag = ExitFlag(&raw mut byte);
        let kicker = Kicker::new();
        kicker.kick();
        kicker.kick();
        assert!(!kicker.enter(flag), "the kick is served at entry");
        assert!(kicker.enter(flag), "and only once");
        assert!(!kicker.leave_if_kicked());
        kicker.leave();
    }

    #[test]
    fn a_kick_inside_of_run_sets_the_flag_and_signals() {
        install_handler();
        let mut byte = 0u8;
        let flag = ExitFlag(&raw mut byte);
        let kicker = Kicker::new();
        assert!(kicker.enter(flag));
        kicker.kick();
        // SAFETY: `byte` lives until the end of the test.
        let seen = || unsafe { AtomicU8::from_ptr(flag.0) }.load(Ordering::SeqCst);
        assert_eq!(seen(), 1);
        assert!(kicker.leave_if_kicked());
        assert_eq!(seen(), 0);
        assert!(kicker.enter(flag));
        kicker.leave();
    }

    #[test]
    fn a_kick_that_meets_another_exit_waits_for_the_next_run() {
        install_handler();
        let mut byte = 0u8;
        let flag = ExitFlag(&raw mut byte);
        let kicker = Kicker::new();
        assert!(kicker.enter(flag));
        kicker.kick();
        kicker.leave();
        assert!(!kicker.enter(flag));
    }
}
