//! Connections that last, carried by a node and lost on purpose; and the LAN of the two nodes alone.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use netns_lab::lan;
use netns_lab::load::{Load, LoadRecording, Loss, Spec};
use netns_lab::pair::Pair;
use netns_lab::site::{STREAM_SERVER_PORT, Site, crossover_address};
use netns_lab::wait::{pass, wait_until};

use crate::fixture::{Folder, LIMIT, OrFail, take_turn};

/// All that `lbnode lab` has, over in a few seconds.
fn full() -> Spec {
    Spec { stretch: Duration::from_secs(4), ..Spec::default() }
}

fn ready(load: &Load) {
    wait_until("the load to work", LIMIT, || load.ready()).or_fail("open the connections");
}

#[track_caller]
fn assert_whole(recording: &LoadRecording, begin: Instant) {
    let cost = recording.cost(begin);
    println!("{cost:?}");
    assert_eq!((cost.lost, cost.intact), (0, 2), "{cost:?}; the first loss: {:?}", recording.losses.first());
    assert!(cost.answers > 1000, "{cost:?}");
}

#[test]
fn two_thousand_connections_straight_to_a_server_are_all_alive_at_the_end() {
    let Some(_folder) = Folder::new("load-straight") else { return };
    let _turn = take_turn();
    let site = Site::new().or_fail("make a site");
    let target = SocketAddr::from((site.servers[0].address, STREAM_SERVER_PORT));
    let load = Load::start(&site.client.netns, target, full()).or_fail("start the load");
    ready(&load);
    let begin = Instant::now();
    pass(Duration::from_secs(1));
    // The transfers are in their middle: what is left of them goes at once.
    assert_whole(&load.finish().or_fail("finish"), begin);
}

#[test]
fn one_node_alone_carries_two_thousand_connections_and_loses_none() {
    let Some(folder) = Folder::new("load-node") else { return };
    let _turn = take_turn();
    let mut settings = folder.settings();
    settings.sync = false;
    let mut pair = Pair::new(settings).or_fail("make the pair");
    pair.start_agent(0).or_fail("start the agent");
    pair.node_until(0, "active, alone", LIMIT, |status| status.active() && status.fit()).or_fail("serve alone");
    let load = Load::start(&pair.site.client.netns, pair.site.stream_service(), full()).or_fail("start the load");
    ready(&load);
    let begin = Instant::now();
    pass(Duration::from_secs(5));
    assert_whole(&load.finish().or_fail("finish"), begin);
}

#[test]
fn connections_that_are_cut_are_counted_by_how() {
    let Some(_folder) = Folder::new("load-cut") else { return };
    let mut site = Site::new().or_fail("make a site");
    let target = SocketAddr::from((site.servers[0].address, STREAM_SERVER_PORT));
    let spec = Spec { idle: 20, busy: 5, ..full() };
    let load = Load::start(&site.client.netns, target, spec).or_fail("start the load");
    ready(&load);
    site.stop_servers();
    wait_until("every connection to be lost", LIMIT, || match load.lost() {
        27 => Ok(()),
        count => Err(count.to_string()),
    })
    .or_fail("cut the connections");
    let recording = load.finish().or_fail("finish");
    assert!(recording.transfers.is_empty());
    let ended = recording.losses.iter().filter(|lost| matches!(lost.loss, Loss::Ended | Loss::Reset)).count();
    assert_eq!(ended, 27, "{:?}", recording.losses);

    let refused = Load::start(&site.client.netns, target, spec).or_fail("start the load").finish().or_fail("finish");
    assert!(refused.losses.len() == 27 && refused.losses.iter().all(|lost| lost.loss == Loss::Refused));
}

