//! The channel of a pair in virtual time: a session that has to be made first, heartbeats over two paths (the LAN, and one
//! of its own), and hand-offs that may stop at any step.

use std::time::Duration;

use vrrp::event::{Input, State};
use vrrp::heartbeat::{Claim, Lan};

use super::{DELAY, Event, World};

/// How often two nodes without a session try to make one.
pub(super) const MEET: Duration = Duration::from_millis(100);

/// A heartbeat on its way, in the session in which it was signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter {
    claim: Claim,
    sequence: u64,
    session: (u64, u64),
}

impl World {
    /// A session needs both processes and a way there and back.
    pub(super) fn meet(&mut self) {
        self.schedule(MEET, Event::Session);
        let lives = self.lives();
        let up = self.nodes.iter().all(|node| node.router.is_some() && node.frozen.is_none());
        if up && self.session != Some(lives) && self.has_path() && self.rng.chance(50) {
            self.session = Some(lives);
            for node in &mut self.nodes {
                node.obeyed = 0;
            }
            self.say(None, &"a session");
            self.follow_path();
        }
    }

    fn lives(&self) -> (u64, u64) {
        (self.nodes[0].life, self.nodes[1].life)
    }

    /// Whether something of each node arrives at the other over one and the same path.
    fn has_path(&self) -> bool {
        let both = |cuts: &[(usize, usize)]| !cuts.contains(&(0, 1)) && !cuts.contains(&(1, 0));
        let lan = self.nodes.iter().all(|node| node.linked && !node.lan_dead);
        both(&self.sync_cuts) || both(&self.cuts) && lan
    }

    pub(super) fn follow_path(&mut self) {
        let session = self.paired && self.session == Some(self.lives());
        let alive = session && self.loss == 0 && self.deafened.is_empty() && self.has_path();
        self.path_since = if alive { self.path_since.or(Some(self.now)) } else { None };
    }

    /// The advert interval has passed once more.
    pub(super) fn beat(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life || self.nodes[node].router.is_none() {
            return;
        }
        self.tell_peer(node);
        let interval = self.nodes.iter().map(super::Node::interval).min().unwrap_or_default();
        self.schedule(interval, Event::Beat { node, life });
    }

    /// One heartbeat, over both paths.
    pub(super) fn tell_peer(&mut self, from: usize) {
        let now = self.now;
        let it = &mut self.nodes[from];
        let Some(router) = it.router.as_ref().filter(|_| self.paired && it.frozen.is_none()) else { return };
        it.told = Some(router.state());
        it.sequence += 1;
        let session = match self.session {
            Some(session) if session == (self.nodes[0].life, self.nodes[1].life) => session,
            _ => return,
        };
        let it = &self.nodes[from];
        let Some(claim) = it.router.as_ref().map(|router| router.claim(now)) else { return };
        let letter = self.letters.len();
        self.letters.push(Letter { claim, sequence: it.sequence, session });
        let to = 1 - from;
        let dead = self.nodes.iter().any(|node| node.lan_dead || !node.linked);
        let lan = !dead && !self.cuts.contains(&(from, to));
        let sync = !self.sync_cuts.contains(&(from, to));
        let deaf = self.deafened.contains(&(from, to));
        for path in [lan, sync] {
            if path && !deaf && !self.rng.chance(self.loss) {
                let delay = self.rng.within(DELAY);
                self.schedule(delay, Event::Heartbeat { from, to, letter });
            }
        }
    }

    pub(super) fn heartbeat(&mut self, from: usize, to: usize, letter: usize) {
        let Letter { claim, sequence, session } = self.letters[letter];
        debug_assert_eq!(from, 1 - to);
        if self.session != Some(session) || session != self.lives() || sequence <= self.nodes[to].obeyed {
            return;
        }
        self.nodes[to].obeyed = sequence;
        self.feed(to, Input::Peer(claim));
    }

    /// The switch fails, or works again. Nodes notice it by what they hear.
    pub(super) fn lan(&mut self, node: usize, dead: bool) {
        if self.nodes[node].lan_dead == dead {
            return;
        }
        self.nodes[node].lan_dead = dead;
        self.feed(node, Input::Lan(if dead { Lan::Silent } else { Lan::Gateway }));
    }

    /// Steps 3 and 4 of a hand-off; whether any later step comes is chance.
    pub(super) fn hand_off(&mut self, from: usize) {
        // No probe would arrive on a dead segment.
        let fit = |node: &super::Node| node.router.is_some() && node.frozen.is_none() && !node.lan_dead;
        if !self.paired || !self.nodes.iter().all(fit) || self.path_since.is_none() {
            return;
        }
        let to = 1 - from;
        let ready = self.nodes[to].state() == Some(State::Backup);
        if self.nodes[from].state() != Some(State::Master) || !ready {
            return;
        }
        self.feed(from, Input::Yield(true));
        if self.rng.chance(90) {
            let soon = self.rng.within(Duration::from_millis(20));
            let life = self.nodes[to].life;
            self.schedule(soon, Event::TakeOver { node: to, life });
        }
    }

    pub(super) fn take_over(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life || self.nodes[node].frozen.is_some() {
            return;
        }
        self.feed(node, Input::TakeOver);
        let from = 1 - node;
        if self.nodes[node].state() == Some(State::Master) && self.rng.chance(80) {
            let soon = DELAY + self.rng.within(Duration::from_millis(30));
            let life = self.nodes[from].life;
            self.schedule(soon, Event::LetGo { node: from, life });
        }
    }

    pub(super) fn let_go(&mut self, node: usize, life: u64) {
        if self.nodes[1 - node].state() == Some(State::Master) && self.nodes[node].life == life {
            self.feed(node, Input::LetGo);
        }
    }
}
