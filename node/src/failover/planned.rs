//! Switchovers that nobody asked for: to a fitter peer, and back to the node that is preferred.
//!
//! Pure, like the rest of the policy. Both are planned moves: the old node lives, so they go by a hand-off. A reason has to
//! last before it moves anything, a refusal is not argued with for a while, and a node that lost a VIP again and
//! again through its own fault has to prove itself before it takes it back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use vrrp::heartbeat::{Claim, Fitness};
use vrrp::types::Time;

/// For how long a node must be the less fit one: most likely both are about to see the same servers fail.
const WEAKER: Duration = Duration::from_secs(3);
/// For how long a node must be the preferred one, beside the VIP's `preempt_delay`.
const PREFERRED: Duration = Duration::from_millis(500);
/// After a refusal.
const AGAIN: Duration = Duration::from_secs(10);
/// So many losses …
const LOSSES: usize = 3;
/// … within this time, and a node preempts only after having been fit for as long.
const DAMPING: Duration = Duration::from_secs(600);

/// One VIP, as this node sees both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// This node holds it.
    pub active: bool,
    /// This node would take it over.
    pub standby: bool,
    /// What this node is worth for it.
    pub fitness: Fitness,
    /// This node's priority for it.
    pub priority: u8,
    /// Take it back from a lower priority after so long; `None`: never.
    pub preempt: Option<Duration>,
    /// Both nodes run the same configuration, and this one has looked at its servers.
    pub current: bool,
    /// What the peer says of it, if that is fresh.
    pub peer: Option<Claim>,
}

/// What to do about a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Give it to the peer, which is fitter.
    Give,
    /// Ask the peer for it: this node is preferred.
    Ask,
}

/// What is remembered of each VIP.
#[derive(Clone, Debug, Default)]
struct Vip {
    /// What there is a reason for, and since when.
    reason: Option<(Move, Time)>,
    /// Not before.
    again: Option<Time>,
    /// When this node lost it through its own fault; the last few.
    losses: VecDeque<Time>,
    /// Since when this node is fit for it.
    fit: Option<Time>,
}

/// All VIPs of this node.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    vips: BTreeMap<String, Vip>,
}

impl Planned {
    /// Takes in how a VIP stands now, to be called at least every second; says what to do about it, once.
    pub fn look(&mut self, name: &str, view: &View, now: Time) -> Option<Move> {
        let vip = self.vips.entry(name.to_owned()).or_default();
        vip.fit = (view.fitness == Fitness::Fit).then(|| vip.fit.unwrap_or(now));
        let damped = vip.damped(now);
        let wanted = view.wanted(damped);
        let since = match vip.reason {
            Some((before, since)) if Some(before) == wanted => since,
            _ => now,
        };
        vip.reason = wanted.map(|wanted| (wanted, since));
        let patience = match wanted? {
            Move::Give => WEAKER,
            Move::Ask => PREFERRED.max(view.preempt.unwrap_or_default()),
        };
        if now - since < patience || vip.again.is_some_and(|again| now < again) {
            return None;
        }
        vip.again = Some(now + AGAIN);
        wanted
    }

    /// This node lost a VIP through its own fault.
    pub fn lost(&mut self, name: &str, now: Time) {
        let vip = self.vips.entry(name.to_owned()).or_default();
        vip.losses.push_back(now);
        while vip.losses.len() > LOSSES {
            vip.losses.pop_front();
        }
    }

    /// For how much longer this node, although fit, does not take the VIP back; `None`: it may.
    pub fn damped(&self, name: &str, now: Time) -> Option<Duration> {
        let vip = self.vips.get(name)?;
        vip.damped(now).then(|| (vip.fit.unwrap_or(now) + DAMPING) - now)
    }

    /// Forgets the VIPs that are configured no more.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.vips.retain(|name, _| keep(name));
    }
}

impl Vip {
    fn damped(&self, now: Time) -> bool {
        let (Some(first), Some(last)) = (self.losses.front(), self.losses.back()) else { return false };
        let often = self.losses.len() == LOSSES && *last - *first <= DAMPING;
        often && self.fit.is_none_or(|fit| now - fit.max(*last) < DAMPING)
    }
}

impl View {
    fn wanted(&self, damped: bool) -> Option<Move> {
        let peer = self.peer?;
        if self.active && self.fitness == Fitness::Weakened && peer.fitness == Fitness::Fit && !peer.standing.is_held()
        {
            return Some(Move::Give);
        }
        let preferred = self.preempt.is_some() && self.priority > peer.priority;
        let fit = self.fitness == Fitness::Fit && self.current && !damped;
        (self.standby && preferred && fit && peer.standing.is_alive()).then_some(Move::Ask)
    }
}

