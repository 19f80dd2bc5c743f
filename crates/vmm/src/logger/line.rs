//! One log line: its time, and its bytes in a place of fixed size.

use std::io::Write;
use std::time::Duration;

/// A line of at most `MAX` bytes, the end of line included; what is longer is cut. It allocates
/// nothing, because a signal handler makes one as well.
pub(super) struct Line<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
}

impl<const MAX: usize> Line<MAX> {
    /// An empty line.
    pub fn new() -> Self {
        Self { bytes: [0; MAX], len: 0 }
    }

    /// The line with its end.
    pub fn finish(&mut self) -> &[u8] {
        self.len = self.len.min(MAX - 1);
        self.bytes[self.len] = b'\n';
        &self.bytes[..=self.len]
    }
}

impl<const MAX: usize> Write for Line<MAX> {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let room = &mut self.bytes[self.len..];
        let n = text.len().min(room.len());
        room[..n].copy_from_slice(&text[..n]);
        self.len += n;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A point in local time, as `2026-08-21T12:08:08.123456789`.
pub(super) struct Timestamp {
    days: i64,
    second_of_day: i64,
    nanos: u32,
}

impl Timestamp {
    /// The time `unix_time` behind 1970, at a place that is so many seconds ahead of UTC.
    pub fn new(unix_time: Duration, utc_offset: i64) -> Self {
        let seconds = i64::try_from(unix_time.as_secs()).unwrap_or(0).saturating_add(utc_offset);
        Self {
            days: seconds.div_euclid(86_400),
            second_of_day: seconds.rem_euclid(86_400),
            nanos: unix_time.subsec_nanos(),
        }
    }

    /// Year, month and day in the Gregorian calendar, counted in years that begin in March.
    fn date(&self) -> (i64, i64, i64) {
        let days = self.days + 719_468; // since 0000-03-01
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let year = era * 400 + year_of_era;
        if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month, day) = self.date();
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let second = self.second_of_day % 60;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}",
            self.nanos
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_civil_time() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000000"),
            (951_782_399, 0, "2000-02-28T23:59:59.000000000"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000"),
            (1_787_314_088, 0, "2026-08-21T12:08:08.000000000"),
            (1_787_314_088, -13 * 3600, "2026-08-20T23:08:08.000000000"),
            (1_767_225_599, 3600, "2026-01-01T00:59:59.000000000"),
        ];
        for (seconds, offset, expected) in cases {
            let stamp = Timestamp::new(Duration::from_secs(seconds), offset);
            assert_eq!(stamp.to_string(), expected);
        }
        let nanos = Timestamp::new(Duration::new(1, 123_456_789), 0).to_string();
        assert!(nanos.ends_with("01.123456789"));
    }

    #[test]
    fn long_lines_are_cut() {
        let mut line = Line::<64>::new();
        let _ = write!(line, "{}", "x".repeat(200));
        assert_eq!(line.finish().len(), 64);
        assert_eq!(line.finish().last(), Some(&b'\n'));
    }
}
