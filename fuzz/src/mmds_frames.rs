//! Frames that a guest sends to the metadata service: any bytes, and TCP segments that are nearly
//! right.

use std::collections::HashMap;
use std::time::Duration;

use mmds::{FRAMES_MAX, Stack};

use crate::mmds_http;
use crate::source::Source;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TCP: usize = 20;
const OURS: [u8; 4] = [169, 254, 169, 254];
const GUEST: [u8; 4] = [169, 254, 1, 2];
/// Longest frame to the guest.
const FRAME_MAX: usize = ETHERNET + 1500;
/// Calls for the stack's own timers, at the end.
const CALLS_MAX: u32 = 10_000;

/// Feeds the frames that `data` describes, then waits until the stack has nothing to say.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mut stack = Stack::new(mmds_http::service(source.u8()), 1);
    let mut now = Duration::ZERO;
    // What the stack would have acknowledged next, by the guest's port.
    let mut expected = HashMap::new();
    while !source.is_empty() {
        let choice = source.u8();
        now += Duration::from_millis(1 << (choice >> 4));
        match choice % 8 {
            0 => drop(stack.transmit(source.bytes(usize::from(choice)), now)),
            1 => {
                let frame = packet(6, source.bytes(60));
                assert!(stack.transmit(&frame, now));
            }
            _ => {
                let frame = packet(6, &segment(&mut source, &expected));
                assert!(stack.transmit(&frame, now));
            }
        }
        drain(&mut stack, now, &mut expected);
    }
    let mut calls = 0;
    while let Some(wait) = stack.next_poll(now) {
        now += wait;
        drain(&mut stack, now, &mut expected);
        calls += 1;
        assert!(calls < CALLS_MAX, "the stack does not come to rest");
    }
}

fn drain(stack: &mut Stack, now: Duration, expected: &mut HashMap<u16, u32>) {
    let (mut frame, mut frames) = (Vec::new(), 0);
    while stack.receive(&mut frame, now) {
        frames += 1;
        assert!(frames <= FRAMES_MAX && frame.len() <= FRAME_MAX);
        if frame[12..14] == [8, 0] {
            let word = |at: usize| frame[at..at + 4].try_into().expect("4 bytes");
            let tcp = &frame[ETHERNET + IPV4..];
            let port = u16::from_be_bytes([tcp[2], tcp[3]]);
            let length = tcp.len() - usize::from(tcp[12] >> 4) * 4;
            let flags = u32::from(tcp[13] & 1) + u32::from(tcp[13] >> 1 & 1);
            let first = u32::from_be_bytes(word(ETHERNET + IPV4 + 4));
            expected.insert(port, first.wrapping_add(flags + length as u32));
        }
    }
    assert_ne!(stack.next_poll(now), Some(Duration::ZERO), "there was nothing to send");
}

/// A TCP segment near to what a connection expects.
fn segment(source: &mut Source<'_>, expected: &HashMap<u16, u32>) -> Vec<u8> {
    let (flags, near) = (source.u8(), source.u8());
    let port = u16::from(near & 3) + 1000;
    let sequence = u32::from(near >> 2 & 7).wrapping_sub(4);
    let acknowledged = expected.get(&port).map_or(0, |next| next.wrapping_sub((near >> 5).into()));
    let window = if flags & 0x80 == 0 { u16::MAX } else { source.u16() };
    let length = usize::from(source.u8());
    let mut bytes = [port.to_be_bytes(), 80u16.to_be_bytes()].concat();
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([5 << 4, flags & 0x1F]);
    bytes.extend(window.to_be_bytes());
    bytes.extend([0; 4]);
    debug_assert_eq!(bytes.len(), TCP);
    if flags & 0x40 != 0 {
        bytes.extend(b"GET /latest HTTP/1.1\r\n\r\n");
    }
    bytes.extend(source.bytes(length));
    bytes
}

/// A frame with an IPv4 packet for the service.
fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((IPV4 + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(GUEST);
    frame.extend(OURS);
    frame.extend(payload);
    frame
}
