//! Changes of header sections, as frontends, backends and rules write them.

use proxy_core::plan::{HeaderEdit, Side};

use super::super::reader::{Section, Value};

/// `request_headers` and `response_headers` of a frontend or backend.
#[derive(Default)]
pub(super) struct Edits {
    pub(super) request: Vec<HeaderEdit>,
    pub(super) response: Vec<HeaderEdit>,
}

/// Reads both.
pub(super) fn read(section: &Section<'_>) -> Edits {
    let side = |key, side| section.optional(key, |value| Some(read_side(value.section()?, side))).unwrap_or_default();
    Edits { request: side("request_headers", Side::Request), response: side("response_headers", Side::Response) }
}

/// `{ set = {}, add = {}, remove = [] }`: what is removed goes first, so that it can come back otherwise.
fn read_side(table: Section<'_>, side: Side) -> Vec<HeaderEdit> {
    let mut edits = table.optional("remove", |value| removed(value, side)).unwrap_or_default();
    edits.extend(table.optional("set", |value| written(value, HeaderEdit::Set, side)).unwrap_or_default());
    edits.extend(table.optional("add", |value| written(value, HeaderEdit::Add, side)).unwrap_or_default());
    table.finish();
    edits
}

/// `{ Name = "value", … }`.
pub(super) fn written(value: Value<'_>, edit: fn(String, String) -> HeaderEdit, side: Side) -> Option<Vec<HeaderEdit>> {
    let table = value.clone().section()?;
    if table.is_empty() {
        value.report("there is no header in it; expected { Name = \"value\" }");
        return None;
    }
    let edits = table.entries().map(|(name, _, value)| {
        let edit = edit(name.to_owned(), value.clone().text()?);
        value.checked(edit, |edit| edit.check(side))
    });
    // Each is looked at, also after a bad one.
    let edits: Vec<Option<HeaderEdit>> = edits.collect();
    edits.into_iter().collect()
}

/// `"Name"`, or a list of such.
pub(super) fn removed(value: Value<'_>, side: Side) -> Option<Vec<HeaderEdit>> {
    value.each("no header would go", |value| {
        let edit = HeaderEdit::Remove(value.clone().string()?);
        value.checked(edit, |edit| edit.check(side))
    })
}
