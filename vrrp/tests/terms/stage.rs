//! One router whose kernel acknowledges everything at once, what is said to it, and what it said.

use std::net::Ipv4Addr;
use std::time::Duration;

use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::event::{Advert, Applied, Input, Note, Output, State};
use vrrp::heartbeat::{Claim, Fitness, Lan, Standing, Term};
use vrrp::machine::Router;
use vrrp::types::{Interval, Time};

pub(crate) const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
pub(crate) const THEM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 6);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

/// The advert interval of both nodes, and how often heartbeats come.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn ms(length: u64) -> Duration {
    Duration::from_millis(length)
}

/// See the head of this file.
pub(crate) struct Stage {
    pub(crate) router: Router,
    pub(crate) now: Time,
    said: Vec<Output>,
}

impl Stage {
    /// A fit backup that has heard nothing yet.
    pub(crate) fn backup(priority: i64) -> Stage {
        Stage::backup_at(US, priority)
    }

    pub(crate) fn backup_at(source: Ipv4Addr, priority: i64) -> Stage {
        let now = Time(1_000_000);
        let mut stage = Stage { router: Router::new(config(priority), now), now, said: Vec::new() };
        stage.tell(Input::Serving(true));
        stage.tell(Input::Source(Some(source)));
        assert_eq!(stage.state(), State::Backup);
        stage.said();
        stage
    }

    /// A router that holds the VIP in this term, for a second by now; it took over by silence.
    pub(crate) fn holder(priority: i64, term: Term) -> Stage {
        Stage::backup(priority).holding(term, THEM)
    }

    /// Takes over from a peer there by silence, in this term, and holds for a second.
    pub(crate) fn holding(mut self, term: Term, peer: Ipv4Addr) -> Stage {
        self.hear(Claim { term: term - 1, fitness: Fitness::Cannot, source: Some(peer), ..claim() });
        let silence = self.down();
        self.pass(silence);
        assert_eq!((self.state(), self.router.term()), (State::Master, term));
        self.pass(ms(1000));
        self.said();
        self
    }

    /// Active_Down_Interval (RFC 9568 §6.1).
    pub(crate) fn down(&self) -> Duration {
        INTERVAL * 3 + INTERVAL * (256 - u32::from(self.router.config().priority.get())) / 256
    }

    pub(crate) fn tell(&mut self, input: Input) {
        self.router.handle(input, self.now);
        self.take();
    }

    pub(crate) fn hear(&mut self, claim: Claim) {
        self.tell(Input::Peer(claim));
    }

    pub(crate) fn advert(&mut self, source: Ipv4Addr, priority: u8) {
        self.tell(Input::Advert(heard(source, priority)));
    }

    /// Lets time go by, in steps of a hundred microseconds at most.
    pub(crate) fn pass(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.now = (self.now + Duration::from_micros(100)).min(end);
            self.router.handle_timeout(self.now);
            self.take();
        }
    }

    /// Lets time go by while the same heartbeat comes at each interval, the first one now.
    pub(crate) fn pass_hearing(&mut self, length: Duration, claim: Claim) {
        let end = self.now + length;
        while self.now < end {
            self.hear(claim);
            self.pass(INTERVAL.min(end - self.now));
        }
    }

    pub(crate) fn state(&self) -> State {
        self.router.state()
    }

    /// What its heartbeats say.
    pub(crate) fn claim(&self) -> Claim {
        self.router.claim(self.now)
    }

    /// What it put out since the last call, without announcements and transitions.
    pub(crate) fn said(&mut self) -> Vec<Output> {
        let told = |output: &Output| !matches!(output, Output::Announce | Output::Transition { .. });
        std::mem::take(&mut self.said).into_iter().filter(told).collect()
    }

    /// How often it announced the addresses since the last call; forgets the rest.
    pub(crate) fn announced(&mut self) -> usize {
        std::mem::take(&mut self.said).iter().filter(|output| **output == Output::Announce).count()
    }

    /// What it noted since the last call; forgets the rest.
    pub(crate) fn noted(&mut self) -> Vec<Note> {
        let note = |output| match output {
            Output::Note(note) => Some(note),
            _ => None,
        };
        std::mem::take(&mut self.said).into_iter().filter_map(note).collect()
    }

    fn take(&mut self) {
        while let Some(output) = self.router.poll_output() {
            self.said.push(output);
        }
        if self.state() == State::Master {
            self.router.handle(Input::Vip(Applied::Present), self.now);
            while let Some(output) = self.router.poll_output() {
                self.said.push(output);
            }
        }
    }
}

/// What a fit standby says that sees everything and has never heard of a holder.
pub(crate) fn claim() -> Claim {
    Claim {
        address: VIP,
        vrid: 51,
        term: 0,
        standing: Standing::Free,
        fitness: Fitness::Fit,
        priority: 100,
        source: Some(THEM),
        hears: true,
        lan: Lan::Gateway,
    }
}

/// What a holder says whose lease was acknowledged a moment ago.
pub(crate) fn held(term: Term) -> Claim {
    Claim { term, standing: Standing::Held { renewed: 10, age: 5000 }, ..claim() }
}

/// An advert of somebody else, as it arrives.
pub(crate) fn heard(source: Ipv4Addr, priority: u8) -> Advert {
    let RouterConfig { advert_interval: interval, addresses, .. } = config(1);
    Advert { source, priority, interval, addresses }
}

pub(crate) fn config(priority: i64) -> RouterConfig {
    RouterConfig {
        name: "web".into(),
        interface: "eth0".into(),
        vrid: 51.try_into().expect("in range"),
        addresses: vec![VIP],
        priority: priority.try_into().expect("in range"),
        advert_interval: Interval::try_from(INTERVAL).expect("in range"),
        preempt: None,
        transport: Transport::Multicast,
        source: None,
        checksum: Checksum::Rfc9568,
    }
}

/// An advert of ours.
pub(crate) fn advert(priority: u8) -> Output {
    Output::Advert { priority }
}
