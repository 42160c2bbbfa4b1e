//! What a list of header edits does to a header section, in their order, without making the steps between.
//!
//! A field that came with the message stays unless an edit sets or removes its name; what an edit sets or adds is
//! written after those, unless a later edit sets or removes the name again.

use crate::plan::HeaderEdit;

/// The edits of one message in their order.
pub(crate) trait Edits<'e>: Iterator<Item = &'e HeaderEdit> + Clone {}

impl<'e, I: Iterator<Item = &'e HeaderEdit> + Clone> Edits<'e> for I {}

/// Whether the edits leave nothing of the fields of this name that were there before.
pub(crate) fn clear<'e>(edits: impl Edits<'e>, name: &str) -> bool {
    let mut edits = edits;
    edits.any(|edit| match edit {
        HeaderEdit::Set(edited, _) | HeaderEdit::Remove(edited) => edited.eq_ignore_ascii_case(name),
        HeaderEdit::Add(..) => false,
    })
}

/// Whether the edits write a field of this name.
pub(crate) fn write_one<'e>(edits: impl Edits<'e>, name: &str) -> bool {
    written(edits).any(|(edited, _)| edited.eq_ignore_ascii_case(name))
}

/// Appends the fields that the edits write.
pub(crate) fn append<'e>(out: &mut Vec<u8>, edits: impl Edits<'e>) {
    written(edits).for_each(|(name, value)| field(out, name, value.as_bytes()));
}

/// Appends one field.
pub(crate) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn written<'e>(edits: impl Edits<'e>) -> impl Iterator<Item = (&'e str, &'e str)> {
    let mut left = edits;
    std::iter::from_fn(move || {
        loop {
            if let HeaderEdit::Set(name, value) | HeaderEdit::Add(name, value) = left.next()?
                && !clear(left.clone(), name)
            {
                return Some((name.as_str(), value.as_str()));
            }
        }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Names that meet, in either case.
    pub(in crate::http) fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["A", "a", "B", "b", "X-Forwarded-For", "x-forwarded-proto", "X-Forwarded-Host"])
            .prop_map(str::to_owned)
    }

    pub(in crate::http) fn edits() -> impl Strategy<Value = Vec<HeaderEdit>> {
        let edit = prop_oneof![
            (name(), "[a-z]{0,3}").prop_map(|(name, value)| HeaderEdit::Set(name, value)),
            (name(), "[a-z]{0,3}").prop_map(|(name, value)| HeaderEdit::Add(name, value)),
            name().prop_map(HeaderEdit::Remove),
        ];
        prop::collection::vec(edit, 0..6)
    }

    /// What the edits make of these fields, step by step.
    pub(in crate::http) fn step_by_step(fields: &mut Vec<(String, String)>, edits: &[HeaderEdit]) {
        for edit in edits {
            if let HeaderEdit::Set(name, _) | HeaderEdit::Remove(name) = edit {
                fields.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
            }
            if let HeaderEdit::Set(name, value) | HeaderEdit::Add(name, value) = edit {
                fields.push((name.clone(), value.clone()));
            }
        }
    }

    proptest! {
        #[test]
        fn all_edits_at_once_do_what_they_do_one_by_one(
            fields in prop::collection::vec((name(), "[0-9]{0,3}"), 0..6),
            edits in edits(),
        ) {
            let mut expected = fields.clone();
            step_by_step(&mut expected, &edits);
            let mut out = Vec::new();
            for (name, value) in fields.iter().filter(|(name, _)| !clear(edits.iter(), name)) {
                field(&mut out, name, value.as_bytes());
            }
            append(&mut out, edits.iter());
            let expected: String = expected.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            prop_assert_eq!(String::from_utf8(out), Ok(expected));
        }
    }
}
