//! Which server takes the next session. Pure: is told of servers and of the time, keeps only its own turn.
//!
//! A balancer belongs to one worker. What changes seldom (who is up, the weights) it keeps as a list of [`Member`]s, made anew
//! when something has changed; the numbers of sessions, which are right over all workers, it asks for at each choice.
//! So choosing in turn, at random and by hash costs O(log n) or less; least-conn, bounded hashes and, while the first ones are
//! full, first look at the sessions of every member.

mod bound;
pub mod hash;
mod least_conn;
mod random;
mod rendezvous;
mod round_robin;
mod sessions;
mod table;
#[cfg(test)]
mod tests;
mod warmth;

use std::time::Instant;

use bound::Bound;
use random::Random;
use rendezvous::Rendezvous;
use round_robin::RoundRobin;
pub use sessions::Sessions;
use table::Table;
pub use warmth::Warmth;

use crate::plan::{self, Balance, Hashing, MAX_WEIGHT};

/// What the choice depends on for one server, apart from the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Up, or not checked yet.
    pub usable: bool,
    /// So much of its weight its agent gives it; 100: all. Ways that keep their shares know only none and all of it.
    pub percent: u16,
    /// How much of its weight it has.
    pub warmth: Warmth,
}

/// What a client asks for, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of what the backend balances by; `None`: in turn.
    pub hash: Option<u64>,
    /// The server that it was with before, which it gets if that has room.
    pub last: Option<usize>,
    /// The server that it belongs to, full or draining: there it waits. No balancer is asked while that is usable.
    pub home: Option<usize>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Index of the server.
    Server(usize),
    /// It can be no other than this one, which is full: waiting for it helps.
    Busy(usize),
    /// There are servers, but each is full: waiting helps.
    Full,
    /// No server is usable.
    Nobody,
}

/// A server that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    /// Its index in the plan.
    server: usize,
    /// In sixteenths, above 0.
    weight: u32,
    /// Sessions at once.
    max: u32,
}

/// Chooses among the servers of one backend, for one worker.
#[derive(Debug)]
pub struct Balancer {
    way: Way,
    /// Also for clients without a hash.
    turn: RoundRobin,
    servers: Vec<Fixed>,
    all_backups: bool,
    /// Usable, with a weight; backups only if there is no other. In the order of the plan, as are the spare ones.
    members: Vec<Member>,
    /// Usable backups that aren't needed now.
    spare: Vec<Member>,
    /// Which changes the members know of, and until when they hold.
    seen: Option<u64>,
    until: Option<Instant>,
}

#[derive(Debug)]
enum Way {
    RoundRobin,
    StaticRoundRobin,
    /// The server to begin with.
    LeastConn(usize),
    First,
    Random(Random),
    Map(Table),
    Consistent(Rendezvous),
    /// With percent of the mean load.
    Bounded(Rendezvous, u16),
}

/// What the plan says of a server.
#[derive(Debug)]
struct Fixed {
    /// Its name's hash.
    name: u64,
    weight: u16,
    backup: bool,
    max: u32,
}

impl Fixed {
    fn new(server: &plan::Server) -> Fixed {
        let max = server.max_connections.unwrap_or(u32::MAX);
        Fixed { name: hash::of(server.name.as_bytes()), weight: server.weight, backup: server.backup, max }
    }
}

impl Balancer {
    /// `offset` (the worker's number) keeps the workers from all starting with the same server.
    pub fn new(balance: &Balance, servers: &[plan::Server], all_backups: bool, offset: usize) -> Balancer {
        let offset = offset % servers.len().max(1);
        let way = match balance {
            Balance::RoundRobin => Way::RoundRobin,
            Balance::StaticRoundRobin => Way::StaticRoundRobin,
            Balance::LeastConn => Way::LeastConn(offset),
            Balance::First => Way::First,
            Balance::Random => Way::Random(Random::new(offset as u64)),
            Balance::Hash(_, Hashing::Map) => Way::Map(Table::default()),
            Balance::Hash(_, Hashing::Consistent { bound: None }) => Way::Consistent(Rendezvous::default()),
            Balance::Hash(_, Hashing::Consistent { bound: Some(percent) }) => {
                Way::Bounded(Rendezvous::default(), *percent)
            }
        };
        Balancer {
            way,
            turn: RoundRobin::starting_at(offset),
            servers: servers.iter().map(Fixed::new).collect(),
            all_backups,
            members: Vec::new(),
            spare: Vec::new(),
            seen: None,
            until: None,
        }
    }

    /// Makes the members anew if `changes` is another number than before, or if the time has come for a weight to grow.
    pub fn follow(
        &mut self,
        changes: u64,
        now: impl FnOnce() -> Instant,
        standing: impl Fn(usize, Instant) -> Standing,
    ) {
        let same = self.seen == Some(changes);
        if same && self.until.is_none() {
            return;
        }
        let now = now();
        if same && self.until.is_some_and(|until| now < until) {
            return;
        }
        self.seen = Some(changes);
        self.look(now, standing);
        let Balancer { way, turn, members, servers, .. } = self;
        match way {
            Way::LeastConn(_) | Way::First => {}
            Way::RoundRobin | Way::StaticRoundRobin => turn.follow(members),
            Way::Random(random) => random.follow(members),
            Way::Map(table) => {
                turn.follow(members);
                table.follow(members, |server| servers[server].name);
            }
            Way::Consistent(slots) | Way::Bounded(slots, _) => {
                turn.follow(members);
                slots.follow(members, |server| servers[server].name);
            }
        }
    }

