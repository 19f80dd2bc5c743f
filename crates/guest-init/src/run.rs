//! What init runs: a shell or a command, until it ends.
//!
//! ```text
//! start program -> events -> program ended -> report status -> power::end
//!                    |
//!                    +- a signal to init asks for the end: power::end
//! ```
//!
//! Events are the death of children (all are reaped; only the program's counts)
//! and, for a framed command, bytes on its pipes and on the serial line.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, wait};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::account::{self, Account};
use crate::framed::Framed;
use crate::modules::{self, Stage};
use crate::options::{ENVIRONMENT_FILE, Options};
use crate::{hostport, sys};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Shells, best first.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// Signals on which init ends the machine: what `halt`, `poweroff` and
/// `reboot` of busybox and sysvinit send, Ctrl-Alt-Del, and a power failure.
const END_SIGNALS: [i32; 5] =
    [libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGINT, libc::SIGPWR];

/// Why the program runs no longer.
pub enum Outcome {
    /// It ended, with this exit status.
    Ended(u32),
    /// A signal asked for the end of the machine.
    EndAsked,
}

/// The environment that the initramfs gives, read while it is still there.
pub fn given_environment() -> Vec<(OsString, OsString)> {
    let bytes = fs::read(ENVIRONMENT_FILE).unwrap_or_default();
    let entries = bytes.split(|&b| b == 0).filter_map(|entry| {
        let at = entry.iter().position(|&b| b == b'=')?;
        Some((entry[..at].to_vec(), entry[at + 1..].to_vec()))
    });
    entries.map(|(key, value)| (OsString::from_vec(key), OsString::from_vec(value))).collect()
}

/// Runs the command, or a login shell where there is none.
pub fn run(options: &Options, environment: &[(OsString, OsString)]) -> io::Result<Outcome> {
    let mut signals = vec![libc::SIGCHLD];
    signals.extend(END_SIGNALS);
    let signals = sys::signal_descriptor(&signals)?;
    // Ctrl-Alt-Del comes as SIGINT from now on, instead of a sudden restart.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);

    let mut command = program(options);
    let account = set_environment(&mut command, options, environment);
    let console = open_console()?;
    let framed = options.framed && options.command.is_some();
    let mut framed = if framed { Some(Framed::new(console.try_clone()?)?) } else { None };
    match &framed {
        Some(_) => {
            let input = if options.no_input { Stdio::null() } else { Stdio::piped() };
            command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        None => give_terminal(&mut command, &console, options.window)?,
    }
    sys::in_own_session(&mut command, framed.is_none());
    match account {
        Ok(Some(account)) => sys::as_user(&mut command, account.uid, account.gid, account.groups),
        Ok(None) => {}
        Err(why) => return Ok(refused(&why, framed)),
    }

    hostport::send(hostport::CMD_PROGRAM_STARTED, None);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&command, &error, framed)),
    };
    // Nobody else gets a terminal that hangs up with the program's end.
    drop((command, console));
    modules::insert(Stage::Late);
    if let Some(framed) = &mut framed {
        framed.attach(&mut child)?;
    }
    let outcome = watch(&child, &signals, framed.as_mut());
    if let (Some(framed), Outcome::Ended(status)) = (framed, &outcome) {
        framed.finish(*status);
    }
    Ok(outcome)
}

fn program(options: &Options) -> Command {
    if let Some((name, arguments)) = options.command.as_ref().and_then(|c| c.split_first()) {
        let mut command = Command::new(OsString::from_vec(name.clone()));
        command.args(arguments.iter().cloned().map(OsString::from_vec));
        return command;
    }
    let shell = shell();
    let mut command = Command::new(shell);
    // A name that begins with a hyphen makes it a login shell.
    let name = Path::new(shell).file_name().unwrap_or_default().to_string_lossy();
    command.arg0(format!("-{name}"));
    command
}

fn shell() -> &'static str {
    SHELLS.into_iter().find(|shell| Path::new(shell).exists()).unwrap_or("/bin/sh")
}

