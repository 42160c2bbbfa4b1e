//! Hand-offs on real kernels: two nodes and their clients in namespaces of their own, the jobs done by hand in the
//! order that the two sides agree on. No election and no proxy: only what the kernel does with the rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod handoff_support;

use std::time::{Duration, Instant};

use handoff_support::{Clients, Node, VIP};
use netns_lab::frame::arp_of;
use netns_lab::lan::{Direction, INTERFACE, Lan, delete_address};
use netns_lab::netns::Netns;
use netns_lab::sniffer::Sniffer;
use netns_lab::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use node::handoff::kernel::KernelError;
use node::handoff::{Flow, Job, Outcome, Released};

const SOON: Duration = Duration::from_secs(10);

struct Site {
    lan: Lan,
    a: Node,
    b: Node,
    clients: Clients,
}

/// Two nodes, the first one active; `None`, and said so, without root.
fn site() -> Option<Site> {
    site_of(Node::new)
}

fn site_of(node: fn(&Lan, u8) -> Node) -> Option<Site> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return None;
    }
    let lan = Lan::new().unwrap();
    let (a, b, clients) = (node(&lan, b'a'), node(&lan, b'b'), Clients::new(&lan));
    a.add_address();
    a.announce();
    Some(Site { lan, a, b, clients })
}

/// The leaver's first half: what it tells the taker.
fn prepare(leaver: &Node) -> (Vec<Flow>, node::handoff::ProbeTarget) {
    match leaver.run(Job::Prepare) {
        Outcome::Prepared { flows, probe } => (flows, probe),
        other => panic!("{other:?}"),
    }
}

fn dump(leaver: &Node) -> Vec<Flow> {
    match leaver.run(Job::Dump) {
        Outcome::Flows(flows) => flows,
        other => panic!("{other:?}"),
    }
}

fn count(leaver: &Node) -> u64 {
    match leaver.start(Job::Count).recv().unwrap() {
        Outcome::Count(count) => count,
        other => panic!("{other:?}"),
    }
}

/// Steps 1 and 2: everything is ready and nothing has moved.
fn ready(leaver: &Node, taker: &Node) {
    println!("{} -> {}", char::from(leaver.letter), char::from(taker.letter));
    let (old, target) = prepare(leaver);
    let seen = leaver.start(Job::AwaitProbe);
    println!("    {} connections", old.len());
    taker.done(Job::Install { leaver: leaver.neighbour(), old });
    let since = Instant::now();
    taker.done(Job::Probe { target, source: None });
    assert_eq!(seen.recv_timeout(SOON).unwrap(), Outcome::ProbeSeen);
    println!("    the probe arrived after {:?}", since.elapsed());
}

/// Steps 3 to 5, up to the second dump.
fn switch(leaver: &Node, taker: &Node) -> Vec<Flow> {
    let since = Instant::now();
    taker.add_address();
    taker.announce();
    // Older residue of the other direction.
    taker.done(Job::RemoveLeaver);
    leaver.done(Job::Mute);
    delete_address(&leaver.netns, VIP).unwrap();
    let old = dump(leaver);
    println!("    switched within {:?}", since.elapsed());
    old
}

/// A whole hand-off, up to step 6.
fn hand_over(leaver: &Node, taker: &Node) {
    ready(leaver, taker);
    let old = switch(leaver, taker);
    taker.announce();
    taker.done(Job::Settle { old });
    leaver.done(Job::RemoveTaker);
}

/// Waits until no connection lives there, then both clean up.
fn finish(site: &Site) {
    for node in [&site.a, &site.b] {
        wait_until("the end of the connections", SOON, || match count(node) {
            0 => Ok(()),
            some => Err(format!("{some} at {}", char::from(node.letter))),
        })
        .unwrap();
    }
    for node in [&site.a, &site.b] {
        node.done(Job::RemoveLeaver);
        node.done(Job::RemoveTaker);
        assert_clean(node);
    }
}

fn assert_clean(node: &Node) {
    assert_eq!(node.ruleset(), "");
    assert_eq!(released(node), Released::default());
}

fn released(node: &Node) -> Released {
    release_in(&node.netns).unwrap()
}

fn release_in(netns: &Netns) -> Result<Released, KernelError> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(node::handoff::release())
    })
}

