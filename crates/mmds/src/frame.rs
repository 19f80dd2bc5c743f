//! Ethernet and ARP: which frames of the guest are for the service, and frames to the guest.
//!
//! A frame with an IEEE 802.1Q tag is never for the service.

use std::net::Ipv4Addr;

/// The service's own address on the link.
pub const MAC: [u8; 6] = [0x06, 0x01, 0x23, 0x45, 0x67, 0x01];

/// Bytes of an Ethernet header: destination, source, type.
pub(crate) const ETHERNET_HEADER: usize = 14;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];

/// Bytes of an ARP packet for IPv4 over Ethernet.
const ARP: usize = 28;
/// Its first 8 bytes: Ethernet, IPv4, the lengths of their addresses, and the operation.
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const ARP_REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];

/// Where an IPv4 header has the destination.
const IPV4_DESTINATION: std::ops::Range<usize> = 16..20;

/// A frame for the service, and the MAC address of who sent it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) from: [u8; 6],
    pub(crate) content: Content<'a>,
}

/// What is in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// A question for the service's MAC address, by this IPv4 address.
    ArpRequest(Ipv4Addr),
    /// An IPv4 packet, of which nothing but its destination was looked at, with what pads it.
    Ipv4(&'a [u8]),
}

/// Whether a frame is for the service at `address`.
pub(crate) fn classify(frame: &[u8], address: Ipv4Addr) -> Option<Frame<'_>> {
    let (header, payload) = frame.split_first_chunk::<ETHERNET_HEADER>()?;
    let [_, _, _, _, _, _, from @ .., t0, t1] = *header;
    let content = match [t0, t1] {
        TYPE_ARP => Content::ArpRequest(arp_request(payload, address)?),
        TYPE_IPV4 if payload.get(IPV4_DESTINATION)? == address.octets() => Content::Ipv4(payload),
        _ => return None,
    };
    Some(Frame { from, content })
}

/// Who asks for `address`.
fn arp_request(packet: &[u8], address: Ipv4Addr) -> Option<Ipv4Addr> {
    let (packet, _) = packet.split_first_chunk::<ARP>()?;
    let (operation, rest) = packet.split_first_chunk::<8>()?;
    let (sender, target) = rest.split_at_checked(10)?;
    let (_, sender) = sender.split_last_chunk::<4>()?;
    let (_, target) = target.split_last_chunk::<4>()?;
    let ours = *operation == ARP_REQUEST && *target == address.octets();
    ours.then(|| Ipv4Addr::from(*sender))
}

/// The answer to an ARP request: the service at `address` has [`MAC`].
pub(crate) fn arp_reply(address: Ipv4Addr, to: [u8; 6], asker: Ipv4Addr) -> Vec<u8> {
    let header = [&to[..], &MAC, &TYPE_ARP].concat();
    let own = [&MAC[..], &address.octets()].concat();
    let other = [&to[..], &asker.octets()].concat();
    [header, ARP_REPLY.to_vec(), own, other].concat()
}

/// A frame to the guest for an IPv4 packet of `length` bytes, which are zero yet.
pub(crate) fn ipv4(to: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_HEADER + length);
    frame.extend(to);
    frame.extend(MAC);
    frame.extend(TYPE_IPV4);
    frame.resize(ETHERNET_HEADER + length, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const GUEST_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn arp(first: [u8; 8], target: Ipv4Addr) -> Vec<u8> {
        let mut frame = [&[0xFF; 6][..], &GUEST, &TYPE_ARP, &first].concat();
        frame.extend(GUEST);
        frame.extend(GUEST_IP.octets());
        frame.extend([0; 6]);
        frame.extend(target.octets());
        frame
    }

    fn packet(kind: [u8; 2], destination: Ipv4Addr) -> Vec<u8> {
        let mut frame = [&MAC[..], &GUEST, &kind].concat();
        frame.extend([0x45; 16]);
        frame.extend(destination.octets());
        frame
    }

    #[test]
    fn frames_for_the_service() {
        let arp_ours = arp(ARP_REQUEST, OURS);
        let content = Content::ArpRequest(GUEST_IP);
        assert_eq!(classify(&arp_ours, OURS), Some(Frame { from: GUEST, content }));
        let padded = [arp_ours.clone(), vec![0; 18]].concat();
        assert!(classify(&padded, OURS).is_some());
        let ours = packet(TYPE_IPV4, OURS);
        let content = Content::Ipv4(&ours[14..]);
        assert_eq!(classify(&ours, OURS), Some(Frame { from: GUEST, content }));
        for length in 0..arp_ours.len() {
            assert_eq!(classify(&arp_ours[..length], OURS), None, "{length} bytes");
        }
        for length in 0..ours.len() {
            assert_eq!(classify(&ours[..length], OURS), None, "{length} bytes");
        }
    }

    #[test]
    fn frames_for_others() {
        for frame in [
            arp(ARP_REQUEST, GUEST_IP),
            arp(ARP_REPLY, OURS),
            arp([0, 6, 8, 0, 6, 4, 0, 1], OURS),
            packet(TYPE_IPV4, GUEST_IP),
            packet([0x86, 0xDD], OURS),
            packet([0x81, 0x00], OURS),
        ] {
            assert_eq!(classify(&frame, OURS), None, "{frame:02x?}");
        }
    }

    #[test]
    fn an_arp_reply_names_both_sides() {
        let expected = [
            &GUEST[..],
            &MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &MAC,
            &[169, 254, 169, 254],
            &GUEST,
            &[10, 0, 0, 2],
        ];
        assert_eq!(arp_reply(OURS, GUEST, GUEST_IP), expected.concat());
    }
}
