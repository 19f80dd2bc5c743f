//! Vsock packets (virtio 1.2, 5.10.6): a header of 44 bytes, and data behind it.
//!
//! [`Header`] is the header as it lies in memory. [`Packet`] is what it means between this guest
//! and this host: [`Packet::decode`] refuses whatever means nothing, and the [`Refusal`] says who
//! is to hear of that.

use memory::GuestMemory;
use virtio::Chain;

/// Bytes in a header.
pub const HEADER_LEN: u64 = 44;
/// The host's context id (virtio 1.2, 5.10.4).
pub const HOST_CID: u64 = 2;
/// The only type of socket: a stream.
pub const TYPE_STREAM: u16 = 1;

/// Operations (virtio 1.2, 5.10.6).
const OP_REQUEST: u16 = 1;
const OP_RESPONSE: u16 = 2;
const OP_RST: u16 = 3;
const OP_SHUTDOWN: u16 = 4;
const OP_RW: u16 = 5;
const OP_CREDIT_UPDATE: u16 = 6;
const OP_CREDIT_REQUEST: u16 = 7;

/// Flags of SHUTDOWN.
const SHUTDOWN_RECEIVE: u32 = 1;
const SHUTDOWN_SEND: u32 = 2;

/// `struct virtio_vsock_hdr`, field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Context id of the sender.
    pub src_cid: u64,
    /// Context id of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of data behind the header.
    pub len: u32,
    /// Type of the socket.
    pub kind: u16,
    /// Operation.
    pub op: u16,
    /// Flags of the operation.
    pub flags: u32,
    /// Bytes that the sender can buffer for this connection.
    pub buf_alloc: u32,
    /// Bytes of this connection that the sender has taken out of its buffer so far.
    pub fwd_cnt: u32,
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Port on the host.
    pub host: u32,
    /// Port in the guest.
    pub guest: u32,
}

/// What a sender says about its buffer, in every packet (virtio 1.2, 5.10.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Bytes that it can buffer.
    pub buf_alloc: u32,
    /// Bytes that it has taken out of the buffer so far, modulo 2^32.
    pub fwd_cnt: u32,
}

/// What a sender will not do any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shutdown {
    /// It receives no more.
    pub receive: bool,
    /// It sends no more.
    pub send: bool,
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Asks for a connection.
    Request,
    /// Grants one.
    Response,
    /// There is no such connection, or no longer.
    Reset,
    /// The sender ends its part.
    Shutdown(Shutdown),
    /// So many bytes of data.
    Data(u32),
    /// Tells of the sender's buffer.
    CreditUpdate,
    /// Asks to be told of the receiver's buffer.
    CreditRequest,
}

/// A packet between this guest and this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whose it is.
    pub ports: Ports,
    /// The sender's buffer.
    pub credit: Credit,
    /// What it is for.
    pub op: Op,
}

/// Why a packet from the guest is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody is there who could be answered: no whole header, or context ids of others.
    Drop,
    /// The connection, if there is one, cannot go on: unknown type or operation, or a length that
    /// is not there.
    Reset(Ports),
}

impl Shutdown {
    /// Neither direction is left.
    pub const BOTH: Self = Self { receive: true, send: true };
}

impl Header {
    /// Reads a header as it lies in memory.
    pub fn from_bytes(bytes: [u8; HEADER_LEN as usize]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The header as it lies in memory.
    pub fn to_bytes(self) -> [u8; HEADER_LEN as usize] {
        let mut bytes = [0; HEADER_LEN as usize];
        let mut rest = &mut bytes[..];
        put(&mut rest, self.src_cid.to_le_bytes());
        put(&mut rest, self.dst_cid.to_le_bytes());
        put(&mut rest, self.src_port.to_le_bytes());
        put(&mut rest, self.dst_port.to_le_bytes());
        put(&mut rest, self.len.to_le_bytes());
        put(&mut rest, self.kind.to_le_bytes());
        put(&mut rest, self.op.to_le_bytes());
        put(&mut rest, self.flags.to_le_bytes());
        put(&mut rest, self.buf_alloc.to_le_bytes());
        put(&mut rest, self.fwd_cnt.to_le_bytes());
        bytes
    }
}

impl Packet {
    /// Reads the packet in `chain`, from the guest with context id `guest_cid`. Its data, if any,
    /// are the bytes from [`HEADER_LEN`] on, and are all there.
    pub fn parse(memory: &GuestMemory, chain: &Chain, guest_cid: u64) -> Result<Self, Refusal> {
        let mut header = [0; HEADER_LEN as usize];
        chain.read_at(memory, 0, &mut header).map_err(|_| Refusal::Drop)?;
        let data_len = chain.readable_len().saturating_sub(HEADER_LEN);
        Self::decode(Header::from_bytes(header), data_len, guest_cid)
    }

