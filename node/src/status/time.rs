//! Points of time as status shows them: the wall clock for people, the age for programs.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// When something began, said twice: clocks of two machines differ, ages do not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// RFC 3339, UTC, in milliseconds.
    pub since: String,
    /// How long ago, in seconds, by the monotonic clock of the node that answers.
    pub age_seconds: f64,
}

impl Moment {
    /// The moment that lay `age` before `now`.
    pub fn ago(age: Duration, now: SystemTime) -> Moment {
        let at = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        Moment { since: rfc3339(at), age_seconds: (age.as_secs_f64() * 1000.0).round() / 1000.0 }
    }
}

/// UTC in RFC 3339 with milliseconds; what lies before 1970 is shown as its first instant.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since_epoch.subsec_millis())
}

/// The Gregorian date of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // 400 years always have the same number of days, so the loop below is short.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_600, "1972-02-29T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_795_255_453, "2026-11-21T10:04:13.000Z"),
            (13_574_563_200, "2400-02-29T00:00:00.000Z"),
        ];
        for (seconds, expected) in table {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_moment_lies_its_age_before_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_250);
        let moment = Moment::ago(Duration::from_millis(1_500), now);
        assert_eq!(moment, Moment { since: "1970-01-01T23:59:58.750Z".into(), age_seconds: 1.5 });
    }
}
