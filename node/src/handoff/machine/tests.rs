//! Each step of either side, each reason to refuse, each way to an end.

use std::net::Ipv4Addr;

use super::super::job::{Flow, Neighbour, ProbeTarget};
use super::*;

mod hostile;
mod refusals;

const WEB: &str = "web";
const NONCE: [u8; 16] = [7; 16];
const ACTIVE: Facts = Facts { master: true, address_present: true, announced: true, term: 4 };
const STANDBY: Facts = Facts { master: false, address_present: false, announced: false, term: 4 };
/// The hand-off, made by this node or by the peer.
const OURS: Id = Id { instance: 1, number: 1 };
const THEIRS: Id = Id { instance: 2, number: 1 };

struct Bench {
    machine: HandOff,
    now: Time,
    /// The number of the job that was asked for last.
    job: u64,
}

fn neighbour(last: u8) -> Neighbour {
    Neighbour { address: Ipv4Addr::new(192, 0, 2, last).into(), mac: [2, 0, 0, 0, 0, last] }
}

fn vip(name: &str) -> Vip {
    let address = Ipv4Addr::new(192, 0, 2, 100).into();
    Vip { name: name.into(), vrid: 51, address, interface: "eth0".into(), own: neighbour(11) }
}

fn flow(n: u16) -> Flow {
    Flow { client: Ipv4Addr::new(192, 0, 2, 50).into(), client_port: n, port: 443 }
}

fn message(id: Id, body: Body) -> Input {
    Input::Message(Message { vip: WEB.into(), id, body })
}

fn offer() -> Body {
    Body::Offer {
        reason: "operator".into(),
        address: vip(WEB).address,
        leaver: neighbour(12),
        probe: ProbeTarget { port: 40_000, nonce: NONCE },
        connections: 2,
    }
}

fn dump(flows: &[Flow]) -> Body {
    Body::Flows { part: 0, flows: flows.to_vec(), last: true }
}

fn prepared(flows: Vec<Flow>) -> Outcome {
    Outcome::Prepared { flows, probe: ProbeTarget { port: 40_000, nonce: NONCE } }
}

fn failed() -> Outcome {
    Outcome::Failed("nft: no such command; install nftables".into())
}

/// An output in few words: what matters to a table.
fn brief(output: Output) -> String {
    match output {
        Output::Send(Message { body, .. }) => match body {
            Body::Flows { flows, last, .. } => format!("send Flows {} {last}", flows.len()),
            Body::Want { .. } => "send Want".into(),
            Body::Offer { connections, .. } => format!("send Offer {connections}"),
            Body::Refused { why } => format!("send Refused: {why}"),
            Body::Abort { why } => format!("send Abort: {why}"),
            Body::Left { connections } => format!("send Left {connections}"),
            body => format!("send {body:?}"),
        },
        Output::Run { job, .. } => match job {
            Job::Install { old, .. } => format!("run Install {}", old.len()),
            Job::Settle { old } => format!("run Settle {}", old.len()),
            Job::Probe { .. } => "run Probe".into(),
            job => format!("run {job:?}"),
        },
        Output::Election { order, .. } => format!("{order:?}"),
        Output::Wanted { .. } => "wanted".into(),
        Output::Began { .. } => "began".into(),
        Output::Moved { flows, .. } => format!("moved {flows}"),
        Output::Finished { reset, why, .. } => format!("finished {reset}: {why}"),
        Output::Refused { why, .. } => format!("refused: {why}"),
    }
}

impl Bench {
    fn new(facts: Facts) -> Bench {
        let mut bench = Bench { machine: HandOff::new(1), now: Time(0), job: 0 };
        bench.give(Input::Configure { vips: vec![vip(WEB)], timeout: Some(Duration::from_secs(60)) });
        bench.give(Input::Connected);
        bench.facts(facts);
        bench
    }

