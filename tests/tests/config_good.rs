//! Good configuration files and what they mean.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::config::{LogFormat, OnIsolation, load_cluster, load_node, parse_cluster, parse_node, routers};
use proxy_core::plan::{
    AgentCheck, Backend, Balance, Check, Content, HashOf, Hashing, Host, HttpProbe, Observe, OnError, Probe, Program,
};
use vrrp::config::{Checksum, Transport, UnicastPeer};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/plain").join(name)
}

const CLUSTER: &str = r#"
[pair]
name = "web"
[vip.web]
address = "10.0.0.80"
vrid = 51
[frontend.www]
mode = "tcp"
bind = ["web:80", "*:8080", "[2001:db8::1]:80", "10.0.0.81:80"]
default_backend = "web"
[backend.web]
mode = "tcp"
servers = [{ name = "s1", address = "192.0.2.1:80" }]
"#;
const NODE: &str = "name = \"lb-a\"\nbootstrap = \"cluster.toml\"\n[vrrp]\ninterface = \"eth0\"\npriority = 100\n";

#[test]
fn the_examples_are_good_and_fit_together() {
    let node = load_node(&example("node.toml")).unwrap_or_else(|error| panic!("{error}"));
    let cluster = load_cluster(&example("cluster.toml")).unwrap_or_else(|error| panic!("{error}"));
    let routers = routers(&node, &cluster).unwrap();
    assert_eq!(routers.len(), cluster.vips.len());
    assert_eq!(routers[0].addresses, [cluster.vips[0].address]);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let cluster = parse_cluster("c", CLUSTER).unwrap();
    let backend = &cluster.plan.backends[0];
    assert_eq!(backend.balance, Balance::RoundRobin);
    assert_eq!((backend.retries, backend.redispatch, &backend.check), (3, true, &None));
    assert_eq!(backend.connect_timeout, Duration::from_secs(10));
    assert_eq!(backend.server_timeout, Duration::from_secs(900));
    assert_eq!(backend.queue_timeout, Duration::from_secs(60));
    assert_eq!((backend.servers[0].weight, backend.servers[0].backup), (1, false));
    assert_eq!(backend.servers[0].max_connections, None);
    let frontend = &cluster.plan.frontends[0];
    assert_eq!((frontend.client_timeout, frontend.max_connections), (Duration::from_secs(900), None));
    assert_eq!(cluster.vips[0].advert_interval.duration(), Duration::from_millis(100));
    assert_eq!(cluster.vips[0].preempt, Some(Duration::ZERO));
    assert_eq!((cluster.on_isolation, cluster.handoff_timeout), (OnIsolation::Serve, Some(Duration::from_secs(600))));

    let node = parse_node("n", NODE, Path::new("/etc/lbnode")).unwrap();
    assert_eq!(node.bootstrap, Path::new("/etc/lbnode/cluster.toml"));
    assert_eq!(node.state_dir, Path::new("/var/lib/lbnode"));
    assert_eq!(node.control.socket, Path::new("/run/lbnode/control.sock"));
    assert_eq!((node.proxy.user.as_str(), node.proxy.threads), ("lbnode", 0));
    assert_eq!((&node.vrrp.transport, node.vrrp.checksum), (&Transport::Multicast, Checksum::Rfc9568));
    assert_eq!(node.log.format, LogFormat::Text);
    assert_eq!(node.sync, None);
}

#[test]
fn binds_are_vips_addresses_and_stars() {
    let cluster = parse_cluster("c", CLUSTER).unwrap();
    let binds: Vec<String> = cluster.plan.frontends[0].binds.iter().map(|bind| bind.address.to_string()).collect();
    assert_eq!(binds, ["10.0.0.80:80", "0.0.0.0:8080", "[2001:db8::1]:80", "10.0.0.81:80"]);
    assert_eq!(cluster.bind_names[0][0], "web:80");
}