#[cfg(test)]
mod tests {
    use vrrp::heartbeat::{Lan, Standing};

    use super::*;

    const HELD: Standing = Standing::Held { renewed: 0, age: 0 };

    fn peer(standing: Standing, fitness: Fitness, priority: u8) -> Option<Claim> {
        let address = std::net::Ipv4Addr::new(192, 0, 2, 100);
        let claim = Claim {
            address,
            vrid: 51,
            term: 1,
            standing,
            fitness,
            priority,
            source: None,
            hears: true,
            lan: Lan::Gateway,
        };
        Some(claim)
    }

    fn standby() -> View {
        View {
            active: false,
            standby: true,
            fitness: Fitness::Fit,
            priority: 200,
            preempt: Some(Duration::from_secs(2)),
            current: true,
            peer: peer(HELD, Fitness::Fit, 100),
        }
    }

    fn active() -> View {
        let peer = peer(Standing::Free, Fitness::Fit, 100);
        View { active: true, standby: false, fitness: Fitness::Weakened, peer, ..standby() }
    }

    fn ms(ms: u64) -> Time {
        Time(ms * 1000)
    }

    /// The first thing that is done about this view, and when, within a minute.
    fn first(planned: &mut Planned, view: &View, from: u64) -> Option<(Move, u64)> {
        (from..from + 60_000).step_by(100).find_map(|at| Some((planned.look("web", view, ms(at))?, at - from)))
    }

    #[test]
    fn the_preferred_node_asks_after_its_delay_and_again_only_after_a_while() {
        let mut planned = Planned::default();
        assert_eq!(first(&mut planned, &standby(), 0), Some((Move::Ask, 2000)));
        assert_eq!(first(&mut planned, &standby(), 2100), Some((Move::Ask, 9900)));
    }

    #[test]
    fn nobody_preempts_who_is_not_preferred_not_fit_or_not_current_or_whose_peer_is_silent() {
        let views = [
            View { preempt: None, ..standby() },
            View { priority: 100, ..standby() },
            View { fitness: Fitness::Weakened, ..standby() },
            View { current: false, ..standby() },
            View { peer: None, ..standby() },
            View { peer: peer(Standing::Free, Fitness::Fit, 100), ..standby() },
            View { peer: peer(Standing::Held { renewed: 2000, age: 0 }, Fitness::Fit, 100), ..standby() },
            View { standby: false, ..standby() },
        ];
        for view in views {
            assert_eq!(first(&mut Planned::default(), &view, 0), None, "{view:?}");
        }
    }

    #[test]
    fn a_weakened_node_gives_the_vip_to_a_fit_peer_and_to_no_other() {
        assert_eq!(first(&mut Planned::default(), &active(), 0), Some((Move::Give, 3000)));
        let views = [
            View { peer: peer(Standing::Free, Fitness::Weakened, 100), ..active() },
            View { peer: peer(HELD, Fitness::Fit, 100), ..active() },
            View { fitness: Fitness::Fit, ..active() },
            View { peer: None, ..active() },
        ];
        for view in views {
            assert_eq!(first(&mut Planned::default(), &view, 0), None, "{view:?}");
        }
    }

    #[test]
    fn a_reason_that_goes_in_between_starts_anew() {
        let mut planned = Planned::default();
        assert_eq!(planned.look("web", &active(), ms(0)), None);
        assert_eq!(planned.look("web", &View { fitness: Fitness::Fit, ..active() }, ms(2900)), None);
        assert_eq!(first(&mut planned, &active(), 3000), Some((Move::Give, 3000)));
    }

    #[test]
    fn after_three_losses_in_ten_minutes_a_node_preempts_when_it_was_fit_for_ten() {
        let mut planned = Planned::default();
        for minute in [0, 4, 9] {
            planned.lost("web", ms(minute * 60_000));
        }
        let from = 10 * 60_000;
        assert_eq!(first(&mut planned, &standby(), from), None);
        assert!(planned.damped("web", ms(from)).is_some());
        assert_eq!(planned.look("web", &standby(), ms(from + 599_000)), None);
        assert_eq!(planned.look("web", &standby(), ms(from + 600_000)), None, "the reason is new");
        assert_eq!(planned.look("web", &standby(), ms(from + 602_000)), Some(Move::Ask));
    }

    #[test]
    fn three_losses_over_a_longer_time_do_not_count() {
        let mut planned = Planned::default();
        for minute in [0, 6, 12] {
            planned.lost("web", ms(minute * 60_000));
        }
        assert_eq!(first(&mut planned, &standby(), 13 * 60_000), Some((Move::Ask, 2000)));
    }
}
