//! When a server's next check begins: as configured, spread so that thousands of servers don't beat together. Pure.
//!
//! The spread follows from the names, not from chance: each server has its own place in the interval, the same after
//! every restart.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// First checks are spread over one interval, but over no more than this.
const SPREAD: Duration = Duration::from_secs(1);

/// The rhythm of one server's checks.
#[derive(Debug)]
pub(super) struct Pace {
    place: u64,
    beats: u64,
}

impl Pace {
    pub(super) fn new(backend: &str, server: &str) -> Pace {
        Pace { place: hash(&(backend, server)), beats: 0 }
    }

    /// Before the first check.
    pub(super) fn first(&self, interval: Duration) -> Duration {
        interval.min(SPREAD).mul_f64(fraction(self.place))
    }

    /// Before a further check: the interval ±10 %, so that those that fell into step leave it again.
    pub(super) fn next(&mut self, interval: Duration) -> Duration {
        self.beats = self.beats.wrapping_add(1);
        interval.mul_f64(0.9 + 0.2 * fraction(hash(&(self.place, self.beats))))
    }
}

/// The standard library's hasher without keys: the same in every process.
fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// From 0 to 1.
fn fraction(hash: u64) -> f64 {
    f64::from((hash >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

    #[test]
    fn first_checks_of_thousands_fill_the_second_evenly() {
        let mut tenths = [0; 10];
        for number in 0..10_000 {
            let first = Pace::new("back", &format!("server{number}")).first(INTERVAL);
            tenths[(first.as_millis() / 100).min(9) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1200).contains(count)), "{tenths:?}");
    }

    #[test]
    fn pauses_differ_by_a_tenth_and_are_the_same_after_a_restart() {
        let pauses = || {
            let mut pace = Pace::new("back", "one");
            std::array::from_fn::<_, 100, _>(|_| pace.next(INTERVAL))
        };
        assert_eq!(pauses(), pauses());
        let (least, most) = (pauses().into_iter().min().unwrap(), pauses().into_iter().max().unwrap());
        assert!(least >= INTERVAL.mul_f64(0.9) && most <= INTERVAL.mul_f64(1.1), "{least:?} to {most:?}");
        assert!(most - least > INTERVAL.mul_f64(0.15), "{least:?} to {most:?}");
    }
}
