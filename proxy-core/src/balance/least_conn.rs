//! The server that would have the fewest sessions in proportion to its weight; in turn among equals.
//!
//! Looks at every member: what another worker did a moment ago counts.

use super::Member;

/// The least loaded of the members that `open` has the sessions of, from `start` on.
pub(super) fn pick(members: &[Member], start: usize, open: impl Fn(&Member) -> Option<u32>) -> Option<usize> {
    let (before, after) = members.split_at(start.min(members.len()));
    let mut least: Option<(usize, Load)> = None;
    let all = (start..).zip(after).chain((0..).zip(before));
    for (index, member) in all {
        let Some(sessions) = open(member) else { continue };
        let load = Load { sessions, weight: member.weight };
        if least.is_none_or(|(_, best)| load.is_below(best)) {
            least = Some((index, load));
        }
    }
    least.map(|(index, _)| index)
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
