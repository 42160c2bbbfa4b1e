//! What is known of names: the last good answers, how old they may grow, and what went wrong since. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// An answer is kept for as long as it says, but within these bounds.
const KEPT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// After a failure it is asked again after one second, then two, four… up to this.
const PATIENCE: Duration = Duration::from_secs(30);

/// The names of a plan.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<String, Answer>);

#[derive(Debug)]
struct Answer {
    /// The last good one.
    address: Option<IpAddr>,
    /// What went wrong since then.
    problem: Option<String>,
    /// Failures in a row.
    failures: u32,
    due: Instant,
}

impl Answers {
    /// Takes up a name; its own if it is new, and is to be asked for.
    pub(super) fn want(&mut self, name: &str, now: Instant) -> Option<String> {
        if self.0.contains_key(name) {
            return None;
        }
        self.0.insert(name.to_owned(), Answer { address: None, problem: None, failures: 0, due: now });
        Some(name.to_owned())
    }

    pub(super) fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| wanted(name));
    }

    /// What a name stands for, and what is wrong with that.
    pub(super) fn of(&self, name: &str) -> (Option<IpAddr>, Option<String>) {
        let Some(answer) = self.0.get(name) else { return (None, None) };
        let problem = answer.problem.as_ref().map(|problem| match answer.address {
            Some(_) => format!("`{name}`: {problem}; the last good answer is kept"),
            None => format!("`{name}` has no address: {problem}"),
        });
        (answer.address, problem)
    }

    pub(super) fn due(&self, now: Instant) -> Vec<String> {
        self.0.iter().filter(|(_, answer)| answer.due <= now).map(|(name, _)| name.clone()).collect()
    }

    /// When one of these names is due.
    pub(super) fn next_due(&self, of: impl Fn(&str) -> bool) -> Option<Instant> {
        self.0.iter().filter(|(name, _)| of(name)).map(|(_, answer)| answer.due).min()
    }

    /// A good answer; whether it is another one than before. Of several addresses the first in the order of numbers
    /// counts: resolvers turn them round, and both nodes are to agree.
    pub(super) fn found(&mut self, name: &str, addresses: &[IpAddr], ttl: Duration, now: Instant) -> bool {
        let Some(&first) = addresses.iter().min() else {
            return self.failed(name, "the answer has no address in it", now);
        };
        let Some(answer) = self.0.get_mut(name) else { return false };
        let changed = answer.address != Some(first);
        if changed {
            let before = answer.address.map_or_else(|| "none".to_owned(), |address| address.to_string());
            tracing::info!(name, address = %first, before, "a server's name stands for another address");
        }
        let due = now + ttl.clamp(KEPT.0, KEPT.1);
        *answer = Answer { address: Some(first), problem: None, failures: 0, due };
        changed
    }

    /// No answer; whether the plan says something else by that: of a server that has an address, it doesn't.
    pub(super) fn failed(&mut self, name: &str, why: &str, now: Instant) -> bool {
        let Some(answer) = self.0.get_mut(name) else { return false };
        if answer.problem.as_deref() != Some(why) {
            tracing::warn!(name, why, kept = ?answer.address, "a server's name was not resolved");
        }
        let changed = answer.address.is_none() && answer.problem.as_deref() != Some(why);
        answer.problem = Some(why.to_owned());
        answer.due = now + KEPT.0.saturating_mul(1 << answer.failures.min(16)).min(PATIENCE);
        answer.failures += 1;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn asked() -> (Answers, Instant) {
        let (mut answers, now) = (Answers::default(), Instant::now());
        assert_eq!(answers.want("a.test", now), Some("a.test".into()));
        assert_eq!(answers.want("a.test", now), None);
        (answers, now)
    }

    #[test]
    fn of_several_addresses_the_order_does_not_matter() {
        let (mut answers, now) = asked();
        assert!(answers.found("a.test", &ips(&["10.0.0.10", "10.0.0.9", "::1"]), SECOND, now));
        assert!(!answers.found("a.test", &ips(&["::1", "10.0.0.9", "10.0.0.10"]), SECOND, now));
        assert_eq!(answers.of("a.test"), (Some(ips(&["10.0.0.9"])[0]), None));
        assert!(answers.found("a.test", &ips(&["10.0.0.8"]), SECOND, now));
    }

    #[test]
    fn an_answer_is_asked_for_again_when_it_is_old_within_bounds() {
        let (mut answers, now) = asked();
        for (ttl, kept) in [(0, 1), (1, 1), (60, 60), (86_400, 3600)] {
            answers.found("a.test", &ips(&["10.0.0.1"]), ttl * SECOND, now);
            assert_eq!(answers.next_due(|_| true), Some(now + kept * SECOND));
            assert_eq!(answers.due(now + (kept - 1) * SECOND).len(), 0);
            assert_eq!(answers.due(now + kept * SECOND), ["a.test"]);
        }
    }

    #[test]
    fn the_last_good_answer_is_kept_while_nobody_answers() {
        let (mut answers, now) = asked();
        assert!(answers.failed("a.test", "no such name", now));
        assert_eq!(answers.of("a.test"), (None, Some("`a.test` has no address: no such name".into())));
        assert!(answers.found("a.test", &ips(&["10.0.0.1"]), SECOND, now));
        for wait in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!answers.failed("a.test", "no answer", now));
            assert_eq!(answers.next_due(|_| true), Some(now + wait * SECOND));
        }
        let (address, problem) = answers.of("a.test");
        assert_eq!(address, Some(ips(&["10.0.0.1"])[0]));
        assert_eq!(problem.as_deref(), Some("`a.test`: no answer; the last good answer is kept"));
        assert!(!answers.found("a.test", &ips(&["10.0.0.1"]), SECOND, now));
        assert_eq!(answers.of("a.test").1, None);
        answers.keep(|_| false);
        assert_eq!(answers.next_due(|_| true), None);
    }
}