    /// Looks at every server.
    fn look(&mut self, now: Instant, standing: impl Fn(usize, Instant) -> Standing) {
        // These keep their shares while a server grows (HAProxy's static ways); its limit grows all the same.
        let is_static = matches!(self.way, Way::StaticRoundRobin | Way::Map(_));
        self.until = None;
        self.members.clear();
        self.spare.clear();
        for (server, fixed) in self.servers.iter().enumerate() {
            let Standing { usable, percent, warmth } = standing(server, now);
            let percent = if is_static && percent > 0 { 100 } else { percent };
            let weight = share(fixed.weight, percent);
            if !usable || weight == 0 {
                continue;
            }
            self.until = self.until.into_iter().chain(warmth.until).min();
            let parts = if is_static { Warmth::WHOLE.parts } else { warmth.parts };
            let max = if fixed.max == u32::MAX { fixed.max } else { warmth.of_limit(fixed.max) };
            let member = Member { server, weight: u32::from(weight) * parts, max };
            if fixed.backup { &mut self.spare } else { &mut self.members }.push(member);
        }
        if self.members.is_empty() {
            self.members.extend(self.spare.drain(..backups(self.all_backups, self.spare.len())));
        }
    }

    /// Sessions that a server may have by now: less than the plan allows while it grows.
    pub fn limit(&self, server: usize) -> u32 {
        let of = |members: &[Member]| position(members, server).map(|index| members[index].max);
        of(&self.members).or_else(|| of(&self.spare)).unwrap_or(u32::MAX)
    }

    /// Chooses a server other than `except`; `sessions` are a server's over all workers.
    pub fn pick(&mut self, wanted: Wanted, except: Option<usize>, sessions: impl Fn(usize) -> u32) -> Pick {
        let Balancer { way, turn, members, .. } = self;
        let room = |member: &Member| {
            let now = sessions(member.server);
            (now < member.max && Some(member.server) != except).then_some(now)
        };
        let is_open = |member: &Member| room(member).is_some();
        match members[..] {
            [] => return Pick::Nobody,
            [only] if Some(only.server) == except => return self.instead(room),
            _ => {}
        }
        let last = wanted.last.and_then(|last| position(members, last));
        if let Some(last) = last.filter(|index| is_open(&members[*index])) {
            return Pick::Server(members[last].server);
        }
        let owner = wanted.hash.and_then(|hash| match way {
            Way::Map(table) => table.pick(hash),
            Way::Consistent(slots) => slots.pick(members, hash),
            _ => None,
        });
        if let Some(owner) = owner.map(|index| &members[index]).filter(|owner| Some(owner.server) != except) {
            return if is_open(owner) { Pick::Server(owner.server) } else { Pick::Busy(owner.server) };
        }
        let chosen = match (way, wanted.hash) {
            (Way::LeastConn(next), _) => {
                let start = members.partition_point(|member| member.server < *next);
                let least = least_conn::pick(members, start, room);
                *next = least.map_or(*next, |index| members[index].server + 1);
                least
            }
            (Way::First, _) => members.iter().position(is_open),
            (Way::Random(random), _) => random.pick(members, room).or_else(|| least_conn::pick(members, 0, room)),
            (Way::Bounded(slots, percent), Some(hash)) => {
                let bound = Bound::of(*percent, members, &sessions);
                let allowed = |member: &Member| room(member).is_some_and(|now| bound.allows(member, now));
                slots.pick_first(members, hash, allowed).or_else(|| least_conn::pick(members, 0, room))
            }
            // Somebody's second server is nobody's turn: else, of two servers, each client would first go to the dead one.
            _ if except.is_some() => least_conn::pick(members, turn.next_of(members), room),
            _ => turn.pick(members, is_open),
        };
        chosen.map_or(Pick::Full, |index| Pick::Server(members[index].server))
    }

    /// A backup: the only other server is the one that it mustn't be.
    fn instead(&self, room: impl Fn(&Member) -> Option<u32>) -> Pick {
        let spare = &self.spare[..backups(self.all_backups, self.spare.len())];
        match least_conn::pick(spare, 0, room) {
            Some(index) => Pick::Server(spare[index].server),
            None if spare.is_empty() => Pick::Nobody,
            None => Pick::Full,
        }
    }
}

/// So many percent of a weight; a little is never nothing.
pub(crate) fn share(weight: u16, percent: u16) -> u16 {
    let part = (u32::from(weight) * u32::from(percent)).div_ceil(100);
    u16::try_from(part).unwrap_or(MAX_WEIGHT).min(MAX_WEIGHT)
}

/// How many of so many backups serve.
fn backups(all: bool, usable: usize) -> usize {
    if all { usable } else { usable.min(1) }
}

/// Where a server is in a list in the order of the plan.
fn position(members: &[Member], server: usize) -> Option<usize> {
    members.binary_search_by_key(&server, |member| member.server).ok()
}