#[test]
fn silent_connections_are_lost_after_a_while_and_a_dropped_load_ends_at_once() {
    let Some(_folder) = Folder::new("load-silent") else { return };
    let site = Site::new().or_fail("make a site");
    let target = SocketAddr::from((site.servers[0].address, STREAM_SERVER_PORT));
    let start = || {
        let load = Load::start(&site.client.netns, target, Spec { idle: 3, busy: 2, ..full() });
        load.or_fail("start the load")
    };
    let dropped = start();
    ready(&dropped);
    let load = start();
    ready(&load);
    site.servers[0].port.deaf(true).or_fail("block the port");
    let begin = Instant::now();
    drop(dropped);
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
    let recording = load.finish().or_fail("finish");
    // The busy ones may have been between two messages, which is as good as answered.
    assert!(recording.losses.len() >= 5, "{:?}", recording.losses);
    assert!(recording.losses.iter().all(|lost| lost.loss == Loss::TimedOut), "{:?}", recording.losses);
}

#[test]
fn a_load_that_nobody_finishes_ends_by_itself_with_everything_answered() {
    let Some(_folder) = Folder::new("load-limit") else { return };
    let site = Site::new().or_fail("make a site");
    let target = SocketAddr::from((site.servers[0].address, STREAM_SERVER_PORT));
    let spec = Spec { idle: 20, busy: 5, limit: Duration::from_secs(2), stretch: LIMIT * 2, ..full() };
    let begin = Instant::now();
    let load = Load::start(&site.client.netns, target, spec).or_fail("start the load");
    wait_until("the load to end", LIMIT, || if load.ended() { Ok(()) } else { Err("it goes on".into()) })
        .or_fail("end");
    assert!(begin.elapsed() >= spec.limit);
    let recording = load.finish().or_fail("finish");
    assert_eq!((recording.losses.len(), recording.transfers.len()), (0, 2), "{:?}", recording.losses);
}

#[test]
fn the_nodes_reach_each_other_over_a_lan_of_their_own_whatever_the_other_lan_does() {
    let Some(_folder) = Folder::new("crossover") else { return };
    let site = Site::new().or_fail("make a site");
    let target = SocketAddr::from((crossover_address(1), 7431));
    let _listener = site.nodes[1].netns.run(move || TcpListener::bind(target)).or_fail("listen");
    let reaches = || {
        let connect = move || TcpStream::connect_timeout(&target, Duration::from_millis(300)).is_ok();
        site.nodes[0].netns.run(connect)
    };
    for node in &site.nodes {
        node.port.carrier(false).or_fail("pull the cable of the first LAN");
    }
    assert!(reaches());
    assert!(!lan::carrier(&site.nodes[0].netns).or_fail("ask for the carrier"));
    site.crossover[1].carrier(false).or_fail("pull the cable of the second LAN");
    assert!(!reaches());
    site.crossover[1].carrier(true).or_fail("plug it in");
    wait_until("the other node to be reached again", LIMIT, || if reaches() { Ok(()) } else { Err("no".into()) })
        .or_fail("heal");
    for port in &site.crossover {
        port.deaf(true).or_fail("block the port");
    }
    assert!(!reaches());
}

#[test]
fn one_host_can_be_unheard_by_one_other() {
    let Some(_folder) = Folder::new("ignore") else { return };
    let site = Site::new().or_fail("make a site");
    let target = SocketAddr::from((site.servers[0].address, STREAM_SERVER_PORT));
    let reaches = |node: usize| {
        let connect = move || TcpStream::connect_timeout(&target, Duration::from_millis(300)).is_ok();
        site.nodes[node].netns.run(connect)
    };
    site.servers[0].port.ignore(site.nodes[0].mac).or_fail("ignore one");
    assert_eq!((reaches(0), reaches(1)), (false, true));
    site.servers[0].port.heal().or_fail("heal");
    wait_until("the server to be reached", LIMIT, || if reaches(0) { Ok(()) } else { Err("no".into()) })
        .or_fail("heal");
    site.servers[0].port.filter(6).or_fail("drop TCP");
    assert_eq!((reaches(0), reaches(1)), (false, false));
}
