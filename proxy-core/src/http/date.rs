//! The `Date` field's text (RFC 9110 §5.6.7, IMF-fixdate), made once for each second. Pure: who asks knows the time.

use crate::calendar;

/// The text of the last second that was asked for. One a worker.
#[derive(Debug)]
pub(crate) struct Date {
    second: u64,
    text: [u8; 29],
}

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
impl Default for Date {
    fn default() -> Date {
        Date { second: 0, text: text(0) }
    }
}

impl Date {
    /// The text for so many seconds since 1970, up to the year 9999.
    pub(crate) fn at(&mut self, second: u64) -> [u8; 29] {
        if self.second != second {
            *self = Date { second, text: text(second) };
        }
        self.text
    }
}

fn text(second: u64) -> [u8; 29] {
    let date = calendar::utc(i64::try_from(second).unwrap_or(i64::MAX));
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[(second / 86_400 % 7) as usize]);
    text[8..11].copy_from_slice(date.month_name());
    let (century, year) = (date.year / 100, date.year % 100);
    let pairs = [(5, date.day), (12, century), (14, year), (17, date.hour), (20, date.minute), (23, date.second)];
    for (at, number) in pairs {
        text[at] = b'0' + (number / 10 % 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_written_as_rfc_9110_wants_it() {
        let mut date = Date::default();
        for (second, text) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (1_735_689_600, "Wed, 01 Jan 2025 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(date.at(second), text.as_bytes(), "{second}");
        }
    }
}
