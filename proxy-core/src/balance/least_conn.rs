//! The server that would have the fewest sessions in proportion to its weight; in turn among equals.
//!
//! Looks at every member: what another worker did a moment ago counts.

use super::Member;

/// The least loaded of the members that `open` has the sessions of, from `start` on.
pub(super) fn pick(members: &[Member], start: usize, open: impl Fn(&Member) -> Option<u32>) -> Option<usize> {
    let (before, after) = members.split_at(start.min(members.len()));
    let lesser = |least: Option<(usize, Load)>, (index, member): (usize, &Member)| {
        let load = open(member).map(|sessions| Load { sessions, weight: member.weight });
        match (least, load) {
            (_, None) => least,
            (Some((_, best)), Some(load)) if !load.is_below(best) => least,
            (_, Some(load)) => Some((index, load)),
        }
    };
    // Each half on its own: a thousand servers are looked at for every client.
    let least = (start..).zip(after).fold(None, lesser);
    (0..).zip(before).fold(least, lesser).map(|(index, _)| index)
}

/// What a server has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) sessions: u32,
    pub(super) weight: u32,
}

impl Load {
    /// With one session more on each: `(sessions + 1) / weight`.
    pub(super) fn is_below(self, other: Load) -> bool {
        let cross = |one: Load, by: Load| (u64::from(one.sessions) + 1) * u64::from(by.weight);
        cross(self, other) < cross(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_by_weight_is_chosen() {
        let member = |server, weight| Member { server, weight, max: u32::MAX };
        let members = [member(0, 1), member(1, 4), member(2, 1)];
        let sessions = |member: &Member| Some([3, 5, 2][member.server]);
        assert_eq!(pick(&members, 0, sessions), Some(1));
        assert_eq!(pick(&members, 0, |member| sessions(member).filter(|_| member.server != 1)), Some(2));
        assert_eq!(pick(&members, 0, |_| None), None);
    }

    #[test]
    fn equals_take_turns() {
        let members = [0, 1, 2].map(|server| Member { server, weight: 1, max: u32::MAX });
        let order: Vec<_> = (0..4).map(|start| pick(&members, start, |_| Some(0)).unwrap()).collect();
        assert_eq!(order, [0, 1, 2, 0]);
    }
}
