//! A wire to passt(1): a network for a guest without root and without a tap.
//!
//! passt ends the guest's connections and makes them again as an ordinary process of the host's.
//! The wire is a stream socket: each Ethernet frame comes behind its length in four bytes, the
//! highest first, and has no header of virtio's. passt does not look at the checksums of what the
//! guest sends, nor does it mind large frames; so nothing is finished here.
//!
//! ```text
//! open --end of the stream, or a frame that is too long--> closed: nothing comes, what is sent is lost
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use devices::net::{FRAME_MAX, HEADER_LEN, Offload};
use virtio::GuestSlice;

/// Bytes of a frame's length.
const LENGTH_LEN: usize = 4;
/// How much is read at a time.
const PIECE: usize = 64 << 10;
/// What waits for passt at most; frames beyond are lost, as on any wire.
const WAITING_MAX: usize = 1 << 20;

/// The wire. Watch it for edges, and serve the device's queue 0 at each.
#[derive(Debug)]
pub struct Passt {
    stream: UnixStream,
    /// What came, from the beginning of a frame on.
    came: Vec<u8>,
    /// What passt has not taken yet.
    waiting: Vec<u8>,
    closed: bool,
}

impl Passt {
    /// Connects to the passt that listens at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(path)?)
    }

    fn over(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, came: Vec::new(), waiting: Vec::new(), closed: false })
    }

    /// The length of the frame that came first, if all of it is there.
    fn frame(&mut self) -> Option<usize> {
        let (length, rest) = self.came.split_first_chunk::<LENGTH_LEN>()?;
        let len = u32::from_be_bytes(*length) as usize;
        if len > FRAME_MAX - HEADER_LEN {
            self.closed = true;
            self.came.clear();
            return None;
        }
        (rest.len() >= len).then_some(len)
    }

    /// Reads more; an error if there is nothing now.
    fn fill(&mut self) -> io::Result<()> {
        if self.closed {
            return Err(ErrorKind::WouldBlock.into());
        }
        let before = self.came.len();
        self.came.resize(before + PIECE, 0);
        let read = uninterrupted(|| (&self.stream).read(&mut self.came[before..]));
        self.came.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => {
                self.closed = true;
                Err(ErrorKind::WouldBlock.into())
            }
            read => read.map(drop),
        }
    }

    /// Gives passt what it takes.
    fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match uninterrupted(|| (&self.stream).write(&self.waiting)) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.closed = true;
                    self.waiting.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Passt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl devices::net::Tap for Passt {
    fn read(&mut self, into: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<usize> {
        // What waits is tried again whenever something comes.
        self.flush()?;
        let len = loop {
            match self.frame() {
                Some(len) => break len,
                None => self.fill()?,
            }
        };
        // The header says that nothing is unfinished.
        let mut frame = vec![0; HEADER_LEN];
        frame.extend_from_slice(&self.came[LENGTH_LEN..LENGTH_LEN + len]);
        self.came.drain(..LENGTH_LEN + len);
        let mut left = &frame[..];
        for slice in into {
            let (now, later) = left.split_at(left.len().min(slice.len()));
            slice.copy_from(now);
            left = later;
        }
        let fits = left.len().min(overflow.len());
        overflow[..fits].copy_from_slice(&left[..fits]);
        Ok(frame.len())
    }

    fn write(&mut self, head: &[u8], rest: &[GuestSlice<'_>]) -> io::Result<()> {
        self.flush()?;
        let len = head.len() + rest.iter().map(|slice| slice.len()).sum::<usize>();
        let frame = len.saturating_sub(HEADER_LEN);
        if self.closed || self.waiting.len() + frame > WAITING_MAX {
            return Ok(());
        }
        let Ok(length) = u32::try_from(frame) else { return Ok(()) };
        let mut bytes = head.to_vec();
        for slice in rest {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(&mut bytes[start..]);
        }
        self.waiting.extend_from_slice(&length.to_be_bytes());
        self.waiting.extend_from_slice(bytes.get(HEADER_LEN..).unwrap_or_default());
        self.flush()
    }

    fn set_offload(&mut self, _offload: Offload) -> io::Result<()> {
        // passt sends finished frames only, which every guest takes.
        Ok(())
    }
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use devices::net::Tap as _;
    use memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend};

    use super::*;

    fn ram() -> GuestMemory {
        memory::allocate(&memory::ranges(1 << 20)).unwrap()
    }

    fn wire() -> (Passt, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Passt::over(ours).unwrap(), theirs)
    }

    /// What the guest's slices of these lengths have, and the overflow.
    fn read(passt: &mut Passt, lens: &[usize]) -> io::Result<(usize, Vec<u8>)> {
        let ram = ram();
        let at = GuestAddress(0);
        let mut slices = Vec::new();
        let mut start = 0;
        for len in lens {
            slices.push(ram.get_slice(GuestAddress(start as u64), *len).unwrap());
            start += len;
        }
        let mut overflow = vec![0; 100];
        let len = passt.read(&slices, &mut overflow)?;
        let mut bytes = vec![0; start];
        ram.read_slice(&mut bytes, at).unwrap();
        bytes.extend(overflow);
        bytes.truncate(len);
        Ok((len, bytes))
    }

    #[test]
    fn frames_come_in_pieces() {
        let (mut passt, mut peer) = wire();
        let all = b"\0\0\0\x03abc\0\0\0\x02de";
        for (at, byte) in all.iter().enumerate() {
            let early = read(&mut passt, &[4, 20]);
            assert_eq!(early.unwrap_err().kind(), ErrorKind::WouldBlock, "{at}");
            peer.write_all(&[*byte]).unwrap();
            let expected: Option<&[u8]> = match at {
                6 => Some(b"abc"),
                12 => Some(b"de"),
                _ => None,
            };
            if let Some(expected) = expected {
                let (len, bytes) = read(&mut passt, &[4, 9]).unwrap();
                assert_eq!((len, &bytes[HEADER_LEN..]), (HEADER_LEN + expected.len(), expected));
            }
        }
        drop(peer);
        assert_eq!(read(&mut passt, &[4]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_length_out_of_bounds_ends_the_wire() {
        let (mut passt, mut peer) = wire();
        peer.write_all(b"\xFF\xFF\xFF\xFFrest").unwrap();
        for _ in 0..2 {
            assert_eq!(read(&mut passt, &[4]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn frames_go_without_their_header_and_wait_for_a_slow_reader() {
        let (mut passt, mut peer) = wire();
        let ram = ram();
        let len = 40_000;
        ram.write_slice(&vec![7; len], GuestAddress(0)).unwrap();
        let rest = [ram.get_slice(GuestAddress(0), len).unwrap()];
        let head = [vec![9; HEADER_LEN], b"head".to_vec()].concat();
        for _ in 0..100 {
            passt.write(&head, &rest).unwrap();
        }
        assert!(passt.waiting.len() <= WAITING_MAX);
        let mut frames = 0;
        peer.set_nonblocking(true).unwrap();
        let mut came = Vec::new();
        loop {
            let mut piece = vec![0; PIECE];
            match peer.read(&mut piece) {
                Ok(count) => came.extend_from_slice(&piece[..count]),
                Err(_) if passt.waiting.is_empty() => break,
                Err(_) => passt.flush().unwrap(),
            }
        }
        for frame in came.chunks(LENGTH_LEN + 4 + len) {
            assert_eq!(frame[..8], [0, 0, 0x9C, 0x44, b'h', b'e', b'a', b'd']);
            assert_eq!((frame.len(), frame[8]), (LENGTH_LEN + 4 + len, 7));
            frames += 1;
        }
        assert!((25..100).contains(&frames), "{frames}");
    }
}
