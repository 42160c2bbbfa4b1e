//! The server that would have the fewest sessions in proportion to its weight; in turn among equals.

use super::Candidate;

/// Where the next search starts.
#[derive(Debug)]
pub(crate) struct LeastConn {
    start: usize,
}

impl LeastConn {
    pub(crate) fn starting_at(start: usize) -> LeastConn {
        LeastConn { start }
    }

    /// The least loaded of the servers that `open` has something to say of.
    pub(crate) fn pick(&mut self, servers: usize, open: impl Fn(usize) -> Option<Candidate>) -> Option<usize> {
        let mut least: Option<(usize, Candidate)> = None;
        for step in 0..servers {
            let index = (self.start + step) % servers;
            let Some(candidate) = open(index) else { continue };
            if least.is_none_or(|(_, best)| load(candidate, best) < load(best, candidate)) {
                least = Some((index, candidate));
            }
        }
        let (index, _) = least?;
        self.start = index + 1;
        Some(index)
    }
}

/// `(sessions + 1) / weight`, brought to a common denominator with `other`.
fn load(candidate: Candidate, other: Candidate) -> u64 {
    (u64::from(candidate.sessions) + 1) * u64::from(other.weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(sessions: u32, weight: u16) -> Option<Candidate> {
        Some(Candidate { weight, backup: false, usable: true, full: false, sessions })
    }

    #[test]
    fn the_least_loaded_by_weight_is_chosen() {
        let servers = [with(3, 1), with(5, 4), with(2, 1)];
        assert_eq!(LeastConn::starting_at(0).pick(3, |index| servers[index]), Some(1));
    }

    #[test]
    fn equals_take_turns() {
        let mut turn = LeastConn::starting_at(0);
        let order: Vec<usize> = (0..4).filter_map(|_| turn.pick(3, |_| with(0, 1))).collect();
        assert_eq!(order, [0, 1, 2, 0]);
    }
}
