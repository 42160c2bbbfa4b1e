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
