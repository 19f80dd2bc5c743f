//! What the device has to know of a frame: who sends it, and whom it asks for.
//!
//! A frame in a queue is a header of the device's own (virtio 1.2, 5.1.6: `virtio_net_hdr_v1`)
//! and the Ethernet frame. The tap takes and gives the same header, so the device reads nothing of
//! it, and writes one field when it receives.

use std::net::Ipv4Addr;

use memory::GuestMemory;
use spec::MacAddress;
use virtio::{BufferError, Chain};

/// Bytes of the device's header.
pub const HEADER_LEN: usize = 12;
/// Bytes of the largest frame: the header, Ethernet's, and 64 KiB.
pub const FRAME_MAX: usize = HEADER_LEN + ETHERNET_LEN + (64 << 10);

/// Where in the device's header the number of buffers of a received frame is.
pub(super) const NUM_BUFFERS: usize = 10;

/// Bytes of Ethernet's header: two addresses and the type (IEEE 802.3, 3.1.1).
pub(super) const ETHERNET_LEN: usize = 14;
/// Where in the Ethernet frame the sender is.
const SOURCE: usize = 6;
/// Where the type of what follows is.
const ETHER_TYPE: usize = 12;
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Where an IPv4 packet has its destination (RFC 791, 3.1).
const IPV4_DESTINATION: usize = ETHERNET_LEN + 16;
/// Where an ARP packet for IPv4 over Ethernet has the address that it asks for (RFC 826).
const ARP_TARGET: usize = ETHERNET_LEN + 24;
/// Bytes of such an ARP packet; an IPv4 header without options is shorter.
const ARP_LEN: usize = 28;

/// Bytes from the start of a frame that the device looks at.
const LOOKED_AT: usize = HEADER_LEN + ETHERNET_LEN + ARP_LEN;

/// The beginning of a frame from the guest, copied so that the guest cannot change it between the
/// look and the transmission.
pub struct Headers {
    bytes: [u8; LOOKED_AT],
    len: usize,
}

impl Headers {
    /// Reads the beginning of the frame in `chain`.
    pub fn read(memory: &GuestMemory, chain: &Chain) -> Result<Self, BufferError> {
        let len = chain.readable_len().min(LOOKED_AT as u64) as usize;
        let mut bytes = [0; LOOKED_AT];
        chain.read_at(memory, 0, &mut bytes[..len])?;
        Ok(Self { bytes, len })
    }

    /// The first bytes of `frame`.
    pub fn of(frame: &[u8]) -> Self {
        let len = frame.len().min(LOOKED_AT);
        let mut bytes = [0; LOOKED_AT];
        bytes[..len].copy_from_slice(&frame[..len]);
        Self { bytes, len }
    }

    /// The bytes as they came, from the device's header on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The sender's address, if there is a whole Ethernet header.
    pub fn source(&self) -> Option<MacAddress> {
        self.field(0..ETHERNET_LEN)?;
        self.array(SOURCE).map(MacAddress)
    }

    /// The IPv4 address that the frame is for, or that it asks for by ARP.
    pub fn ipv4_target(&self) -> Option<Ipv4Addr> {
        let target = match self.array(ETHER_TYPE)? {
            ETHER_TYPE_IPV4 => IPV4_DESTINATION,
            ETHER_TYPE_ARP => ARP_TARGET,
            _ => return None,
        };
        self.array::<4>(target).map(Ipv4Addr::from)
    }

    /// Bytes of the Ethernet frame from `at` on.
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.field(at..at + N)?.try_into().ok()
    }

    fn field(&self, range: std::ops::Range<usize>) -> Option<&[u8]> {
        self.bytes().get(HEADER_LEN..)?.get(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of `len` bytes that counts them, but for the type.
    fn frame(len: usize, ether_type: [u8; 2]) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..len).map(|i| i as u8).collect();
        for (at, byte) in (HEADER_LEN + ETHER_TYPE..).zip(ether_type) {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame
    }

    fn check(len: usize, ether_type: u16, source: Option<u8>, target: Option<[u8; 4]>) {
        let headers = Headers::of(&frame(len, ether_type.to_be_bytes()));
        assert_eq!(headers.source().map(|mac| mac.0[0]), source, "{len} {ether_type:#x}");
        let target = target.map(Ipv4Addr::from);
        assert_eq!(headers.ipv4_target(), target, "{len} {ether_type:#x}");
    }

    #[test]
    fn addresses_are_found() {
        check(60, 0x0800, Some(18), Some([42, 43, 44, 45]));
        check(46, 0x0800, Some(18), Some([42, 43, 44, 45]));
        check(45, 0x0800, Some(18), None);
        check(60, 0x0806, Some(18), Some([50, 51, 52, 53]));
        check(54, 0x0806, Some(18), Some([50, 51, 52, 53]));
        check(53, 0x0806, Some(18), None);
        check(60, 0x86DD, Some(18), None);
        check(26, 0x0800, Some(18), None);
        check(25, 0x0800, None, None);
        check(0, 0x0800, None, None);
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(frame in prop::collection::vec(any::<u8>(), 0..80)) {
            let headers = Headers::of(&frame);
            prop_assert_eq!(headers.bytes(), &frame[..frame.len().min(LOOKED_AT)]);
            prop_assert_eq!(headers.source().is_some(), frame.len() >= 26);
            prop_assert!(headers.ipv4_target().is_none() || frame.len() >= 46);
        }
    }
}
