//! In turn, in proportion to the weights, smoothly interleaved: weights 2 and 1 give a b a, never a a b.
//!
//! Each round every open server gains its weight in credit; the richest is chosen and pays the round's total.

use super::Candidate;

/// The credits of one backend's servers.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    credits: Vec<i64>,
}

impl RoundRobin {
    /// As after `offset` choices with every server open.
    pub(crate) fn new(weights: &[u16], offset: usize) -> RoundRobin {
        let mut turn = RoundRobin { credits: vec![0; weights.len()] };
        for _ in 0..offset.min(usize::from(u8::MAX)) {
            turn.pick(weights.len(), |index| {
                let weight = *weights.get(index)?;
                Some(Candidate { weight, backup: false, usable: true, full: false, sessions: 0 })
            });
        }
        turn
    }

    /// The next of the servers that `open` has something to say of.
    pub(crate) fn pick(&mut self, servers: usize, open: impl Fn(usize) -> Option<Candidate>) -> Option<usize> {
        let mut total = 0;
        let mut richest: Option<(usize, i64)> = None;
        for (index, credit) in self.credits.iter_mut().enumerate().take(servers) {
            let Some(candidate) = open(index) else { continue };
            let weight = i64::from(candidate.weight);
            total += weight;
            *credit += weight;
            if richest.is_none_or(|(_, most)| *credit > most) {
                richest = Some((index, *credit));
            }
        }
        let (index, _) = richest?;
        self.credits[index] -= total;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_interleaved() {
        let weights = [5, 1, 1];
        let mut turn = RoundRobin::new(&weights, 0);
        let open = |index: usize| {
            Some(Candidate { weight: weights[index], backup: false, usable: true, full: false, sessions: 0 })
        };
        let order: Vec<usize> = (0..7).filter_map(|_| turn.pick(3, open)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn workers_start_with_different_servers() {
        let open = |_| Some(Candidate { weight: 1, backup: false, usable: true, full: false, sessions: 0 });
        let first = |offset| RoundRobin::new(&[1, 1, 1], offset).pick(3, open);
        assert_eq!([first(0), first(1), first(2), first(3)], [Some(0), Some(1), Some(2), Some(0)]);
    }
}
