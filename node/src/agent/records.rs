//! The agent's part in telling the clients of a dead node: lists its connections for the peer once a second, keeps
//! what the peer lists, and has the peer's clients told when their connections are lost.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use sync::Channel;
use vrrp::event::State;

use crate::causes::chain;
use crate::handoff::Flow;
use crate::handoff::machine::Direction;
use crate::peer::Message;
use crate::records::{Due, MOST, Records, Telling};
use crate::sock_diag;
use crate::tickle::{self, Sent, TickleError};

use super::Agent;
use super::work::Done;

/// How many messages of a second may be records: a quarter of the channel's queue, which others use too. The rest is
/// told in the next second.
const MESSAGES: usize = 64;

impl Agent {
    /// Once a second: tells the peer which connections live here.
    pub(super) fn tell_records(&mut self) {
        let snapshot = self.vrrp.snapshot();
        let Some(peering) = &mut self.peering else { return };
        let Some(channel) = peering.channel.clone().filter(|_| peering.connected()) else { return };
        // The last second's list is not made yet: this one is skipped.
        let Some(telling) = peering.telling.take() else { return };
        // Whoever hands a VIP over still has its older connections.
        let left: BTreeSet<String> = peering
            .handoff
            .progress()
            .filter(|progress| progress.direction == Direction::ToPeer)
            .map(|progress| progress.vip)
            .collect();
        let here = snapshot
            .routers
            .iter()
            .filter(|router| router.state == State::Master || left.contains(&router.config.name));
        let mut vips: Vec<_> = here.map(|router| (router.config.name.clone(), router.config.addresses[0])).collect();
        if vips.is_empty() && telling.is_empty() {
            peering.telling = Some(telling);
            return;
        }
        // Each second begins with another one: who has most takes the place of the others in turn only.
        let first = self.started.elapsed().as_secs() as usize % vips.len().max(1);
        vips.rotate_left(first);
        self.work.spawn(tell(telling, channel, peering.session, vips));
    }

    /// The peer told which connections live there.
    pub(super) fn records_told(&mut self, records: Records) {
        if let Some(peering) = &mut self.peering
            && self.cluster.vips.iter().any(|vip| vip.name == records.vip)
        {
            peering.known.take_in(records);
        }
    }

    /// Has clients told whose connections were lost with the peer.
    pub(super) fn tickle(&mut self) {
        let Some(peering) = &mut self.peering else { return };
        let handoff = &peering.handoff;
        while let Some(due) = peering.known.next_due(|vip| handoff.passes_on(vip)) {
            let vip = self.cluster.vips.iter().find(|vip| vip.name == due.vip);
            if let Some(address) = vip.map(|vip| vip.address).filter(|_| !due.flows.is_empty()) {
                self.work.spawn(tickle(due, address));
            }
        }
    }

    /// They were told, or could not be.
    pub(super) fn tickled(&mut self, vip: &str, event: u64, left_out: u64, result: Result<Sent, TickleError>) {
        let sent = match result {
            Ok(sent) => sent,
            Err(error) => {
                tracing::warn!(vip, "clients of the peer wait for their own time-outs: {}", chain(&error));
                return;
            }
        };
        let Sent { tickled, failed, error } = sent;
        match error {
            Some(error) => tracing::warn!(vip, tickled, failed, left_out, %error, "not every client was tickled"),
            None => tracing::info!(vip, tickled, failed, left_out, "the clients of the peer were tickled"),
        }
        let name = self.peering.as_ref().map_or("the peer", |peering| &peering.name);
        let text = format!("; clients were tickled for {tickled} connections of {name}");
        self.events.amend(event, |event| event.text += &text);
    }
}

async fn tell(mut telling: Telling, channel: Channel<Message>, session: u64, vips: Vec<(String, Ipv4Addr)>) -> Done {
    let told = tokio::task::spawn_blocking(move || {
        tell_now(&mut telling, &channel, session, &vips);
        telling
    });
    // After a panic everything is told anew.
    Done::Told(told.await.unwrap_or_default())
}

/// Lists the connections of these VIPs, one after the other, and tells what changed.
fn tell_now(telling: &mut Telling, channel: &Channel<Message>, session: u64, vips: &[(String, Ipv4Addr)]) {
    let mut room = MESSAGES;
    // What is not taken, because of a full queue or a session that ended, is told in the next second.
    let mut send = |records| {
        let sent = room > 0 && channel.send(Message::Records(records)).is_ok();
        room -= usize::from(sent);
        sent
    };
    telling.begin(session);
    telling.retain(&vips.iter().map(|(vip, _)| vip.as_str()).collect(), &mut send);
    for (vip, address) in vips {
        let listed = match sock_diag::lasting((*address).into(), MOST) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(vip, %error, "the connections cannot be listed for the peer");
                continue;
            }
        };
        if listed.more && telling.is_over(vip) {
            tracing::warn!(
                vip,
                "more than {MOST} connections: if this node dies, the clients of the others are not told"
            );
        }
        let flow = |connection: &sock_diag::Connection| Flow {
            client: connection.remote.ip(),
            client_port: connection.remote.port(),
            port: connection.local.port(),
        };
        if !telling.tell(vip, &listed.connections.iter().map(flow).collect(), &mut send) {
            return;
        }
    }
}

async fn tickle(due: Due, address: Ipv4Addr) -> Done {
    let Due { vip, event, flows, left_out } = due;
    let result = tickle::tickle(address, flows).await;
    Done::Tickled { vip, event, left_out, result }
}
