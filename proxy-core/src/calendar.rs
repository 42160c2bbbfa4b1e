//! Gregorian dates. Pure.

/// English abbreviations, as HTTP and syslog have them.
pub(crate) const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// A second of the calendar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Date {
    pub(crate) year: u32,
    /// From 0.
    pub(crate) month: u32,
    /// From 1.
    pub(crate) day: u32,
    pub(crate) hour: u32,
    pub(crate) minute: u32,
    pub(crate) second: u32,
}

impl Date {
    pub(crate) fn month_name(&self) -> &'static [u8; 3] {
        MONTHS[self.month as usize % 12]
    }
}

/// The date of so many seconds since 1970, by years that begin in March, so that the leap day is their last.
pub(crate) fn utc(second: i64) -> Date {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    /// From the first of March of year 0 to 1970.
    const TO_1970: i64 = 719_468;
    let (day, of_day) = (second.div_euclid(86_400) + TO_1970, second.rem_euclid(86_400));
    let (era, of_era) = (day.div_euclid(DAYS_OF_400_YEARS), day.rem_euclid(DAYS_OF_400_YEARS));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // March, April, May, June, July have 153 days, and so have the next five months.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 2, 0) } else { (month - 10, 1) };
    let part = |value: i64| u32::try_from(value).unwrap_or(0);
    Date {
        year: part(era * 400 + year + next),
        month: part(month),
        day: part(day),
        hour: part(of_day / 3600),
        minute: part(of_day / 60 % 60),
        second: part(of_day % 60),
    }
}
