//! What is counted of an entry: where each counter lies in its words, and what an event does to it. Pure.
//!
//! A rate is HAProxy's: events of this period, and of the one before as much as of it is still within one period's
//! length. It takes three words: the number of the period, and the events of both. Everything ends at 2³² - 1.

use crate::plan::StickCounter;

/// What happened to a client that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection began.
    Begin,
    /// One that began ended.
    End,
    /// A request came.
    Request,
    /// One was answered 4xx, or refused.
    Error,
    /// Bytes came from the client.
    In(u64),
    /// Bytes went to it.
    Out(u64),
    /// A rule says so.
    Gpc0,
}

/// The counters of a table.
#[derive(Debug)]
pub(super) struct Layout {
    /// Each counter, and its first word.
    slots: Box<[(StickCounter, usize)]>,
    pub(super) words: usize,
    /// The word of the connections that go on: who has some is in use.
    pub(super) in_use: Option<usize>,
}

impl Layout {
    pub(super) fn new(counters: &[StickCounter]) -> Layout {
        let mut words = 0;
        let slot = |counter: &StickCounter| {
            let first = words;
            words += if period(*counter).is_some() { 3 } else { 1 };
            (*counter, first)
        };
        let slots: Box<[_]> = counters.iter().map(slot).collect();
        let in_use = slots.iter().find(|(counter, _)| *counter == StickCounter::ConnCur).map(|(_, word)| *word);
        Layout { slots, words, in_use }
    }

    /// What happened, at `now` in milliseconds.
    pub(super) fn count(&self, words: &mut [u32], event: Event, now: u64) {
        for (counter, first) in &self.slots {
            let Some(more) = concerns(*counter, event) else { continue };
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            match period(*counter) {
                None if event == Event::End => words[*first] = words[*first].saturating_sub(more),
                None => words[*first] = words[*first].saturating_add(more),
                Some(period) => {
                    let [number, current, before] = &mut words[*first..*first + 3] else { continue };
                    let (this, _) = period_at(now, period);
                    match this.wrapping_sub(*number) {
                        0 => {}
                        1 => (*before, *current) = (*current, 0),
                        _ => (*before, *current) = (0, 0),
                    }
                    *number = this;
                    *current = current.saturating_add(more);
                }
            }
        }
    }

    /// Whether an event moves any of them.
    pub(super) fn counts(&self, event: Event) -> bool {
        self.slots.iter().any(|(counter, _)| concerns(*counter, event).is_some())
    }

    /// What a counter says at `now`; 0 if it isn't counted.
    pub(super) fn value(&self, words: &[u32], counter: StickCounter, now: u64) -> u32 {
        let Some((_, first)) = self.slots.iter().find(|(known, _)| *known == counter) else { return 0 };
        let Some(period) = period(counter) else { return words[*first] };
        let [number, current, before] = words[*first..*first + 3] else { return 0 };
        let (this, over) = period_at(now, period);
        let (current, before) = match this.wrapping_sub(number) {
            0 => (current, before),
            1 => (0, current),
            _ => (0, 0),
        };
        let still = u128::from(before) * u128::from(period - over) / u128::from(period);
        current.saturating_add(u32::try_from(still).unwrap_or(u32::MAX))
    }

    /// All of them, in the order of the table.
    pub(super) fn values(&self, words: &[u32], now: u64) -> Vec<(String, u32)> {
        let value = |(counter, _): &(StickCounter, usize)| (counter.to_string(), self.value(words, *counter, now));
        self.slots.iter().map(value).collect()
    }

    /// Everything to zero but the connections that go on.
    pub(super) fn clear(&self, words: &mut [u32]) {
        for (index, word) in words.iter_mut().enumerate() {
            if Some(index) != self.in_use {
                *word = 0;
            }
        }
    }
}

