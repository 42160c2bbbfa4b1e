//! The lab itself: what it promises to the other tests.

use std::process::Command;
use std::time::{Duration, Instant};

use netns_lab::client::{Client, Outcome, ask_once};
use netns_lab::lan::{self, Direction};
use netns_lab::process::{self, Process};
use netns_lab::site::{Host, SERVER_PORT, Site};
use netns_lab::wait::wait_until;

use crate::fixture::{Folder, LIMIT, OrFail, take_turn};

fn server(site: &Site) -> std::net::SocketAddr {
    (site.servers[0].address, SERVER_PORT).into()
}

/// Short enough for a test that expects silence.
fn reaches(host: &Host, target: std::net::SocketAddr) -> bool {
    let connect = move || std::net::TcpStream::connect_timeout(&target, Duration::from_millis(300)).is_ok();
    host.netns.run(connect)
}

/// ARP asks once a second, so a cut outlasts its end.
fn until_reached(host: &Host, target: std::net::SocketAddr) {
    wait_until("the server to be reached again", LIMIT, || {
        if reaches(host, target) { Ok(()) } else { Err("it is not".into()) }
    })
    .or_fail("heal");
}

#[test]
fn hosts_reach_each_other_through_the_switch() {
    let Some(_folder) = Folder::new("reach") else { return };
    let site = Site::new().or_fail("make a site");
    assert_eq!(ask_once(&site.client.netns, server(&site)), Outcome::Answered);
    assert!(reaches(&site.nodes[0], server(&site)));
}

#[test]
fn a_pulled_cable_cuts_off_and_shows_as_lost_carrier() {
    let Some(_folder) = Folder::new("carrier") else { return };
    let site = Site::new().or_fail("make a site");
    let node = &site.nodes[0];
    assert!(lan::carrier(&node.netns).or_fail("ask for the carrier"));
    node.port.carrier(false).or_fail("pull the cable");
    assert!(!lan::carrier(&node.netns).or_fail("ask for the carrier"));
    assert!(!reaches(node, server(&site)));
    node.port.carrier(true).or_fail("plug it in");
    until_reached(node, server(&site));
}

#[test]
fn a_deaf_port_passes_nothing_until_it_is_opened() {
    let Some(_folder) = Folder::new("deaf") else { return };
    let site = Site::new().or_fail("make a site");
    let node = &site.nodes[0];
    node.port.deaf(true).or_fail("block the port");
    assert!(lan::carrier(&node.netns).or_fail("ask for the carrier"), "the cable is still plugged in");
    assert!(!reaches(node, server(&site)));
    node.port.deaf(false).or_fail("open the port");
    until_reached(node, server(&site));
}

#[test]
fn a_cut_in_one_direction_and_loss_can_be_made_and_healed() {
    let Some(_folder) = Folder::new("rules") else { return };
    let site = Site::new().or_fail("make a site");
    let node = &site.nodes[0];
    for direction in [Direction::Outbound, Direction::Inbound] {
        node.port.cut(direction).or_fail("cut");
        assert!(!reaches(node, server(&site)), "{direction:?}");
        node.port.heal().or_fail("heal");
        until_reached(node, server(&site));
    }
    node.port.loss(100).or_fail("lose everything");
    assert!(!reaches(node, server(&site)));
    node.port.heal().or_fail("heal");
    node.port.heal().or_fail("heal what is whole");
    until_reached(node, server(&site));
}

#[test]
fn an_address_can_be_listed_and_deleted() {
    let Some(_folder) = Folder::new("address") else { return };
    let site = Site::new().or_fail("make a site");
    let node = &site.nodes[0];
    assert_eq!(lan::addresses(&node.netns).or_fail("list"), [node.address]);
    lan::delete_address(&node.netns, node.address).or_fail("delete");
    assert!(lan::addresses(&node.netns).or_fail("list").is_empty());
    assert!(lan::delete_address(&node.netns, node.address).is_err(), "it is gone already");
}

#[test]
fn nothing_outlives_a_site() {
    let Some(folder) = Folder::new("leak") else { return };
    let site = Site::new().or_fail("make a site");
    let inode = site.nodes[0].netns.inode();
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & sleep 1000"]);
    let log = folder.path().join("sh.log");
    let mut shell = Process::start(&site.nodes[0].netns, "sh", command, &log).or_fail("start a shell");
    let inside = wait_until("both sleeps to run", LIMIT, || match site.nodes[0].netns.processes() {
        pids if pids.len() == 3 => Ok(pids),
        pids => Err(format!("{pids:?}")),
    })
    .or_fail("start a shell with children");
    shell.kill();
    drop(site);
    assert!(inside.iter().all(|pid| !process::alive(*pid)), "killed with the site");
    let left = std::fs::read_dir("/proc").or_fail("list processes").flatten().filter(|entry| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(entry.path().join("ns/net")).is_ok_and(|ns| ns.ino() == inode)
    });
    assert_eq!(left.count(), 0, "somebody still lives in namespace {inode}");
}

#[test]
fn what_a_killed_lab_left_is_found_by_its_mark() {
    let Some(folder) = Folder::new("mark") else { return };
    let site = Site::new().or_fail("make a site");
    let mut command = Command::new("sleep");
    command.arg("1000");
    let log = folder.path().join("a/sleep.log");
    std::fs::create_dir_all(folder.path().join("a")).or_fail("make a folder");
    let mut left = Process::start(&site.nodes[0].netns, "sleep", command, &log).or_fail("start a process");
    assert_eq!(process::kill_marked(&folder.path().join("elsewhere")), 0);
    assert_eq!(process::kill_marked(folder.path()), 1);
    left.wait(LIMIT).or_fail("kill by mark");
}

#[test]
fn the_client_holds_its_pace_and_sees_a_gap() {
    let Some(_folder) = Folder::new("pace") else { return };
    let _turn = take_turn();
    let site = Site::new().or_fail("make a site");
    let begin = Instant::now();
    let client = Client::start(&site.client.netns, server(&site)).or_fail("start the client");
    wait_until("a thousand answers", LIMIT, || match client.answered() {
        count if count >= 1000 => Ok(()),
        count => Err(count.to_string()),
    })
    .or_fail("ask");
    let fault = Instant::now();
    site.servers[0].port.deaf(true).or_fail("block the server's port");
    let cut = Duration::from_millis(200);
    netns_lab::wait::pass(cut);
    site.servers[0].port.deaf(false).or_fail("open the server's port");
    let at = client.answered();
    wait_until("more answers", LIMIT, || match client.answered() {
        count if count > at + 100 => Ok(()),
        count => Err(count.to_string()),
    })
    .or_fail("ask again");
    let due = begin.elapsed().as_millis();
    let recording = client.finish().or_fail("finish");
    let cost = recording.cost(fault);
    let gap = cost.gap.expect("there were answers");
    assert!(gap >= cut && gap < cut + Duration::from_millis(1500), "{cost:?}");
    let asked = recording.records.len();
    assert!(asked as u128 * 10 >= due * 8, "{asked} requests in {due} ms, the client's part in it {:?}", cost.late);
}
