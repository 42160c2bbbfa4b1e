//! Lengths of time as people write them: `"250ms"`, `"15s"`, `"1m30s"`, `"2h"`.

use std::time::Duration;

/// The units, longest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotADuration {
    /// A number stands without its unit, or nothing stands there at all.
    #[error("a number with a unit was expected (ms, s, m, h, d), such as 250ms, 15s or 1m30s")]
    Form,
    /// Letters that are no unit.
    #[error("`{0}` is no unit; expected ms, s, m, h or d")]
    Unit(String),
    /// `30s1m`, `1s1s`.
    #[error("units go from the longest to the shortest, each once, such as 1m30s")]
    Order,
    /// More than 2^64 milliseconds.
    #[error("it is too long")]
    TooLong,
}

/// Reads a length of time; digits may be grouped with `_`.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut allowed = &UNITS[..];
    if rest.is_empty() {
        return Err(NotADuration::Form);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '_').ok_or(NotADuration::Form)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(NotADuration::Form);
        }
        let number: u64 = number.replace('_', "").parse().map_err(|_| NotADuration::TooLong)?;
        if !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(NotADuration::Unit(unit.to_owned()));
        }
        let at = allowed.iter().position(|(name, _)| *name == unit).ok_or(NotADuration::Order)?;
        let length = number.checked_mul(allowed[at].1).ok_or(NotADuration::TooLong)?;
        total = total.checked_add(length).ok_or(NotADuration::TooLong)?;
        allowed = &allowed[at + 1..];
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// The shortest text that [`parse`] reads as the same length, in whole milliseconds.
pub fn written(length: Duration) -> String {
    let mut left = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in UNITS {
        if left >= milliseconds {
            text += &format!("{}{unit}", left / milliseconds);
            left %= milliseconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_written() {
        let table = [
            ("250ms", 250),
            ("15s", 15_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1s500ms", 1_500),
            ("10_000ms", 10_000),
            ("0s", 0),
        ];
        for (text, milliseconds) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused_with_the_reason() {
        let table = [
            ("", NotADuration::Form),
            ("15", NotADuration::Form),
            ("s", NotADuration::Form),
            ("_s", NotADuration::Form),
            ("-1s", NotADuration::Form),
            ("1.5s", NotADuration::Unit(".".into())),
            ("15 s", NotADuration::Unit(" s".into())),
            ("15sec", NotADuration::Unit("sec".into())),
            ("30s1m", NotADuration::Order),
            ("1s1s", NotADuration::Order),
            ("99999999999999999999s", NotADuration::TooLong),
            ("18446744073709551615s", NotADuration::TooLong),
        ];
        for (text, error) in table {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for milliseconds in [0, 1, 250, 999, 1_000, 61_500, 3_600_000, 90_061_001] {
            let length = Duration::from_millis(milliseconds);
            assert_eq!(parse(&written(length)), Ok(length), "{}", written(length));
        }
    }
}
