//! The system calls and instructions that need `unsafe`, each in one function.
//! The rest of the program is safe code.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives or takes this thread's permission to use `count` I/O ports.
pub fn allow_ports(first: u16, count: u16, allowed: bool) -> bool {
    // SAFETY: ioperm takes numbers only; it changes this thread's port bitmap.
    unsafe { libc::ioperm(first.into(), count.into(), allowed.into()) == 0 }
}

/// Reads a byte from an I/O port. The caller was granted it by [`allow_ports`];
/// without the grant the processor faults and the process ends.
pub fn read_port(port: u16) -> u8 {
    let value: u8;
    // SAFETY: `in` touches no memory; the granted ports have no side effect.
    unsafe {
        std::arch::asm!("in al, dx", in("dx") port, out("al") value,
            options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes a byte to an I/O port, granted as for [`read_port`].
pub fn write_port(port: u16, value: u8) {
    // SAFETY: `out` touches no memory of ours; the host owns the granted ports.
    unsafe {
        std::arch::asm!("out dx, al", in("dx") port, in("al") value,
            options(nomem, nostack, preserves_flags));
    }
}

/// Inserts a kernel module from an open file.
pub fn insert_module(file: BorrowedFd<'_>) -> io::Result<()> {
    let no_parameters: &CStr = c"";
    // SAFETY: the descriptor is open and the string ends with NUL.
    let result = unsafe {
        libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), no_parameters.as_ptr(), 0)
    };
    check(result).map(drop)
}

/// Blocks the signals that init acts on and returns a descriptor that reads them.
pub fn signal_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised; a null old mask is allowed.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) }.into())?;
    // SAFETY: as above; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd.into())?;
    // SAFETY: signalfd has just made this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal from a descriptor of [`signal_descriptor`], if one waits.
pub fn next_signal(descriptor: BorrowedFd<'_>) -> Option<i32> {
    let mut record = [0u8; mem::size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(descriptor, &mut record) {
        // The signal's number is the record's first field (signalfd(2)).
        Ok(n) if n == record.len() => {
            Some(i32::from_ne_bytes([record[0], record[1], record[2], record[3]]))
        }
        _ => None,
    }
}

/// Makes the command start in a session of its own with no signal blocked and,
/// if asked, with its standard input as controlling terminal.
pub fn in_own_session(command: &mut Command, take_terminal: bool) {
    let child = move || {
        rustix::process::setsid()?;
        let none = signal_set(&[]);
        // SAFETY: the set is initialised; only this process's mask changes.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) }.into())?;
        if take_terminal {
            // SAFETY: TIOCSCTTY takes a number, no pointer.
            check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 1) }.into())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls; it
    // allocates nothing and takes no lock.
    unsafe { command.pre_exec(child) };
}

/// Makes the command start as this user, with these groups only.
pub fn as_user(command: &mut Command, uid: u32, gid: u32, groups: Vec<u32>) {
    let child = move || {
        // Groups first: a user that is not root may not change them.
        // SAFETY: the pointer is that of a list of so many numbers, which lives as long.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }.into())?;
        // SAFETY: these take numbers only.
        check(unsafe { libc::setresgid(gid, gid, gid) }.into())?;
        // SAFETY: as above.
        check(unsafe { libc::setresuid(uid, uid, uid) }.into())?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls; it
    // allocates nothing and takes no lock.
    unsafe { command.pre_exec(child) };
}

/// An IPv4 interface, addressed by its name through an open socket.
pub struct Interface<'a> {
    /// Any datagram socket.
    pub socket: BorrowedFd<'a>,
    /// Its name, at most 15 bytes.
    pub name: &'a str,
}

impl Interface<'_> {
    /// The address it has, if any.
    pub fn address(&self) -> io::Result<Ipv4Addr> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFADDR, &mut request)?;
        // SAFETY: SIOCGIFADDR succeeded, so the union holds an address of 16 bytes.
        let raw = unsafe { request.ifr_ifru.ifru_addr };
        let byte = |at: usize| raw.sa_data[at] as u8;
        Ok(Ipv4Addr::new(byte(2), byte(3), byte(4), byte(5)))
    }

    /// Sets its address.
    pub fn set_address(&self, address: Ipv4Addr) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.ioctl(libc::SIOCSIFADDR, &mut request)
    }

    /// Sets its network mask.
    pub fn set_netmask(&self, mask: Ipv4Addr) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_addr = socket_address(mask);
        self.ioctl(libc::SIOCSIFNETMASK, &mut request)
    }

    /// Brings it up.
    pub fn bring_up(&self) -> io::Result<()> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the union holds the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is plain data for which all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }

    fn ioctl(&self, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the SIOC*IF* calls read and write one ifreq, which is borrowed.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), number, request) }.into()).map(drop)
    }
}

/// Adds the default route through `gateway`.
pub fn add_default_route(socket: BorrowedFd<'_>, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: rtentry is plain data for which all zeroes is a valid value.
    let mut route: libc::rtentry = unsafe { mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: SIOCADDRT reads one rtentry, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &route) }.into()).map(drop)
}

/// A datagram socket, the handle for interface requests.
pub fn network_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd.into())?;
    // SAFETY: socket has just made this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0 as libc::c_char; 14];
    // sockaddr_in is the port in two bytes, then the address in four (ip(7)).
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset makes it a valid empty set,
    // and sigaddset only refuses numbers that are no signals.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        for &signal in signals {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