#[test]
fn the_nearer_setting_wins() {
    let text = CLUSTER.replace("[frontend.www]", "[defaults]\ntimeouts = { connect = \"1s\", client = \"2s\", server = \"3s\", check = \"4s\" }\nretries = 0\nredispatch = false\n[frontend.www]");
    let text = text + "timeouts = { server = \"7s\" }\nretries = 1\ncheck = { tcp = { port = 81 } }\n";
    let cluster = parse_cluster("c", &text).unwrap_or_else(|error| panic!("{error}"));
    let backend = &cluster.plan.backends[0];
    assert_eq!(backend.connect_timeout, Duration::from_secs(1));
    assert_eq!(backend.server_timeout, Duration::from_secs(7));
    assert_eq!((backend.retries, backend.redispatch), (1, false));
    assert_eq!(cluster.plan.frontends[0].client_timeout, Duration::from_secs(2));
    let check = Check { port: Some(81), timeout: Duration::from_secs(4), ..Check::default() };
    assert_eq!(backend.check, Some(check));
}

#[test]
fn an_http_check_takes_codes_and_ranges() {
    let check = "check = { http = { method = \"HEAD\", path = \"/up?x\", host = \"web\", expect = [\"200\", \"300-399\"] }, interval = \"1s\" }\n";
    let cluster = parse_cluster("c", &(CLUSTER.to_owned() + check)).unwrap();
    let check = cluster.plan.backends[0].check.clone().unwrap();
    let probe = Probe::Http(HttpProbe {
        method: "HEAD".into(),
        path: "/up?x".into(),
        host: Some("web".into()),
        expect: vec![(200, 200), (300, 399)],
        ..HttpProbe::default()
    });
    assert_eq!((check.probe, check.timeout), (probe, Duration::from_secs(1)));
}

/// The backend of a cluster file with these lines at its end.
fn backend(lines: &str) -> proxy_core::plan::Backend {
    let cluster = parse_cluster("c", &(CLUSTER.to_owned() + lines)).unwrap_or_else(|error| panic!("{error}"));
    cluster.plan.backends[0].clone()
}

#[test]
fn a_check_says_all_that_it_asks_and_expects() {
    let read = backend(
        "[backend.web.check]\ninterval = \"5s\"\nfast_interval = \"1s\"\ndown_interval = \"30s\"\n\
         observe = { errors = 5, on_error = \"mark-down\" }\n\
         http = { headers = { A = \"1\" }, body_regex = \"^ok\", address = \"192.0.2.9\", port = 81 }\n",
    );
    let second = Duration::from_secs(1);
    let headers = vec![("A".into(), "1".into())];
    let body = Some(Content::Regex("^ok".into()));
    let expected = Check {
        probe: Probe::Http(HttpProbe { headers, body, ..HttpProbe::default() }),
        address: Some([192, 0, 2, 9].into()),
        port: Some(81),
        interval: 5 * second,
        fast_interval: Some(second),
        down_interval: Some(30 * second),
        timeout: 5 * second,
        observe: Some(Observe { errors: 5, window: 10 * second, on_error: OnError::MarkDown }),
        ..Check::default()
    };
    assert_eq!(read.check, Some(expected));
}

#[test]
fn a_check_asks_in_many_ways() {
    let probe = |lines: &str| backend(lines).check.unwrap().probe;
    assert_eq!(probe("check = { smtp = {} }\n"), Probe::Smtp { name: "localhost".into() });
    assert_eq!(probe("check = { smtp = { name = \"lb\", port = 26 } }\n"), Probe::Smtp { name: "lb".into() });
    assert_eq!(probe("check = { imap = { port = 144 } }\n"), Probe::Imap);
    let program = Program { path: "/bin/x".into(), args: vec!["-a".into(), "".into()], user: "nobody".into() };
    let lines = "check = { program = { path = \"/bin/x\", args = [\"-a\", \"\"] } }\n";
    assert_eq!(probe(lines), Probe::Program(program));
    let hello = backend("check = { tls = { verify = \"none\" } }\n").check.unwrap();
    assert!(hello.probe == Probe::Tcp && hello.tls.is_some());
}

#[test]
fn a_server_may_be_asked_what_it_can_take() {
    let read = backend("agent_check = { port = 99, send = \"hi\\n\", interval = \"3s\" }\n").agent_check;
    let interval = Duration::from_secs(3);
    let expected = AgentCheck { address: None, port: 99, send: "hi\n".into(), interval, timeout: interval };
    assert_eq!(read, Some(expected));
}

