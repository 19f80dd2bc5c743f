//! The host's side of the vsock device: Firecracker's protocol over Unix sockets.
//!
//! Programs on the host that call the guest connect to one socket; those that the guest can call
//! listen on a socket of the same path with `_PORT` appended. All descriptors are in one epoll
//! set, whose own descriptor ([`UnixHost::events`]) says that something happened on any of them.
//!
//! Streams are watched by edges: what happened is told once, by [`Host::poll`], and the device
//! keeps it in mind. So the set's descriptor does not stay ready for what the guest has no buffers
//! for. The listener is watched while the device takes calls; callers wait in its backlog until
//! then. The socket stays in the file system, as Firecracker leaves it, unless
//! [`UnixHost::remove`] is called.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::vsock::{Host, Ready, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect,
    socket_with,
};
use thiserror::Error;
use virtio::GuestSlice;

/// At most so many events come out of one [`Host::poll`].
const BATCH: usize = 64;
/// Most pieces of one system call (`UIO_MAXIOV` in Linux).
const IOV_MAX: usize = 1024;
/// The listener's token; the device's tokens do not come so far.
const LISTENER: u64 = u64::MAX;
/// What is watched of every stream, by edges.
const STREAM_EVENTS: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);

/// Why there is no host's side. The texts are Firecracker's.
#[derive(Debug, Error)]
pub enum UnixError {
    /// The socket cannot be made: its path is taken, too long, or in a folder that is not there.
    #[error("Error binding to the host-side Unix socket: {0}")]
    Bind(io::Error),
    /// No epoll set.
    #[error("Error creating an epoll FD: {0}")]
    Epoll(io::Error),
}

/// The host's side.
#[derive(Debug)]
pub struct UnixHost {
    path: PathBuf,
    listener: UnixListener,
    listening: bool,
    epoll: Arc<OwnedFd>,
}

impl UnixHost {
    /// Makes the socket at `path`, where nothing may be yet.
    pub fn bind(path: &Path) -> Result<Self, UnixError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| UnixError::Epoll(error.into()))?;
        let listener = UnixListener::bind(path).map_err(UnixError::Bind)?;
        listener.set_nonblocking(true).map_err(UnixError::Bind)?;
        Ok(Self { path: path.to_owned(), listener, listening: false, epoll: Arc::new(epoll) })
    }

    /// A descriptor that is readable when something happened. Queue 0 of the device is then to be
    /// served, which takes note of all there is: so it may be watched by level or by edge.
    pub fn events(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    /// Removes the socket from the file system: for a device that is replaced by another.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Puts `socket` into the set.
    fn stream(&self, socket: OwnedFd, token: u64) -> io::Result<Box<dyn Stream>> {
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, &socket, data, STREAM_EVENTS)?;
        Ok(Box::new(UnixStream { socket, epoll: self.epoll.clone(), token, blocked: false }))
    }

    /// Where the program listens that the guest calls at `port`.
    fn path_of(&self, port: u32) -> PathBuf {
        let mut path = self.path.as_os_str().as_bytes().to_vec();
        path.extend(format!("_{port}").bytes());
        std::ffi::OsString::from_vec(path).into()
    }
}

impl Host for UnixHost {
    fn listen(&mut self, on: bool) -> io::Result<()> {
        if on != self.listening {
            if on {
                let data = epoll::EventData::new_u64(LISTENER);
                epoll::add(&self.epoll, &self.listener, data, epoll::EventFlags::IN)?;
            } else {
                epoll::delete(&self.epoll, &self.listener)?;
            }
            self.listening = on;
        }
        Ok(())
    }

    fn accept(&mut self, token: u64) -> io::Result<Box<dyn Stream>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = again(|| rustix::net::accept_with(&self.listener, flags))?;
        self.stream(socket, token)
    }

    fn connect(&mut self, port: u32, token: u64) -> io::Result<Box<dyn Stream>> {
        let address = SocketAddrUnix::new(self.path_of(port))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // A Unix socket connects at once, or its listener's backlog is full.
        connect(&socket, &address)?;
        self.stream(socket, token)
    }

    fn poll(&mut self, ready: &mut Vec<Ready>) -> io::Result<bool> {
        let none =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut batch = [none; BATCH];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = again(|| epoll::wait(&self.epoll, &mut batch, Some(&now)))?;
        ready.extend(batch[..count].iter().map(to_ready));
        Ok(count == BATCH)
    }
}

fn to_ready(event: &epoll::Event) -> Ready {
    let (token, flags) = (event.data.u64(), event.flags);
    if token == LISTENER {
        return Ready::Caller;
    }
    let ended = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
    let input = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    let readable = ended || flags.intersects(input);
    let writable = ended || flags.contains(epoll::EventFlags::OUT);
    Ready::Stream { token, readable, writable }
}

/// A stream to a program on the host.
#[derive(Debug)]
struct UnixStream {
    socket: OwnedFd,
    epoll: Arc<OwnedFd>,
    token: u64,
    /// The last write was cut short, and room is watched for.
    blocked: bool,
}

impl UnixStream {
    /// Watches for room after a write of `len` bytes that was cut short, and no longer after one
    /// that was not: a reader would wake us with all that it reads.
    fn after_write(&mut self, result: io::Result<usize>, len: usize) -> io::Result<usize> {
        let blocked = match &result {
            Ok(written) => *written < len,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if blocked != self.blocked {
            let out = if blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(self.token);
            epoll::modify(&self.epoll, &self.socket, data, STREAM_EVENTS | out)?;
            self.blocked = blocked;
        }
        result
    }
}

impl Stream for UnixStream {
    fn read(&mut self, into: &[GuestSlice<'_>]) -> io::Result<usize> {
        message(into, |message| {
            // SAFETY: `message` describes slices of guest RAM that `message()` keeps mapped while
            // this call lasts. The guest may change RAM meanwhile: the kernel copies bytes.
            unsafe { libc::recvmsg(self.socket.as_raw_fd(), message, libc::MSG_DONTWAIT) }
        })
    }

    fn write(&mut self, from: &[GuestSlice<'_>]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let written = message(from, |message| {
            // SAFETY: as in `read`.
            unsafe { libc::sendmsg(self.socket.as_raw_fd(), message, flags) }
        });
        self.after_write(written, from.iter().map(|slice| slice.len()).sum())
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        again(|| rustix::net::recv(&self.socket, &mut *into, flags)).map(|(_, len)| len)
    }

