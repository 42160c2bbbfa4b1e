//! What a status comes down to, what it looks like, and that it is what the schema promises.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;

fn moment(seconds: u64) -> Moment {
    Moment::ago(Duration::from_secs(seconds), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
}

fn own() -> Node {
    Node {
        name: "lb-a".into(),
        this: true,
        role: Role::Active,
        fit: true,
        reasons: vec![],
        priority: Some(200),
        proxy: Some(Proxy {
            state: ProxyState::Ready,
            pid: Some(4711),
            restarts: Some(1),
            since: Some(moment(273_600)),
            workers: Some(2),
            user_note: Some("this user namespace has one user".into()),
            last_exit: Some("signal 9".into()),
        }),
        revision: Some(17),
        since: moment(273_661),
    }
}

/// What a peer tells of itself.
fn peer() -> Node {
    Node {
        name: "lb-b".into(),
        this: false,
        role: Role::Standby,
        priority: Some(150),
        proxy: Some(Proxy {
            state: ProxyState::Ready,
            pid: None,
            restarts: None,
            since: None,
            workers: None,
            user_note: None,
            last_exit: None,
        }),
        ..own()
    }
}

/// A peer of which nothing but its name is known.
fn silent_peer() -> Node {
    Node {
        role: Role::Unreachable,
        fit: false,
        reasons: vec!["it does not answer".into()],
        priority: None,
        proxy: None,
        revision: None,
        since: moment(90),
        ..peer()
    }
}

fn ends(last: u8) -> (SocketAddr, SocketAddr) {
    (([10, 12, last, 11], 7431).into(), ([10, 12, last, 12], 7431).into())
}

fn sync() -> Sync {
    Sync {
        state: SyncState::Connected,
        peer: "lb-b".into(),
        path: Some(ends(8).1),
        paths: vec![
            SyncPath { local: ends(8).0, remote: ends(8).1, alive: true, age_ms: Some(9) },
            SyncPath { local: ends(9).0, remote: ends(9).1, alive: false, age_ms: Some(3_200) },
        ],
        rtt_ms: Some(0.42),
        since: moment(62),
        refused: BTreeMap::from([("pin".into(), 2), ("tls".into(), 0)]),
        last_error: Some("no answer for 2 s".into()),
    }
}

fn http() -> HttpStats {
    let responses = Responses {
        informational: 1,
        successful: 1_900_000,
        redirection: 20,
        client_error: 30,
        server_error: 5,
        other: 0,
    };
    HttpStats { requests: 1_900_060, responses }
}

/// What `lbnode serve` says.
fn of_no_pair() -> Status {
    Status {
        pair: Pair { redundant: None, ..full().pair },
        nodes: vec![Node { role: Role::Alone, priority: None, ..own() }],
        vips: vec![],
        sync: None,
        handoff: vec![],
        realtime: None,
        dual_active: None,
        ..full()
    }
}

/// The active node of a pair with everything that a status can have.
fn full() -> Status {
    Status {
        version: "0.1.0".into(),
        pair: Pair { name: "exchange".into(), redundant: Some(true) },
        degraded: vec![],
        nodes: vec![own(), peer()],
        vips: vec![Vip {
            name: "mail".into(),
            address: [10, 12, 8, 15].into(),
            vrid: 233,
            interface: "ens192".into(),
            state: State::Master,
            holder: Some("lb-a".into()),
            term: 12,
            since: moment(61),
            why: "startup".into(),
            priority: 200,
            advert_interval_ms: 100,
            faults: vec![],
            counters: BTreeMap::from([("adverts_sent".into(), 12)]),
        }],
        sync: Some(sync()),
        handoff: vec![HandOff {
            vip: "mail".into(),
            to: "lb-b".into(),
            step: "draining".into(),
            connections_left: 1_250,
            since: moment(75),
        }],
        config: Config { revision: 17, digest: "ab".repeat(32), handoff_timeout: "10m".into(), since: moment(5) },
        frontends: vec![Frontend {
            name: "exchange".into(),
            binds: vec!["mail:80".into(), "mail:443".into()],
            backend: "owa".into(),
            sessions: 1_204,
            sessions_total: 1_000_000,
            rate: Some(312.4),
            bytes_in: 10,
            bytes_out: 20,
            denied: 4,
            client_aborts: 5,
            http: Some(http()),
            bad_http2: [("pings", 4)].map(|(why, count)| (why.to_owned(), count)).into(),
            bad_requests: [("bare_lf", 2), ("host", 9), ("nul", 1), ("obs_fold", 1_500), ("target", 3)]
                .map(|(why, count)| (why.into(), count))
                .into(),
            tls: Some(TlsStats { full: 2_000, resumed: 70_000, failed: [("not_tls".into(), 3)].into() }),
        }],
        backends: vec![Backend {
            name: "owa".into(),
            queued: 0,
            retries: 2,
            http: Some(http()),
            bad_responses: [("surplus".into(), 2)].into(),
            servers: vec![Server {
                name: "exch01".into(),
                address: ([192, 0, 2, 1], 443).into(),
                resolved: Resolved::default(),
                state: ServerState::Up,
                sessions: 7,
                sessions_total: 8,
                bytes_in: 30,
                bytes_out: 40,
                connect_errors: 1,
                response_errors: 2,
                cut_when_down: 3,
                http: Some(http()),
                weight: 1,
                throttle: Some(25),
                backup: false,
                check: Some(Check { status: "passed".into(), code: Some(200), latency_ms: 1.5, since: moment(9) }),
                agent: None,
            }],
            ..Backend::default()
        }],
        certificates: vec![Certificate {
            name: "exchange".into(),
            subject: "CN=mail.example.com".into(),
            issuer: "CN=Corp CA".into(),
            names: vec!["mail.example.com".into(), "autodiscover.example.com".into()],
            key: "RSA 2048 bits".into(),
            sha256: "00".repeat(32),
            not_after: "2026-11-30T00:00:00.000Z".into(),
            days_left: 9,
            used_by: vec!["mail:443 (tls exchange)".into()],
            warnings: vec!["the certificate of CN=mail.example.com expires in 9 days".into()],
        }],
        workers: vec![WorkerStats { idle_server_connections: 3, ..WorkerStats::default() }],
        realtime: Some(Realtime { scheduling: "yes".into(), memory_lock: "RLIMIT_MEMLOCK is 8 MiB".into() }),
        limits: Some(Limits {
            descriptors: 20_000,
            connections: 9_900,
            derived: "of 20000 descriptors, two each".into(),
        }),
        dual_active: Some(DualActive {
            vip: "mail".into(),
            other: [10, 12, 8, 12].into(),
            length_ms: Some(310),
            since: moment(3_600),
        }),
        log: Log { dropped: 3, sinks: vec![LogSinkStats { target: "stdout".into(), written: 9, dropped: 6 }] },
        traffic_log: Some(TrafficLog {
            overrun: 5,
            sinks: vec![LogSink { target: "syslog:127.0.0.1:514".into(), written: 1_000, dropped: 12 }],
        }),
        stick_tables: vec![StickTableStats {
            name: "mag".into(),
            size: 1_000,
            entries: 999,
            hits: 70_000,
            misses: 1_200,
            evicted: 1_500,
            refused: 2,
        }],
    }
}

/// The same with everything left out that can be.
fn sparse() -> Status {
    let mut status = full();
    status.pair.redundant = None;
    status.nodes = vec![own(), silent_peer()];
    status.nodes[0].proxy = peer().proxy;
    status.degraded = vec!["sync path 2 (10.12.9.12:7431) is silent".into()];
    status.sync = Some(Sync { path: None, rtt_ms: None, last_error: None, ..sync() });
    status.sync.as_mut().unwrap().paths[1].age_ms = None;
    status.handoff = vec![];
    status.vips[0].holder = None;
    status.vips[0].faults = vec![Fault::LinkDown];
    status.limits = None;
    status.frontends[0].rate = None;
    status.frontends[0].http = None;
    status.backends[0].http = None;
    status.backends[0].servers[0].http = None;
    status.backends[0].servers[0].check = None;
    status.workers = vec![];
    status.log.sinks = vec![];
    status.dual_active = None;
    status.traffic_log = None;
    status.stick_tables = vec![];
    status
}

/// A node without a peer.
fn alone() -> Status {
    let mut status = full();
    status.nodes.pop();
    status.pair.redundant = None;
    status.sync = None;
    status.handoff = vec![];
    status.vips[0].term = 0;
    status
}

#[test]
fn the_verdict_follows_the_table() {
    use ProxyState::{Backoff, Ready};
    let nobody = None;
    let peer = Some("10.12.8.12");
    let us = Some("lb-a");
    let table = [
        // state, holder, proxy, fit, redundant → verdict
        (State::Master, us, Ready, true, None, Verdict::Healthy),
        (State::Master, us, Ready, true, Some(true), Verdict::Healthy),
        (State::Master, us, Ready, true, Some(false), Verdict::Degraded),
        (State::Master, us, Ready, false, None, Verdict::Degraded),
        (State::Master, us, Backoff, false, None, Verdict::NotServing),
        (State::Backup, peer, Ready, true, None, Verdict::Healthy),
        (State::Backup, peer, Backoff, false, None, Verdict::Degraded),
        (State::Backup, nobody, Ready, true, None, Verdict::NotServing),
        (State::Fault, peer, Ready, true, None, Verdict::Degraded),
        (State::Fault, nobody, Ready, false, None, Verdict::NotServing),
        (State::Init, peer, Ready, true, None, Verdict::Degraded),
        (State::Init, nobody, Ready, true, None, Verdict::NotServing),
    ];
    for (state, holder, proxy, fit, redundant, expected) in table {
        let mut status = full();
        status.vips[0].state = state;
        status.vips[0].holder = holder.map(str::to_owned);
        status.nodes[0].proxy.as_mut().unwrap().state = proxy;
        status.nodes[0].fit = fit;
        status.pair.redundant = redundant;
        assert_eq!(status.verdict(), expected, "{state} held by {holder:?}, {proxy:?}, fit {fit}, {redundant:?}");
    }
}

#[test]
fn without_vips_the_proxy_alone_decides() {
    let mut status = full();
    status.vips.clear();
    assert_eq!(status.verdict(), Verdict::Healthy);
    status.nodes[0].proxy.as_mut().unwrap().state = ProxyState::CrashLoop;
    assert_eq!(status.verdict(), Verdict::NotServing);
}

#[test]
fn a_status_survives_the_wire() {
    for status in [full(), sparse(), alone(), of_no_pair()] {
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status, "{text}");
    }
}

