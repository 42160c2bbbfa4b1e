//! The channel between the nodes: who is let in, what cuts do to it, and what a hostile neighbour can do.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use netns_lab::holders::Holders;
use netns_lab::netns::Netns;
use netns_lab::pair::{NAMES, Pair, SYNC_PORT, Status};
use netns_lab::sniffer::Sniffer;
use netns_lab::wait::{pass, wait_until};
use serde_json::{Value, json};

use crate::fixture::{LIMIT, OrFail, SMALL, assert_whole, attempt, binary, load, nothing_left};
use crate::handoff::{connected, move_vip};

fn well(pair: &mut Pair) {
    for index in [0, 1] {
        pair.node_until(index, "well", LIMIT, |status| status.connected() && status.degraded().is_empty())
            .or_fail("be well");
    }
}

fn refused(status: &Status, why: &str) -> u64 {
    status.0["sync"]["refused"][why].as_u64().unwrap_or_default()
}

fn moves(pair: &Pair) -> [u64; 2] {
    [0, 1].map(|index| pair.nodes[index].status().or_fail("status").counter("master_transitions"))
}

/// `lbnode pair …` on the files of a node.
fn pair_command(pair: &Pair, index: usize, arguments: &[&str]) -> Value {
    let mut command = Command::new(binary());
    command.arg("pair").args(arguments).arg("--json").arg("--config").arg(pair.nodes[index].config());
    let output = command.output().or_fail("run lbnode pair");
    let words = String::from_utf8_lossy(&[output.stderr, output.stdout.clone()].concat()).into_owned();
    assert!(output.status.success(), "{words}");
    serde_json::from_slice(&output.stdout).or_fail("read what lbnode pair says")
}

#[test]
fn a_stranger_in_the_peers_place_is_refused_counted_and_logged_once() {
    attempt("stranger", |folder| {
        let mut pair = folder.pair(|_| {});
        connected(&mut pair);
        pair.kill_agent(1);
        pair.node_until(0, "active", LIMIT, |status| status.active()).or_fail("take over, or keep it");
        std::fs::remove_dir_all(pair.nodes[1].folder.join("state/identity")).or_fail("forget who it is");
        // It trusts the other one as before; that one does not know it any more, and says so to whoever asks.
        assert!(pair.introduce().is_err(), "a paired node takes nobody else without --force");
        pair.start_agent(1).or_fail("start the stranger");
        let status = pair.node_until(0, "refusing", LIMIT, |status| refused(status, "pin") >= 3).or_fail("refuse it");
        assert!(!status.connected() && status.degraded().contains("is down"), "{}", status.words());
        let log = std::fs::read_to_string(pair.nodes[0].log()).or_fail("read the log");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("sync: refused")).collect();
        assert_eq!(lines.len(), 1, "said once: {lines:?}");
        assert_eq!(pair.settled(LIMIT).or_fail("go on by VRRP alone"), 0);

        let invitation = pair_command(&pair, 1, &["show"])["invitation"].as_str().expect("it has one").to_owned();
        pair_command(&pair, 0, &["join", "--force", &invitation]);
        // A running agent reads the files when its channel starts.
        pair.kill_agent(0);
        pair.start_agent(0).or_fail("start it again");
        well(&mut pair);
        pair.settled(LIMIT).or_fail("settle");
    });
}

