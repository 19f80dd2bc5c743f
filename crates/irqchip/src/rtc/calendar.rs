//! Between Unix time and the clock's fields: the proleptic Gregorian calendar,
//! counted from 1 March, so that the leap day ends a year.

/// A date and time of day, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// 0 to 59.
    pub second: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 1 (Sunday) to 7.
    pub weekday: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 to 12.
    pub month: u8,
    /// 0 to 9999, as two digits of century and two of year.
    pub year: u16,
}

const SECONDS_PER_DAY: i64 = 86_400;
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH_DAYS: i64 = 719_468;
/// 1 January 1970 was a Thursday.
const EPOCH_WEEKDAY: i64 = 4;
/// The range of years that the registers can show.
const UNIX_MIN: i64 = -62_167_219_200;
const UNIX_MAX: i64 = 253_402_300_799;

impl Calendar {
    /// The fields of a Unix time, clamped to the years 0 to 9999.
    pub fn from_unix(unix_s: i64) -> Self {
        let unix_s = unix_s.clamp(UNIX_MIN, UNIX_MAX);
        let days = unix_s.div_euclid(SECONDS_PER_DAY);
        let second_of_day = unix_s.rem_euclid(SECONDS_PER_DAY);
        let (year, month, day) = date_of_days(days);
        Self {
            second: (second_of_day % 60) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            hour: (second_of_day / 3600) as u8,
            weekday: (days + EPOCH_WEEKDAY).rem_euclid(7) as u8 + 1,
            day,
            month,
            year,
        }
    }

    /// The Unix time of the fields; the weekday does not count, and fields out
    /// of range carry over.
    pub fn to_unix(self) -> i64 {
        let days = days_of_date(self.year, self.month, self.day);
        let second_of_day =
            i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        days * SECONDS_PER_DAY + second_of_day
    }
}

fn date_of_days(days: i64) -> (u16, u8, u8) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year as u16, month as u8, day as u8)
}

fn days_of_date(year: u16, month: u8, day: u8) -> i64 {
    let month = i64::from(month.clamp(1, 12));
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_DAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        unix_s: i64,
        (year, month, day): (u16, u8, u8),
        (hour, minute, second): (u8, u8, u8),
        weekday: u8,
    ) {
        let expected = Calendar { second, minute, hour, weekday, day, month, year };
        assert_eq!(Calendar::from_unix(unix_s), expected);
        assert_eq!(expected.to_unix(), unix_s);
    }

    #[test]
    fn knows_dates() {
        check(0, (1970, 1, 1), (0, 0, 0), 5);
        check(951_782_400, (2000, 2, 29), (0, 0, 0), 3);
        check(951_868_799, (2000, 2, 29), (23, 59, 59), 3);
        check(1_709_164_800, (2024, 2, 29), (0, 0, 0), 5);
        check(4_107_542_400, (2100, 3, 1), (0, 0, 0), 2);
        check(1_795_415_729, (2026, 11, 23), (6, 35, 29), 2);
        check(UNIX_MAX, (9999, 12, 31), (23, 59, 59), 6);
        check(UNIX_MIN, (0, 1, 1), (0, 0, 0), 7);
    }
}
