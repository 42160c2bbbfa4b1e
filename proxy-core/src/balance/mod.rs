//! Which server takes the next session. Pure: looks at [`Candidate`]s, keeps only its own turn.
//!
//! A balancer belongs to one worker. Round-robin is therefore fair in each worker by itself; least-conn reads
//! counts that are right over all workers.

mod least_conn;
mod round_robin;

use crate::plan::Balance;

/// What the choice depends on for one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// 0 to 256; 0 takes nothing.
    pub(crate) weight: u16,
    /// Used only while no other is usable; of several, the first (as HAProxy without `allbackups`).
    pub(crate) backup: bool,
    /// Up, or not checked yet.
    pub(crate) usable: bool,
    /// Has all the sessions that it may have.
    pub(crate) full: bool,
    /// Over all workers.
    pub(crate) sessions: u32,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Index of the server.
    Server(usize),
    /// There are servers, but each is full: waiting helps.
    Full,
    /// No server is usable.
    Nobody,
}

/// Chooses among the servers of one backend, for one worker.
#[derive(Debug)]
pub(crate) enum Balancer {
    RoundRobin(round_robin::RoundRobin),
    LeastConn(least_conn::LeastConn),
}

impl Balancer {
    /// `offset` (the worker's number) keeps the workers from all starting with the same server.
    pub(crate) fn new(kind: &Balance, weights: &[u16], offset: usize) -> Balancer {
        match kind {
            Balance::RoundRobin => Balancer::RoundRobin(round_robin::RoundRobin::new(weights, offset)),
            Balance::LeastConn => Balancer::LeastConn(least_conn::LeastConn::starting_at(offset)),
            _ => unimplemented!("the branch is not finished"),
        }
    }

    /// Chooses among `servers` others than `except`; `look` describes each, and may be called several times.
    pub(crate) fn pick(&mut self, servers: usize, except: Option<usize>, look: impl Fn(usize) -> Candidate) -> Pick {
        let usable = |index: usize| {
            let candidate = look(index);
            (candidate.usable && candidate.weight > 0 && Some(index) != except).then_some(candidate)
        };
        let active = |index: usize| usable(index).filter(|candidate| !candidate.backup);
        if !(0..servers).any(|index| active(index).is_some()) {
            return match (0..servers).find_map(|index| usable(index).map(|candidate| (index, candidate))) {
                Some((_, candidate)) if candidate.full => Pick::Full,
                Some((index, _)) => Pick::Server(index),
                None => Pick::Nobody,
            };
        }
        let open = |index: usize| active(index).filter(|candidate| !candidate.full);
        let chosen = match self {
            Balancer::RoundRobin(turn) => turn.pick(servers, open),
            Balancer::LeastConn(turn) => turn.pick(servers, open),
        };
        chosen.map_or(Pick::Full, Pick::Server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn up(weight: u16) -> Candidate {
        Candidate { weight, backup: false, usable: true, full: false, sessions: 0 }
    }

    fn both() -> [Balance; 2] {
        [Balance::RoundRobin, Balance::LeastConn]
    }

    fn pick(kind: &Balance, servers: &[Candidate], except: Option<usize>) -> Pick {
        let weights: Vec<u16> = servers.iter().map(|server| server.weight).collect();
        Balancer::new(kind, &weights, 0).pick(servers.len(), except, |index| servers[index])
    }

    #[test]
    fn backups_serve_only_while_no_other_is_usable_and_then_the_first() {
        for kind in &both() {
            let backup = Candidate { backup: true, ..up(1) };
            let down = Candidate { usable: false, ..up(1) };
            assert_eq!(pick(kind, &[backup, up(1), backup], None), Pick::Server(1));
            assert_eq!(pick(kind, &[down, backup, backup], None), Pick::Server(1));
            assert_eq!(pick(kind, &[up(0), backup, backup], None), Pick::Server(1));
            assert_eq!(pick(kind, &[down, backup, backup], Some(1)), Pick::Server(2));
        }
    }

    #[test]
    fn full_servers_are_waited_for_and_do_not_spill_to_backups() {
        for kind in &both() {
            let full = Candidate { full: true, ..up(1) };
            let backup = Candidate { backup: true, ..up(1) };
            assert_eq!(pick(kind, &[full, backup], None), Pick::Full);
            assert_eq!(pick(kind, &[full, up(1)], None), Pick::Server(1));
        }
    }

    #[test]
    fn weight_zero_and_down_take_nothing() {
        for kind in &both() {
            let down = Candidate { usable: false, ..up(1) };
            assert_eq!(pick(kind, &[up(0), down], None), Pick::Nobody);
            assert_eq!(pick(kind, &[], None), Pick::Nobody);
        }
    }

    proptest! {
        #[test]
        fn both_ways_share_in_proportion_to_the_weights(
            weights in proptest::collection::vec(1_u16..=256, 1..8),
            offset in 0_usize..8,
        ) {
            let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            for kind in &both() {
                let mut balancer = Balancer::new(kind, &weights, offset);
                let mut sessions = vec![0_u32; weights.len()];
                for _ in 0..total {
                    let Pick::Server(index) = balancer.pick(weights.len(), None, |index| Candidate {
                        sessions: sessions[index],
                        ..up(weights[index])
                    }) else { panic!("all are up") };
                    sessions[index] += 1;
                }
                for (count, weight) in sessions.iter().zip(&weights) {
                    let off = count.abs_diff(u32::from(*weight));
                    // Least-conn fills up by (sessions + 1) / weight, which rounds in favour of the heavy.
                    let allowed = if *kind == Balance::RoundRobin { 0 } else { weights.len() as u32 };
                    prop_assert!(off <= allowed, "{kind:?} {weights:?} gave {sessions:?}");
                }
            }
        }
    }
}