#[test]
fn rotated_identities_keep_a_live_pair_connected_and_outlive_restarts() {
    attempt("rotate", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        well(&mut pair);
        let before = moves(&pair);
        let mut pins = Vec::new();
        for index in [0, 1] {
            let answer = pair.nodes[index].call_within(&json!({"request": "pair_rotate"}), LIMIT).or_fail("rotate");
            let pin = answer["pin"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
            assert_eq!(pair_command(&pair, index, &["show"])["pin"], pin.as_str());
            pins.push(pin);
            // The session ends and comes again with the new identity; heartbeats don't wait for it.
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(1) {
                for node in &pair.nodes {
                    let status = node.status().or_fail("status");
                    assert!(
                        !status.degraded().contains("silent"),
                        "{} after {:?}: {}",
                        node.name,
                        begin.elapsed(),
                        status.words()
                    );
                }
                pass(Duration::from_millis(50));
            }
            well(&mut pair);
        }
        assert_ne!(pins[0], pins[1]);
        for index in [1 - active, active] {
            pair.kill_agent(index);
            pair.start_agent(index).or_fail("start it again");
            connected(&mut pair);
            well(&mut pair);
        }
        let now = pair.settled(LIMIT).or_fail("settle");
        assert_eq!(now, 1 - active, "the killed active node left it to its peer");
        assert_eq!(before[active], 1);
        move_vip(&mut pair, now, active);
    });
}

#[test]
fn a_cut_crossover_is_named_moves_nothing_and_a_failover_goes_the_other_way() {
    attempt("crossover-cut", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        well(&mut pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let begin = Instant::now();
        pair.site.crossover[0].deaf(true).or_fail("cut the crossover");
        for index in [0, 1] {
            let silent = |status: &Status| status.degraded().contains("path 1 (10.77.1.");
            let status = pair.node_until(index, "one path short", LIMIT, silent).or_fail("name it");
            assert!(!status.degraded().contains("path 2"), "{}", status.words());
        }
        // By now the session may have to find the other path.
        for index in [0, 1] {
            let path = |status: &Status| {
                let path = status.0["sync"]["path"].as_str().unwrap_or_default();
                status.connected() && path.starts_with("10.77.0.")
            };
            pair.node_until(index, "connected over the LAN", LIMIT, path).or_fail("use the other path");
        }
        let held = holders.held();
        let moved = held.ever(1 - active, begin) || !held.longest(0, begin).is_zero();
        assert!(!moved, "nothing moved: {held:?}");
        let connections = load(&pair, SMALL);
        move_vip(&mut pair, active, 1 - active);
        pair.site.crossover[0].deaf(false).or_fail("heal");
        well(&mut pair);
        move_vip(&mut pair, 1 - active, active);
        assert_whole(connections, 2);
        nothing_left(&pair);
    });
}

#[test]
fn an_agent_that_is_started_again_is_talked_to_again() {
    attempt("reconnect", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        for _ in 0..2 {
            pair.kill_agent(1 - active);
            let down = |status: &Status| !status.connected();
            pair.node_until(active, "without a session", LIMIT, down).or_fail("notice");
            pair.start_agent(1 - active).or_fail("start it again");
            assert_eq!(connected(&mut pair), active);
        }
        well(&mut pair);
        move_vip(&mut pair, active, 1 - active);
    });
}

/// Throws datagrams at the heartbeats' port of a node.
fn throw(from: &Netns, to: Ipv4Addr, datagrams: Vec<Vec<u8>>) {
    let sent = from.run(move || -> std::io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        datagrams.iter().try_for_each(|datagram| socket.send_to(datagram, (to, SYNC_PORT)).map(|_| ()))
    });
    sent.or_fail("throw datagrams");
}

/// Heartbeats that arrive at a node's LAN interface, as they are.
fn heartbeats(pair: &Pair, index: usize, count: usize) -> Vec<Vec<u8>> {
    const BEFORE_PAYLOAD: usize = 14 + 20 + 8;
    let port = SYNC_PORT.to_be_bytes();
    let to = pair.site.nodes[index].address.octets();
    let keep = move |frame: &[u8]| {
        frame.len() > BEFORE_PAYLOAD && frame[23] == 17 && frame[30..34] == to && frame[36..38] == port
    };
    let sniffer = Sniffer::start(&pair.site.nodes[index].netns, keep).or_fail("sniff");
    let heard = wait_until("heartbeats", LIMIT, || match sniffer.heard() {
        heard if heard.len() >= count => Ok(heard),
        heard => Err(format!("{} of {count}", heard.len())),
    });
    let frames = heard.or_fail("hear heartbeats").into_iter().map(|heard| heard.frame);
    frames.map(|frame| frame[BEFORE_PAYLOAD..].to_vec()).collect()
}