#[test]
fn a_server_may_have_a_name_and_is_verified_by_it() {
    let text = CLUSTER.replace("192.0.2.1:80", "Exch01.Site.Local.:443");
    let text = format!("{text}[resolver]\nnameservers = [\"192.0.2.53\", \"192.0.2.54:5353\", \"2001:db8::53\"]\n");
    let plan = parse_cluster("c", &text).unwrap_or_else(|error| panic!("{error}")).plan;
    let server = &plan.backends[0].servers[0];
    assert_eq!(server.host, Some(Host { name: "exch01.site.local".into(), problem: None }));
    assert_eq!((server.address, server.tls_name.as_deref()), (([0, 0, 0, 0], 443).into(), Some("exch01.site.local")));
    assert!(server.unresolved().is_some());
    let servers: Vec<SocketAddr> =
        ["192.0.2.53:53", "192.0.2.54:5353", "[2001:db8::53]:53"].map(|text| text.parse().unwrap()).into();
    assert_eq!(plan.nameservers, servers);
}

#[test]
fn a_vip_may_differ_from_its_node() {
    let own = "transport = { unicast = [\"10.0.0.2\", { address = \"10.9.0.2\", min_ttl = 250 }] }\nsource = \"10.0.0.1\"\n\
               checksum = \"pseudo-header\"\n[vrrp.vip.web]\npriority = 7\ninterface = \"eth1\"\n";
    let node = parse_node("n", &(NODE.to_owned() + own), Path::new("")).unwrap_or_else(|error| panic!("{error}"));
    let router = routers(&node, &parse_cluster("c", CLUSTER).unwrap()).unwrap().remove(0);
    assert_eq!((router.priority.get(), router.interface.as_str()), (7, "eth1"));
    let peer = |address: [u8; 4], min_ttl| UnicastPeer { address: Ipv4Addr::from(address), min_ttl };
    assert_eq!(router.transport, Transport::Unicast(vec![peer([10, 0, 0, 2], 255), peer([10, 9, 0, 2], 250)]));
    assert_eq!((router.source, router.checksum), (Some([10, 0, 0, 1].into()), Checksum::PseudoHeader));
}

#[test]
fn without_preemption_there_is_no_delay() {
    let cluster = parse_cluster("c", &CLUSTER.replace("vrid = 51", "vrid = 51\npreempt = false")).unwrap();
    assert_eq!(cluster.vips[0].preempt, None);
}