    fn drain(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            if let Output::Run { number, .. } = output {
                self.job = number;
            }
            all.push(brief(output));
        }
        all
    }

    fn give(&mut self, input: Input) -> Vec<String> {
        self.machine.handle(input, self.now);
        self.drain()
    }

    fn facts(&mut self, facts: Facts) -> Vec<String> {
        self.give(Input::Election { vip: WEB.into(), facts })
    }

    /// The job that was asked for last ends.
    fn ends(&mut self, outcome: Outcome) -> Vec<String> {
        self.give(Input::JobEnded { vip: WEB.into(), number: self.job, outcome })
    }

    fn ours(&mut self, body: Body) -> Vec<String> {
        self.give(message(OURS, body))
    }

    fn theirs(&mut self, body: Body) -> Vec<String> {
        self.give(message(THEIRS, body))
    }

    fn begin(&mut self) -> Vec<String> {
        self.give(Input::Begin { vip: WEB.into(), reason: "operator".into() })
    }

    /// Waits for the next deadline; how long that was, and what came of it.
    fn wait(&mut self) -> (Duration, Vec<String>) {
        let at = self.machine.poll_timeout().expect("a deadline");
        let waited = at - self.now;
        self.now = at;
        self.machine.handle_timeout(at);
        (waited, self.drain())
    }

    /// A leaver, as far as so many steps.
    fn leaver(steps: usize) -> Bench {
        let mut bench = Bench::new(ACTIVE);
        for step in &LEAVER[..steps] {
            (step.give)(&mut bench);
        }
        bench
    }

    /// A taker, as far as so many steps.
    fn taker(steps: usize) -> Bench {
        let mut bench = Bench::new(STANDBY);
        for step in &TAKER[..steps] {
            (step.give)(&mut bench);
        }
        bench
    }
}

/// One step of a hand-off that goes well: what is given, and what comes of it.
struct Row {
    give: fn(&mut Bench) -> Vec<String>,
    comes: &'static [&'static str],
}

const LEAVER: &[Row] = &[
    Row { give: Bench::begin, comes: &["began", "run Prepare"] },
    Row {
        give: |bench| bench.ends(prepared(vec![flow(1), flow(2)])),
        comes: &["send Offer 2", "send Flows 2 true", "run AwaitProbe"],
    },
    Row { give: |bench| bench.ends(Outcome::ProbeSeen), comes: &["send ProbeSeen"] },
    Row { give: |bench| bench.ours(Body::Ready), comes: &["Yield(true)", "send Go"] },
    Row { give: |bench| bench.facts(Facts { master: false, term: 5, ..ACTIVE }), comes: &[] },
    Row { give: |bench| bench.ours(Body::Taken), comes: &["run Mute"] },
    Row { give: |bench| bench.ends(Outcome::Done), comes: &["LetGo"] },
    Row { give: |bench| bench.facts(Facts { term: 5, ..STANDBY }), comes: &["send Released"] },
    Row { give: |bench| bench.ours(Body::Announced), comes: &["run Dump"] },
    Row { give: |bench| bench.ends(Outcome::Flows(vec![flow(1)])), comes: &["send Flows 1 true"] },
    Row { give: |bench| bench.ours(Body::Settled), comes: &["moved 1"] },
    Row { give: |bench| bench.wait().1, comes: &["run Count"] },
    Row { give: |bench| bench.ends(Outcome::Count(1)), comes: &["send Left 1"] },
    Row { give: |bench| bench.wait().1, comes: &["run Count"] },
    Row { give: |bench| bench.ends(Outcome::Count(0)), comes: &["send Left 0"] },
    Row { give: |bench| bench.wait().1, comes: &["run Count"] },
    Row {
        give: |bench| bench.ends(Outcome::Count(0)),
        comes: &["send Left 0", "send Done", "finished 0: all of its connections ended", "run RemoveLeaver"],
    },
    Row { give: |bench| bench.ends(Outcome::Done), comes: &[] },
];

const TAKER: &[Row] = &[
    Row { give: |bench| bench.theirs(offer()), comes: &["began"] },
    Row { give: |bench| bench.theirs(dump(&[flow(1), flow(2)])), comes: &["run Install 2"] },
    Row { give: |bench| bench.ends(Outcome::Done), comes: &["run Probe"] },
    Row { give: |bench| bench.ends(Outcome::Done), comes: &[] },
    Row { give: |bench| bench.theirs(Body::ProbeSeen), comes: &["send Ready"] },
    Row { give: |bench| bench.theirs(Body::Go), comes: &["TakeOver"] },
    Row { give: |bench| bench.facts(Facts { announced: false, term: 5, ..ACTIVE }), comes: &[] },
    Row { give: |bench| bench.facts(Facts { term: 5, ..ACTIVE }), comes: &["send Taken"] },
    Row { give: |bench| bench.theirs(Body::Released), comes: &["AnnounceAgain", "send Announced"] },
    Row { give: |bench| bench.theirs(dump(&[flow(1)])), comes: &["run Settle 1"] },
    Row { give: |bench| bench.ends(Outcome::Done), comes: &["send Settled", "moved 1"] },
    Row { give: |bench| bench.theirs(Body::Left { connections: 1 }), comes: &[] },
    Row {
        give: |bench| bench.theirs(Body::Done),
        comes: &["finished 0: all of the peer's connections ended", "run RemoveTaker"],
    },
    Row { give: |bench| bench.ends(Outcome::Done), comes: &[] },
];