/// Sets variables and folder; finds out as whom the command runs, if not as root.
fn set_environment(
    command: &mut Command,
    options: &Options,
    environment: &[(OsString, OsString)],
) -> Result<Option<Account>, String> {
    let account = options.user.as_deref().map(account::find).transpose();
    let term = options.term.as_deref().unwrap_or("linux");
    // The search for the command itself uses this PATH too.
    command.env_clear().env("PATH", PATH).env("TERM", term).env("SHELL", shell());
    command.env("HOME", "/root").env("USER", "root").env("LOGNAME", "root");
    if let Ok(Some(account)) = &account {
        let name = account.name.clone().unwrap_or_else(|| account.uid.to_string());
        command.env("HOME", &account.home).env("USER", &name).env("LOGNAME", &name);
    }
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    if let Some(folder) = &options.folder {
        // Images may name one that they do not have, and expect it to be made. What fails here is
        // said when the command does not start.
        let _ = fs::create_dir_all(folder);
        command.current_dir(folder);
    } else if Path::new("/root").is_dir() {
        command.current_dir("/root");
    }
    account
}

/// The device behind /dev/console, which unlike it can be a controlling
/// terminal; /dev/console itself where the kernel names none.
fn open_console() -> io::Result<File> {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let name = active.split_whitespace().last().unwrap_or("console");
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(Path::new("/dev").join(name)).or_else(|_| options.open("/dev/console"))
}

fn give_terminal(
    command: &mut Command,
    console: &File,
    window: Option<(u16, u16)>,
) -> io::Result<()> {
    if let Some((ws_row, ws_col)) = window {
        // A terminal without a size is usable.
        let _ = tcsetwinsize(console, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 });
    }
    command.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console.try_clone()?);
    Ok(())
}

/// 127 and 126 are what a shell reports for these failures.
fn not_started(command: &Command, error: &io::Error, framed: Option<Framed>) -> Outcome {
    let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let text = format!("cannot run {}: {error}", command.get_program().to_string_lossy());
    ended_before(&text, status, framed)
}

fn refused(why: &str, framed: Option<Framed>) -> Outcome {
    ended_before(why, 126, framed)
}

/// Says why the command never ran.
fn ended_before(why: &str, status: u32, framed: Option<Framed>) -> Outcome {
    let text = format!("init: {why}\n");
    match framed {
        Some(mut framed) => {
            framed.error_text(&text);
            framed.finish(status);
        }
        None => eprint!("{text}"),
    }
    Outcome::Ended(status)
}

/// Waits for the program's end, reaps orphans and moves a framed command's bytes.
fn watch(child: &Child, signals: &OwnedFd, mut framed: Option<&mut Framed>) -> Outcome {
    let mut ended = None;
    loop {
        let mut watched = vec![PollFd::new(signals, PollFlags::IN)];
        let interests = framed.as_ref().map(|f| f.interests()).unwrap_or_default();
        watched.extend(
            interests.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd.as_fd(), *flags)),
        );
        if poll(&mut watched, None).is_err() {
            continue;
        }
        drop(watched);
        drop(interests);
        while let Some(signal) = sys::next_signal(signals.as_fd()) {
            if END_SIGNALS.contains(&signal) {
                return Outcome::EndAsked;
            }
        }
        ended = ended.or(reap(child.id()));
        if let Some(framed) = framed.as_mut() {
            framed.transfer();
        }
        // A framed command's last output may still be in its pipes.
        if let Some(status) = ended
            && framed.as_mut().is_none_or(|framed| framed.drained())
        {
            return Outcome::Ended(status);
        }
    }
}

/// Reaps every child that has ended; the status if the program is among them.
fn reap(program: u32) -> Option<u32> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if u32::try_from(pid.as_raw_nonzero().get()) == Ok(program) {
            ended = Some(exit_status(ExitStatus::from_raw(status.as_raw())));
        }
    }
    ended
}

/// The status as a shell would show it.
fn exit_status(status: ExitStatus) -> u32 {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    number as u32
}
