use super::*;

/// 23 November 2026, a Monday, 16:05:09 UTC.
const NOW_S: i64 = 1_795_449_909;

fn read(rtc: &mut Rtc, index: u8, unix_s: i64) -> u8 {
    rtc.write(RtcPort::Index, index, unix_s);
    rtc.read(RtcPort::Data, unix_s)
}

fn write(rtc: &mut Rtc, index: u8, value: u8, unix_s: i64) {
    rtc.write(RtcPort::Index, index, unix_s);
    rtc.write(RtcPort::Data, value, unix_s);
}

/// With register B as given, the registers must read as given.
#[track_caller]
fn check(control_b: u8, expected: &[(u8, u8)]) {
    let mut rtc = Rtc::new();
    write(&mut rtc, 0x0b, control_b, NOW_S);
    for &(index, value) in expected {
        assert_eq!(read(&mut rtc, index, NOW_S), value, "register {index:#x}");
    }
}

#[test]
fn shows_the_time() {
    let date = [(0x06, 0x02), (0x07, 0x23), (0x08, 0x11), (0x09, 0x26), (0x32, 0x20)];
    check(0x02, &[&date[..], &[(0, 0x09), (2, 0x05), (4, 0x16)]].concat());
    check(0x00, &[(4, 0x84)]);
    check(0x06, &[(4, 16), (7, 23), (8, 11), (9, 26), (0x32, 20)]);
    check(0x04, &[(4, 0x84)]);
}

#[test]
fn shows_the_control_registers_and_no_memory() {
    check(0x02, &[(0x0a, 0x26), (0x0b, 0x02), (0x0c, 0), (0x0d, 0x80)]);
    check(0x72, &[(0x0b, 0x72), (0x0c, 0)]);
    check(0x02, &[(0x15, 0), (0x16, 0), (0x17, 0), (0x18, 0), (0x34, 0), (0x35, 0)]);
}

#[test]
fn keeps_memory() {
    let mut rtc = Rtc::new();
    write(&mut rtc, 0x8f, 0x0a, NOW_S);
    assert_eq!(read(&mut rtc, 0x0f, NOW_S), 0x0a);
    assert_eq!(rtc.read(RtcPort::Index, NOW_S), 0xff);
}

#[test]
fn is_set_as_linux_does() {
    let mut rtc = Rtc::new();
    write(&mut rtc, 0x0b, 0x82, NOW_S);
    for (index, value) in [(0, 0x58), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99)] {
        write(&mut rtc, index, value, NOW_S);
    }
    assert_eq!(read(&mut rtc, 0, NOW_S + 5), 0x58, "stands still while set");
    write(&mut rtc, 0x0b, 0x02, NOW_S + 5);
    assert_eq!(read(&mut rtc, 0, NOW_S + 6), 0x59);
    let rolled: Vec<u8> =
        [0, 2, 4, 7, 8, 9, 0x32].map(|index| read(&mut rtc, index, NOW_S + 7)).to_vec();
    assert_eq!(rolled, [0, 0, 0, 1, 1, 0, 0x21]);
}

#[test]
fn is_set_without_holding() {
    let mut rtc = Rtc::new();
    write(&mut rtc, 4, 0x03, NOW_S);
    assert_eq!(read(&mut rtc, 4, NOW_S), 0x03);
    assert_eq!(rtc.state().offset_s, -13 * 3600);
}

#[test]
fn twelve_hours_round_trip() {
    for hour in 0..24u8 {
        for control_b in [0x00, 0x02, 0x04, 0x06] {
            let mut rtc = Rtc::new();
            write(&mut rtc, 0x0b, control_b, NOW_S);
            let shown = rtc.encode_hour(hour);
            assert_eq!(rtc.decode_hour(shown), hour, "{control_b:#x} {shown:#x}");
        }
    }
}
