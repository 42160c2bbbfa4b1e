//! The pairs of a `Cookie` field, read as leniently as servers do (RFC 6265 §4.2, §5.4): whatever is in it, nothing fails.

/// Names and values in their order, without white space around them; quotes belong to the value. What has no `=` is
/// left out, as is what has no name.
pub fn pairs(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|byte| *byte == b';').filter_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        let name = pair[..equals].trim_ascii();
        (!name.is_empty()).then(|| (name, pair[equals + 1..].trim_ascii()))
    })
}
