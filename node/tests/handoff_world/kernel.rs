//! A node's kernel as far as a hand-off touches it, and what becomes of a packet for the VIP.

use node::handoff::job::{Flow, Job};

/// The taker's rules.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    leaver: [u8; 6],
    old: Vec<Flow>,
    mine: Vec<Flow>,
    moving: bool,
}

/// The address, and what a hand-off leaves in a kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    /// The VIP is on the interface.
    pub(crate) address: bool,
    /// The VIP stays local without it.
    pub(crate) route: bool,
    /// This node never speaks for the VIP.
    pub(crate) mute: bool,
    /// The probe's receiver, by its nonce, and whether the probe is in it.
    pub(crate) probe: Option<([u8; 16], bool)>,
    /// This node passes packets on.
    pub(crate) table: Option<Table>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It reaches this node's sockets.
    Accepted(usize),
    /// Nobody wants it.
    Dropped,
    /// It was passed on more than once.
    Loops,
}

impl Kernel {
    /// Whether anything of a hand-off is left.
    pub(crate) fn has_residue(&self) -> bool {
        self.route || self.mute || self.table.is_some() || self.probe.is_some()
    }

    /// Whether it answers who asks for the VIP.
    pub(crate) fn answers(&self) -> bool {
        (self.address || self.route) && !self.mute
    }

    /// What a job does here; `own` are this node's connections.
    pub(crate) fn apply(&mut self, job: &Job, nonce: [u8; 16], own: Vec<Flow>) {
        match job {
            Job::Prepare => {
                self.route = true;
                self.probe = Some((nonce, false));
            }
            Job::Install { old, leaver } => {
                self.table = Some(Table { leaver: leaver.mac, old: old.clone(), mine: own, moving: true });
            }
            Job::Mute => self.mute = true,
            Job::Settle { old } => {
                if let Some(table) = &mut self.table {
                    table.old.clone_from(old);
                    table.mine.clear();
                    table.moving = false;
                }
            }
            Job::RemoveTaker => self.table = None,
            Job::RemoveLeaver => {
                self.route = false;
                self.mute = false;
                self.probe = None;
            }
            Job::AwaitProbe | Job::Probe { .. } | Job::Dump | Job::Reset | Job::Count => {}
        }
    }

    /// Whether a packet stays here that came from this MAC, if it was a node's; if not, it is passed on.
    fn keeps(&mut self, flow: Flow, syn: bool, from: Option<[u8; 6]>) -> bool {
        let Some(table) = &mut self.table else { return true };
        if from == Some(table.leaver) {
            return true;
        }
        if table.old.contains(&flow) {
            return false;
        }
        if syn && table.moving && !table.mine.contains(&flow) {
            table.mine.push(flow);
        }
        !table.moving || table.mine.contains(&flow)
    }
}

/// Where a client's packet ends that is sent to node `to`. A frame that is passed on carries the MAC of who did that.
pub(crate) fn route(kernels: &mut [&mut Kernel; 2], to: usize, flow: Flow, syn: bool) -> Fate {
    let mut at = to;
    let mut from = None;
    for _ in 0..2 {
        if kernels[at].keeps(flow, syn, from) {
            let local = kernels[at].address || kernels[at].route;
            return if local { Fate::Accepted(at) } else { Fate::Dropped };
        }
        from = Some(mac(at));
        at = 1 - at;
    }
    Fate::Loops
}

/// A node's MAC.
pub(crate) fn mac(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(node).expect("two nodes")]
}