/// How many steps of each are before the VIP moves, and how many until it has moved.
const LEAVER_ABORTS: std::ops::RangeInclusive<usize> = 1..=3;
const LEAVER_SERVES: usize = 11;
const TAKER_ABORTS: std::ops::RangeInclusive<usize> = 1..=5;
const TAKER_SERVES: usize = 11;

#[test]
fn a_hand_off_goes_step_by_step_on_either_side() {
    for (facts, rows) in [(ACTIVE, LEAVER), (STANDBY, TAKER)] {
        let mut bench = Bench::new(facts);
        for (number, row) in rows.iter().enumerate() {
            assert_eq!((row.give)(&mut bench), row.comes, "step {number}");
        }
        assert!(bench.machine.is_idle());
        assert_eq!(bench.machine.progress().count(), 0);
        assert_eq!(bench.machine.poll_timeout(), None);
        assert_eq!(bench.machine.ignored(), 0);
    }
}

#[test]
fn progress_is_told_in_words_from_the_first_step_to_the_last() {
    for steps in 1..=16 {
        let bench = Bench::leaver(steps);
        let progress: Vec<Progress> = bench.machine.progress().collect();
        assert_eq!(progress.len(), 1, "{steps}");
        assert_eq!((progress[0].id, progress[0].direction), (OURS, Direction::ToPeer));
    }
    let left = |bench: Bench| bench.machine.progress().next().and_then(|progress| progress.connections_left);
    assert_eq!(left(Bench::leaver(13)), Some(1));
    assert_eq!(left(Bench::taker(12)), Some(1));
}

/// Whatever ends it before the VIP moves, on either side: said once, cleared away, and nothing is left.
#[test]
fn before_the_vip_moves_anything_ends_it_and_nothing_is_left() {
    type End = fn(&mut Bench) -> Vec<String>;
    let ends: [(&str, End); 7] = [
        ("abort", |bench| {
            let id = bench.machine.progress().next().expect("under way").id;
            bench.give(message(id, Body::Abort { why: "no\nmore".into() }))
        }),
        ("session", |bench| bench.give(Input::Disconnected)),
        ("another session", |bench| bench.give(Input::Connected)),
        ("peer", |bench| bench.give(Input::PeerLost)),
        ("stop", |bench| bench.give(Input::Stop)),
        ("configuration", |bench| bench.give(Input::Configure { vips: vec![], timeout: None })),
        ("time", |bench| {
            std::iter::repeat_with(|| bench.wait().1)
                .take(9)
                .find(|out| !out.is_empty() && *out != ["run Probe"])
                .unwrap_or_default()
        }),
    ];
    for (what, end) in ends {
        for (role, steps) in
            LEAVER_ABORTS.map(|steps| ("leaver", steps)).chain(TAKER_ABORTS.map(|steps| ("taker", steps)))
        {
            let mut bench = if role == "leaver" { Bench::leaver(steps) } else { Bench::taker(steps) };
            let running = bench.job;
            let mut outputs = end(&mut bench);
            let refusals = outputs.iter().filter(|output| output.starts_with("refused: ")).count();
            assert_eq!(refusals, 1, "{role} {steps}, {what}: {outputs:?}");
            assert!(
                !outputs.iter().any(|output| output.starts_with("finished")),
                "{role} {steps}, {what}: {outputs:?}"
            );
            // Whatever still ran ends, then what clears up does.
            for number in running..running + 3 {
                outputs.extend(bench.give(Input::JobEnded { vip: WEB.into(), number, outcome: Outcome::Done }));
            }
            let removal = if role == "leaver" { "run RemoveLeaver" } else { "run RemoveTaker" };
            let began = role == "leaver" || steps > 1;
            let removals = outputs.iter().filter(|output| *output == removal).count();
            assert_eq!(removals, usize::from(began), "{role} {steps}, {what}: {outputs:?}");
            assert!(bench.machine.is_idle(), "{role} {steps}, {what}");
        }
    }
}