#[test]
fn the_page_is_aligned_and_marks_this_node() {
    let page = render(&full());
    for line in [
        "exchange · revision 17 on both nodes · sync in step (0.4 ms, 1 of 2 paths) · a failover would work",
        "  ! sync connections refused: pin 2",
        "  ! realtime memory lock: RLIMIT_MEMLOCK is 8 MiB",
        "  ! mail was held by 10.12.8.12 as well for 310 ms; it ended 1h 0m ago",
        "  ! 3 log lines were dropped: nobody read them in time",
        "  ! 6 log lines were dropped: stdout did not take them",
        "  NODE  ROLE    FIT  PRIORITY  PROXY                       REVISION  SINCE",
        "▸ lb-a  active  yes  200       up 3d 4h, 2 w, 1 restarts   17        3d 4h",
        "  lb-b  standby yes  150       up                          17        3d 4h",
        "  VIP   ADDRESS     VRID  STATE   HOLDER  TERM  ADVERTS  LAST CHANGE",
        "  mail  10.12.8.15  233   master  lb-a    12    100 ms   1m 1s ago: startup",
        "  HAND-OFF  TO    STEP      CONNECTIONS LEFT  SINCE",
        "  mail      lb-b  draining  1,250             1m 15s ago",
        "  SYNC PATH         TO                HEARTBEAT",
        "▸ 10.12.8.11:7431   10.12.8.12:7431   9 ms ago",
        "  10.12.9.11:7431   10.12.9.12:7431   silent for 3s",
        "  FRONTEND  BIND               SESSIONS  RATE   BACKEND  SERVERS UP",
        "  exchange  mail:80, mail:443  1,204     312/s  owa      1 of 1",
        "  HTTP      REQUESTS   2XX        3XX  4XX  5XX  DENIED  REFUSED",
        "  exchange  1,900,060  1,900,000  20   30   5    4       obs_fold 1,500, host 9, target 3, others 3",
        "  TLS       FULL   RESUMED  FAILED",
        "  exchange  2,000  70,000   not_tls 3",
    ] {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.lines().any(|shown| squeezed(shown) == squeezed(line)), "no line `{line}` in\n{page}");
    }
    let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
    let lines: Vec<&str> = page.lines().filter(|line| line.contains("NODE") || line.starts_with('▸')).collect();
    assert_eq!(column(lines[0], "PRIORITY"), column(lines[1], "200"));
}

