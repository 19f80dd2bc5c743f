//! The first process of sparkler's own guests.
//!
//! It comes as /init of an initramfs, or as /sbin/init of a disk:
//!
//! ```text
//! initramfs: mounts -> modules -> ip= -> root= ? --- no --> run here
//!                                            |
//!                                           yes -> mount it, make it /
//!                                            |
//!                          sparkler.cmd, or no init there? --> run here
//!                                            |
//!                                  exec the disk's own init
//! disk:      mounts -> ip= -> run here
//! ```
//!
//! "Run here" is a login shell on the console, or the command that the kernel
//! command line gives (`options`); when it ends, its status goes to the host
//! (`hostport`) and the machine ends (`power`).
//!
//! Nothing in here panics or returns: the kernel would panic if init did.

mod account;
mod disks;
mod framed;
mod hostport;
mod modules;
mod mounts;
mod net;
mod options;
mod power;
mod run;
mod stream;
mod sys;

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use modules::Stage;
use options::{COMMAND_FILE, FOLDER_FILE, Options, USER_FILE};
use run::Outcome;

fn main() {
    if std::process::id() != 1 {
        eprintln!("sparkler-guest-init is the first process of a guest; it does nothing here.");
        std::process::exit(2);
    }
    hostport::send(hostport::CMD_INIT_STARTED, None);
    mounts::essential();
    let options = read_options();
    let environment = run::given_environment();
    modules::insert(Stage::Early);
    set_hostname(&options);
    net::configure(options.ip.as_ref());
    if let Some(root) = options.root.as_ref().filter(|_| mounts::in_initramfs()) {
        enter_root(root, &options);
    }
    serve(&options, &environment);
    power::end()
}

fn read_options() -> Options {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut options = Options::parse(&line);
    if let Ok(bytes) = fs::read(COMMAND_FILE) {
        options.command = options::arguments(&bytes).or(options.command);
    }
    options.user = fs::read_to_string(USER_FILE).ok();
    options.folder = fs::read_to_string(FOLDER_FILE).ok();
    options
}

fn set_hostname(options: &Options) {
    let name = options.hostname.as_deref().unwrap_or("sparkler");
    if let Err(error) = rustix::system::sethostname(name.as_bytes()) {
        eprintln!("init: cannot set the host name {name}: {error}");
    }
}

/// Changes to the root disk and hands over to its init. Comes back where the
/// disk cannot be mounted, has no init, or a command is to run instead.
fn enter_root(root: &str, options: &Options) {
    if modules::present() && options.command.is_none() {
        // The disk's own init does not know of these.
        modules::insert(Stage::Late);
    }
    if let Err(error) = mounts::change_root(root, options) {
        eprintln!("init: cannot change to the root disk: {error}");
        return;
    }
    if options.command.is_some() {
        return;
    }
    if let Some(program) = mounts::init_of_root(options.init.as_deref()) {
        let error = Command::new(&program).exec();
        eprintln!("init: cannot hand over to {}: {error}", program.display());
    }
}

fn serve(options: &Options, environment: &[(OsString, OsString)]) {
    mounts::remaining(options.tmp_on_disk);
    if let Some(ip) = options.ip.as_ref().filter(|_| options.tmp_on_disk) {
        net::cover_resolver(ip);
    }
    match run::run(options, environment) {
        Ok(Outcome::Ended(status)) => hostport::send(hostport::CMD_EXIT_STATUS, Some(status)),
        Ok(Outcome::EndAsked) => {}
        Err(error) => {
            eprintln!("init: cannot run anything on the console: {error}");
            hostport::send(hostport::CMD_EXIT_STATUS, Some(126));
        }
    }
}
