//! The end of the guest.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, kill_process_group, wait};
use rustix::system::{RebootCommand, reboot};

use crate::hostport;

/// How long the guest's processes have to end after they were asked to.
const GRACE: Duration = Duration::from_secs(2);

/// Ends all processes, writes the disks back and ends the machine.
///
/// Every way out is a restart, whatever was asked for: a kernel without ACPI
/// can restart but not power off, and the host takes a restart as the end.
pub fn end() -> ! {
    end_processes();
    rustix::fs::sync();
    unmount();
    hostport::send(hostport::CMD_END, None);
    if let Err(error) = reboot(RebootCommand::Restart) {
        eprintln!("init: cannot restart the machine: {error}");
    }
    // Init must not return: the kernel would panic. Wait to be stopped.
    loop {
        sleep(Duration::from_secs(3600));
    }
}

fn end_processes() {
    // An interactive shell ignores SIGTERM, and ends when its line hangs up.
    signal_all(Signal::TERM);
    if !signal_all(Signal::HUP) {
        return;
    }
    let start = Instant::now();
    while start.elapsed() < GRACE {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        // No process is left but this one and the kernel's own.
        if !others_exist() {
            return;
        }
        sleep(Duration::from_millis(5));
    }
    signal_all(Signal::KILL);
}

/// Signals every process but init; false where there is none.
fn signal_all(signal: Signal) -> bool {
    // Group 1 of kill_process_group is pid -1: every process (kill(2)).
    kill_process_group(rustix::process::Pid::INIT, signal).is_ok() && others_exist()
}

/// Whether a process of the guest's own exists: one with a command line.
fn others_exist() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
        .filter(|entry| entry.file_name() != "1")
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty()))
}

/// Makes the root disk read-only, so that its file system is marked clean.
fn unmount() {
    use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let disks = mounts.lines().rev().filter(|line| line.starts_with("/dev/"));
    for target in disks.filter_map(|line| line.split(' ').nth(1)) {
        // Busy or already gone: the remount below is the second try.
        if target == "/" || unmount(target, UnmountFlags::empty()).is_err() {
            let _ = mount_remount(target, MountFlags::RDONLY, c"");
        }
    }
}
