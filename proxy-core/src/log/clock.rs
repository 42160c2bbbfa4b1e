//! Dates as log lines have them, made once a second: local time for HAProxy's formats and syslog, UTC for JSON.
//!
//! The C library knows the time zone; it reads it once, from `TZ` or `/etc/localtime` ([`load_zone`]).
#![allow(unsafe_code, reason = "asks the C library for local time")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::text;
use crate::calendar::{Date, utc};

/// The texts of the last second asked for. One for each kind of line: they are of different moments.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    haproxy: Cached,
    syslog: Cached,
    json: Cached,
}

#[derive(Debug)]
struct Cached {
    second: i64,
    text: Vec<u8>,
}

impl Default for Cached {
    fn default() -> Cached {
        // No date that a line could have: nothing is cached yet.
        Cached { second: i64::MIN, text: Vec::new() }
    }
}

impl Cached {
    fn at(&mut self, second: i64, make: impl FnOnce(&mut Vec<u8>, i64)) -> &[u8] {
        if self.second != second {
            self.second = second;
            self.text.clear();
            make(&mut self.text, second);
        }
        &self.text
    }
}

/// Reads the time zone, for a process that may not be able to later.
pub(crate) fn load_zone() {
    local(0);
}

impl Clock {
    /// `21/Nov/2026:16:28:07.315`, local.
    pub(super) fn haproxy(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let (second, millis) = since_epoch(time);
        out.extend_from_slice(self.haproxy.at(second, |text, second| {
            let date = local(second);
            text::padded::<2>(text, date.day);
            text.push(b'/');
            text.extend_from_slice(date.month_name());
            text.push(b'/');
            text::padded::<4>(text, date.year);
            text.push(b':');
            time_of_day(text, date);
        }));
        out.push(b'.');
        text::padded::<3>(out, millis);
    }

    /// `Nov  1 16:28:07`, local (RFC 3164 §4.1.2).
    pub(super) fn syslog(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let (second, _) = since_epoch(time);
        out.extend_from_slice(self.syslog.at(second, |text, second| {
            let date = local(second);
            text.extend_from_slice(date.month_name());
            text.extend_from_slice(if date.day < 10 { b"  " } else { b" " });
            text::number(text, date.day.into());
            text.push(b' ');
            time_of_day(text, date);
        }));
    }

    /// `2026-11-21T15:28:07.315Z` (RFC 3339).
    pub(super) fn json(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let (second, millis) = since_epoch(time);
        out.extend_from_slice(self.json.at(second, |text, second| {
            let date = utc(second);
            text::padded::<4>(text, date.year);
            text.push(b'-');
            text::padded::<2>(text, date.month + 1);
            text.push(b'-');
            text::padded::<2>(text, date.day);
            text.push(b'T');
            time_of_day(text, date);
        }));
        out.push(b'.');
        text::padded::<3>(out, millis);
        out.push(b'Z');
    }
}

/// Whole seconds, and milliseconds beside them. A clock before 1970 is as good as none.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_millis())
}

fn time_of_day(out: &mut Vec<u8>, date: Date) {
    text::padded::<2>(out, date.hour);
    out.push(b':');
    text::padded::<2>(out, date.minute);
    out.push(b':');
    text::padded::<2>(out, date.second);
}

fn local(second: i64) -> Date {
    // SAFETY: plain data, for which zero is valid.
    let mut parts = unsafe { std::mem::zeroed::<libc::tm>() };
    // SAFETY: both pointers are valid for the call, which keeps neither.
    let known = unsafe { !libc::localtime_r(&raw const second, &raw mut parts).is_null() };
    if !known {
        return utc(second);
    }
    let part = |value: i32| u32::try_from(value).unwrap_or(0);
    Date {
        year: part(parts.tm_year + 1900),
        month: part(parts.tm_mon),
        day: part(parts.tm_mday),
        hour: part(parts.tm_hour),
        minute: part(parts.tm_min),
        second: part(parts.tm_sec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis)
    }

    fn json(time: SystemTime) -> String {
        let mut out = Vec::new();
        Clock::default().json(&mut out, time);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn utc_is_right_at_the_edges_of_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.007Z"),
            (68_169_599, "1972-02-28T23:59:59.007Z"),
            (68_169_600, "1972-02-29T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (978_307_199, "2000-12-31T23:59:59.007Z"),
            (1_795_278_487, "2026-11-21T16:28:07.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
            (4_107_542_399, "2100-02-28T23:59:59.007Z"),
        ];
        for (second, text) in table {
            assert_eq!(json(at(second, 7)), text);
        }
    }

    #[test]
    fn utc_agrees_with_the_c_library_for_many_days() {
        for day in 0..60_000 {
            let second = day * 86_400 + day % 86_400;
            // SAFETY: plain data, for which zero is valid.
            let mut parts = unsafe { std::mem::zeroed::<libc::tm>() };
            // SAFETY: both pointers are valid for the call.
            unsafe { libc::gmtime_r(&raw const second, &raw mut parts) };
            let date = utc(second);
            let ours = [date.year, date.month, date.day, date.hour, date.minute, date.second];
            let theirs = [parts.tm_year + 1900, parts.tm_mon, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec];
            assert_eq!(ours.map(|part| part as i32), theirs, "{second}");
        }
    }

    #[test]
    fn local_time_is_that_of_the_system() {
        for second in [1_795_278_487, 1_783_000_000] {
            let date = std::process::Command::new("date")
                .env("LC_ALL", "C")
                .args(["-d", &format!("@{second}"), "+%d/%b/%Y:%H:%M:%S.315 %b %e %H:%M:%S"])
                .output()
                .unwrap();
            let (mut ours, mut clock) = (Vec::new(), Clock::default());
            clock.haproxy(&mut ours, at(second, 315));
            ours.push(b' ');
            clock.syslog(&mut ours, at(second, 0));
            assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(date.stdout).unwrap().trim_end());
        }
    }

    #[test]
    fn a_cached_second_gives_way_to_the_next_and_to_the_one_before() {
        let mut clock = Clock::default();
        for (second, text) in [(59, "00:00:59"), (60, "00:01:00"), (59, "00:00:59"), (59, "00:00:59")] {
            let mut out = Vec::new();
            clock.json(&mut out, at(second, 0));
            assert_eq!(String::from_utf8(out).unwrap(), format!("1970-01-01T{text}.000Z"));
        }
    }

    #[test]
    fn a_clock_before_the_epoch_or_beyond_all_years_makes_some_date() {
        let mut out = Vec::new();
        let mut clock = Clock::default();
        clock.haproxy(&mut out, UNIX_EPOCH - Duration::from_secs(5));
        if let Some(far) = UNIX_EPOCH.checked_add(Duration::from_secs(i64::MAX as u64)) {
            clock.haproxy(&mut out, far);
            clock.syslog(&mut out, far);
            clock.json(&mut out, far);
        }
        assert!(!out.is_empty());
    }
}