#[test]
fn two_hundred_connections_survive_there_and_back_and_there_again() {
    let Some(mut site) = site() else { return };
    site.clients.connect(200, b'a');
    site.clients.all_live();
    site.clients.start_new();
    hand_over(&site.a, &site.b);
    assert_eq!(site.clients.reaches(), b'b');
    site.clients.all_live();
    site.clients.connect(50, b'b');
    site.clients.all_live();

    hand_over(&site.b, &site.a);
    assert_eq!(site.clients.reaches(), b'a');
    site.clients.all_live();
    site.clients.connect(20, b'a');

    hand_over(&site.a, &site.b);
    assert_eq!(site.clients.reaches(), b'b');
    site.clients.all_live();
    let (answered, worst) = site.clients.stop_new();
    println!("new connections: {answered:?}, the worst took {worst:?}; {} exchanges", site.clients.exchanges());
    assert_eq!(site.clients.failures(), Vec::<String>::new());
    assert!(answered.contains_key(&b'a') && answered.contains_key(&b'b'), "{answered:?}");
    assert!(count(&site.a) >= 220, "the first node's connections are still its own");

    site.clients.close_all();
    finish(&site);
    assert_eq!((site.a.repairs(), site.b.repairs()), (0, 0));
}

#[test]
fn nobody_else_can_flush_the_rules_and_busy_connections_never_notice() {
    let Some(mut site) = site() else { return };
    site.clients.connect(100, b'a');
    ready(&site.a, &site.b);
    let flush = |site: &mut Site, node: fn(&Site) -> &Node| {
        let before = node(site).ruleset();
        assert!(before.contains("flags owner"), "{before}");
        node(site).nft("add table inet firewall");
        node(site).nft("flush ruleset");
        assert_eq!(without_mine(&node(site).ruleset()), without_mine(&before));
        site.clients.all_live();
    };
    flush(&mut site, |site| &site.b);
    flush(&mut site, |site| &site.a);
    let old = switch(&site.a, &site.b);
    site.clients.connect(20, b'b');
    flush(&mut site, |site| &site.b);
    site.b.announce();
    site.b.done(Job::Settle { old });
    flush(&mut site, |site| &site.b);
    flush(&mut site, |site| &site.a);
    for command in ["flush table", "delete table"] {
        let (ours, whole) = (site.b.ruleset(), format!("{command} ip lbnode-taker-51-192.0.2.100"));
        let complaint = site.b.try_nft(whole.leak()).unwrap_err();
        assert!(complaint.contains("not permitted"), "{complaint}");
        assert_eq!(site.b.ruleset(), ours);
    }
    assert_eq!((site.a.repairs(), site.b.repairs()), (0, 0));
    site.clients.close_all();
    finish(&site);
}

/// The rules go in the middle of a hand-off, again and again; `lose` takes a node's away.
fn rules_come_back(site: &mut Site, lose: fn(&Node)) {
    site.clients.connect(100, b'a');
    ready(&site.a, &site.b);
    lose_rules(site, |site| &site.b, lose);
    lose_rules(site, |site| &site.a, lose);
    let old = switch(&site.a, &site.b);
    site.clients.connect(20, b'b');
    lose_rules(site, |site| &site.b, lose);
    site.b.announce();
    site.b.done(Job::Settle { old });
    lose_rules(site, |site| &site.b, lose);
    lose_rules(site, |site| &site.a, lose);
}

fn lose_rules(site: &mut Site, node: fn(&Site) -> &Node, lose: fn(&Node)) {
    // What arrives before the rules are back the taker resets: no rule can help where there are none.
    be_quiet(site);
    let (repairs, before) = (node(site).repairs(), node(site).ruleset());
    lose(node(site));
    let since = Instant::now();
    wait_until("the rules", SOON, || if node(site).repairs() > repairs { Ok(()) } else { Err(node(site).ruleset()) })
        .unwrap();
    println!("    put back within {:?}", since.elapsed());
    site.clients.quiet(false);
    assert_eq!(without_mine(&node(site).ruleset()), without_mine(&before));
    site.clients.all_live();
}

#[test]
fn an_nft_that_is_killed_is_replaced_and_silent_connections_outlive_it() {
    let Some(mut site) = site() else { return };
    rules_come_back(&mut site, |node| match node.owners()[..] {
        [owner] => kill(owner, Signal::SIGKILL).unwrap(),
        ref owners => panic!("{owners:?}"),
    });
    site.clients.close_all();
    finish(&site);
}

