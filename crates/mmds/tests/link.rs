//! The stack on a bad link and with bad guests.

mod support;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use smoltcp::socket::tcp::State;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber,
};
use sparkler_mmds::{CONNECTIONS_MAX, FRAMES_MAX, IDLE, REQUEST_BYTES_MAX, SEND_MAX};
use spec::MmdsVersion::V1;

use support::{ADDRESS, Fate, GUEST, GUEST_MAC, World, has_responses, responses, service};

const GET: &[u8] = b"GET /v HTTP/1.1\r\n\r\n";

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Arrives),
        1 => Just(Fate::IsLost),
        1 => Just(Fate::IsDoubled),
        1 => Just(Fate::IsLate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever becomes of frames on the way, the answers are whole and in order, and the
    /// connection ends on both sides. The guest's window is always open: where one closes *and*
    /// segments are lost, smoltcp 0.14 can forget to retransmit, and the connection is reset when
    /// patience ends. A virtio link loses nothing.
    #[test]
    fn nothing_is_lost_on_a_bad_link(
        fates in vec(fate(), 0..200),
        length in 0usize..9000,
        count in 1usize..4,
        piece in prop_oneof![Just(1usize), Just(7), Just(5000)],
    ) {
        let value: String = ('a'..='z').cycle().take(length).collect();
        let (service, metrics) = service(V1, false, json!({"v": value}));
        let mut world = World::new(service, 1500);
        world.fates = VecDeque::from(fates);
        let handle = world.connect(40000, 2 * SEND_MAX);
        let answer =
            world.exchange(handle, &GET.repeat(count), (piece, 60_000), |a| has_responses(a, count));
        let end = (world.socket(handle).state(), answer.len(), world.now);
        prop_assert!(has_responses(&answer, count), "the exchange ended early: {:?}", end);
        prop_assert_eq!(responses(&answer), vec![(200, value); count]);
        world.socket(handle).close();
        for _ in 0..20_000 {
            world.step();
            if world.socket(handle).state() == State::Closed
                && world.stack.next_poll(world.now).is_none()
            {
                break;
            }
        }
        prop_assert_eq!(world.stack.next_poll(world.now), None);
        let counted = (metrics.connections_created.count(), metrics.connections_destroyed.count());
        prop_assert_eq!(counted.0, counted.1);
    }

    /// Frames of any content for the service do no harm, and another connection still works.
    #[test]
    fn any_segments_do_no_harm(segments in vec(any_segment(), 0..60)) {
        let (service, _) = service(V1, false, json!({"v": "x"}));
        let mut world = World::new(service, 1500);
        let (mut into, mut expected) = (Vec::new(), HashMap::new());
        for (mut repr, wait, payload) in segments {
            // Acknowledgements are near what the stack sent last.
            if let (Some(TcpSeqNumber(ack)), Some(sent)) =
                (&mut repr.ack_number, expected.get(&repr.src_port))
            {
                *ack = ack.wrapping_add(*sent);
            }
            let repr = TcpRepr { payload: &payload, ..repr };
            prop_assert!(world.stack.transmit(&frame(&repr), world.now));
            world.now += wait;
            let mut frames = 0;
            while world.stack.receive(&mut into, world.now) {
                let ip = Ipv4Packet::new_checked(&into[14..]).unwrap();
                let segment = TcpPacket::new_checked(ip.payload()).unwrap();
                let TcpSeqNumber(last) = segment.seq_number() + segment.segment_len();
                expected.insert(segment.dst_port(), last);
                frames += 1;
                prop_assert!(frames <= FRAMES_MAX);
            }
            prop_assert_ne!(world.stack.next_poll(world.now), Some(Duration::ZERO));
        }
        world.now += 2 * IDLE;
        let handle = world.connect(50000, 4096);
        let answer = world.exchange(handle, GET, (5000, 2000), |a| has_responses(a, 1));
        prop_assert_eq!(responses(&answer), vec![(200, "x".to_owned())]);
    }
}

