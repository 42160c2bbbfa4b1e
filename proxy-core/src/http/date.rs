//! The `Date` field's text (RFC 9110 §5.6.7, IMF-fixdate), made once for each second. Pure: who asks knows the time.

/// The text of the last second that was asked for. One a worker.
#[derive(Debug)]
pub(crate) struct Date {
    second: u64,
    text: [u8; 29],
}

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

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
    let (days, time) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[index(days % 7)]);
    text[8..11].copy_from_slice(MONTHS[index(month)]);
    let pairs = [(5, day), (12, year / 100), (14, year), (17, time / 3600), (20, time / 60 % 60), (23, time % 60)];
    for (at, number) in pairs {
        text[at] = b'0' + u8::try_from(number / 10 % 10).expect("one digit");
        text[at + 1] = b'0' + u8::try_from(number % 10).expect("one digit");
    }
    text
}

/// Year, month from 0 and day from 1, of a day counted from the beginning of 1970.
fn civil(mut days: u64) -> (u64, u64, u64) {
    // Whole cycles of the calendar first, so that the loop below is short.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 0;
    loop {
        let length = match month {
            1 if is_leap(year) => 29,
            1 => 28,
            3 | 5 | 8 | 10 => 30,
            _ => 31,
        };
        if days < length {
            return (year, month, days + 1);
        }
        days -= length;
        month += 1;
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("a day of the week or a month")
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
