//! Shares of the whole range of numbers, one a member and as large as its weight: a number falls into one in O(log n).

use super::Member;

/// The shares of one group of servers.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The members in the order of their shares.
    order: Vec<usize>,
    /// The weights of each and of those before it.
    sums: Vec<u64>,
}

impl Table {
    /// The shares lie in the order of `key`.
    pub(super) fn follow<K: Ord>(&mut self, members: &[Member], key: impl Fn(usize) -> K) {
        self.order.clear();
        self.order.extend(0..members.len());
        self.order.sort_by_key(|index| key(members[*index].server));
        let mut sum = 0;
        self.sums.clear();
        self.sums.extend(self.order.iter().map(|index| {
            sum += u64::from(members[*index].weight);
            sum
        }));
    }

    /// The member into whose share a number falls; `None`: there is none.
    pub(super) fn pick(&self, number: u64) -> Option<usize> {
        let total = *self.sums.last()?;
        let at = (u128::from(number) * u128::from(total)) >> 64;
        self.order.get(self.sums.partition_point(|sum| u128::from(*sum) <= at)).copied()
    }
}