fn any_segment() -> impl Strategy<Value = (TcpRepr<'static>, Duration, Vec<u8>)> {
    let control = prop_oneof![
        4 => Just(TcpControl::Syn),
        4 => Just(TcpControl::None),
        2 => Just(TcpControl::Psh),
        1 => Just(TcpControl::Fin),
        1 => Just(TcpControl::Rst),
    ];
    let near = || prop_oneof![4 => -3i32..3, 1 => any::<i32>()];
    let payload = prop_oneof![Just(GET.to_vec()), vec(any::<u8>(), 0..40), vec(any::<u8>(), 2900)];
    let parts = (control, 1000u16..1004, near(), proptest::option::of(near()));
    (parts, any::<u16>(), 0u64..4, payload).prop_map(
        |((control, port, seq, ack), window, wait, payload)| {
            let mut repr = syn(port);
            repr.control = control;
            repr.seq_number = TcpSeqNumber(FIRST.wrapping_add(seq));
            repr.ack_number = ack.map(TcpSeqNumber);
            repr.window_len = window;
            (repr, Duration::from_millis(wait * 700), payload)
        },
    )
}

/// The guest's first sequence number: soon it wraps.
const FIRST: i32 = -2;

fn syn(port: u16) -> TcpRepr<'static> {
    TcpRepr {
        src_port: port,
        dst_port: 80,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(FIRST),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// A frame of the guest, without checksums, as its driver leaves them to the device.
fn frame(repr: &TcpRepr<'_>) -> Vec<u8> {
    let ip = Ipv4Repr {
        src_addr: GUEST,
        dst_addr: ADDRESS,
        next_header: IpProtocol::Tcp,
        payload_len: repr.buffer_len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + ip.buffer_len() + repr.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes[..]);
    ethernet.set_dst_addr(EthernetAddress(sparkler_mmds::MAC));
    ethernet.set_src_addr(EthernetAddress(GUEST_MAC));
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let none = smoltcp::phy::ChecksumCapabilities::ignored();
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &none);
    let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
    repr.emit(&mut segment, &ADDRESS.into(), &GUEST.into(), &none);
    bytes
}

/// The flags of all that the stack sends now, by the guest's port.
fn replies(world: &mut World) -> HashMap<u16, String> {
    let (mut into, mut all) = (Vec::new(), HashMap::new());
    while world.stack.receive(&mut into, world.now) {
        let packet = Ipv4Packet::new_checked(&into[14..]).unwrap();
        let segment = TcpPacket::new_checked(packet.payload()).unwrap();
        let flags = [
            (segment.syn(), "syn"),
            (segment.ack(), "ack"),
            (segment.rst(), "rst"),
            (segment.fin(), "fin"),
        ];
        let names: Vec<&str> = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
        all.insert(segment.dst_port(), names.join(" "));
    }
    all
}

#[test]
fn a_flood_of_connections_leaves_room_in_the_end() {
    let (service, metrics) = service(V1, false, json!({"v": "x"}));
    let mut world = World::new(service, 1500);
    for port in 0..CONNECTIONS_MAX as u16 {
        assert!(world.stack.transmit(&frame(&syn(1000 + port)), world.now));
        assert_eq!(replies(&mut world)[&(1000 + port)], "syn ack");
    }
    for port in 2000..2500 {
        assert!(world.stack.transmit(&frame(&syn(port)), world.now));
    }
    let refused = replies(&mut world);
    assert_eq!(refused.len(), FRAMES_MAX, "the others are lost");
    assert!(refused.values().all(|flags| flags == "ack rst"), "{refused:?}");
    assert_eq!(metrics.tx_errors.count(), 500 - FRAMES_MAX as u64);
    world.now += IDLE + Duration::from_millis(1);
    assert!(world.stack.transmit(&frame(&syn(3000)), world.now));
    let replied = replies(&mut world);
    assert_eq!(replied[&3000], "syn ack");
    assert_eq!(replied.values().filter(|flags| flags.contains("rst")).count(), 1, "{replied:?}");
    assert_eq!(metrics.connections_created.count(), CONNECTIONS_MAX as u64 + 1);
    assert_eq!(metrics.connections_destroyed.count(), 1);
}

#[test]
fn connections_that_were_closed_leave_room_at_once() {
    for ports in [3 * CONNECTIONS_MAX as u16, 1] {
        let (service, metrics) = service(V1, false, json!({"v": "x"}));
        let mut world = World::new(service, 1500);
        for number in 0..3 * CONNECTIONS_MAX as u16 {
            let handle = world.connect(40000 + number % ports, 4096);
            let request = b"GET /v HTTP/1.0\r\n\r\n";
            let answer = world.exchange(handle, request, (5000, 500), |_| false);
            assert_eq!(responses(&answer), [(200, "x".to_owned())], "{number} of {ports} ports");
            world.socket(handle).close();
            world.step();
            world.step();
            world.guest.sockets.remove(handle);
        }
        // None had to be reset, and none was silent for long enough.
        assert!(world.now < IDLE);
        assert_eq!(metrics.connections_created.count(), 3 * CONNECTIONS_MAX as u64);
    }
}

