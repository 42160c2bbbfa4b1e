//! Configuration of a running node: read again, applied under load, and what it was told at its start.

use std::fs;
use std::process::Command;
use std::time::Duration;

use netns_lab::client::{Client, Outcome, ask_once};
use netns_lab::lan::INTERFACE;
use netns_lab::pair::Pair;
use netns_lab::wait::{pass, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::fixture::{Folder, LIMIT, OrFail, binary};

fn logged(pair: &Pair, index: usize, words: &str) {
    let log = pair.nodes[index].log();
    wait_until(&format!("the log to say {words:?}"), LIMIT, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if text.contains(words) { Ok(()) } else { Err("it does not".into()) }
    })
    .or_fail("read the log");
}

#[test]
fn a_bad_node_file_is_refused_on_reload_and_a_good_one_moves_nothing() {
    let Some(folder) = Folder::new("reload") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    let path = pair.nodes[active].config();
    let good = fs::read_to_string(&path).or_fail("read the node file");
    fs::write(&path, good.replace("priority = 2", "priority = 2000; x")).or_fail("write");
    pair.signal_agent(active, Signal::SIGHUP);
    logged(&pair, active, "the node file read before goes on");
    assert_eq!(pair.settled(LIMIT).or_fail("go on"), active);

    fs::write(&path, good.replace("priority = 2", "priority = 1")).or_fail("write");
    pair.signal_agent(active, Signal::SIGHUP);
    let wanted = |status: &netns_lab::pair::Status| status.own()["priority"].as_u64().is_some_and(|now| now < 200);
    pair.node_until(active, "at the new priority", LIMIT, wanted).or_fail("read the good one");
    assert_eq!(pair.settled(LIMIT).or_fail("stay"), active, "without preemption nothing moves");
    assert_eq!(ask_once(&pair.site.client.netns, pair.site.service()), Outcome::Answered);
}

#[test]
fn revisions_are_applied_under_load_without_a_failed_request_and_bad_ones_change_nothing() {
    let Some(folder) = Folder::new("apply") else { return };
    let mut pair = folder.pair(|_| {});
    let active = pair.settled(LIMIT).or_fail("settle");
    let file = pair.nodes[active].config().with_file_name("cluster.toml");
    let text = fs::read_to_string(file).or_fail("read the cluster file");
    let apply = |text: &str| {
        let request = json!({"request": "config_apply", "file": "cluster.toml", "text": text, "dry_run": false});
        pair.nodes[active].call(&request).or_fail("apply")
    };
    let client = Client::start(&pair.site.client.netns, pair.site.service()).or_fail("start the client");
    for round in 0..10 {
        // Another port beside the one that is used, and another balance: listeners come and go.
        let bind = format!("bind = [\"web:80\", \"web:{}\"]", 8000 + round);
        let changed = text.replace("bind = \"web:80\"", &bind).replace("round-robin", "least-conn");
        let answer = apply(&changed);
        assert_eq!((&answer["response"], &answer["changed"]), (&json!("applied"), &json!(true)), "{answer}");
    }
    assert_eq!(apply(&text)["revision"], 12);
    assert_eq!(apply(&text)["changed"], false, "the same again is no change");
    let refused = apply(&text.replace("default_backend = \"web\"", "default_backend = \"wep\""));
    assert_eq!(refused["response"], "invalid");
    assert!(refused.to_string().contains("did you mean `web`"), "{refused}");
    pass(Duration::from_millis(200));
    let recording = client.finish().or_fail("finish the client");
    let failed: Vec<_> = recording.records.iter().filter(|record| record.outcome != Outcome::Answered).collect();
    assert!(failed.is_empty(), "{} of {} failed, the first: {:?}", failed.len(), recording.records.len(), failed[0]);
    let status = pair.nodes[active].status().or_fail("status");
    assert_eq!(status.0["config"]["revision"], 12);

    // What runs survives the agent; the file that it once started from does not come back.
    pair.kill_agent(active);
    pair.start_agent(active).or_fail("start it again");
    let kept = |status: &netns_lab::pair::Status| status.0["config"]["revision"] == 12 && status.fit();
    pair.node_until(active, "on revision 12 again", LIMIT, kept).or_fail("come back");
}

#[test]
fn an_interface_that_does_not_exist_yet_is_a_fault_with_that_reason() {
    let Some(folder) = Folder::new("no-interface") else { return };
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    let path = pair.nodes[0].config();
    let text = fs::read_to_string(&path).or_fail("read the node file");
    let interface = format!("interface = \"{INTERFACE}\"");
    assert!(text.contains(&interface), "{text}");
    fs::write(&path, text.replace(&interface, "interface = \"later0\"")).or_fail("write");
    pair.start_agent(0).or_fail("start the agent");
    let missing = |status: &netns_lab::pair::Status| status.own()["reasons"].to_string().contains("does not exist");
    pair.node_until(0, "in fault for the interface", LIMIT, missing).or_fail("say why");
    // The operator corrects the name: a reload is enough.
    fs::write(&path, text).or_fail("write");
    pair.signal_agent(0, Signal::SIGHUP);
    pair.node_until(0, "active", LIMIT, |status| status.active()).or_fail("join");
}

#[test]
fn without_the_capabilities_one_line_names_them() {
    let Some(folder) = Folder::new("not-root") else { return };
    let pair = Pair::new(folder.settings()).or_fail("make the pair");
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"])
        .args([binary().as_os_str(), "run".as_ref(), "--config".as_ref(), pair.nodes[0].config().as_os_str()])
        .output()
        .or_fail("run without capabilities");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("CAP_NET_ADMIN") && said.contains("CAP_NET_RAW"), "{said}");
}
