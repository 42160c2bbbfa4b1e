//! The differences that have a name. docs/differences.md says of each what we do, what HAProxy does, and why.

use crate::compare::Outcome;
use crate::generate::Case;

/// Whether a difference is of this class.
type Applies = fn(&Case, &Outcome, &Outcome) -> bool;

/// In the order of the page.
const CLASSES: &[(&str, Applies)] = &[];

/// The first class that a difference belongs to.
pub(crate) fn name(case: &Case, ours: &Outcome, theirs: &Outcome) -> Option<&'static str> {
    CLASSES.iter().find(|(_, applies)| applies(case, ours, theirs)).map(|(name, _)| *name)
}

/// All of them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().map(|(name, _)| *name)
}