    fn read_bytes(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT;
        again(|| rustix::net::recv(&self.socket, &mut *into, flags)).map(|(_, len)| len)
    }

    fn write_bytes(&mut self, from: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let written = again(|| rustix::net::send(&self.socket, from, flags));
        self.after_write(written, from.len())
    }

    fn shutdown(&mut self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        // It fails only where the other end has gone, and there is nobody to tell.
        let _ = rustix::net::shutdown(&self.socket, how);
    }

    fn is_heard(&self) -> bool {
        let mut asked = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let asking = again(|| rustix::event::poll(&mut asked, Some(&now)));
        asking.is_ok() && !asked[0].revents().contains(PollFlags::HUP)
    }
}

/// Makes a message of `slices` and has `call` send or receive it.
fn message(
    slices: &[GuestSlice<'_>],
    call: impl Fn(&mut libc::msghdr) -> isize,
) -> io::Result<usize> {
    let slices = &slices[..slices.len().min(IOV_MAX)];
    let guards: Vec<_> = slices.iter().map(|slice| slice.ptr_guard_mut()).collect();
    let mut pieces: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    // SAFETY: all zeroes is an empty message: no name, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len();
    loop {
        if let Ok(len) = usize::try_from(call(&mut message)) {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Makes a call again that a signal has interrupted.
fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Program;

    fn host(folder: &tempfile::TempDir) -> UnixHost {
        UnixHost::bind(&folder.path().join("v.sock")).unwrap()
    }

    fn ready(host: &mut UnixHost) -> Vec<Ready> {
        let mut ready = Vec::new();
        assert!(!host.poll(&mut ready).unwrap());
        ready
    }

    #[test]
    fn a_path_that_cannot_be_had_is_named_as_firecracker_does() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        std::fs::write(&taken, "").unwrap();
        let long = folder.path().join("x".repeat(108));
        let cases = [
            (taken, "Address already in use (os error 98)"),
            (folder.path().join("none/v.sock"), "No such file or directory (os error 2)"),
            (long, "path must be shorter than SUN_LEN"),
        ];
        for (path, expected) in cases {
            let error = UnixHost::bind(&path).unwrap_err().to_string();
            assert_eq!(error, format!("Error binding to the host-side Unix socket: {expected}"));
        }
    }

    #[test]
    fn the_socket_stays_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        drop(host(&folder));
        let path = folder.path().join("v.sock");
        assert!(path.exists() && UnixHost::bind(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        host(&folder).remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn callers_are_told_of_while_they_are_listened_to() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = host(&folder);
        let _program = Program::connect(folder.path().join("v.sock")).unwrap();
        assert_eq!(ready(&mut host), []);
        host.listen(true).unwrap();
        host.listen(true).unwrap();
        assert_eq!(ready(&mut host), [Ready::Caller]);
        assert_eq!(ready(&mut host), [Ready::Caller]);
        host.listen(false).unwrap();
        assert_eq!(ready(&mut host), []);
        let _stream = host.accept(1).unwrap();
        let none = host.accept(2).err().unwrap();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn streams_tell_of_edges() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = host(&folder);
        let listener = UnixListener::bind(folder.path().join("v.sock_7")).unwrap();
        let mut stream = host.connect(7, 5).unwrap();
        let (mut program, _) = listener.accept().unwrap();
        assert_eq!(ready(&mut host), []);
        let event = |readable, writable| [Ready::Stream { token: 5, readable, writable }];
        program.write_all(b"hello").unwrap();
        assert_eq!(ready(&mut host), event(true, false));
        assert_eq!(ready(&mut host), []);
        let mut bytes = [0; 9];
        assert_eq!(stream.peek(&mut bytes).unwrap(), 5);
        assert_eq!(stream.read_bytes(&mut bytes).unwrap(), 5);
        assert_eq!(&bytes[..5], b"hello");
        let empty = stream.read_bytes(&mut bytes).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        // Room is told of only after there was none.
        let mut written = 0;
        while let Ok(len) = stream.write_bytes(&[1; 60_000]) {
            written += len;
        }
        assert_eq!(ready(&mut host), []);
        program.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(ready(&mut host), event(false, true));
        assert_eq!(stream.write_bytes(b"more").unwrap(), 4);
        program.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(ready(&mut host), []);
        // The end of one direction, and of both.
        program.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ready(&mut host), event(true, false));
        assert_eq!(stream.read_bytes(&mut bytes).unwrap(), 0);
        assert!(stream.is_heard());
        drop(program);
        assert_eq!(ready(&mut host), event(true, true));
        assert!(!stream.is_heard());
        assert_eq!(stream.write_bytes(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        drop(stream);
        assert_eq!(ready(&mut host), []);
    }

    #[test]
    fn a_listener_whose_queue_is_full_does_not_hold_us() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = host(&folder);
        let nobody = host.connect(7, 1).err().unwrap();
        assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None);
        let socket = socket.unwrap();
        let address = SocketAddrUnix::new(folder.path().join("v.sock_7")).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let _first = host.connect(7, 2).unwrap();
        let second = host.connect(7, 3).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
    }
}
