//! A tap: the host's end of a virtual machine's network cable.
//!
//! The interface has one queue and its frames carry virtio's header (tuntap(4), `IFF_VNET_HDR`), so
//! that the kernel computes checksums and cuts segments for the guest. It is made beforehand, with
//! `ip tuntap add NAME mode tap user USER`; a process with CAP_NET_ADMIN gets one that does not
//! exist yet, which goes with the process. Errors have Firecracker's texts, which tools look for,
//! and then say what to do.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use devices::net::{HEADER_LEN, Offload};
use thiserror::Error;
use virtio::GuestSlice;

const TUN_DEVICE: &str = "/dev/net/tun";

/// Bits of TUNSETOFFLOAD (Linux, `if_tun.h`).
const OFFLOAD_CHECKSUM: libc::c_uint = libc::TUN_F_CSUM;
const OFFLOAD_TSO4: libc::c_uint = libc::TUN_F_TSO4;
const OFFLOAD_TSO6: libc::c_uint = libc::TUN_F_TSO6;
const OFFLOAD_UFO: libc::c_uint = libc::TUN_F_UFO;

/// Why a tap cannot be had.
#[derive(Debug, Error)]
pub enum TapError {
    /// The host has no taps, or not for us.
    #[error(
        "Open tap device failed: Couldn't open {TUN_DEVICE}: {0}. Load the kernel module tun, and \
         allow this user to read and write the device"
    )]
    Device(io::Error),
    /// Not the name of an interface.
    #[error(
        "Open tap device failed: Invalid interface name: {name:?} must have 1 to {} bytes, and no \
         NUL", libc::IFNAMSIZ - 1
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The interface is not a tap for us.
    #[error(
        "Open tap device failed: Error while creating ifreq structure: {source}. Invalid TUN/TAP \
         Backend provided by {name}. Check our documentation on setting up the network devices. {}",
        advice(name, source)
    )]
    Attach {
        /// The interface.
        name: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The kernel does not know virtio's header.
    #[error(
        "Setting vnet header size failed: Error while setting size of the vnet header: {0}. Linux \
         has had it since 2.6.32: this kernel lacks it"
    )]
    HeaderSize(io::Error),
}

/// The tap. Watch it for edges, and serve the device's queue 0 at each.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Takes hold of the interface `name`.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let mut request = interface_request(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(TUN_DEVICE)
            .map_err(TapError::Device)?;
        // SAFETY: TUNSETIFF reads and writes an `ifreq`, which `request` is and outlives the call.
        let attached = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        check(attached).map_err(|source| TapError::Attach { name: name.to_owned(), source })?;
        let header = HEADER_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int, which `header` is and outlives the call.
        let sized =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) };
        check(sized).map_err(TapError::HeaderSize)?;
        Ok(Self { file, name: name.to_owned() })
    }

    /// The interface's name, as it was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl devices::net::Tap for Tap {
    fn read(&mut self, into: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<usize> {
        let guards: Vec<_> = into.iter().map(|slice| slice.ptr_guard_mut()).collect();
        let mut pieces = Vec::with_capacity(guards.len() + 1);
        pieces.extend(guards.iter().map(|guard| piece(guard.as_ptr(), guard.len())));
        pieces.push(piece(overflow.as_mut_ptr(), overflow.len()));
        let (fd, count) = (self.file.as_raw_fd(), pieces.len() as libc::c_int);
        // SAFETY: the last piece is `overflow`, which is ours to write; the others lie within slices
        // of guest RAM, which the guards keep mapped. The guest may change RAM at the same time: the
        // kernel writes it as bytes.
        transferred(|| unsafe { libc::readv(fd, pieces.as_ptr(), count) })
    }

    fn write(&mut self, head: &[u8], rest: &[GuestSlice<'_>]) -> io::Result<()> {
        let guards: Vec<_> = rest.iter().map(|slice| slice.ptr_guard()).collect();
        let mut pieces = Vec::with_capacity(guards.len() + 1);
        pieces.push(piece(head.as_ptr().cast_mut(), head.len()));
        pieces.extend(guards.iter().map(|guard| piece(guard.as_ptr().cast_mut(), guard.len())));
        let (fd, count) = (self.file.as_raw_fd(), pieces.len() as libc::c_int);
        // SAFETY: writev(2) only reads. The first piece is `head`; the others lie within slices of
        // guest RAM, which the guards keep mapped. The guest may change RAM at the same time: the
        // kernel copies it as bytes, without assumptions.
        let sent = transferred(|| unsafe { libc::writev(fd, pieces.as_ptr(), count) });
        sent.map(|_| ()).map_err(|error| explain(error, &self.name))
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        let Offload { checksum, tso4, tso6, ufo } = offload;
        let bits = [
            (checksum, OFFLOAD_CHECKSUM),
            (tso4, OFFLOAD_TSO4),
            (tso6, OFFLOAD_TSO6),
            (ufo, OFFLOAD_UFO),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |bits, (_, bit)| bits | bit);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe {
            libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits))
        })
    }
}

