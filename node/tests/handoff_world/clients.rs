//! The clients, their connections, and whom each of them believes to have the VIP.

use std::net::Ipv4Addr;
use std::time::Duration;

use node::handoff::job::Flow;

use super::kernel::{Fate, route};
use super::{CLIENTS, CONNECTIONS, Event, World};

impl World {
    /// Opens connections from now on.
    pub(crate) fn open(&mut self, every: Duration) {
        if self.opening.replace(every).is_none() {
            self.schedule(every, Event::Opens);
        }
    }

    pub(super) fn opens(&mut self) {
        let Some(every) = self.opening else { return };
        let again = self.rng.within(every * 2);
        self.schedule(again, Event::Opens);
        if self.flows.len() >= CONNECTIONS {
            return;
        }
        let client = usize::try_from(self.rng.below(CLIENTS as u64)).expect("a small number");
        let idle = !self.flows.values().any(|(_, of)| *of == client);
        if idle && self.rng.chance(50) {
            // Its neighbour entry was collected as garbage.
            self.clients[client] = None;
        }
        let to = self.clients[client].or_else(|| self.resolve());
        self.clients[client] = to;
        self.port = if self.port == u16::MAX { 1_024 } else { self.port + 1 };
        let host = 50 + u8::try_from(client).expect("a small number");
        let flow = Flow { client: Ipv4Addr::new(192, 0, 2, host).into(), client_port: self.port, port: 443 };
        let Some(to) = to else {
            self.demand(!self.calm, "nobody answers for the VIP");
            return;
        };
        let [a, b] = &mut self.nodes;
        match route(&mut [&mut a.kernel, &mut b.kernel], to, flow, true) {
            Fate::Accepted(node) if self.nodes[node].agent.is_some() => {
                self.flows.insert(flow, (node, client));
                self.opened += 1;
                let life = self.rng.within(self.lifetime);
                self.schedule(life, Event::Closes { flow });
            }
            Fate::Accepted(_) | Fate::Dropped => self.demand(!self.calm, "a connection cannot be opened"),
            Fate::Loops => self.demand(false, "a packet is passed on twice"),
        }
    }

    /// Who is the first to answer for the VIP.
    pub(super) fn resolve(&mut self) -> Option<usize> {
        let first = usize::try_from(self.rng.below(2)).expect("a small number");
        [first, 1 - first].into_iter().find(|node| self.nodes[*node].kernel.answers())
    }

    /// Every connection's packets, at every moment.
    pub(super) fn packets(&mut self) {
        let answered = self.opened == 0 || self.nodes.iter().any(|node| node.kernel.answers());
        self.demand(answered || !self.calm, "nobody answers for the VIP");
        let [a, b] = &mut self.nodes;
        let mut kernels = [&mut a.kernel, &mut b.kernel];
        let mut wrong: Vec<(Flow, Fate)> = Vec::new();
        for (flow, (node, client)) in &self.flows {
            let Some(to) = self.clients[*client] else { continue };
            let fate = route(&mut kernels, to, *flow, false);
            if fate != Fate::Accepted(*node) {
                wrong.push((*flow, fate));
            }
        }
        for (flow, fate) in wrong {
            self.demand(fate != Fate::Loops, "a packet is passed on twice");
            if self.calm {
                self.demand(false, &format!("a packet of {flow:?} is {fate:?}, not at {:?}", self.flows.get(&flow)));
            } else if matches!(fate, Fate::Accepted(_)) {
                self.flows.remove(&flow);
                self.lost += 1;
            }
        }
    }

    pub(super) fn flows_of(&self, node: usize) -> Vec<Flow> {
        self.flows.iter().filter(|(_, (at, _))| *at == node).map(|(flow, _)| *flow).collect()
    }

    pub(super) fn lose_flows_of(&mut self, node: usize) {
        let before = self.flows.len();
        self.flows.retain(|_, (at, _)| *at != node);
        let lost = before - self.flows.len();
        self.lost += lost as u64;
        self.demand(!self.calm || lost == 0, "connections were reset");
    }
}