#[test]
fn the_peer_may_be_reached_on_several_paths_of_either_family() {
    let sync = "[sync]\nlisten = [\"10.0.0.1:7431\", \"[fd00::1]:7432\"]\n\
                peer = { name = \"lb-b\", addresses = [\"10.0.0.2:7431\", \"[fd00::2]:7431\"] }\n";
    let node = parse_node("n", &(NODE.to_owned() + sync), Path::new("")).unwrap_or_else(|error| panic!("{error}"));
    let written = |ends: &[SocketAddr]| ends.iter().map(ToString::to_string).collect::<Vec<_>>();
    let sync = node.sync.clone().unwrap();
    assert_eq!(written(&sync.listen), ["10.0.0.1:7431", "[fd00::1]:7432"]);
    assert_eq!(sync.peer.name, "lb-b");
    assert_eq!(written(&sync.peer.addresses), ["10.0.0.2:7431", "[fd00::2]:7431"]);

    let one = "[sync]\nlisten = \"10.0.0.1:7431\"\npeer = { name = \"lb-b\", addresses = \"10.0.0.2:7431\" }\n";
    let node = parse_node("n", &(NODE.to_owned() + one), Path::new("")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(node.sync.unwrap().listen.len(), 1);
}

#[test]
fn within_a_pair_the_election_preempts_nobody_and_is_told_nothing_else_new() {
    let sync = "[sync]\nlisten = [\"10.0.0.1:7431\"]\npeer = { name = \"lb-b\", addresses = [\"10.0.0.2:7431\"] }\n";
    let cluster = parse_cluster("c", CLUSTER).unwrap();
    let alone = parse_node("n", NODE, Path::new("")).unwrap();
    let paired = parse_node("n", &(NODE.to_owned() + sync), Path::new("")).unwrap();
    let mut expected = routers(&alone, &cluster).unwrap();
    expected.iter_mut().for_each(|router| router.preempt = None);
    assert_eq!(routers(&paired, &cluster).unwrap(), expected);
}

#[test]
fn a_pair_says_what_it_does_when_it_is_cut_and_how_long_clients_may_stay() {
    let with = |timeout: &str| {
        let text = CLUSTER.replace("name = \"web\"\n[vip", "name = \"web\"\non_isolation = \"yield\"\n[vip");
        let text =
            text.replace("[frontend.www]", &format!("[defaults]\nhandoff_timeout = \"{timeout}\"\n[frontend.www]"));
        let cluster = parse_cluster("c", &text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(cluster.on_isolation, OnIsolation::Yield);
        cluster.handoff_timeout
    };
    assert_eq!(with("never"), None);
    assert_eq!(with("1s"), Some(Duration::from_secs(1)));
    assert_eq!(with("30d"), Some(Duration::from_secs(30 * 86_400)));
}

/// A backend with these lines and three servers, of which the last is a backup.
fn balanced(lines: &str) -> Backend {
    let server = |number: u32, more: &str| {
        format!("{{ name = \"s{number}\", address = \"192.0.2.{number}:80\", max_connections = 100{more} }}")
    };
    let servers = [server(1, ""), server(2, ", weight = 256"), server(3, ", backup = true")].join(", ");
    let text = format!(
        "[pair]\nname = \"x\"\n[frontend.web]\nmode = \"http\"\nbind = \"*:80\"\ndefault_backend = \"app\"\n\
         [backend.app]\nmode = \"http\"\ncheck = {{ tcp = {{}} }}\nservers = [{servers}]\n{lines}\n"
    );
    let mut cluster = parse_cluster("c", &text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(cluster.plan.validate(), Ok(()), "what was read can be run");
    cluster.plan.backends.remove(0)
}

#[test]
fn every_way_to_balance_can_be_written() {
    let map = |of| Balance::Hash(of, Hashing::Map);
    let cases = [
        ("round-robin", Balance::RoundRobin),
        ("static-round-robin", Balance::StaticRoundRobin),
        ("least-conn", Balance::LeastConn),
        ("first", Balance::First),
        ("random", Balance::Random),
        ("source", map(HashOf::Source)),
        ("uri", map(HashOf::Uri)),
        ("header:X-User", map(HashOf::Header("X-User".into()))),
        ("cookie:sid", map(HashOf::Cookie("sid".into()))),
    ];
    for (word, balance) in cases {
        assert_eq!(balanced(&format!("balance = \"{word}\"")).balance, balance);
    }
    let consistent = |bound| Balance::Hash(HashOf::Source, Hashing::Consistent { bound });
    let source = "balance = \"source\"\nhash = ";
    assert_eq!(balanced(&format!("{source}\"map\"")).balance, map(HashOf::Source));
    assert_eq!(balanced(&format!("{source}\"consistent\"")).balance, consistent(None));
    assert_eq!(balanced(&format!("{source}\"consistent\"\nhash_bound = 125")).balance, consistent(Some(125)));
}

#[test]
fn what_goes_with_a_balance_can_be_written() {
    let backend = balanced("all_backups = true\nslow_start = \"30s\"\nprefer_last_server = true\nbalance = \"source\"");
    assert_eq!((backend.all_backups, backend.prefer_last_server), (true, true));
    assert_eq!(backend.slow_start, Some(Duration::from_secs(30)));
    assert!(balanced("on_marked_down = \"shutdown-sessions\"").cut_on_down && !backend.cut_on_down);
    // Only the limit grows with these.
    assert!(balanced("balance = \"first\"\nslow_start = \"30s\"").slow_start.is_some());
    let backend = balanced("");
    assert_eq!((backend.all_backups, backend.prefer_last_server, backend.slow_start), (false, false, None));
}