#[test]
fn garbage_replays_and_forgeries_change_nothing_but_counters() {
    attempt("garbage", |folder| {
        let mut pair = folder.pair(|_| {});
        let active = connected(&mut pair);
        well(&mut pair);
        let before = moves(&pair);
        let holders = Holders::start(&pair.site).or_fail("watch the holders");
        let begin = Instant::now();
        for victim in [active, 1 - active] {
            let recorded = heartbeats(&pair, victim, 5);
            let forged: Vec<Vec<u8>> = recorded
                .iter()
                .flat_map(|datagram| {
                    // A bit of the sequence, of the content, and of the signature.
                    [7, 20, datagram.len() - 1].map(|place| {
                        let mut forged = datagram.clone();
                        forged[place.min(datagram.len() - 1)] ^= 0x40;
                        forged
                    })
                })
                .collect();
            let garbage: Vec<Vec<u8>> =
                [0_usize, 1, 2, 15, 100, 1232, 1400].iter().map(|length| vec![0x6c; *length]).collect();
            let (to, peer) = (pair.site.nodes[victim].address, &pair.site.nodes[1 - victim].netns);
            let all = [recorded, forged, garbage].concat();
            throw(peer, to, all.clone());
            throw(&pair.site.client.netns, to, all);
            let what = "counting what it refused";
            let counts = |status: &Status| {
                let named = ["heartbeat_replayed", "heartbeat_forged", "heartbeat_foreign", "heartbeat_not_the_peer"];
                named.iter().all(|why| refused(status, why) > 0)
            };
            pair.node_until(victim, what, LIMIT, counts).or_fail("refuse datagrams");

            let tcp = |netns: &Netns| {
                netns.run(move || {
                    let address = SocketAddr::from((to, SYNC_PORT));
                    let mut open = Vec::new();
                    for number in 0..40_usize {
                        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
                            continue;
                        };
                        let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
                        let bytes = [&b""[..], b"GET / HTTP/1.0\r\n\r\n", &[0xff; 65_536], &[0x16, 3, 1, 0xff, 0xff]];
                        // Who is refused in the middle of it sees an error.
                        let _ = stream.write_all(bytes[number % bytes.len()]);
                        if number % 3 == 0 {
                            open.push(stream);
                        }
                    }
                    open.len()
                })
            };
            // The node whose name sorts first dials; only the other one listens.
            let listens = victim == 1;
            let sum = |status: &Status| -> u64 {
                let refused = status.0["sync"]["refused"].as_object().into_iter().flatten();
                refused.filter(|(why, _)| !why.starts_with("heartbeat")).filter_map(|(_, count)| count.as_u64()).sum()
            };
            let count = sum(&pair.nodes[victim].status().or_fail("status"));
            let reached = [tcp(&pair.site.client.netns), tcp(&pair.site.nodes[1 - victim].netns)].map(|open| open > 0);
            assert_eq!(reached, [listens; 2]);
            if listens {
                pair.node_until(victim, what, LIMIT, |status| sum(status) > count).or_fail("refuse connections");
            }
            for index in [0, 1] {
                let status = pair.nodes[index].status().or_fail("status");
                assert!(status.connected() && status.degraded().is_empty(), "{}: {}", NAMES[index], status.words());
            }
        }
        assert_eq!(moves(&pair), before);
        let held = holders.held();
        let one = held.longest(0, begin).is_zero() && held.longest(2, begin).is_zero();
        assert!(one, "{held:?}");
        move_vip(&mut pair, active, 1 - active);
    });
}
