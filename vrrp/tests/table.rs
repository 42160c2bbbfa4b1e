//! The election as one table: every kind of state, every kind of input, what becomes of it and what is to be done.
//!
//! A cell reads `state: outputs`. `A0` is an advert of priority 0, `A` one of our own, `H` hold, `R` release,
//! `T` release with the VIP taken, `G` announce, `N` a note; transitions show as the change of state. `·` is nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use vrrp::config::{Checksum, RouterConfig, Transport};
use vrrp::event::{Advert, Applied, Fault, Input, Output, State};
use vrrp::heartbeat::{Claim, Fitness, Lan, Standing, Term};
use vrrp::machine::Router;
use vrrp::types::{Interval, Time};

const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
const LOWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
const HIGHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 6);

const HELD: Standing = Standing::Held { renewed: 10, age: 20 };

/// Rows: input. Columns: a router before its start, a backup, an active one, one that offers (it cannot serve), one
/// in a hand-off before and after the peer took over, one in fault for maintenance, one in fault because it cannot serve.
const TABLE: &str = "
input                        | init    | backup      | master          | offering      | yielding        | superseded      | fault by operator | not serving
advert 0                     | init: · | backup: ·   | master: A       | offering: ·   | master: A       | master: A G     | fault: ·          | fault: ·
advert lower                 | init: · | backup: ·   | master: A N G   | fault: T      | master: A N G   | superseded: ·   | fault: ·          | fault: ·
advert equal, address lower  | init: · | backup: ·   | master: A N G   | fault: T      | master: A N G   | superseded: ·   | fault: ·          | fault: ·
advert equal, address higher | init: · | backup: ·   | backup: N A T   | fault: T      | backup: N A T   | superseded: ·   | fault: ·          | fault: ·
advert higher                | init: · | backup: ·   | backup: N A T   | fault: T      | backup: N A T   | superseded: ·   | fault: ·          | fault: ·
advert 255                   | init: N | backup: N   | backup: N N A T | fault: N T    | backup: N N A T | superseded: N   | fault: N          | fault: N
advert from ourselves        | init: · | backup: N   | master: N       | offering: N   | master: N       | superseded: N   | fault: N          | fault: N
link down                    | init: · | fault: ·    | fault: A0 R     | fault: A0 R   | fault: A0 R     | fault: A0 T     | fault: ·          | fault: ·
link up                      | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | superseded: ·   | fault: ·          | fault: ·
maintenance                  | init: · | fault: ·    | fault: A0 R     | fault: A0 R   | fault: A0 R     | fault: A0 T     | fault: ·          | fault: ·
maintenance over             | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | superseded: ·   | backup: ·         | fault: ·
serving                      | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | superseded: ·   | fault: ·          | backup: ·
not serving                  | init: · | fault: ·    | offering: A0    | offering: ·   | offering: A0    | superseded: ·   | fault: ·          | fault: ·
source                       | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | superseded: ·   | fault: ·          | fault: ·
no source                    | init: · | fault: ·    | fault: A0 R     | fault: A0 R   | fault: A0 R     | fault: A0 T     | fault: ·          | fault: ·
VIP present                  | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | superseded: ·   | fault: ·          | fault: ·
VIP absent                   | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | superseded: ·   | fault: ·          | fault: ·
VIP removed                  | init: · | backup: ·   | master: N       | offering: N   | master: N       | superseded: N   | fault: ·          | fault: ·
VIP claimed                  | init: · | backup: ·   | master: N G     | offering: N G | master: ·       | superseded: ·   | fault: ·          | fault: ·
configure                    | init: · | backup: ·   | master: A       | offering: ·   | master: A       | superseded: ·   | fault: ·          | fault: ·
configure, other VIP         | init: · | backup: ·   | master: H A     | offering: H   | master: H A     | superseded: H   | fault: ·          | fault: ·
shutdown                     | init: · | init: ·     | init: A0 R      | init: A0 R    | init: A0 R      | init: A0 T      | init: ·           | init: ·
peer holds, lower term       | init: · | backup: ·   | master: N G     | offering: N G | master: N G     | master: A G N G | fault: ·          | fault: ·
peer holds, higher term      | init: · | backup: ·   | backup: N T     | fault: N T    | superseded: ·   | superseded: ·   | fault: ·          | fault: ·
peer free and fit            | init: · | backup: ·   | master: G       | fault: A0 T   | master: ·       | master: A G     | fault: ·          | fault: ·
peer free and unfit          | init: · | backup: ·   | master: G       | offering: G   | master: ·       | master: A G     | fault: ·          | fault: ·
peer resigned                | init: · | master: A H | master: G       | offering: G   | master: ·       | master: A G     | fault: ·          | fault: ·
yield                        | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | superseded: ·   | fault: ·          | fault: ·
yield no more                | init: · | backup: ·   | master: ·       | offering: ·   | master: ·       | backup: T       | fault: ·          | fault: ·
take over                    | init: · | master: A H | master: ·       | offering: ·   | master: ·       | superseded: ·   | fault: ·          | fault: ·
let go                       | init: · | backup: ·   | master: ·       | offering: ·   | backup: R       | backup: R       | fault: ·          | fault: ·
announce again               | init: · | backup: ·   | master: G       | offering: G   | master: G       | superseded: ·   | fault: ·          | fault: ·
next timeout                 | init: · | master: A H | master: G       | offering: G   | master: G       | fault: A0 T     | fault: ·          | fault: ·
";