    /// Decodes a packet from its header and the number of bytes behind that.
    pub fn decode(header: Header, data_len: u64, guest_cid: u64) -> Result<Self, Refusal> {
        if header.src_cid != guest_cid || header.dst_cid != HOST_CID {
            return Err(Refusal::Drop);
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let op = match header.op {
            _ if header.kind != TYPE_STREAM => return Err(Refusal::Reset(ports)),
            OP_REQUEST => Op::Request,
            OP_RESPONSE => Op::Response,
            OP_RST => Op::Reset,
            OP_SHUTDOWN => Op::Shutdown(Shutdown {
                receive: header.flags & SHUTDOWN_RECEIVE != 0,
                send: header.flags & SHUTDOWN_SEND != 0,
            }),
            OP_RW if u64::from(header.len) <= data_len => Op::Data(header.len),
            OP_CREDIT_UPDATE => Op::CreditUpdate,
            OP_CREDIT_REQUEST => Op::CreditRequest,
            _ => return Err(Refusal::Reset(ports)),
        };
        let credit = Credit { buf_alloc: header.buf_alloc, fwd_cnt: header.fwd_cnt };
        Ok(Self { ports, credit, op })
    }

    /// The header that takes this packet to the guest with context id `guest_cid`.
    pub fn header(&self, guest_cid: u64) -> Header {
        let (op, flags, len) = match self.op {
            Op::Request => (OP_REQUEST, 0, 0),
            Op::Response => (OP_RESPONSE, 0, 0),
            Op::Reset => (OP_RST, 0, 0),
            Op::Shutdown(Shutdown { receive, send }) => {
                let receive = if receive { SHUTDOWN_RECEIVE } else { 0 };
                let send = if send { SHUTDOWN_SEND } else { 0 };
                (OP_SHUTDOWN, receive | send, 0)
            }
            Op::Data(len) => (OP_RW, 0, len),
            Op::CreditUpdate => (OP_CREDIT_UPDATE, 0, 0),
            Op::CreditRequest => (OP_CREDIT_REQUEST, 0, 0),
        };
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            len,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: self.credit.buf_alloc,
            fwd_cnt: self.credit.fwd_cnt,
        }
    }
}

/// Takes the next field; a header's fields are as long as its bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let mut field = [0; N];
    let (bytes, after) = rest.split_at(N);
    field.copy_from_slice(bytes);
    *rest = after;
    field
}

fn put<const N: usize>(rest: &mut &mut [u8], field: [u8; N]) {
    let (bytes, after) = std::mem::take(rest).split_at_mut(N);
    bytes.copy_from_slice(&field);
    *rest = after;
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST_CID: u64 = 3;

    fn header(op: u16, len: u32, flags: u32) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: 1025,
            dst_port: 52,
            len,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: 0x10000,
            fwd_cnt: 7,
        }
    }

    const PORTS: Ports = Ports { host: 52, guest: 1025 };

    fn check(header: Header, data_len: u64, expected: Result<Op, Refusal>) {
        let decoded = Packet::decode(header, data_len, GUEST_CID);
        assert_eq!(decoded.map(|packet| packet.op), expected, "{header:?} + {data_len}");
        if let Ok(packet) = decoded {
            assert_eq!(packet.ports, PORTS);
            assert_eq!(packet.credit, Credit { buf_alloc: 0x10000, fwd_cnt: 7 });
        }
    }

    #[test]
    fn packets_are_what_their_headers_say() {
        let reset = Err(Refusal::Reset(PORTS));
        check(header(1, 0, 0), 0, Ok(Op::Request));
        check(header(2, 0, 0), 0, Ok(Op::Response));
        check(header(3, 0, 0), 0, Ok(Op::Reset));
        check(header(4, 0, 0), 0, Ok(Op::Shutdown(Shutdown::default())));
        let receive = Shutdown { receive: true, send: false };
        check(header(4, 0, 1), 0, Ok(Op::Shutdown(receive)));
        check(header(4, 0, !0), 0, Ok(Op::Shutdown(Shutdown::BOTH)));
        check(header(5, 0, 0), 0, Ok(Op::Data(0)));
        check(header(5, 10, 0), 10, Ok(Op::Data(10)));
        check(header(5, 10, 0), 11, Ok(Op::Data(10)));
        check(header(5, 11, 0), 10, reset);
        check(header(5, u32::MAX, 0), 0, reset);
        check(header(6, 99, 0), 0, Ok(Op::CreditUpdate));
        check(header(7, 0, 0), 0, Ok(Op::CreditRequest));
        check(header(0, 0, 0), 0, reset);
        check(header(8, 0, 0), 0, reset);
        check(Header { kind: 2, ..header(5, 0, 0) }, 0, reset);
        check(Header { src_cid: 4, ..header(1, 0, 0) }, 0, Err(Refusal::Drop));
        check(Header { dst_cid: 1, ..header(1, 0, 0) }, 0, Err(Refusal::Drop));
        check(Header { dst_cid: 1, kind: 9, ..header(1, 0, 0) }, 0, Err(Refusal::Drop));
    }

    #[test]
    fn a_header_lies_in_memory_as_specified() {
        let bytes = header(5, 0x0102_0304, 2).to_bytes();
        let expected = "0300000000000000 0200000000000000 01040000 34000000 04030201 0100 0500 \
                        02000000 00000100 07000000";
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
        assert_eq!(Header::from_bytes(bytes), header(5, 0x0102_0304, 2));
    }

    #[test]
    fn a_packet_to_the_guest_goes_the_other_way() {
        let ops = [
            (Op::Request, 1, 0, 0),
            (Op::Response, 2, 0, 0),
            (Op::Reset, 3, 0, 0),
            (Op::Shutdown(Shutdown { receive: false, send: true }), 4, 2, 0),
            (Op::Data(9), 5, 0, 9),
            (Op::CreditUpdate, 6, 0, 0),
            (Op::CreditRequest, 7, 0, 0),
        ];
        let credit = Credit { buf_alloc: 0x10000, fwd_cnt: 7 };
        for (op, number, flags, len) in ops {
            let there = Packet { ports: PORTS, credit, op }.header(GUEST_CID);
            let expected = Header {
                src_cid: HOST_CID,
                dst_cid: GUEST_CID,
                src_port: PORTS.host,
                dst_port: PORTS.guest,
                ..header(number, len, flags)
            };
            assert_eq!(there, expected, "{op:?}");
        }
    }
}
