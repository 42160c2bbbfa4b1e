//! Events and planned failovers as the command line shows them, over a real control socket and from files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use node::control::{Call, Moved, QUEUE, Request, Response, Server, call, stream};
use node::events::{Draft, Kind, Mark, Store, What};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

const LIMIT: Duration = Duration::from_secs(10);

/// A control socket with events behind it, and an agent that answers each failover with what it was given.
struct Node {
    folder: PathBuf,
    events: Store,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    fn new(name: &str, failover: Response) -> Node {
        let folder = std::env::temp_dir().join(format!("lbnode-events-cli-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let (events, remarks) = Store::open(&folder.join("state"), "lb-b");
        assert!(remarks.is_empty(), "{remarks:?}");
        let (socket, kept) = (folder.join("control.sock"), events.clone());
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(&socket, "no-such-group-here").unwrap().with_events(kept);
                bound.send(()).unwrap();
                let (calls, received) = mpsc::channel(QUEUE);
                tokio::select! {
                    () = server.run(calls) => {}
                    () = agent(received, failover) => {}
                    _ = stopped => {}
                }
            });
        });
        is_bound.recv_timeout(LIMIT).expect("the server binds");
        Node { folder, events, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// The node file, whose control socket is this node's.
    fn file(&self) -> PathBuf {
        let file = self.folder.join("node.toml");
        let text = "name = \"lb-b\"\nbootstrap = \"c\"\nstate_dir = \"state\"\n[vrrp]\ninterface = \"eth0\"\n\
                    priority = 100\n[control]\nsocket = \"control.sock\"\n";
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The agent ends; its files stay.
    fn end(&mut self) {
        assert!(self.events.flush(LIMIT));
        // Dropping the sender ends the server.
        self.stop = None;
        self.thread.take().expect("it ran").join().unwrap();
    }

    /// `lbnode ARGUMENTS` against this node.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } =
            lbnode().arg("--control").arg(self.socket()).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().expect("it ended by itself"), text(stdout), text(stderr))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        let _ = std::fs::remove_dir_all(&self.folder);
        assert!(ended || std::thread::panicking());
    }
}

async fn agent(mut calls: mpsc::Receiver<Call>, failover: Response) {
    while let Some(call) = calls.recv().await {
        let answer = match call.request {
            Request::Failover { .. } => failover.clone(),
            other => Response::Failed { message: format!("nobody asks for `{}`", other.name()) },
        };
        let _caller_left = call.reply.send(answer);
    }
}

fn nothing() -> Response {
    Response::Failover { vips: Vec::new() }
}

/// `LBNODE_BIN`, or the `lbnode` in the target directory that this test was built into.
fn lbnode() -> Command {
    let binary = std::env::var_os("LBNODE_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join("lbnode")
    });
    assert!(binary.exists(), "{} is missing: `cargo build -p node` first, or set LBNODE_BIN", binary.display());
    Command::new(binary)
}

fn draft(vip: Option<&str>, text: &str) -> Draft {
    Draft { kind: Kind::Failover, vip: vip.map(Into::into), text: text.into(), term: Some(3), ..Draft::default() }
}

