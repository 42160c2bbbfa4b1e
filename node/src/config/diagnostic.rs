//! What is wrong with a file: every mistake with its place, what was found and what was expected.
//!
//! [`Findings`] is where the reader of one file leaves them, so that all come out in one go.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file as it was named to us.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What was found and what was expected.
    pub message: String,
    /// The line itself.
    pub excerpt: String,
    /// How many characters of it are meant, at least one.
    pub width: usize,
}

impl Diagnostic {
    /// `file:line:column`, which editors and terminals can follow.
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Diagnostic {
    /// Three lines: place and message, the line of the file, a marker below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs below a tab, so that the marker lands where the terminal put the text.
        let indent: String =
            self.excerpt.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{}: {}", self.place(), self.message)?;
        writeln!(f, "  {number} | {}", self.excerpt)?;
        write!(f, "  {gutter} | {indent}{}", "^".repeat(self.width))
    }
}

/// A place in a file that outlives the text: for checks across two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: String,
    line: usize,
    column: usize,
    excerpt: String,
    width: usize,
}

impl Place {
    /// A mistake at this place.
    pub fn diagnostic(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            file: self.file.clone(),
            line: self.line,
            column: self.column,
            message: message.into(),
            excerpt: self.excerpt.clone(),
            width: self.width,
        }
    }
}

/// The mistakes of one file, collected while it is read.
pub(super) struct Findings<'a> {
    file: &'a str,
    text: &'a str,
    found: RefCell<Vec<Diagnostic>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Findings { file, text, found: RefCell::new(Vec::new()) }
    }

    /// Notes a mistake at these bytes of the text.
    pub(super) fn report(&self, span: Range<usize>, message: impl Into<String>) {
        self.found.borrow_mut().push(self.place(span).diagnostic(message));
    }

    /// Where these bytes of the text are.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = &self.text[line_start..];
        let excerpt = rest.lines().next().unwrap_or_default();
        let line_end = line_start + excerpt.len();
        let end = self.text.floor_char_boundary(span.end).clamp(start, line_end.max(start));
        Place {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            excerpt: excerpt.to_owned(),
            width: self.text[start..end].chars().count().max(1),
        }
    }

    /// Whether nothing was found so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// All mistakes in the order of the file.
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        found
    }
}

/// "; did you mean `x`?" if a known name is near enough, else the known names, else nothing.
pub(crate) fn suggestion<'n>(given: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    let near = known.iter().map(|name| (distance(given, name), *name)).min();
    match near {
        Some((steps, name)) if steps <= 1 + given.chars().count() / 4 => format!("; did you mean `{name}`?"),
        Some(_) if known.len() <= 12 => format!("; known here: `{}`", known.join("`, `")),
        _ => String::new(),
    }
}

/// How many characters must be inserted, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_marks_what_is_meant() {
        let findings = Findings::new("node.toml", "a = 1\nné = \"ü\" # x\n");
        let start = "a = 1\nné = ".len();
        findings.report(start..start + "\"ü\"".len(), "no");
        let found = findings.into_sorted();
        assert_eq!(found[0].to_string(), "node.toml:2:6: no\n  2 | né = \"ü\" # x\n    |      ^^^");
    }

    #[test]
    fn a_place_beyond_the_end_is_the_end() {
        let place = Findings::new("f", "x = [").place(5..9);
        assert_eq!((place.line, place.column, place.width), (1, 6, 1));
    }

    #[test]
    fn mistakes_come_out_in_the_order_of_the_file() {
        let findings = Findings::new("f", "a\nb\n");
        findings.report(2..3, "second");
        findings.report(0..1, "first");
        let messages: Vec<String> = findings.into_sorted().into_iter().map(|found| found.message).collect();
        assert_eq!(messages, ["first", "second"]);
    }

    #[test]
    fn the_nearest_name_is_suggested_only_when_it_is_near() {
        assert_eq!(suggestion("owaa", ["owa", "mag"]), "; did you mean `owa`?");
        assert_eq!(suggestion("blance", ["balance", "servers"]), "; did you mean `balance`?");
        assert_eq!(suggestion("oaw", ["owa"]), "; did you mean `owa`?");
        assert_eq!(suggestion("zebra", ["owa", "mag"]), "; known here: `mag`, `owa`");
        assert_eq!(suggestion("zebra", []), "");
    }
}
