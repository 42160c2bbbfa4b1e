//! The faults by name: what is done, in words, and what is good enough. [`run`](mod@super::run) does them.

use std::time::Duration;

use clap::ValueEnum;

/// A planned switchover must not be felt: no answer later than this.
const SEAMLESS: Duration = Duration::from_millis(10);

/// What is done to the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The VIP is handed over three times, with 2,000 connections open
    Planned,
    /// The VIP is handed over, and back as soon as the first is answered
    PlannedAndBack,
    /// The active node's proxy core is killed
    ProxyKill,
    /// The active node's proxy core stops making progress
    ProxyHang,
    /// The active node's agent is killed, and started again
    AgentKill,
    /// The active node's cable is pulled
    NodeCut,
    /// The cable of a node that was cut off is plugged in again
    Return,
    /// The active node's LAN dies behind its carrier; the other LAN between the nodes lives
    LanDeadSyncAlive,
    /// VRRP is filtered between the nodes; everything else passes
    AdvertsFiltered,
    /// Both LANs are cut between the nodes, and healed; clients reach both
    AllCutAndHealed,
    /// All processes of the active node are stopped for half a minute (only if asked for by name)
    VmPause,
}

/// What is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The longest gap, p99.
    Gap(Duration),
    /// Nothing moves, no request fails.
    Still,
    /// No connection is lost, no request fails, no answer comes later (p99 of the runs).
    Seamless(Duration),
    /// The VIP moves, and never has two holders.
    NeverTwo,
    /// The longest gap, and the longest time with two holders once it is healed, p99.
    OneAgain(Duration),
    /// The longest gap, p99; whoever slept comes back as a standby and never holds the VIP again.
    StaysAway(Duration),
}

impl Goal {
    /// In the table.
    pub(crate) fn words(self) -> String {
        match self {
            Goal::Gap(goal) => format!("gap ≤ {}", goal.as_millis()),
            Goal::Still => "still, 0 failed".into(),
            Goal::Seamless(goal) => format!("0 lost, ≤ {}", goal.as_millis()),
            Goal::NeverTwo => "moves, never two".into(),
            Goal::OneAgain(goal) => format!("one again ≤ {}", goal.as_millis()),
            Goal::StaysAway(goal) => format!("gap ≤ {}, stays", goal.as_millis()),
        }
    }

    /// The time in it, if there is one.
    pub(crate) fn time(self) -> Option<Duration> {
        match self {
            Goal::Gap(goal) | Goal::Seamless(goal) | Goal::OneAgain(goal) | Goal::StaysAway(goal) => Some(goal),
            Goal::Still | Goal::NeverTwo => None,
        }
    }
}

impl Scenario {
    /// All, in the order in which they are shown.
    pub const ALL: [Scenario; 11] = [
        Scenario::Planned,
        Scenario::PlannedAndBack,
        Scenario::ProxyKill,
        Scenario::ProxyHang,
        Scenario::AgentKill,
        Scenario::NodeCut,
        Scenario::Return,
        Scenario::LanDeadSyncAlive,
        Scenario::AdvertsFiltered,
        Scenario::AllCutAndHealed,
        Scenario::VmPause,
    ];

    /// Those that nobody has to ask for: half a minute of sleep is not among them.
    pub fn usual() -> Vec<Scenario> {
        Scenario::ALL.into_iter().filter(|scenario| *scenario != Scenario::VmPause).collect()
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Planned => "planned",
            Scenario::PlannedAndBack => "planned-and-back",
            Scenario::ProxyKill => "proxy-kill",
            Scenario::ProxyHang => "proxy-hang",
            Scenario::AgentKill => "agent-kill",
            Scenario::NodeCut => "node-cut",
            Scenario::Return => "return",
            Scenario::LanDeadSyncAlive => "lan-dead-sync-alive",
            Scenario::AdvertsFiltered => "adverts-filtered",
            Scenario::AllCutAndHealed => "all-cut-and-healed",
            Scenario::VmPause => "vm-pause",
        }
    }

    /// What is done, in words.
    pub fn what(self) -> &'static str {
        match self {
            Scenario::Planned => "handed over, back, and over again, with 2,000 connections open",
            Scenario::PlannedAndBack => "handed over, and back in the middle of it, with 2,000 connections open",
            Scenario::ProxyKill => "active's proxy core killed (-9)",
            Scenario::ProxyHang => "active's proxy core stopped",
            Scenario::AgentKill => "active's agent killed (-9), then started again",
            Scenario::NodeCut => "active's cable pulled",
            Scenario::Return => "cable plugged in again",
            Scenario::LanDeadSyncAlive => "active's LAN dead behind its carrier, the nodes' own LAN alive; then healed",
            Scenario::AdvertsFiltered => "VRRP dropped between the nodes for 5 s, everything else passes",
            Scenario::AllCutAndHealed => "both LANs cut between the nodes alone for 2 s, then healed",
            Scenario::VmPause => "all of active's processes stopped for 30 s, then continued",
        }
    }

    /// What is good enough, at these adverts.
    pub(crate) fn goal(self, advert_interval: Duration) -> Goal {
        let silence = match advert_interval {
            usual if usual == Duration::from_millis(100) => Duration::from_millis(400),
            other => other * 4 + Duration::from_millis(10),
        };
        match self {
            Scenario::Planned | Scenario::PlannedAndBack => Goal::Seamless(SEAMLESS),
            Scenario::ProxyKill => Goal::Gap(Duration::from_millis(10)),
            Scenario::ProxyHang => Goal::Gap(Duration::from_millis(250)),
            Scenario::AgentKill => Goal::Gap(Duration::from_millis(20)),
            Scenario::NodeCut => Goal::Gap(silence),
            Scenario::Return | Scenario::AdvertsFiltered => Goal::Still,
            Scenario::LanDeadSyncAlive => Goal::NeverTwo,
            Scenario::AllCutAndHealed => Goal::OneAgain(silence),
            Scenario::VmPause => Goal::StaysAway(silence),
        }
    }

    /// Whether connections that last are part of it.
    pub(crate) fn loaded(self) -> bool {
        matches!(self, Scenario::Planned | Scenario::PlannedAndBack)
    }

    /// Whether the fault chooses among packets, which needs nft.
    pub(crate) fn needs_rules(self) -> bool {
        matches!(self, Scenario::AdvertsFiltered | Scenario::AllCutAndHealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_costs_four_intervals_at_most() {
        let goal = |ms| Scenario::NodeCut.goal(Duration::from_millis(ms)).time().map(|goal| goal.as_millis());
        assert_eq!(goal(100), Some(400));
        assert_eq!(goal(10), Some(50));
        assert_eq!(goal(1000), Some(4010));
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::from_str(scenario.name(), false), Ok(scenario));
        }
        assert_eq!(Scenario::ALL.len(), Scenario::value_variants().len());
    }
}