#[test]
fn an_nft_that_hangs_is_replaced_by_the_next_job() {
    let Some(site) = site() else { return };
    prepare(&site.a);
    let hung = site.a.owners();
    kill(hung[0], Signal::SIGSTOP).unwrap();
    site.a.done(Job::Mute);
    let after = site.a.owners();
    assert!(after.len() == 1 && after != hung, "{hung:?}, then {after:?}");
    assert!(site.a.ruleset().contains("reply"), "{}", site.a.ruleset());
    site.a.done(Job::RemoveLeaver);
    assert_clean(&site.a);
}

#[test]
fn rules_without_an_owner_are_put_back_when_they_are_flushed_and_silent_connections_outlive_it() {
    let Some(mut site) = site_of(Node::without_owners) else { return };
    rules_come_back(&mut site, |node| {
        assert!(!node.ruleset().contains("owner") && node.owners().is_empty(), "{}", node.ruleset());
        node.nft("flush ruleset");
    });
    // Emptied, the tables are still there.
    lose_rules(&mut site, |site| &site.b, |node| drop(node.nft("flush table ip lbnode-taker-51-192.0.2.100")));
    // Other people's tables are none of our business, and ours are left alone when they change.
    let (repairs, ours) = (site.b.repairs(), site.b.ruleset());
    site.b.nft("add table inet firewall");
    site.b.nft("delete table inet firewall");
    assert_eq!((site.b.ruleset(), site.b.repairs()), (ours, repairs));

    site.clients.close_all();
    finish(&site);
}

/// The busy connections rest, and every byte that was sent is acknowledged: not even a late ACK is under way.
fn be_quiet(site: &Site) {
    site.clients.quiet(true);
    wait_until("silence on all connections", SOON, || {
        let exchanging = site.clients.exchanging();
        let waiting: usize = [&site.a, &site.b].map(|node| node.netns.run(unacknowledged)).iter().sum();
        match (exchanging, waiting) {
            (0, 0) => Ok(()),
            (exchanging, waiting) => Err(format!("{exchanging} exchange, {waiting} wait for an ACK")),
        }
    })
    .unwrap();
}

/// How many connections of the calling thread's namespace have sent what nobody acknowledged yet.
fn unacknowledged() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    // Columns: number, local, remote, state (01: established), send queue:receive queue, …
    let waits = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[3] == "01" && !columns[4].starts_with("00000000:")
    };
    table.lines().skip(1).filter(waits).count()
}

/// A ruleset without the taker's own connections and without what was counted: both change by themselves.
fn without_mine(ruleset: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in ruleset.lines().filter(|line| !line.contains("counter packets")) {
        inside |= line.trim_start().starts_with("set mine");
        if !inside {
            kept = kept + line + "\n";
        }
        inside &= line.trim() != "}";
    }
    kept
}

