//! The terminal on standard input: raw while a guest's console is on it, as it was afterwards.
//!
//! ```text
//!   as found ──raw()──▶ raw ──drop, restore(), panic──▶ as found
//! ```
//!
//! The settings found are kept in a static, so that a panic hook and a signal handler can put them
//! back as well; [`restore`] makes one system call and takes no lock.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings of the terminal before the first change.
static FOUND: OnceLock<Termios> = OnceLock::new();
/// Whether [`FOUND`] has to be put back.
static RAW: AtomicBool = AtomicBool::new(false);

/// Keeps the terminal raw for as long as it lives.
#[derive(Debug)]
pub struct RawMode(());

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Rows and columns of the terminal on standard output, if it is one that knows.
pub fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Switches the terminal on standard input to raw mode: every key reaches the reader, unchanged
/// and unechoed, including Ctrl-C. `None` if standard input is no terminal.
pub fn raw() -> std::io::Result<Option<RawMode>> {
    if !stdin_is_terminal() {
        return Ok(None);
    }
    let stdin = rustix::stdio::stdin();
    let found = tcgetattr(stdin)?;
    let mut settings = FOUND.get_or_init(|| found).clone();
    settings.make_raw();
    restore_on_panic();
    RAW.store(true, Ordering::SeqCst);
    tcsetattr(stdin, OptionalActions::Now, &settings)?;
    Ok(Some(RawMode(())))
}

/// Puts the terminal back as it was found. Safe in a signal handler; does nothing if the terminal
/// is not raw.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some(found) = FOUND.get()
    {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, found);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes a panic's message readable: the terminal is put back before it is printed.
fn restore_on_panic() {
    static HOOKED: OnceLock<()> = OnceLock::new();
    HOOKED.get_or_init(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
    });
}
