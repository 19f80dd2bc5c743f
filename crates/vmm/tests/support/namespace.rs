//! A network namespace for one test, with a tap for its guest.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{skip, tool};

/// The user's own addresses: the tap's and the guest's, alone in a network of four.
pub const HOST: &str = "169.254.0.21";
/// The guest's.
pub const GUEST: &str = "169.254.0.22";

/// Whether this process may make namespaces and taps; says aloud why not.
pub fn are_there(name: &str) -> bool {
    if let Err(why) = tool(Command::new("ip").args(["netns", "list"])) {
        skip(name, &format!("there are no network namespaces: {why}"));
        return false;
    }
    let uid = tool(Command::new("id").arg("-u")).expect("id runs");
    let root = uid.stdout.trim_ascii() == b"0";
    if !root {
        skip(name, "taps and network namespaces are for root");
    }
    root
}

/// A network namespace with a tap, which goes away again.
pub struct Namespace {
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// A namespace with tap0, which has the host's address.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Self { name: format!("sparkler-test-{}-{number}", std::process::id()) };
        tool(Command::new("ip").args(["netns", "add", &net.name])).unwrap();
        let address = format!("{HOST}/30");
        for command in [
            &["ip", "link", "set", "lo", "up"][..],
            &["ip", "tuntap", "add", "tap0", "mode", "tap"],
            &["ip", "address", "add", &address, "dev", "tap0"],
            &["ip", "link", "set", "tap0", "up"],
        ] {
            net.run(command);
        }
        net
    }

    /// A command in the namespace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(arguments);
        command
    }

    /// Runs a command to its end; what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = tool(&mut self.command(arguments)).unwrap_or_else(|why| panic!("{why}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether a command succeeds.
    pub fn try_run(&self, arguments: &[&str]) -> bool {
        tool(&mut self.command(arguments)).is_ok()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}