#[test]
fn the_guest_may_hang_up_and_all_is_counted() {
    for unfinished in [&b""[..], b"GET /", b"GET / HTTP/1.1\r\n"] {
        let (service, metrics) = service(V1, false, json!({"v": "x"}));
        let mut world = World::new(service, 1500);
        let handle = world.connect(40000, 4096);
        world.exchange(handle, GET, (5000, 500), |answer| has_responses(answer, 1));
        world.exchange(handle, unfinished, (5000, 3), |_| false);
        world.socket(handle).close();
        for _ in 0..3 {
            world.step();
        }
        let state = world.socket(handle).state();
        assert_eq!(state, State::TimeWait, "after {:?}", unfinished.escape_ascii().to_string());
        assert_eq!(metrics.connections_created.count(), 1);
        assert_eq!(metrics.connections_destroyed.count(), 1);
        // One frame each way is ARP.
        assert_eq!(metrics.rx_accepted.count(), metrics.rx_count.count() + 1);
        assert!(metrics.rx_count.count() >= 5);
        assert_eq!(metrics.tx_frames.count(), metrics.tx_count.count());
        assert!(metrics.tx_bytes.count() > 42 + 54 * (metrics.tx_frames.count() - 1));
        assert_eq!(metrics.rx_accepted_err.count() + metrics.rx_accepted_unusual.count(), 0);
    }
}

#[test]
fn a_request_without_end_is_reset() {
    let (service, _) = service(V1, false, json!({}));
    let mut world = World::new(service, 1500);
    let handle = world.connect(40000, 4096);
    let request = [b"GET /".to_vec(), vec![b'a'; REQUEST_BYTES_MAX]].concat();
    let answer = world.exchange(handle, &request, (5000, 500), |_| false);
    assert!(answer.is_empty());
    assert_eq!(world.socket(handle).state(), State::Closed);
    assert_eq!(world.stack.next_poll(world.now), None);
}

#[test]
fn a_guest_that_vanishes_is_forgotten() {
    let (service, metrics) = service(V1, false, json!({"v": "x".repeat(20000)}));
    let mut world = World::new(service, 1500);
    let handle = world.connect(40000, 1000);
    world.exchange(handle, GET, (5000, 500), |answer| !answer.is_empty());
    let mut into = Vec::new();
    let mut calls = 0;
    while let Some(wait) = world.stack.next_poll(world.now) {
        world.now += wait;
        while world.stack.receive(&mut into, world.now) {}
        calls += 1;
        assert!(calls < 50, "it is called for ever");
    }
    assert_eq!(metrics.connections_destroyed.count(), 1);
}

#[test]
fn other_traffic_to_the_address_is_dropped_or_reset() {
    let (service, metrics) = service(V1, false, json!({}));
    let mut world = World::new(service, 1500);
    let other_port = TcpRepr { dst_port: 22, ..syn(1000) };
    assert!(world.stack.transmit(&frame(&other_port), world.now));
    assert_eq!(replies(&mut world)[&1000], "ack rst");
    let mut udp = frame(&syn(1000));
    udp[14 + 9] = 17;
    let mut fragment = frame(&syn(1000));
    fragment[14 + 6] = 0x20;
    let mut short = frame(&syn(1000));
    short.truncate(14 + 20 + 10);
    let mut bad_version = frame(&syn(1000));
    bad_version[14] = 0x65;
    for bytes in [udp, fragment, short, bad_version] {
        assert!(world.stack.transmit(&bytes, world.now), "{bytes:02x?}");
        assert!(replies(&mut world).is_empty(), "{bytes:02x?}");
    }
    assert_eq!(metrics.rx_accepted_unusual.count(), 1);
    assert_eq!(metrics.rx_accepted.count(), 5);
    assert!(!world.stack.transmit(&[0; 13], world.now));
    assert!(!world.stack.transmit(&[0; 100], world.now));
    assert_eq!(metrics.rx_bad_eth.count(), 1);
}