#[test]
fn the_headline_says_how_the_two_nodes_stand() {
    type Change = fn(&mut Status);
    let headline = |change: Change| {
        let mut status = full();
        change(&mut status);
        render(&status).lines().next().unwrap_or_default().trim_start_matches("exchange · ").to_owned()
    };
    let table: [(Change, &str); 6] = [
        (|status| *status = alone(), "revision 17 on lb-a · the node file names no peer: run this there too"),
        (
            |status| status.nodes[1].revision = Some(16),
            "revision 17 on lb-a, 16 on lb-b · sync connected (0.4 ms, 1 of 2 paths) · a failover would work",
        ),
        (
            |status| {
                status.nodes[1] = silent_peer();
                status.pair.redundant = Some(false);
                status.sync.as_mut().unwrap().state = SyncState::Disconnected;
            },
            "revision 17 on lb-a · sync disconnected for 1m 2s · a failover would NOT work",
        ),
        (
            |status| {
                status.pair.redundant = None;
                status.sync.as_mut().unwrap().state = SyncState::NotPaired;
            },
            "revision 17 on both nodes · sync not paired · whether a failover would work is not known",
        ),
        (
            |status| status.sync.as_mut().unwrap().paths.truncate(1),
            "revision 17 on both nodes · sync in step (0.4 ms, 1 path) · a failover would work",
        ),
        (
            |status| status.sync.as_mut().unwrap().paths[1].alive = true,
            "revision 17 on both nodes · sync in step (0.4 ms, 2 paths) · a failover would work",
        ),
    ];
    for (change, expected) in table {
        assert_eq!(headline(change), expected);
    }
}

