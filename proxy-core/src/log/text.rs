//! Numbers, addresses and strings, appended to a line without the formatting machinery: this runs for each request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// In decimal.
pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    // 2^64 has twenty digits.
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(value);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// In decimal with zeros in front, of exactly that width; of a longer number the end.
pub(super) fn padded<const WIDTH: usize>(out: &mut Vec<u8>, mut value: u32) {
    let mut digits = [b'0'; WIDTH];
    for place in digits.iter_mut().rev() {
        *place = digit(value.into());
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

fn digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

/// Whole milliseconds.
pub(super) fn milliseconds(out: &mut Vec<u8>, time: Duration) {
    number(out, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}

/// Without a port, and without brackets (RFC 5952).
pub(super) fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => ipv4(out, address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => {
                out.extend_from_slice(b"::ffff:");
                ipv4(out, mapped);
            }
            None => ipv6(out, address),
        },
    }
}

fn ipv4(out: &mut Vec<u8>, address: Ipv4Addr) {
    for (index, part) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        number(out, part.into());
    }
}

fn ipv6(out: &mut Vec<u8>, address: Ipv6Addr) {
    let groups = address.segments();
    // The first of the longest runs of at least two zeros is left out (RFC 5952 §4.2).
    let (mut gap, mut run) = (0..0, 0);
    for (index, group) in groups.into_iter().enumerate() {
        run = if group == 0 { run + 1 } else { 0 };
        if run > 1 && run > gap.len() {
            gap = index + 1 - run..index + 1;
        }
    }
    let mut index = 0;
    while index < groups.len() {
        if index == gap.start && !gap.is_empty() {
            out.extend_from_slice(b"::");
            index = gap.end;
            continue;
        }
        if index > 0 && index != gap.end {
            out.push(b':');
        }
        hex(out, groups[index]);
        index += 1;
    }
}

fn hex(out: &mut Vec<u8>, group: u16) {
    let digits = [group >> 12, group >> 8, group >> 4, group].map(|digit| HEX_LOWER[usize::from(digit & 15)]);
    let zeros = digits.iter().take(3).take_while(|digit| **digit == b'0').count();
    out.extend_from_slice(&digits[zeros..]);
}

const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";
const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// A request line between quotes as HAProxy has it: what could end the quotes, and what is not printable ASCII, as `#XX`.
pub(super) fn quotable(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'#')) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'#');
        out.push(HEX_UPPER[usize::from(rest[at] >> 4)]);
        out.push(HEX_UPPER[usize::from(rest[at] & 15)]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The inside of a JSON string (RFC 8259 §7). What is not UTF-8 becomes U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid().as_bytes();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f)) {
            out.extend_from_slice(&rest[..at]);
            match rest[at] {
                quoted @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', quoted]),
                control => {
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX_LOWER[usize::from(control >> 4)]);
                    out.push(HEX_LOWER[usize::from(control & 15)]);
                }
            }
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn numbers_are_those_of_the_standard_library(value: u64) {
            prop_assert_eq!(made(|out| number(out, value)), value.to_string());
            let short = (value % 10_000) as u32;
            prop_assert_eq!(made(|out| padded::<4>(out, short)), format!("{short:04}"));
        }

        #[test]
        fn addresses_are_those_of_the_standard_library(v4: [u8; 4], groups: [u16; 8], zero: u8) {
            let v4 = IpAddr::from(v4);
            prop_assert_eq!(made(|out| ip(out, v4)), v4.to_string());
            let mut groups = groups;
            for (index, group) in groups.iter_mut().enumerate() {
                // Runs of zeros and short groups are where it could go wrong.
                *group = if zero >> index & 1 == 1 { 0 } else { *group >> (*group % 16) };
            }
            let v6 = Ipv6Addr::from(groups);
            prop_assert_eq!(made(|out| ip(out, v6.into())), v6.to_string());
        }

        #[test]
        fn nothing_in_a_request_line_ends_its_quotes(bytes: Vec<u8>) {
            let text = made(|out| quotable(out, &bytes));
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"'));
        }
    }

    #[test]
    fn every_run_of_zeros_is_shortened_like_the_standard_library_does() {
        for zeros in 0..=255u8 {
            let groups = std::array::from_fn(|index| if zeros >> index & 1 == 1 { 0 } else { 0xa0 + index as u16 });
            let address = Ipv6Addr::from(groups);
            assert_eq!(made(|out| ip(out, address.into())), address.to_string());
        }
        let mapped: Ipv6Addr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(made(|out| ip(out, mapped.into())), "::ffff:192.0.2.1");
    }

    #[test]
    fn json_strings_are_escaped_where_they_must_be() {
        let table: [(&[u8], &str); 5] = [
            (b"GET /\"a\\b\"", "GET /\\\"a\\\\b\\\""),
            (b"a\r\n\0\x7f", "a\\u000d\\u000a\\u0000\\u007f"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            (b"a\xffb\xc3", "a\u{fffd}b\u{fffd}"),
            (b"", ""),
        ];
        for (text, escaped) in table {
            assert_eq!(made(|out| json(out, text)), escaped);
        }
    }
}
