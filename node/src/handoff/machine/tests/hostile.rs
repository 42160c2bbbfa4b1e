//! A peer that says anything at any time, jobs that end in anything, an election that does what it likes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::super::message::{CHUNK, FLOWS_MAX};
use super::*;

const MS: Duration = Duration::from_millis(1);

fn bodies() -> impl Strategy<Value = Body> {
    let flows = prop::collection::vec((0..3_u16).prop_map(flow), 0..3);
    prop_oneof![
        1 => Just(Body::Want { reason: "\u{7}".into() }),
        4 => Just(offer()),
        4 => (0..2_u32, flows, any::<bool>()).prop_map(|(part, flows, last)| Body::Flows { part, flows, last }),
        2 => Just(Body::ProbeSeen),
        2 => Just(Body::Ready),
        1 => Just(Body::Refused { why: "no".into() }),
        2 => Just(Body::Go),
        2 => Just(Body::Taken),
        2 => Just(Body::Released),
        2 => Just(Body::Announced),
        2 => Just(Body::Settled),
        1 => any::<u64>().prop_map(|connections| Body::Left { connections }),
        1 => Just(Body::Done),
        1 => Just(Body::Abort { why: "no".into() }),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Done),
        4 => Just(prepared(vec![flow(1)])),
        4 => Just(Outcome::ProbeSeen),
        2 => Just(Outcome::Flows(vec![flow(1)])),
        2 => (0..2_u64).prop_map(Outcome::Count),
        1 => Just(Outcome::Reset(1)),
        1 => Just(failed()),
    ]
}

/// Something that can happen to a machine; `Ended` meets a job that runs.
#[derive(Clone, Debug)]
enum Happening {
    Given(Input),
    Ended(Outcome),
    Passes(u64),
}

fn happenings() -> impl Strategy<Value = Happening> {
    let id = prop_oneof![(1..4_u64).prop_map(|number| Id { instance: 1, number }), Just(THEIRS)];
    let facts = prop_oneof![
        Just(ACTIVE),
        Just(STANDBY),
        (any::<bool>(), any::<bool>(), any::<bool>(), 0..9_u64).prop_map(
            |(master, address_present, announced, term)| { Facts { master, address_present, announced, term } }
        )
    ];
    let vips = prop_oneof![4 => Just(vec![vip(WEB)]), 1 => Just(vec![])];
    prop_oneof![
        12 => (id.clone(), bodies()).prop_map(|(id, body)| Happening::Given(message(id, body))),
        8 => outcomes().prop_map(Happening::Ended),
        6 => facts.prop_map(|facts| Happening::Given(Input::Election { vip: WEB.into(), facts })),
        4 => prop_oneof![Just(10_u64), Just(300), Just(2_000), Just(70_000)].prop_map(Happening::Passes),
        4 => Just(Happening::Given(Input::Begin { vip: WEB.into(), reason: "operator".into() })),
        1 => Just(Happening::Given(Input::Ask { vip: WEB.into(), reason: "operator".into() })),
        1 => id.prop_map(|id| Happening::Given(Input::Decline { vip: WEB.into(), id, why: "no".into() })),
        2 => Just(Happening::Given(Input::Connected)),
        1 => Just(Happening::Given(Input::Disconnected)),
        1 => Just(Happening::Given(Input::PeerLost)),
        1 => Just(Happening::Given(Input::PeerBack)),
        1 => vips.prop_map(|vips| Happening::Given(Input::Configure { vips, timeout: Some(Duration::from_secs(60)) })),
    ]
}

/// What its outputs must be like, whatever it was given.
#[derive(Default)]
struct Ledger {
    running: BTreeMap<u64, Job>,
    open: BTreeSet<(u64, u64, bool)>,
}

impl Ledger {
    fn take(&mut self, machine: &mut HandOff) {
        let mut count = 0;
        while let Some(output) = machine.poll_output() {
            count += 1;
            match output {
                Output::Run { number, job, .. } => {
                    let waits = self.running.values().all(|running| *running == Job::AwaitProbe);
                    let alone = self.running.is_empty() || (waits && job == Job::RemoveLeaver);
                    assert!(alone, "{job:?} beside {:?}", self.running);
                    self.running.insert(number, job);
                }
                Output::Began { id, direction, .. } => {
                    let key = (id.instance, id.number, direction == Direction::ToPeer);
                    assert!(self.open.insert(key), "{id:?} began twice");
                }
                Output::Finished { id, direction, .. } => {
                    let key = (id.instance, id.number, direction == Direction::ToPeer);
                    assert!(self.open.remove(&key), "{id:?} ended twice");
                }
                Output::Refused { id: Some(id), direction, .. } => {
                    self.open.remove(&(id.instance, id.number, direction == Direction::ToPeer));
                }
                _ => {}
            }
        }
        assert!(count <= 16, "{count} outputs at once");
        let known: BTreeSet<_> = machine
            .progress()
            .map(|progress| (progress.id.instance, progress.id.number, progress.direction == Direction::ToPeer))
            .collect();
        assert_eq!(self.open, known, "each hand-off that began is under way or was said to be over");
    }
}

proptest! {
    #[test]
    fn whatever_is_said_and_happens_every_hand_off_ends_once_and_all_is_cleared_away(
        active in any::<bool>(),
        happenings in prop::collection::vec(happenings(), 0..60),
    ) {
        let bench = Bench::new(if active { ACTIVE } else { STANDBY });
        let (mut machine, mut now) = (bench.machine, bench.now);
        let mut ledger = Ledger::default();
        for happening in happenings {
            match happening {
                Happening::Given(input) => machine.handle(input, now),
                Happening::Ended(outcome) => {
                    if let Some((number, _)) = ledger.running.pop_first() {
                        machine.handle(Input::JobEnded { vip: WEB.into(), number, outcome }, now);
                    }
                }
                Happening::Passes(milliseconds) => {
                    now = now + MS * u32::try_from(milliseconds).expect("a short time");
                    machine.handle_timeout(now);
                }
            }
            ledger.take(&mut machine);
        }
        machine.handle(Input::Stop, now);
        ledger.take(&mut machine);
        for _ in 0..20 {
            while let Some((number, _)) = ledger.running.pop_first() {
                machine.handle(Input::JobEnded { vip: WEB.into(), number, outcome: Outcome::Done }, now);
                ledger.take(&mut machine);
            }
            now = now + Duration::from_secs(1);
            machine.handle_timeout(now);
            ledger.take(&mut machine);
        }
        prop_assert!(machine.is_idle(), "{machine:?}");
        prop_assert_eq!(machine.progress().count(), 0);
    }
}

#[test]
fn an_endless_dump_is_refused_at_the_limit() {
    let mut bench = Bench::taker(1);
    let flows: Vec<Flow> = (0..u16::try_from(CHUNK).expect("a small number")).map(flow).collect();
    let mut outputs = Vec::new();
    for part in 0.. {
        outputs = bench.theirs(Body::Flows { part, flows: flows.clone(), last: false });
        if !outputs.is_empty() {
            assert_eq!(usize::try_from(part).expect("a small number") * CHUNK, FLOWS_MAX);
            break;
        }
    }
    assert!(outputs[0].contains("too many to be handed off"), "{outputs:?}");
}
