//! Consistent hashing: when a server goes, only its own clients move, and to all others in proportion to their weights.
//!
//! Weighted rendezvous hashing (highest random weight): every server draws a number for each of 65,536 slots, from the slot and
//! its own name alone; the slot is the server's whose `-log2(draw) / weight` is least, which has each server win in proportion
//! to its weight. A ring would need thousands of points a server to be as even. A slot's winner is found when it is first
//! asked for, and kept until something changes. All of it is integers: both nodes find the same.

use super::Member;
use super::hash::mixed;

/// Slots, a power of two: shares are even to within some percent among up to a hundred servers.
const SLOTS: usize = 1 << 16;
/// No winner was looked for yet.
const UNKNOWN: u32 = u32::MAX;
/// Slots tried for one client while their winners are beyond their bound; then all servers are looked at.
const TRIES: u64 = 32;

/// The slots of one group of servers.
#[derive(Debug, Default)]
pub(super) struct Rendezvous {
    /// Of each member: the hash of its name.
    names: Vec<u64>,
    winners: Vec<u32>,
}

impl Rendezvous {
    pub(super) fn follow(&mut self, members: &[Member], name: impl Fn(usize) -> u64) {
        self.names.clear();
        self.names.extend(members.iter().map(|member| name(member.server)));
        self.winners.clear();
        self.winners.resize(SLOTS, UNKNOWN);
    }

    /// The member that a hash belongs to.
    pub(super) fn pick(&mut self, members: &[Member], hash: u64) -> Option<usize> {
        // The lower bits; the mask keeps them within the table.
        let slot = (hash as usize) & (SLOTS - 1);
        let winner = self.winners.get_mut(slot)?;
        if *winner == UNKNOWN {
            *winner = u32::try_from(win(slot as u64, members, &self.names)?).unwrap_or(UNKNOWN);
        }
        Some(*winner as usize)
    }

    /// The first that is allowed of the members that a hash belongs to, one after the other and always in the same order;
    /// `None`: none of those tried is.
    pub(super) fn pick_first(
        &mut self,
        members: &[Member],
        hash: u64,
        allowed: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        (0..TRIES).find_map(|attempt| {
            let hash = if attempt == 0 { hash } else { mixed(hash.wrapping_add(attempt)) };
            self.pick(members, hash).filter(|index| allowed(&members[*index]))
        })
    }
}

fn win(slot: u64, members: &[Member], names: &[u64]) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    for (index, (member, name)) in members.iter().zip(names).enumerate() {
        // At most 2^38 by 2^12.
        let (cost, weight) = (cost_of(mixed(name ^ mixed(slot + 1))), u64::from(member.weight));
        // Equals: the one whose name is less, in whatever order the servers come.
        let is_better =
            |&(other, least, of): &(usize, u64, u64)| (cost * of, names[index]) < (least * weight, names[other]);
        if best.as_ref().is_none_or(is_better) {
            best = Some((index, cost, weight));
        }
    }
    best.map(|(index, ..)| index)
}

/// `-log2(draw / 2^64)`, with 32 bits behind the point.
fn cost_of(draw: u64) -> u64 {
    let draw = draw | 1;
    let zeros = draw.leading_zeros();
    // Without its leading one: 8 bits choose the segment, 32 the place in it.
    let fraction = (draw << zeros) << 1;
    let (segment, place) = ((fraction >> 56) as usize, (fraction >> 24) & 0xffff_ffff);
    let (from, to) = (LOG2[segment], LOG2[segment + 1]);
    ((u64::from(zeros) + 1) << 32) - (from + (((to - from) * place) >> 32))
}

/// `log2(1 + i / 256)`, with 32 bits behind the point.
static LOG2: [u64; 257] = {
    let (mut table, mut index) = ([0; 257], 0);
    while index <= 256 {
        // A mantissa from 1 to 2, 62 bits behind the point: squaring it doubles its logarithm, bit by bit.
        let mut mantissa: u128 = (256 + index as u128) << 54;
        let (mut log, mut bit) = (0, 0);
        if index == 256 {
            log = 1 << 32;
            bit = 32;
        }
        while bit < 32 {
            mantissa = (mantissa * mantissa) >> 62;
            log <<= 1;
            if mantissa >= 1 << 63 {
                mantissa >>= 1;
                log |= 1;
            }
            bit += 1;
        }
        table[index] = log;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        let off = |draw: u64| {
            let exact = 64.0 - (draw as f64).log2();
            (cost_of(draw) as f64 / (1_u64 << 32) as f64 - exact).abs()
        };
        for draw in [1, 3, 1 << 20 | 1, 0x5555_5555_5555_5555, u64::MAX / 3, u64::MAX / 7 * 6, 1 << 63 | 1, u64::MAX] {
            assert!(off(draw | 1) < 1e-5, "{draw}: {}", off(draw | 1));
        }
        assert!((0..100_000_u64).all(|step| cost_of(mixed(step)) > 0));
    }
}
