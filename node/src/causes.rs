//! Errors as people read them: one line that goes from what was tried down to what the system said.

use std::error::Error;

/// An error and its causes. Causes that only repeat what was said are left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start: {0}")]
    struct Repeats(#[source] io::Error);

    #[test]
    fn causes_follow_and_are_not_said_twice() {
        let denied = || io::Error::other("denied");
        assert_eq!(chain(&Outer(denied())), "cannot read the file: denied");
        assert_eq!(chain(&Repeats(denied())), "cannot start: denied");
    }
}