#[test]
fn every_state_and_every_input() {
    let mut rows = TABLE.lines().filter(|line| !line.is_empty());
    let columns: Vec<&str> = cells(rows.next().expect("a heading")).skip(1).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for row in rows {
        let mut row = cells(row);
        let name = row.next().expect("an input");
        for (column, expected) in columns.iter().zip(row) {
            let found = react(column, name);
            seen += 1;
            if found != expected {
                wrong.push(format!("{name} | {column}: expected {expected}, found {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 33 * 8, "no cell is missing");
}

fn cells(row: &str) -> impl Iterator<Item = &str> {
    row.split('|').map(str::trim)
}

/// What a router in the state of that column makes of the input of that row.
fn react(column: &str, input: &str) -> String {
    let (mut router, now) = router(column);
    match input {
        "next timeout" => {
            let at = router.poll_timeout().unwrap_or(now);
            router.handle_timeout(at);
        }
        input => router.handle(named(input), now),
    }
    let outputs: Vec<&str> = std::iter::from_fn(|| router.poll_output()).filter_map(symbol).collect();
    let state = match router.state() {
        State::Master if router.offering() => "offering".to_owned(),
        State::Master if router.superseded() => "superseded".to_owned(),
        state => state.to_string(),
    };
    format!("{state}: {}", if outputs.is_empty() { "·".to_owned() } else { outputs.join(" ") })
}

fn symbol(output: Output) -> Option<&'static str> {
    Some(match output {
        Output::Advert { priority: 0 } => "A0",
        Output::Advert { .. } => "A",
        Output::Hold => "H",
        Output::Release { taken: false } => "R",
        Output::Release { taken: true } => "T",
        Output::Announce => "G",
        Output::Note(_) => "N",
        Output::Transition { .. } => return None,
    })
}

/// A router in the state of that column, all its outputs taken, and the time. An active one has announced its burst.
fn router(column: &str) -> (Router, Time) {
    let start = Time(1_000_000);
    let mut router = Router::new(config(), start);
    let mut now = start;
    if column != "init" {
        router.handle(Input::Source(Some(US)), now);
        router.handle(Input::Serving(column != "not serving"), now);
    }
    match column {
        "init" | "backup" | "not serving" => {}
        "fault by operator" => router.handle(Input::Fault(Fault::Maintenance, true), now),
        "master" | "offering" | "yielding" | "superseded" => {
            now = router.poll_timeout().expect("a backup waits");
            router.handle_timeout(now);
            router.handle(Input::Vip(Applied::Present), now);
            for _ in 0..8 {
                now = router.poll_timeout().expect("announcements").max(now);
                if now - router.since() >= Duration::from_millis(800) {
                    break;
                }
                router.handle_timeout(now);
                router.handle(Input::Vip(Applied::Present), now);
            }
            now = router.since() + Duration::from_millis(850);
            router.handle_timeout(now);
            router.handle(Input::Vip(Applied::Present), now);
            if column == "offering" {
                router.handle(Input::Serving(false), now);
            }
            if ["yielding", "superseded"].contains(&column) {
                router.handle(Input::Yield(true), now);
            }
            if column == "superseded" {
                router.handle(named("peer holds, higher term"), now);
            }
            // Claims are answered and rivals noted at a distance from the last announcement.
            now = router.since() + Duration::from_millis(899);
        }
        other => panic!("no such column: {other}"),
    }
    while router.poll_output().is_some() {}
    (router, now)
}

fn named(input: &str) -> Input {
    match input {
        "advert 0" => advert(HIGHER, 0),
        "advert lower" => advert(HIGHER, 99),
        "advert equal, address lower" => advert(LOWER, 100),
        "advert equal, address higher" => advert(HIGHER, 100),
        "advert higher" => advert(LOWER, 101),
        "advert 255" => advert(LOWER, 255),
        "advert from ourselves" => advert(US, 100),
        "link down" => Input::Fault(Fault::LinkDown, true),
        "link up" => Input::Fault(Fault::LinkDown, false),
        "maintenance" => Input::Fault(Fault::Maintenance, true),
        "maintenance over" => Input::Fault(Fault::Maintenance, false),
        "serving" => Input::Serving(true),
        "not serving" => Input::Serving(false),
        "source" => Input::Source(Some(US)),
        "no source" => Input::Source(None),
        "VIP present" => Input::Vip(Applied::Present),
        "VIP absent" => Input::Vip(Applied::Absent),
        "VIP removed" => Input::Vip(Applied::Removed),
        "VIP claimed" => Input::Claimed { address: config().addresses[0], mac: [2, 0, 0, 0, 0, 9] },
        "configure" => Input::Configure(RouterConfig { priority: 120.try_into().expect("in range"), ..config() }),
        "configure, other VIP" => {
            Input::Configure(RouterConfig { addresses: vec![Ipv4Addr::new(192, 0, 2, 101)], ..config() })
        }
        "peer holds, lower term" => peer(0, HELD, Fitness::Fit),
        "peer holds, higher term" => peer(9, HELD, Fitness::Fit),
        "peer free and fit" => peer(1, Standing::Free, Fitness::Fit),
        "peer free and unfit" => peer(1, Standing::Free, Fitness::Cannot),
        "peer resigned" => peer(9, Standing::Resigned, Fitness::Cannot),
        "yield" => Input::Yield(true),
        "yield no more" => Input::Yield(false),
        "take over" => Input::TakeOver,
        "let go" => Input::LetGo,
        "announce again" => Input::AnnounceAgain,
        "shutdown" => Input::Shutdown,
        other => panic!("no such input: {other}"),
    }
}

/// What the node at the higher address says.
fn peer(term: Term, standing: Standing, fitness: Fitness) -> Input {
    let RouterConfig { addresses, vrid, .. } = config();
    let (address, source) = (addresses[0], Some(HIGHER));
    let priority = 100;
    let lan = Lan::Gateway;
    Input::Peer(Claim { address, vrid: vrid.get(), term, standing, fitness, priority, source, hears: true, lan })
}

fn advert(source: Ipv4Addr, priority: u8) -> Input {
    let RouterConfig { advert_interval: interval, addresses, .. } = config();
    Input::Advert(Advert { source, priority, interval, addresses })
}

fn config() -> RouterConfig {
    RouterConfig {
        name: "web".into(),
        interface: "eth0".into(),
        vrid: 51.try_into().expect("in range"),
        addresses: vec![Ipv4Addr::new(192, 0, 2, 100)],
        priority: 100.try_into().expect("in range"),
        advert_interval: Interval::from_centiseconds(100).expect("in range"),
        preempt: None,
        transport: Transport::Multicast,
        source: None,
        checksum: Checksum::Rfc9568,
    }
}
