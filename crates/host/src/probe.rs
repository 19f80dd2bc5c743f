//! Questions to the host, for `sparkler doctor`: is it there, and may we use it?
//!
//! Each answers with a fact or with the host's own error; what it means is for the asker to say.
//! Nothing is changed on the host.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

/// Opens a device node for reading and writing, as its user would, and closes it again.
pub fn device(path: &str) -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open(path).map(drop)
}

/// Whether this user may make user namespaces, tried in a child process.
pub fn user_namespaces() -> io::Result<()> {
    // SAFETY: the child calls nothing but async-signal-safe functions (unshare, _exit).
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: in the child; unshare takes flags only, and _exit does not return.
            unsafe {
                let failed = libc::unshare(libc::CLONE_NEWUSER) != 0;
                libc::_exit(if failed { *libc::__errno_location() } else { 0 })
            }
        }
        child => wait_for(child),
    }
}

/// The child's exit status is 0 or the error number it met.
fn wait_for(child: i32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: `child` is our own child, and `status` is a live local.
    if unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// How this user can handle page faults of its own processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Userfaultfd {
    /// The system call works, and sees faults that the kernel takes on our behalf.
    Full,
    /// `/dev/userfaultfd` can be opened.
    Device,
    /// Only faults taken in user mode.
    UserOnly,
}

/// Which kind of userfaultfd there is.
pub fn userfaultfd() -> io::Result<Userfaultfd> {
    const UFFD_USER_MODE_ONLY: i32 = 1;
    if userfaultfd_with(0).is_ok() {
        return Ok(Userfaultfd::Full);
    }
    if device("/dev/userfaultfd").is_ok() {
        return Ok(Userfaultfd::Device);
    }
    userfaultfd_with(UFFD_USER_MODE_ONLY).map(|()| Userfaultfd::UserOnly)
}

fn userfaultfd_with(flags: i32) -> io::Result<()> {
    // SAFETY: the call takes flags only and returns a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else owns it.
    unsafe { libc::close(i32::try_from(fd).unwrap_or(-1)) };
    Ok(())
}

/// The controllers of the unified cgroup hierarchy (version 2), if it is mounted.
pub fn cgroup2_controllers() -> io::Result<Vec<String>> {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    Ok(controllers.split_whitespace().map(str::to_owned).collect())
}

/// Where `program` is found: in `PATH`, or where Debian keeps an administrator's programs.
pub fn program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name() {
        assert!(program("sh").is_some_and(|p| p.is_absolute()));
        assert_eq!(program("no-such-program-here"), None);
    }

    #[test]
    fn a_missing_device_keeps_the_hosts_reason() {
        let error = device("/dev/no-such-device").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn probes_answer_without_harm() {
        let _ = (user_namespaces(), userfaultfd(), cgroup2_controllers());
    }
}
