//! Names what is wrong with a head that httparse has refused: it tells the kind of byte, not the mistake. Not a hot path.

use super::BadHead;

/// What is wrong with the first field line that is.
pub(super) fn field(bytes: &[u8]) -> BadHead {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.next();
    lines.find_map(line).unwrap_or(BadHead::FieldName)
}

fn line(line: &[u8]) -> Option<BadHead> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Some(BadHead::ObsFold);
    }
    let text = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
    if text.is_empty() {
        return None;
    }
    let name_end = text.iter().position(|byte| !is_token(*byte)).unwrap_or(text.len());
    let value = match text.split_at(name_end) {
        ([_, ..], [b':', value @ ..]) => value,
        (_, [b'\0', ..]) => return Some(BadHead::Nul),
        ([_, ..], rest @ [b' ' | b'\t', ..]) if rest.trim_ascii_start().first() == Some(&b':') => {
            return Some(BadHead::SpaceBeforeColon);
        }
        (_, [b'\r', ..]) => return Some(BadHead::BareCr),
        // A name that has not ended yet is none that is wrong.
        (_, []) if text.len() == line.len() => return None,
        _ => return Some(BadHead::FieldName),
    };
    value_fault(value)
}

/// The first byte of `value` that may not be in one.
pub(super) fn value_fault(value: &[u8]) -> Option<BadHead> {
    value.iter().find_map(|byte| match byte {
        b'\0' => Some(BadHead::Nul),
        b'\r' => Some(BadHead::BareCr),
        b'\n' => Some(BadHead::BareLf),
        b'\t' | b' '..=b'~' | 0x80.. => None,
        _ => Some(BadHead::FieldValue),
    })
}

/// `tchar` (RFC 9110 §5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The first line, without its end.
pub(super) fn first_line(bytes: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
    &bytes[..end]
}

/// Whether this is an HTTP version, if only another one (RFC 9112 §2.3).
pub(super) fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}