#[test]
fn what_is_degraded_is_said_first_and_in_the_exit_code() {
    let mut status = full();
    assert_eq!(status.verdict(), Verdict::Healthy);
    status.degraded = vec!["adverts of lb-b are not heard, heartbeats are".into()];
    assert_eq!(status.verdict(), Verdict::Degraded);
    assert_eq!(render(&status).lines().nth(1), Some("  ! adverts of lb-b are not heard, heartbeats are"));
}

#[test]
fn a_lost_peer_shows_what_is_not_known_and_why_it_was_lost() {
    let mut status = full();
    status.nodes[1] = silent_peer();
    status.sync.as_mut().unwrap().state = SyncState::Disconnected;
    let page = render(&status);
    assert!(page.contains("  ! sync with lb-b: no answer for 2 s\n"), "{page}");
    assert!(page.contains("  ! lb-b: it does not answer\n"), "{page}");
    let row = page.lines().find(|line| line.starts_with("  lb-b")).unwrap_or_default();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["lb-b", "unreachable", "no", "-", "-", "-", "1m", "30s"]);
}

#[test]
fn a_node_without_a_peer_shows_nothing_of_one() {
    let page = render(&alone());
    for word in ["TERM", "SYNC", "HAND-OFF", "sync "] {
        assert!(!page.contains(word), "{word} in\n{page}");
    }
}

