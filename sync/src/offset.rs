//! What the peer's clock says, measured by pings. Of the last samples the one with the shortest round trip is
//! believed: whatever made the others longer also made them wrong.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples that are kept: eight seconds of them, in which two clocks drift less than a round trip.
const SAMPLES: usize = 16;
/// Pings that may be under way; an older one counts as lost.
const PENDING: usize = 8;

/// Four stamps of one exchange, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The ping, by our clock.
    pub ping: u64,
    /// Its arrival, by the peer's.
    pub received: u64,
    /// The pong, by the peer's.
    pub sent: u64,
    /// Its arrival, by ours.
    pub back: u64,
}

/// What a sample says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// There and back, without the time that the peer took to answer.
    pub rtt: Duration,
    /// The peer's clock minus ours, in microseconds.
    pub offset: i64,
}

/// The measurements of one session.
#[derive(Clone, Debug, Default)]
pub struct Offset {
    pending: VecDeque<u64>,
    samples: VecDeque<Measured>,
}

impl Offset {
    /// A ping goes out.
    pub fn sent(&mut self, ping: u64) {
        if self.pending.len() == PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(ping);
    }

    /// A pong came. An answer to nothing, and stamps that cannot be, change nothing.
    pub fn answered(&mut self, exchange: Exchange) {
        let Some(at) = self.pending.iter().position(|ping| *ping == exchange.ping) else { return };
        self.pending.drain(..=at);
        let Some(measured) = measure(exchange) else { return };
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(measured);
    }

    /// The best of the last samples.
    pub fn best(&self) -> Option<Measured> {
        self.samples.iter().min_by_key(|sample| sample.rtt).copied()
    }
}

fn measure(exchange: Exchange) -> Option<Measured> {
    let [ping, received, sent, back] = [exchange.ping, exchange.received, exchange.sent, exchange.back].map(i128::from);
    let rtt = u64::try_from((back - ping) - (sent - received)).ok()?;
    let offset = i64::try_from(((received - ping) + (sent - back)) / 2).ok()?;
    (sent >= received).then_some(Measured { rtt: Duration::from_micros(rtt), offset })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A peer whose clock is ahead by `ahead`, the ways there and back taking this long.
    fn exchange(ping: u64, ahead: u64, there: u64, thinks: u64, back: u64) -> Exchange {
        let received = ping + there + ahead;
        Exchange { ping, received, sent: received + thinks, back: ping + there + thinks + back }
    }

    #[test]
    fn the_shortest_round_trip_is_believed() {
        let mut offset = Offset::default();
        assert_eq!(offset.best(), None);
        for (at, there) in [(1_000, 9_000), (2_000, 100), (3_000, 5_000)] {
            offset.sent(at);
            offset.answered(exchange(at, 1_000_000, there, 700, 100));
        }
        assert_eq!(offset.best(), Some(Measured { rtt: Duration::from_micros(200), offset: 1_000_000 }));
    }

    #[test]
    fn an_old_sample_is_forgotten() {
        let mut offset = Offset::default();
        for number in 0..=SAMPLES as u64 {
            let (at, way) = (number * 1_000_000, if number == 0 { 1 } else { 50 });
            offset.sent(at);
            offset.answered(exchange(at, 0, way, 0, way));
        }
        assert_eq!(offset.best().map(|best| best.rtt), Some(Duration::from_micros(100)));
    }

    #[test]
    fn an_answer_to_nothing_and_one_that_came_before_its_question_count_for_nothing() {
        let mut offset = Offset::default();
        offset.answered(exchange(1, 0, 1, 1, 1));
        offset.sent(10);
        offset.answered(Exchange { ping: 10, received: 5, sent: 4_000, back: 20 });
        offset.sent(30);
        offset.answered(exchange(30, 0, 1, 1, 1));
        offset.answered(exchange(30, 0, 0, 0, 0));
        assert_eq!(offset.best().map(|best| best.rtt), Some(Duration::from_micros(2)), "only the third");
    }

    proptest! {
        #[test]
        fn no_stamps_make_it_panic(stamps in prop::collection::vec(any::<[u64; 4]>(), 0..40)) {
            let mut offset = Offset::default();
            for [ping, received, sent, back] in stamps {
                offset.sent(ping);
                offset.answered(Exchange { ping, received, sent, back });
                offset.best();
            }
        }
    }
}
