//! Points in time as text.

use std::time::Duration;

const DAY: u64 = 24 * 60 * 60;

/// Days in 400 years of the Gregorian calendar.
const ERA: u64 = 146_097;

/// A time since 1970 in RFC 3339, UTC.
#[must_use]
pub fn rfc3339(since_1970: Duration) -> String {
    let (days, second) = (since_1970.as_secs() / DAY, since_1970.as_secs() % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let nanos = since_1970.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Year, month and day, counted from 1970-01-01. A year begins with March here, so that the leap day is its last
/// one; months then have 153 days in five, whatever the year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let check = |seconds: u64, nanos: u32, expected: &str| {
            assert_eq!(rfc3339(Duration::new(seconds, nanos)), expected);
        };
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_399, 0, "2000-02-28T23:59:59.000000000Z");
        check(951_782_400, 0, "2000-02-29T00:00:00.000000000Z");
        check(951_868_800, 0, "2000-03-01T00:00:00.000000000Z");
        check(1_795_196_893, 741_991_313, "2026-11-20T17:48:13.741991313Z");
        check(4_102_444_800, 1, "2100-01-01T00:00:00.000000001Z");
        check(4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z");
    }

    /// Each day is the next one of the day before.
    #[test]
    fn days_follow_each_other() {
        let length = |year: u64, month: u64| match month {
            2 if year.is_multiple_of(4)
                && (!year.is_multiple_of(100) || year.is_multiple_of(400)) =>
            {
                29
            }
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for days in 0..200_000 {
            assert_eq!(date(days), expected);
            let (year, month, day) = expected;
            expected = if day < length(year, month) {
                (year, month, day + 1)
            } else if month < 12 {
                (year, month + 1, 1)
            } else {
                (year + 1, 1, 1)
            };
        }
    }
}
