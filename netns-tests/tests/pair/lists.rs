//! Lists that change at run time: what was changed is so at once, and outlives core and agent.

use std::fs;

use netns_lab::client::{Outcome, ask_once};
use netns_lab::pair::Pair;
use netns_lab::process::kill_all;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::fixture::{Folder, LIMIT, OrFail, cluster_file};

/// Beside the service, a port where the list decides.
const PORT: u16 = 8088;
const LIST: &str = r#"
[list.blocked]
networks = []

[frontend.listed]
mode = "http"
bind = "web:8088"
[[frontend.listed.rule]]
when = { source = "blocked" }
deny = 403
[[frontend.listed.rule]]
return = { status = 200, body = "in" }
"#;

fn change(pair: &Pair, list: &str, part: &str) -> Value {
    let request = json!({"request": "list_change", "list": list, part: ["0.0.0.0/0"]});
    pair.nodes[0].call(&request).or_fail("change the list")
}

fn asked(pair: &Pair) -> Outcome {
    let mut service = pair.site.service();
    service.set_port(PORT);
    ask_once(&pair.site.client.netns, service)
}

#[test]
fn a_list_that_was_changed_is_so_at_once_and_outlives_core_and_agent() {
    let Some(folder) = Folder::new("lists") else { return };
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    let path = cluster_file(&pair, 0);
    let text = fs::read_to_string(&path).or_fail("read the cluster file");
    fs::write(&path, text + LIST).or_fail("write");
    pair.start_agent(0).or_fail("start the agent");
    pair.node_until(0, "active", LIMIT, |status| status.active() && status.fit()).or_fail("serve");
    assert_eq!(asked(&pair), Outcome::Answered);

    let answer = change(&pair, "blockd", "add");
    assert_eq!(answer["response"], "failed");
    assert!(answer.to_string().contains("did you mean `blocked`"), "{answer}");
    let answer = change(&pair, "blocked", "add");
    assert_eq!((&answer["response"], &answer["added"]), (&json!("list_changed"), &json!(["0.0.0.0/0"])), "{answer}");
    // An answer that isn't 200 counts as none.
    assert_eq!(asked(&pair), Outcome::Cut, "the answer came before the core knew");
    let events = pair.nodes[0].events().or_fail("read the events");
    assert!(events.iter().any(|event| event["text"] == "list blocked on this node: 1 added, 0 removed"), "{events:?}");

    let core = pair.nodes[0].status().or_fail("status").core().expect("it is ready");
    kill(core, Signal::SIGKILL).or_fail("kill the core");
    let replaced = |status: &netns_lab::pair::Status| status.core().is_some_and(|now| now != core) && status.fit();
    pair.node_until(0, "with another core", LIMIT, |status| replaced(status) && status.active()).or_fail("restart");
    assert_eq!(asked(&pair), Outcome::Cut, "the core that follows has the file's list");

    kill_all(&pair.site.nodes[0].netns).or_fail("kill agent, guard and core at once");
    pair.kill_agent(0);
    pair.start_agent(0).or_fail("start the agent again");
    pair.node_until(0, "active again", LIMIT, |status| status.active() && status.fit()).or_fail("serve again");
    assert_eq!(asked(&pair), Outcome::Cut, "the agent that follows has the file's list");
    let shown = pair.nodes[0].call(&json!({"request": "list_show", "list": "blocked"})).or_fail("show");
    assert_eq!((&shown["from_file"], &shown["added"]), (&json!([]), &json!(["0.0.0.0/0"])), "{shown}");

    assert_eq!(change(&pair, "blocked", "remove")["removed"], json!(["0.0.0.0/0"]));
    assert_eq!(asked(&pair), Outcome::Answered);
}