/// By how much a counter changes.
fn concerns(counter: StickCounter, event: Event) -> Option<u64> {
    match (counter, event) {
        (StickCounter::ConnCur, Event::Begin | Event::End)
        | (StickCounter::ConnCnt | StickCounter::ConnRate(_), Event::Begin)
        | (StickCounter::HttpReqCnt | StickCounter::HttpReqRate(_), Event::Request)
        | (StickCounter::HttpErrRate(_), Event::Error)
        | (StickCounter::Gpc0, Event::Gpc0) => Some(1),
        (StickCounter::BytesInRate(_), Event::In(bytes)) | (StickCounter::BytesOutRate(_), Event::Out(bytes)) => {
            Some(bytes)
        }
        _ => None,
    }
}

/// Milliseconds of a rate's period, at least one.
fn period(counter: StickCounter) -> Option<u64> {
    let period = match counter {
        StickCounter::ConnRate(period)
        | StickCounter::HttpReqRate(period)
        | StickCounter::HttpErrRate(period)
        | StickCounter::BytesInRate(period)
        | StickCounter::BytesOutRate(period) => period,
        StickCounter::ConnCur | StickCounter::ConnCnt | StickCounter::HttpReqCnt | StickCounter::Gpc0 => return None,
    };
    Some(u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// The number of the period, from 1 so that an entry's first one has none before it, and how much of it is over.
fn period_at(now: u64, period: u64) -> (u32, u64) {
    ((now / period).wrapping_add(1) as u32, now % period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_slides_from_one_period_into_the_next() {
        let counter = StickCounter::HttpReqRate(Duration::from_secs(10));
        let layout = Layout::new(&[StickCounter::Gpc0, counter]);
        let mut words = vec![0; layout.words];
        for _ in 0..100 {
            layout.count(&mut words, Event::Request, 0);
        }
        let at = |words: &[u32], now| layout.value(words, counter, now);
        let slide = [(0, 100), (9_999, 100), (10_000, 100), (12_500, 75), (19_999, 0), (20_000, 0), (90_000, 0)];
        assert_eq!(slide.map(|(now, _)| (now, at(&words, now))), slide);
        layout.count(&mut words, Event::Request, 12_500);
        assert_eq!(at(&words, 12_500), 76);
        assert_eq!(at(&words, 25_000), 0, "half of one event");
        layout.count(&mut words, Event::Request, 60_000);
        assert_eq!(at(&words, 60_000), 1, "what is long past is not the period before");
        assert_eq!(layout.value(&words, StickCounter::Gpc0, 60_000), 0);
    }

    #[test]
    fn each_event_moves_its_own_counters_and_nothing_overflows() {
        let second = Duration::from_secs(1);
        let all = [
            StickCounter::ConnCur,
            StickCounter::ConnCnt,
            StickCounter::ConnRate(second),
            StickCounter::HttpReqCnt,
            StickCounter::HttpReqRate(second),
            StickCounter::HttpErrRate(second),
            StickCounter::BytesInRate(second),
            StickCounter::BytesOutRate(second),
            StickCounter::Gpc0,
        ];
        let layout = Layout::new(&all);
        let table: [(Event, [u32; 9]); 7] = [
            (Event::Begin, [1, 1, 1, 0, 0, 0, 0, 0, 0]),
            (Event::Request, [0, 0, 0, 1, 1, 0, 0, 0, 0]),
            (Event::Error, [0, 0, 0, 0, 0, 1, 0, 0, 0]),
            (Event::In(7), [0, 0, 0, 0, 0, 0, 7, 0, 0]),
            (Event::Out(u64::MAX), [0, 0, 0, 0, 0, 0, 0, u32::MAX, 0]),
            (Event::Gpc0, [0, 0, 0, 0, 0, 0, 0, 0, 1]),
            (Event::End, [0; 9]),
        ];
        for (event, expected) in table {
            let mut words = vec![0; layout.words];
            layout.count(&mut words, event, 5);
            assert_eq!(all.map(|counter| layout.value(&words, counter, 5)), expected, "{event:?}");
        }
        let mut words = vec![0; layout.words];
        layout.count(&mut words, Event::Out(u64::MAX), 999);
        layout.count(&mut words, Event::Out(u64::MAX), 1000);
        assert_eq!(layout.value(&words, StickCounter::BytesOutRate(second), 1000), u32::MAX);
    }
}