#[test]
fn a_frontend_that_speaks_tcp_has_no_line_of_http() {
    assert!(!render(&sparse()).contains("HTTP"), "{}", render(&sparse()));
}

#[test]
fn a_frontend_that_refused_nothing_says_so() {
    let mut status = full();
    status.frontends[0].bad_requests.clear();
    let page = render(&status);
    assert!(page.lines().any(|line| line.starts_with("  exchange  1,900,060") && line.ends_with(" -")), "{page}");
}

#[test]
fn a_node_of_no_pair_says_so_and_nothing_of_an_election() {
    let page = render(&of_no_pair());
    let headline = page.lines().next().unwrap_or_default();
    assert_eq!(headline, "exchange · revision 17 on lb-a · no pair");
    assert!(page.contains("alone") && !page.contains("VIP") && !page.contains("realtime"), "{page}");
    assert_eq!(of_no_pair().verdict(), Verdict::Healthy);
}

#[test]
fn real_statuses_are_what_the_schema_says() {
    let schema: Value = serde_json::from_str(include_str!("../../../docs/status.schema.json")).unwrap();
    for status in [full(), sparse(), alone(), of_no_pair()] {
        let mut errors = Vec::new();
        validate(&schema, &schema, &serde_json::to_value(&status).unwrap(), "status", &mut errors);
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

#[test]
fn the_schema_check_sees_what_is_wrong() {
    let schema: Value = serde_json::from_str(include_str!("../../../docs/status.schema.json")).unwrap();
    let breakages: [(&str, Value); 4] = [
        ("/nodes/0/role", json!("boss")),
        ("/vips/0/vrid", json!("233")),
        ("/vips/0", json!({})),
        ("/log", json!({ "dropped": 0, "sync": true })),
    ];
    for (place, value) in breakages {
        let mut status = serde_json::to_value(full()).unwrap();
        *status.pointer_mut(place).unwrap() = value;
        let mut errors = Vec::new();
        validate(&schema, &schema, &status, "status", &mut errors);
        assert!(!errors.is_empty(), "a wrong {place} was not seen");
    }
}

/// The part of JSON Schema that the schema uses.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    let used = ["$ref", "type", "enum", "properties", "required", "additionalProperties", "items"];
    let notes = ["$schema", "$id", "$defs", "title", "description", "minimum", "maximum"];
    for key in schema.as_object().expect("a schema is an object").keys() {
        assert!(used.contains(&key.as_str()) || notes.contains(&key.as_str()), "this check does not know `{key}`");
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.trim_start_matches('#')).expect("a reference leads somewhere");
        return validate(root, target, value, at, errors);
    }
    if let Some(wanted) = schema.get("type").and_then(Value::as_str) {
        let fits = match wanted {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            other => panic!("unknown type {other}"),
        };
        if !fits {
            return errors.push(format!("{at} is no {wanted}: {value}"));
        }
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        errors.push(format!("{at} may not be {value}"));
    }
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64).zip(value.as_f64());
    if bound("minimum").is_some_and(|(least, is)| is < least) || bound("maximum").is_some_and(|(most, is)| is > most) {
        errors.push(format!("{at} is out of range: {value}"));
    }
    if let Some(items) = schema.get("items") {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            validate(root, items, item, &format!("{at}[{index}]"), errors);
        }
    }
    let Some(object) = value.as_object() else { return };
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            errors.push(format!("{at} lacks {name}"));
        }
    }
    for (name, value) in object {
        let known = schema.get("properties").and_then(|properties| properties.get(name));
        match known.or(schema.get("additionalProperties")) {
            Some(Value::Bool(false)) => errors.push(format!("{at} has an unknown {name}")),
            Some(Value::Bool(true)) | None => {}
            Some(schema) => validate(root, schema, value, &format!("{at}.{name}"), errors),
        }
    }
}