/// A piece of memory for readv(2) or writev(2).
fn piece(start: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast(), iov_len: len }
}

/// What TUNSETIFF is given.
fn interface_request(name: &str) -> Result<libc::ifreq, TapError> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && !name.bytes().any(|byte| byte == 0);
    if !fits {
        return Err(TapError::Name { name: name.to_owned() });
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short };
    Ok(libc::ifreq { ifr_name, ifr_ifru })
}

/// What to do about an interface that cannot be had.
fn advice(name: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => format!(
            "It does not exist, or belongs to somebody else: as root, \
             `ip tuntap add {name} mode tap user USER`"
        ),
        Some(libc::EBUSY) => "Another process has it: stop that one, or use another tap".to_owned(),
        Some(libc::EINVAL) => format!(
            "It is no tap with one queue: `ip -d link show {name}` says what it is; make one with \
             `ip tuntap add NAME mode tap`, without multi_queue"
        ),
        _ => format!("`ip -d link show {name}` says what it is"),
    }
}

/// Says what a failed transmission means.
fn explain(error: io::Error, name: &str) -> io::Error {
    if error.raw_os_error() == Some(libc::EIO) {
        return io::Error::other(format!("{name} is down; `ip link set {name} up`"));
    }
    error
}

/// Makes a call that transfers bytes, until no signal interrupts it.
fn transferred(call: impl Fn() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        let error = match usize::try_from(call()) {
            Ok(len) => return Ok(len),
            Err(_) => io::Error::last_os_error(),
        };
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use devices::net::Tap as _;
    use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};

    use super::*;
    use crate::{Event, Poller, probe};

    const GUEST: [u8; 6] = [6, 0, 10, 9, 0, 2];
    const HOST_IP: [u8; 4] = [10, 9, 0, 1];
    const GUEST_IP: [u8; 4] = [10, 9, 0, 2];
    const TYPE_ARP: [u8; 2] = [8, 6];
    const DEADLINE: Duration = Duration::from_secs(10);

    /// Runs `test` in a network namespace of its own, or says why not.
    fn in_namespace(test: impl FnOnce() + Send + 'static) {
        if !probe::is_root() || probe::program("ip").is_none() {
            eprintln!("SKIPPED: needs root, for a network namespace, and the program ip");
            return;
        }
        let body = move || {
            // SAFETY: only this thread gets another network namespace; it has no other effect.
            let alone = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(alone, 0, "{}", io::Error::last_os_error());
            test();
        };
        // The programs it starts are in its namespace, which goes with it.
        std::thread::spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    fn tap_up() -> Tap {
        ip("tuntap add tap0 mode tap");
        let tap = Tap::open("tap0").unwrap();
        ip("address add 10.9.0.1/24 dev tap0");
        ip("link set tap0 up");
        tap
    }

    fn ram() -> GuestMemory {
        memory::allocate(&memory::ranges(1 << 20)).unwrap()
    }

    /// Who has the host's address? With the header, 54 bytes.
    fn arp_request() -> Vec<u8> {
        let ethernet = [&[0xFF; 6][..], &GUEST, &TYPE_ARP].concat();
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &GUEST, &GUEST_IP, &[0; 6], &HOST_IP].concat();
        [vec![0; HEADER_LEN], ethernet, arp].concat()
    }

    /// Reads frames into `slices` until one is an ARP packet; the others are the kernel's own.
    fn read_arp(tap: &mut Tap, ram: &GuestMemory, slices: &[(u64, usize)]) -> Vec<u8> {
        let poller = Poller::new().unwrap();
        poller.add_edge(&*tap, 1).unwrap();
        let mut ready: Vec<Event> = Vec::new();
        let mut overflow = [0; 2000];
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            let into: Vec<_> = slices
                .iter()
                .map(|(at, len)| ram.get_slice(GuestAddress(*at), *len).unwrap())
                .collect();
            match tap.read(&into, &mut overflow) {
                Ok(len) => {
                    let mut frame: Vec<u8> = Vec::new();
                    for slice in &into {
                        let mut bytes = vec![0; slice.len()];
                        slice.read_slice(&mut bytes, 0).unwrap();
                        frame.extend(bytes);
                    }
                    frame.extend(overflow);
                    frame.truncate(len);
                    if frame[HEADER_LEN + 12..].starts_with(&TYPE_ARP) {
                        return frame;
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    poller.wait(&mut ready, Some(DEADLINE)).unwrap();
                }
            }
        }
        panic!("no ARP packet came");
    }

    #[test]
    fn frames_go_both_ways_in_pieces() {
        in_namespace(|| {
            let mut tap = tap_up();
            let ram = ram();
            let request = arp_request();
            ram.write_slice(&request[20..], GuestAddress(0x1000)).unwrap();
            let piece = |at, len| ram.get_slice(GuestAddress(at), len).unwrap();
            tap.write(&request[..20], &[piece(0x1000, 5), piece(0x1005, 29)]).unwrap();
            let answer = read_arp(&mut tap, &ram, &[(0x2000, 12), (0x3000, 3), (0x4000, 30)]);
            assert_eq!(answer.len(), 54);
            assert_eq!(answer[HEADER_LEN..][..6], GUEST);
            assert_eq!(answer[HEADER_LEN + 14 + 6..][..2], [0, 2]);
            assert_eq!(answer[HEADER_LEN + 14 + 14..][..4], HOST_IP);
        });
    }

    #[test]
    fn offloads_are_taken_in_any_combination() {
        in_namespace(|| {
            let mut tap = tap_up();
            tap.set_offload(Offload::default()).unwrap();
            for bits in 0..8 {
                let [tso4, tso6, ufo] = [1, 2, 4].map(|bit| bits & bit != 0);
                tap.set_offload(Offload { checksum: true, tso4, tso6, ufo }).unwrap();
            }
        });
    }

    #[test]
    fn an_interface_that_is_down_says_so() {
        in_namespace(|| {
            let mut tap = tap_up();
            ip("link set tap0 down");
            let error = tap.write(&arp_request(), &[]).unwrap_err().to_string();
            assert_eq!(error, "tap0 is down; `ip link set tap0 up`");
        });
    }

    fn check_refused(name: &str, expected: &str) {
        let error = Tap::open(name).unwrap_err().to_string();
        assert!(error.starts_with("Open tap device failed: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn names_have_a_limit() {
        check_refused("", "Invalid interface name");
        check_refused("a123456789abcdef", "Invalid interface name");
        check_refused("a\0b", "Invalid interface name");
    }

    #[test]
    fn what_is_no_free_tap_is_refused() {
        in_namespace(|| {
            let tap = tap_up();
            assert_eq!(tap.name(), "tap0");
            let firecrackers = |name: &str, reason: &str| {
                format!(
                    "Error while creating ifreq structure: {reason}. Invalid TUN/TAP Backend \
                     provided by {name}. Check our documentation on setting up the network devices."
                )
            };
            check_refused("tap0", &firecrackers("tap0", "Device or resource busy (os error 16)"));
            check_refused("tap0", "Another process has it");
            ip("tuntap add many mode tap multi_queue");
            ip("tuntap add tun0 mode tun");
            ip("link add bridge0 type bridge");
            for name in ["many", "tun0", "bridge0"] {
                check_refused(name, &firecrackers(name, "Invalid argument (os error 22)"));
                check_refused(name, "no tap with one queue");
            }
        });
    }

    #[test]
    fn somebody_elses_tap_is_explained() {
        let source = io::Error::from_raw_os_error(libc::EPERM);
        let error = TapError::Attach { name: "tap7".to_owned(), source }.to_string();
        assert!(error.ends_with("`ip tuntap add tap7 mode tap user USER`"), "{error}");
    }
}
