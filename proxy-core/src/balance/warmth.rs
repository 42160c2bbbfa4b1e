//! How much of its weight a server has that came up again a while ago (HAProxy's `slowstart`). Pure: `now` is told.

use std::time::{Duration, Instant};

/// Parts of a weight; it grows part by part.
pub(super) const PARTS: u32 = 16;

/// The share that a server has for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmth {
    /// 1 to 16 sixteenths.
    pub parts: u32,
    /// When it has more.
    pub until: Option<Instant>,
}

impl Warmth {
    /// All of it.
    pub const WHOLE: Warmth = Warmth { parts: PARTS, until: None };

    /// Of a server that came up at `since`, and has all of its weight after `slow_start`.
    pub fn at(since: Instant, slow_start: Duration, now: Instant) -> Warmth {
        let passed = now.saturating_duration_since(since);
        if passed >= slow_start {
            return Warmth::WHOLE;
        }
        let steps = passed.as_nanos() * u128::from(PARTS) / slow_start.as_nanos().max(1);
        let steps = u32::try_from(steps).unwrap_or(PARTS).min(PARTS - 1);
        // Past the boundary, however it was rounded.
        let next = slow_start.mul_f64(f64::from(steps + 1) / f64::from(PARTS)) + Duration::from_micros(1);
        Warmth { parts: steps.max(1), until: Some(since + next) }
    }

    /// Of a limit: at least one.
    pub(super) fn of_limit(self, max: u32) -> u32 {
        u32::try_from(u64::from(max) * u64::from(self.parts) / u64::from(PARTS)).unwrap_or(max).max(1)
    }

    /// In percent.
    pub(crate) fn percent(self) -> u8 {
        u8::try_from(self.parts * 100 / PARTS).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_grows_from_a_sixteenth_to_all_of_its_weight() {
        let (began, slow_start) = (Instant::now(), Duration::from_secs(16));
        let parts = |after| Warmth::at(began, slow_start, began + Duration::from_millis(after)).parts;
        assert_eq!([parts(0), parts(999), parts(1001), parts(2001)], [1, 1, 1, 2]);
        assert_eq!([parts(8001), parts(15_999), parts(16_000), parts(99_000)], [8, 15, 16, 16]);
        assert_eq!(Warmth::at(began, slow_start, began + slow_start), Warmth::WHOLE);
    }

    #[test]
    fn each_step_is_known_beforehand() {
        let (began, slow_start) = (Instant::now(), Duration::from_millis(777));
        let (mut now, mut steps) = (began, Vec::new());
        while let Warmth { parts, until: Some(next) } = Warmth::at(began, slow_start, now) {
            assert!(next > now);
            steps.push(parts);
            now = next;
        }
        assert_eq!(steps, [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert!(now <= began + slow_start + Duration::from_micros(1));
    }

    #[test]
    fn a_limit_grows_as_well_and_is_never_nothing() {
        let warm = |parts| Warmth { parts, until: None };
        assert_eq!([warm(1).of_limit(100), warm(8).of_limit(100), warm(1).of_limit(3)], [6, 50, 1]);
        assert_eq!((Warmth::WHOLE.of_limit(u32::MAX), warm(8).percent()), (u32::MAX, 50));
    }
}