#[test]
fn a_switch_that_drops_what_is_passed_on_is_found_before_anything_moves() {
    let Some(mut site) = site() else { return };
    site.clients.connect(10, b'a');
    // Source guard: from the taker's port only the taker's own address.
    site.lan.switch().run(|| {
        nft_stdin(
            "table netdev guard { chain ingress { type filter hook ingress device \"to-b\" priority 0; \
         ip saddr != 192.0.2.2 drop; }; }",
        )
    });
    let (old, target) = prepare(&site.a);
    let seen = site.a.start(Job::AwaitProbe);
    site.b.done(Job::Install { leaver: site.a.neighbour(), old });
    for _ in 0..3 {
        site.b.done(Job::Probe { target, source: None });
        assert!(seen.recv_timeout(Duration::from_millis(100)).is_err(), "it must not arrive");
    }
    // Giving up ends the wait.
    site.b.done(Job::RemoveTaker);
    site.a.done(Job::RemoveLeaver);
    let Outcome::Failed(why) = seen.recv_timeout(SOON).unwrap() else { panic!("it must not arrive") };
    assert!(why.contains("given up"), "{why}");
    assert_clean(&site.a);
    assert_clean(&site.b);
    site.clients.all_live();

    // From its own address it passes, and nothing of it gets into the taker.
    let (old, target) = prepare(&site.a);
    let seen = site.a.start(Job::AwaitProbe);
    site.b.done(Job::Install { leaver: site.a.neighbour(), old });
    let local = site.b.netns.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let to_local = node::handoff::ProbeTarget { port: local.local_addr().unwrap().port(), ..target };
    let own = site.b.neighbour().address;
    site.b.done(Job::Probe { target: to_local, source: Some(own) });
    site.b.done(Job::Probe { target, source: Some(own) });
    assert_eq!(seen.recv_timeout(SOON).unwrap(), Outcome::ProbeSeen);
    assert_eq!(local.recv(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Jobs out of order fail and say so.
    site.b.done(Job::RemoveTaker);
    assert!(matches!(site.b.run(Job::Probe { target, source: None }), Outcome::Failed(_)));
    assert!(matches!(site.b.run(Job::Settle { old: Vec::new() }), Outcome::Failed(_)));
    assert!(matches!(site.a.run(Job::AwaitProbe), Outcome::Failed(_)));
    site.clients.close_all();
}

fn nft_stdin(rules: &str) {
    let output = std::process::Command::new("nft").arg(rules).output().expect("nft is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_leaver_never_speaks_for_the_vip_once_it_is_muted() {
    let Some(mut site) = site() else { return };
    let (a, vip) = (site.a.neighbour().mac, VIP);
    let sniffer = Sniffer::start(&site.clients.netns, move |frame| arp_of(frame).is_some()).unwrap();
    site.clients.connect(20, b'a');
    let said = |since: Instant| {
        let heard = sniffer.heard_since(since);
        heard.into_iter().filter_map(|heard| arp_of(&heard.frame)).collect::<Vec<_>>()
    };
    ready(&site.a, &site.b);
    let prepared = Instant::now();
    // It asks for its client anew while it still has the address: by its own.
    forget_neighbours(&site.a);
    site.clients.all_live();
    let old = switch(&site.a, &site.b);
    let muted = Instant::now();
    site.b.announce();
    site.b.done(Job::Settle { old });
    forget_neighbours(&site.a);
    site.clients.all_live();
    // Who asks for the VIP hears the taker.
    forget_client_neighbours(&site.clients);
    assert_eq!(site.clients.reaches(), b'b');
    forget_neighbours(&site.a);
    site.clients.all_live();
    wait_until("the leaver's own questions", SOON, || {
        let own = said(muted).iter().filter(|(mac, address)| *mac == a && *address != vip).count();
        if own >= 1 { Ok(()) } else { Err(format!("{:?}", said(muted))) }
    })
    .unwrap();
    assert!(!said(prepared).contains(&(a, vip)), "{:?}", said(prepared));
    let answers = said(muted).iter().filter(|(mac, address)| *mac != a && *address == vip).count();
    assert!(answers >= 1, "the taker answers");
    site.clients.close_all();
    finish(&site);
}

/// Deletes what a node knows of its neighbours, so it has to ask again.
fn forget_neighbours(node: &Node) {
    forget(&node.netns);
}

fn forget_client_neighbours(clients: &Clients) {
    forget(&clients.netns);
}

fn forget(netns: &Netns) {
    use futures_util::TryStreamExt as _;
    let forgotten = netns.netlink("forget the neighbours", |handle| async move {
        let index = netns_lab::netns::link_index(&handle, INTERFACE).await?;
        let entries: Vec<_> = handle.neighbours().get().execute().try_collect().await?;
        for entry in entries.into_iter().filter(|entry| entry.header.ifindex == index) {
            // One that went meanwhile is what we want.
            let _ = handle.neighbours().del(entry).execute().await;
        }
        Ok(())
    });
    forgotten.unwrap();
}

#[test]
fn release_takes_everything_away_and_says_what() {
    let Some(site) = site_of(Node::without_owners) else { return };
    assert_eq!(released(&site.b), Released::default(), "there was nothing");
    ready(&site.a, &site.b);
    let of_b = released(&site.b);
    assert_eq!((of_b.tables, of_b.routes), (vec!["lbnode-taker-51-192.0.2.100".to_owned()], vec![]));
    drop(site.b);
    let Outcome::Done = site.a.run(Job::Mute) else { panic!("muted") };
    let Site { a, .. } = site;
    let inside = a.netns.clone();
    // Its kernel would put them back: it ends first.
    drop(a);
    let of_a = release_in(&inside).unwrap();
    assert_eq!((of_a.tables, of_a.routes), (vec!["lbnode-leaver-51-192.0.2.100".to_owned()], vec![VIP.into()]));
}

#[test]
fn tables_go_with_the_agent_and_release_says_so_while_it_lives() {
    let Some(site) = site() else { return };
    ready(&site.a, &site.b);
    let before = site.b.ruleset();
    let KernelError::Tables(why) = release_in(&site.b.netns).unwrap_err() else { panic!("a table cannot go") };
    let why = why.to_string();
    assert!(why.contains("lbnode-taker-51-192.0.2.100 belongs to a process that runs"), "{why}");
    assert_eq!(site.b.ruleset(), before);
    let Site { a, b, .. } = site;
    for (node, routes) in [(b, vec![]), (a, vec![VIP.into()])] {
        let inside = node.netns.clone();
        drop(node);
        // Who comes too early waits for them.
        assert_eq!(release_in(&inside).unwrap(), Released { tables: vec![], routes });
        assert_eq!(release_in(&inside).unwrap(), Released::default());
    }
}

#[test]
fn what_is_left_is_reset_at_the_end_of_patience() {
    let Some(mut site) = site() else { return };
    site.clients.connect(10, b'a');
    hand_over(&site.a, &site.b);
    site.clients.connect(10, b'b');
    assert_eq!(site.a.run(Job::Reset), Outcome::Reset(10));
    wait_until("the ends of ten connections", SOON, || match site.clients.failures() {
        failures if failures.len() >= 5 => Ok(()),
        failures => Err(format!("{failures:?}")),
    })
    .unwrap();
    assert_eq!(count(&site.a), 0);
    assert_eq!(count(&site.b), 10, "the others are untouched");
    assert!(site.clients.failures().iter().all(|failure| failure.contains("served by a")));
}

#[test]
fn a_handshake_that_is_half_done_ends_where_it_began() {
    let Some(mut site) = site() else { return };
    site.clients.connect(2, b'a');
    // The client is deaf: its SYN arrives, the answer doesn't.
    site.clients.port.cut(Direction::Inbound).unwrap();
    let netns = site.clients.netns.clone();
    let (told, letter) = std::sync::mpsc::sync_channel(1);
    netns.thread("half", move || told.send(handoff_support::first_letter())).unwrap();
    wait_until("a third connection, half open", SOON, || match count(&site.a) {
        3 => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
    ready(&site.a, &site.b);
    let old = switch(&site.a, &site.b);
    assert_eq!(old.len(), 3, "half open ones are in the dump");
    site.b.announce();
    site.b.done(Job::Settle { old });
    site.clients.port.heal().unwrap();
    // It didn't hear the announcements either, until now.
    site.b.announce();
    assert_eq!(letter.recv_timeout(SOON).unwrap().unwrap(), b'a');
    site.clients.all_live();
    site.clients.close_all();
    finish(&site);
}

#[test]
fn large_transfers_go_on_through_the_taker() {
    const BYTES: usize = 32 << 20;
    let Some(site) = site() else { return };
    let (go, passed_on) = site.clients.bulk(BYTES);
    hand_over(&site.a, &site.b);
    let (direct, straight) = site.clients.bulk(BYTES);
    for (go, thread, letter) in [(go, passed_on, b'a'), (direct, straight, b'b')] {
        go.send(()).unwrap();
        let (served, took) = thread.join().unwrap();
        println!("  {} MiB there and back, served by {}: {took:?}", BYTES >> 20, char::from(served));
        assert_eq!(served, letter);
    }
    finish(&site);
}

#[test]
fn a_hundred_thousand_connections_fit_into_a_hand_off() {
    let Some(site) = site() else { return };
    let flow = |number: u32| Flow {
        client: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
        client_port: 1024 + (number % 60_000) as u16,
        port: 443,
    };
    let old: Vec<Flow> = (0..100_000).map(flow).collect();
    site.b.done(Job::Install { leaver: site.a.neighbour(), old });
    let later: Vec<Flow> = (1_000..101_000).map(flow).collect();
    site.b.done(Job::Settle { old: later });
    let elements = site.b.nft("list set ip lbnode-taker-51-192.0.2.100 old").split(',').count();
    assert_eq!(elements, 100_000);
    site.b.done(Job::RemoveTaker);
    assert_clean(&site.b);
}