#[test]
fn a_peer_that_does_not_take_over_leaves_the_vip_here() {
    let mut bench = Bench::leaver(4);
    let (waited, outputs) = bench.wait();
    assert_eq!(waited, STEP);
    let why = "the peer did not take over in time";
    let abort = format!("send Abort: {why}");
    assert_eq!(outputs, ["Yield(false)", abort.as_str(), &format!("refused: {why}"), "run RemoveLeaver"]);
}

#[test]
fn a_higher_term_means_that_it_took_over_though_it_could_not_say_so() {
    let mut bench = Bench::leaver(5);
    assert_eq!(bench.wait(), (STEP, vec!["run Mute".to_owned()]));
    assert_eq!(bench.ends(Outcome::Done), ["LetGo"]);
    let mut bench = Bench::leaver(5);
    assert_eq!(bench.give(Input::PeerLost), ["run Mute"]);
    bench.ends(Outcome::Done);
    assert_eq!(bench.facts(STANDBY), ["moved 2"], "nobody is left to wait for");
}

#[test]
fn a_node_that_cannot_be_muted_lets_go_and_resets() {
    let mut bench = Bench::leaver(6);
    assert_eq!(bench.ends(failed()), ["LetGo", "run Reset"]);
    let outputs = bench.ends(Outcome::Reset(2));
    assert_eq!(outputs[0], "send Done");
    assert!(outputs[1].starts_with("finished 2: nft"), "{outputs:?}");
    assert_eq!(outputs[2], "run RemoveLeaver");
}

#[test]
fn connections_that_outlive_the_timeout_are_reset() {
    let mut bench = Bench::leaver(LEAVER_SERVES);
    let mut waited = Duration::ZERO;
    loop {
        let (time, outputs) = bench.wait();
        waited += time;
        match outputs.first().map(String::as_str) {
            Some("run Count") => assert_eq!(bench.ends(Outcome::Count(3)), ["send Left 3"]),
            other => {
                assert_eq!(other, Some("run Reset"));
                break;
            }
        }
    }
    assert_eq!(waited, Duration::from_secs(60));
    let outputs = bench.ends(Outcome::Reset(3));
    assert_eq!(
        outputs,
        ["send Done", "finished 3: handed-off connections may not live any longer", "run RemoveLeaver"]
    );
}

#[test]
fn who_becomes_active_again_clears_its_own_things_first() {
    let mut bench = Bench::leaver(LEAVER_SERVES);
    assert_eq!(bench.give(Input::PeerLost), [""; 0], "it serves on");
    assert_eq!(
        bench.facts(Facts { address_present: false, ..ACTIVE }),
        [""; 0],
        "without the address the route is needed"
    );
    assert_eq!(
        bench.facts(Facts { announced: false, ..ACTIVE }),
        ["send Done", "finished 0: this node is active again", "run RemoveLeaver"]
    );
}

#[test]
fn the_taker_is_heard_only_once_it_is_not_mute_any_more() {
    // It was the leaver before, and the VIP comes back to it.
    let mut bench = Bench::leaver(LEAVER_SERVES);
    for row in &TAKER[..6] {
        (row.give)(&mut bench);
    }
    bench.facts(Facts { announced: false, ..ACTIVE });
    let removal = bench.job;
    assert_eq!(bench.facts(ACTIVE), [""; 0]);
    let outputs = bench.give(Input::JobEnded { vip: WEB.into(), number: removal, outcome: Outcome::Done });
    assert_eq!(outputs, ["send Taken"]);
}

#[test]
fn a_taker_keeps_its_rules_until_the_vip_has_gone_back() {
    let mut bench = Bench::taker(TAKER_SERVES);
    assert_eq!(bench.begin(), ["began", "run Prepare"]);
    bench.ends(prepared(vec![flow(9)]));
    bench.ends(Outcome::ProbeSeen);
    bench.ours(Body::Ready);
    assert_eq!(bench.theirs(Body::Done), [""; 0], "its connections are at home again, but not yet every client knows");
    bench.ours(Body::Taken);
    bench.ends(Outcome::Done);
    bench.facts(STANDBY);
    bench.ours(Body::Announced);
    bench.ends(Outcome::Flows(vec![flow(9)]));
    let outputs = bench.ours(Body::Settled);
    assert_eq!(outputs, ["moved 1", "finished 0: the VIP went back to the peer", "run RemoveTaker"]);
}

#[test]
fn a_taker_that_loses_its_peer_takes_the_rules_away_at_once() {
    for steps in 6..=TAKER_SERVES {
        let mut bench = Bench::taker(steps);
        let outputs = bench.give(Input::PeerLost);
        assert!(outputs[0].starts_with("finished 0: the peer is gone"), "{steps}: {outputs:?}");
        let queued = bench.ends(Outcome::Done);
        assert!(outputs.iter().chain(&queued).any(|output| output == "run RemoveTaker"), "{steps}");
    }
}

