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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_in_whatever_a_client_sends() {
        let read = |value: &'static str| {
            let text = |bytes| std::str::from_utf8(bytes).unwrap();
            pairs(value.as_bytes()).map(|(name, value)| (text(name), text(value))).collect::<Vec<_>>()
        };
        assert_eq!(read("a=b; c=d"), [("a", "b"), ("c", "d")]);
        assert_eq!(read(" a = b ;c=\"d e\";;e=f=g; h="), [("a", "b"), ("c", "\"d e\""), ("e", "f=g"), ("h", "")]);
        assert_eq!(read("alone; =nameless; a=1; a=2"), [("a", "1"), ("a", "2")]);
        assert_eq!(read(""), []);
        assert_eq!(read(";;=;= ; "), []);
    }
}
