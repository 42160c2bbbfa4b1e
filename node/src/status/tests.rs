//! What a status comes down to, what it looks like, and that it is what the schema promises.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;

fn moment(seconds: u64) -> Moment {
    Moment::ago(Duration::from_secs(seconds), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
}

/// The active node of a pair with everything that a status can have.
fn full() -> Status {
    Status {
        version: "0.1.0".into(),
        pair: Pair { name: "exchange".into(), redundant: Some(true) },
        nodes: vec![Node {
            name: "lb-a".into(),
            this: true,
            role: Role::Active,
            fit: true,
            reasons: vec![],
            priority: 200,
            proxy: Proxy {
                state: ProxyState::Ready,
                pid: Some(4711),
                restarts: 1,
                since: moment(273_600),
                workers: 2,
                user_note: Some("this user namespace has one user".into()),
                last_exit: Some("signal 9".into()),
            },
            revision: 17,
            since: moment(273_661),
        }],
        vips: vec![Vip {
            name: "mail".into(),
            address: [10, 12, 8, 15].into(),
            vrid: 233,
            interface: "ens192".into(),
            state: State::Master,
            holder: Some("lb-a".into()),
            since: moment(61),
            why: "startup".into(),
            priority: 200,
            advert_interval_ms: 100,
            faults: vec![],
            counters: BTreeMap::from([("adverts_sent".into(), 12)]),
        }],
        config: Config { revision: 17, digest: "ab".repeat(32), since: moment(5) },
        frontends: vec![Frontend {
            name: "exchange".into(),
            binds: vec!["mail:80".into(), "mail:443".into()],
            backend: "owa".into(),
            sessions: 1_204,
            sessions_total: 1_000_000,
            rate: Some(312.4),
        }],
        backends: vec![Backend {
            name: "owa".into(),
            queued: 0,
            servers: vec![Server {
                name: "exch01".into(),
                address: ([192, 0, 2, 1], 443).into(),
                state: ServerState::Up,
                sessions: 7,
                weight: 1,
                backup: false,
                check: Some(Check { status: "passed".into(), code: Some(200), latency_ms: 1.5, since: moment(9) }),
            }],
        }],
        realtime: Realtime { scheduling: "yes".into(), memory_lock: "RLIMIT_MEMLOCK is 8 MiB".into() },
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
        log: Log { dropped: 3 },
    }
}

/// The same with everything left out that can be.
fn sparse() -> Status {
    let mut status = full();
    status.pair.redundant = None;
    status.nodes[0].proxy.pid = None;
    status.nodes[0].proxy.user_note = None;
    status.nodes[0].proxy.last_exit = None;
    status.vips[0].holder = None;
    status.vips[0].faults = vec![Fault::LinkDown];
    status.limits = None;
    status.frontends[0].rate = None;
    status.backends[0].servers[0].check = None;
    status.dual_active = None;
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
        status.nodes[0].proxy.state = proxy;
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
    status.nodes[0].proxy.state = ProxyState::CrashLoop;
    assert_eq!(status.verdict(), Verdict::NotServing);
}

#[test]
fn a_status_survives_the_wire() {
    for status in [full(), sparse()] {
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}

#[test]
fn the_page_is_aligned_and_marks_this_node() {
    let page = render(&full());
    for line in [
        "exchange · revision 17 on lb-a · a failover would work",
        "  ! realtime memory lock: RLIMIT_MEMLOCK is 8 MiB",
        "  ! mail was held by 10.12.8.12 as well for 310 ms; it ended 1h 0m ago",
        "  ! 3 log lines were dropped: nobody read them in time",
        "  NODE  ROLE    FIT  PRIORITY  PROXY                       REVISION  SINCE",
        "▸ lb-a  active  yes  200       up 3d 4h, 2 w, 1 restarts   17        3d 4h",
        "  VIP   ADDRESS     VRID  STATE   HOLDER  ADVERTS  LAST CHANGE",
        "  mail  10.12.8.15  233   master  lb-a    100 ms   1m 1s ago: startup",
        "  FRONTEND  BIND               SESSIONS  RATE   BACKEND  SERVERS UP",
        "  exchange  mail:80, mail:443  1,204     312/s  owa      1 of 1",
    ] {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.lines().any(|shown| squeezed(shown) == squeezed(line)), "no line `{line}` in\n{page}");
    }
    let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
    let lines: Vec<&str> = page.lines().filter(|line| line.contains("NODE") || line.starts_with('▸')).collect();
    assert_eq!(column(lines[0], "PRIORITY"), column(lines[1], "200"));
}

#[test]
fn real_statuses_are_what_the_schema_says() {
    let schema: Value = serde_json::from_str(include_str!("../../../docs/status.schema.json")).unwrap();
    for status in [full(), sparse()] {
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