/// A running `lbnode events -f`, and what it prints.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(node: &Node, arguments: &[&str]) -> Following {
        let mut command = lbnode();
        command.arg("--control").arg(node.socket()).args(["events", "-f"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = sync_channel(1_000);
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        Following { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line in time")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

#[test]
fn events_are_told_with_reason_and_timeline() {
    let node = Node::new("told", nothing());
    let marks = [("lb-b", What::Detected, 0.0), ("lb-a", What::Resigned, 0.3), ("lb-b", What::Added, 1.2)];
    let timeline = marks.map(|(node, what, ms)| Mark { what, node: node.into(), ms }).to_vec();
    let why = "the peer resigned".into();
    node.events.record(Draft { timeline, why, ..draft(Some("mail"), "lb-b took over") });
    let (code, out, err) = node.run(&["events"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].ends_with("Z  lb-b  mail      failover     lb-b took over (term 3)"), "{out}");
    assert_eq!(
        lines[1..],
        ["    why: the peer resigned", "    detected 0.0 · resigned 0.3 (lb-a) · added 1.2 (lb-b) ms"]
    );
}

#[test]
fn events_can_be_chosen_and_read_by_programs() {
    let node = Node::new("chosen", nothing());
    for number in 1..=6 {
        node.events.record(draft(Some(if number % 2 == 0 { "mail" } else { "web" }), &format!("number {number}")));
    }
    node.events.record(draft(None, "number 7"));
    let (code, out, _) = node.run(&["events", "--json", "--vip", "mail", "--last", "2"]);
    assert_eq!(code, 0);
    let told: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&Value> = told.iter().map(|event| &event["id"]).collect();
    assert_eq!(ids, [4, 6]);
    assert_eq!((&told[0]["kind"], &told[0]["node"], &told[0]["term"]), (&"failover".into(), &"lb-b".into(), &3.into()));
    assert_eq!(node.run(&["events"]).1.lines().count(), 7);
    assert_eq!(node.run(&["events", "--last", "0"]), (0, String::new(), String::new()));
}

#[test]
fn following_shows_the_last_ones_and_then_each_as_it_happens() {
    let node = Node::new("follow", nothing());
    for number in 1..=20 {
        node.events.record(draft(Some("mail"), &format!("past {number}")));
    }
    let following = Following::start(&node, &["--json"]);
    let next = || serde_json::from_str::<Value>(&following.line()).unwrap();
    let past: Vec<Value> = (0..10).map(|_| next()["id"].clone()).collect();
    assert_eq!(past, (11..=20).collect::<Vec<_>>());
    let id = node.events.record(draft(Some("mail"), "now"));
    assert_eq!(next()["text"], "now");
    node.events.amend(id, |event| event.why = "the peer said so later".into());
    let amended = next();
    assert_eq!((&amended["id"], &amended["why"]), (&id.into(), &"the peer said so later".into()));
}

#[test]
fn following_one_vip_leaves_the_others_out() {
    let node = Node::new("follow-vip", nothing());
    let following = Following::start(&node, &["--vip", "web", "--last", "1"]);
    node.events.record(draft(Some("web"), "first"));
    assert!(following.line().ends_with("first (term 3)"));
    node.events.record(draft(Some("mail"), "second"));
    node.events.record(draft(None, "third"));
    node.events.record(draft(Some("web"), "fourth"));
    assert!(following.line().ends_with("fourth (term 3)"));
}

#[test]
fn following_ends_with_the_agent_and_says_so() {
    let mut node = Node::new("follow-end", nothing());
    node.events.record(draft(None, "one"));
    let mut following = Following::start(&node, &[]);
    following.line();
    node.end();
    assert!(following.lines.recv_timeout(LIMIT).is_err(), "its output is closed");
    assert_eq!(following.child.wait().unwrap().code(), Some(1));
}

#[test]
fn only_some_callers_may_stay_and_the_others_are_still_answered() {
    let node = Node::new("places", nothing());
    node.events.record(draft(None, "one"));
    let follow = serde_json::to_string(&Request::Events { after: None, follow: true }).unwrap() + "\n";
    let start = || {
        let mut connection = UnixStream::connect(node.socket()).unwrap();
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        connection.write_all(follow.as_bytes()).unwrap();
        let mut reader = BufReader::new(connection);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (reader, line)
    };
    let mut staying: Vec<_> = (0..8).map(|_| start()).collect();
    assert!(staying.iter().all(|(_, line)| line.contains("\"response\":\"event\"")), "{staying:?}");
    assert!(start().1.contains("try_again"));
    assert_eq!(node.run(&["events"]).0, 0);
    assert_eq!(node.run(&["events", "-f"]).0, 75);

    // Whatever a follower says ends its part.
    let (mut reader, _) = staying.pop().unwrap();
    reader.get_mut().write_all(b"{\"request\":\"status\"}\n").unwrap();
    let mut rest = String::new();
    while reader.read_line(&mut rest).unwrap() > 0 {}
    assert!(rest.contains("events_end") && !rest.contains("status"), "{rest}");
    let deadline = std::time::Instant::now() + LIMIT;
    while start().1.contains("try_again") {
        assert!(std::time::Instant::now() < deadline, "its place is free again");
    }
}

#[test]
fn a_caller_may_ask_for_more_after_the_events() {
    let node = Node::new("more", nothing());
    node.events.record(draft(None, "one"));
    node.events.record(draft(None, "two"));
    let mut told = Vec::new();
    let request = Request::Events { after: Some(1), follow: false };
    stream(&node.socket(), &request, LIMIT, |response| {
        let more = matches!(response, Response::Event { .. });
        told.push(response);
        more
    })
    .unwrap();
    assert!(matches!(&told[0], Response::Event { event } if event.text == "two"), "{told:?}");
    assert_eq!(told[1..], [Response::EventsEnd { unwritten: 0 }]);

    let mut connection = UnixStream::connect(node.socket()).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection.write_all(b"{\"request\":\"events\"}\n{\"request\":\"failover\"}\n").unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    let kinds: Vec<String> = (0..4)
        .map(|_| {
            let line: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
            line["response"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(kinds, ["event", "event", "events_end", "failover"]);
}

#[test]
fn without_an_agent_the_files_are_read_and_that_is_said() {
    let mut node = Node::new("files", nothing());
    node.events.record(draft(Some("mail"), "one"));
    node.events.record(draft(Some("mail"), "two"));
    node.end();
    let file = node.file().display().to_string();
    let (code, out, err) = node.run(&["events", "--config", &file, "--last", "1"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().count() == 1 && out.contains("two"), "{out}");
    assert!(err.contains("no agent answers") && err.contains("state/events"), "{err}");
    let (code, out, err) = node.run(&["events", "--config", &file, "-f"]);
    assert_eq!((code, out.lines().count()), (69, 2));
    assert!(err.contains("nothing to follow"), "{err}");
    let (code, out, _) = node.run(&["events"]);
    assert_eq!((code, out.as_str()), (69, ""), "nobody said which node's files");
    let (code, _, err) = node.run(&["events", "--config", "/nonexistent/node.toml"]);
    assert_eq!(code, 64, "{err}");
}

#[test]
fn the_node_file_says_where_the_agent_is() {
    let node = Node::new("node-file", nothing());
    node.events.record(draft(None, "in memory"));
    let Output { status, stdout, stderr } = lbnode().args(["events", "--config"]).arg(node.file()).output().unwrap();
    assert_eq!((status.code(), stderr.as_slice()), (Some(0), b"".as_slice()));
    assert!(String::from_utf8(stdout).unwrap().contains("in memory"));
}

#[test]
fn a_failover_is_told_vip_by_vip_and_a_refusal_ends_with_1() {
    let moved = |vip: &str, moved, text: &str, took_ms| Moved {
        vip: vip.into(),
        from: "lb-a".into(),
        to: "lb-b".into(),
        moved,
        text: text.into(),
        took_ms,
    };
    let went = moved("mail", true, "12 connections follow", Some(6.42));
    let stayed = moved("web", false, "lb-b is in maintenance", None);
    let node = Node::new("failover", Response::Failover { vips: vec![went.clone()] });
    let request = Request::Failover { vip: None, to: Some("lb-b".into()), force: true };
    assert_eq!(call(&node.socket(), &request, LIMIT).unwrap(), Response::Failover { vips: vec![went.clone()] });
    let (code, out, err) = node.run(&["failover", "--to", "lb-b", "--force"]);
    let told = "mail moved from lb-a to lb-b in 6.4 ms: 12 connections follow\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, told, ""));

    let node = Node::new("failover-half", Response::Failover { vips: vec![went, stayed] });
    let (code, out, _) = node.run(&["failover"]);
    assert_eq!((code, out.as_str()), (1, format!("{told}web stays at lb-a: lb-b is in maintenance\n").as_str()));
    let (code, out, _) = node.run(&["failover", "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["vips"][0]["took_ms"], &told["vips"][1]["moved"]), (1, &6.42.into(), &false.into()));

    let refused = [
        (Response::Failed { message: "no".into() }, 1),
        (Response::TryAgain { message: "no".into() }, 75),
        (Response::NotPermitted { message: "no".into() }, 77),
    ];
    for (number, (response, expected)) in refused.into_iter().enumerate() {
        let node = Node::new(&format!("failover-refused-{number}"), response);
        let (code, out, err) = node.run(&["failover"]);
        assert_eq!((code, out.as_str()), (expected, ""));
        assert!(err.contains("no"), "{err}");
    }
}