#[test]
fn a_session_that_breaks_ends_nothing_that_has_begun_to_move_and_the_last_word_is_repeated() {
    let table: [(Bench, &[&str]); 7] = [
        (Bench::leaver(4), &["send Go"]),
        (Bench::leaver(8), &["send Released"]),
        (Bench::leaver(10), &["run Dump"]),
        (Bench::leaver(LEAVER_SERVES), &[]),
        (Bench::taker(8), &["send Taken"]),
        (Bench::taker(9), &["send Announced"]),
        (Bench::taker(TAKER_SERVES), &["send Settled"]),
    ];
    for (mut bench, again) in table {
        assert_eq!(bench.give(Input::Disconnected), [""; 0], "{again:?}");
        assert_eq!(bench.give(Input::Connected), again);
    }
}

#[test]
fn a_taker_settles_with_what_it_has_if_the_second_dump_does_not_come() {
    let mut bench = Bench::taker(9);
    assert_eq!(bench.wait(), (STEP, vec!["run Settle 2".to_owned()]));
    let mut bench = Bench::taker(8);
    assert_eq!(bench.wait(), (STEP, vec!["AnnounceAgain".to_owned(), "run Settle 2".to_owned()]));
}

#[test]
fn a_leaver_that_has_forgotten_is_not_waited_for() {
    let mut bench = Bench::taker(TAKER_SERVES);
    let (waited, outputs) = bench.wait();
    assert_eq!(waited, SILENCE);
    assert!(outputs[1].starts_with("finished 0: the peer has not said"), "{outputs:?}");
    let mut bench = Bench::taker(TAKER_SERVES);
    bench.give(Input::Disconnected);
    assert_eq!(bench.wait().0, Duration::from_secs(60) + PATIENCE, "without a session it cannot say anything");
}

#[test]
fn a_removal_that_fails_is_tried_until_it_works() {
    let mut bench = Bench::leaver(1);
    bench.ends(failed());
    for _ in 0..30 {
        assert_eq!(bench.ends(failed()), [""; 0]);
        assert!(!bench.machine.is_idle());
        let (waited, outputs) = bench.wait();
        assert!(waited <= Duration::from_secs(5));
        assert_eq!(outputs, ["run RemoveLeaver"]);
    }
    assert!(bench.machine.last_refusal(WEB).is_some_and(|why| why.contains("lbnode release")));
    bench.ends(Outcome::Done);
    assert!(bench.machine.is_idle());
}

#[test]
fn the_hand_offs_of_two_vips_do_not_touch_each_other() {
    let mut bench = Bench::new(ACTIVE);
    bench.give(Input::Configure { vips: vec![vip(WEB), vip("mail")], timeout: None });
    bench.give(Input::Election { vip: "mail".into(), facts: ACTIVE });
    bench.begin();
    assert_eq!(bench.give(Input::Begin { vip: "mail".into(), reason: "operator".into() }), ["began", "run Prepare"]);
    let outputs = bench.give(Input::Configure { vips: vec![vip(WEB)], timeout: None });
    assert_eq!(outputs, ["refused: the VIP is configured no more"]);
    let names: Vec<String> = bench.machine.progress().map(|progress| progress.vip).collect();
    assert_eq!(names, [WEB]);
}

#[test]
fn another_configuration_of_a_vip_waits_until_the_old_one_is_cleared_away() {
    let mut bench = Bench::leaver(LEAVER_SERVES);
    let other = Vip { interface: "eth1".into(), ..vip(WEB) };
    let configure = Input::Configure { vips: vec![other.clone()], timeout: None };
    assert_eq!(bench.give(configure), ["run Reset"]);
    assert_eq!(bench.ends(Outcome::Reset(1)).last().map(String::as_str), Some("run RemoveLeaver"));
    bench.facts(ACTIVE);
    assert_eq!(bench.begin(), ["refused: the VIP's configuration is being changed"]);
    bench.ends(Outcome::Done);
    bench.machine.handle(Input::Begin { vip: WEB.into(), reason: "operator".into() }, bench.now);
    let run = std::iter::from_fn(|| bench.machine.poll_output()).find(|output| matches!(output, Output::Run { .. }));
    assert!(matches!(run, Some(Output::Run { vip, .. }) if vip == other));
}
