//! Good configuration files of frontends and backends that speak HTTP, with rules, lists and logs: what they mean.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use node::config::{ClusterConfig, parse_cluster, parse_kept};
use proxy_core::plan::{
    Action, ClientSupplied, Condition, Cookie, CookieMode, Forwarded, HeaderEdit, Http, Log, LogFormat, LogSink, Mode,
    Pattern, Persist, Plan, Redirect, Reply, Rule, SameSite, Sources, StickCounter, StickKey, StickTable, Text,
};
use tests::pki::{Key, Pki, Use, Validity, Wanted};
use tests::place::Place;

/// A cluster file whose frontend `web` has these lines, after these tables.
fn cluster(tables: &str, frontend: &str) -> ClusterConfig {
    let text = format!(
        "[pair]\nname = \"x\"\n{tables}\n[frontend.web]\nmode = \"http\"\nbind = \"*:80\"\n{frontend}\n\
         [backend.app]\nmode = \"http\"\nservers = [{{ name = \"a\", address = \"192.0.2.1:80\" }}, {{ name = \"b\", address = \"192.0.2.2:80\" }}]\n"
    );
    let cluster = parse_cluster("c", &text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(cluster.plan.validate(), Ok(()), "what was read can be run");
    cluster
}

fn http(plan: &Plan) -> &Http {
    match &plan.frontends[0].mode {
        Mode::Http(http) => http,
        Mode::Tcp => panic!("it speaks HTTP"),
    }
}

/// The condition that a `when` becomes.
fn when(text: &str) -> Condition {
    let lists = "[list.admins]\nnetworks = [\"10.0.0.1/32\"]\n[list.guests]\nnetworks = []";
    let mut cluster = cluster(lists, &format!("[[frontend.web.rule]]\nwhen = {text}\ndeny = 403"));
    cluster.plan.frontends[0].rules.remove(0).when.unwrap()
}

/// The actions that a rule with these lines becomes.
fn actions(lines: &str) -> Vec<Action> {
    let cluster = cluster("", &format!("[[frontend.web.rule]]\nwhen = {{ port = 80 }}\n{lines}"));
    let rules = cluster.plan.frontends[0].rules.clone();
    assert!(rules.iter().all(|rule| rule.when == Some(Condition::Port(vec![80]))), "{rules:?}");
    rules.into_iter().map(|rule| rule.action).collect()
}

fn set(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Set(name.into(), value.into())
}

fn add(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Add(name.into(), value.into())
}

fn remove(name: &str) -> HeaderEdit {
    HeaderEdit::Remove(name.into())
}

fn text(any: &[Pattern]) -> Text {
    Text { any: any.to_vec(), ignore_case: false }
}

fn any_case(any: &[Pattern]) -> Text {
    Text { any: any.to_vec(), ignore_case: true }
}

fn is(text: &str) -> Pattern {
    Pattern::Is(text.into())
}

#[test]
fn the_exchange_example_is_good() {
    let place = Place::new("config-exchange").unwrap();
    let pki = Pki::new(place.path("pki")).unwrap();
    let usage = Use::Server(&["mail.mydomain.local"]);
    let (name, subject, validity) = ("exch", "/CN=mail", Validity::Days(30));
    pki.issue(Wanted { name, issuer: None, key: Key::Ec, subject, usage, validity }).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/exchange-http/cluster.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for list in ["ecp.lst", "owa.lst", "smtp.lst"] {
        let file = place.write(list, "10.8.5.17/32\n").unwrap();
        text = text.replace(&format!("/etc/lbnode/{list}"), &file.display().to_string());
    }
    text = text.replace("/etc/ssl/certs/exch.pem", &pki.file("exch.pem"));
    text = text.replace("/etc/pki/tls/certs/ca-bundle.crt", &pki.file("exch.crt"));
    let cluster = parse_cluster("cluster.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    let plan = &cluster.plan;
    assert_eq!(plan.validate(), Ok(()));
    assert_eq!((plan.frontends.len(), plan.backends.len(), plan.lists.len()), (3, 10, 3));
    let exchange = &plan.frontends[0];
    assert_eq!((exchange.name.as_str(), exchange.rules.len()), ("exchange", 11));
    assert_eq!(exchange.client_timeout, Duration::from_secs(30));
    assert_eq!(http(plan).response_edits.len(), 3);
    let prefix = Condition::Path(any_case(&[Pattern::Prefix("/ecp".into())]));
    let admins = plan.lists.iter().position(|list| list.name == "admins").unwrap();
    let outsiders = Condition::Not(Box::new(Condition::Source(vec![Sources::List(admins)])));
    let forbidden = Reply { status: 403, body: None, content_type: "text/plain; charset=utf-8".into() };
    let first = Rule { when: Some(Condition::All(vec![prefix, outsiders])), action: Action::Deny(forbidden) };
    assert_eq!(exchange.rules[2], first);
    let logs: Vec<LogFormat> =
        plan.frontends.iter().filter_map(|frontend| frontend.log).map(|log| log.format).collect();
    assert_eq!(logs, [LogFormat::Http, LogFormat::Tcp, LogFormat::Tcp], "each in the words of its mode");
    assert!(plan.backends.iter().all(|backend| backend.check.as_ref().is_some_and(|check| check.log)));
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let plan = cluster("", "").plan;
    let expected = Http {
        http2: true,
        client_cert_headers: Vec::new(),
        request_timeout: Duration::from_secs(15),
        keep_alive_timeout: Duration::from_secs(10),
        forwarded: None,
        request_edits: Vec::new(),
        response_edits: Vec::new(),
        error_pages: BTreeMap::new(),
    };
    assert_eq!(http(&plan), &expected);
    let frontend = &plan.frontends[0];
    assert_eq!((frontend.backend, frontend.log, frontend.max_connections_per_source), (None, None, None));
    assert!(frontend.rules.is_empty());
    let backend = &plan.backends[0];
    assert_eq!((backend.tunnel_timeout, backend.abort_on_close), (None, false));
    assert!(backend.request_edits.is_empty() && backend.response_edits.is_empty());
}

#[test]
fn the_nearer_setting_wins() {
    let defaults = "[defaults]\ntimeouts = { request = \"1s\", keep_alive = \"2s\", tunnel = \"1h\", client = \"3s\" }\nabort_on_close = true\nlog_health_checks = true";
    let plan = cluster(defaults, "timeouts = { keep_alive = \"5s\" }\nmax_connections_per_source = 20").plan;
    let (frontend, backend) = (&plan.frontends[0], &plan.backends[0]);
    let seconds = Duration::from_secs;
    assert_eq!((http(&plan).request_timeout, http(&plan).keep_alive_timeout), (seconds(1), seconds(5)));
    assert_eq!((frontend.client_timeout, frontend.max_connections_per_source), (seconds(3), Some(20)));
    assert_eq!((backend.tunnel_timeout, backend.abort_on_close), (Some(seconds(3600)), true));

    let own = "[backend.own]\nmode = \"http\"\ntimeouts = { tunnel = \"1m\" }\nabort_on_close = false\nlog_health_checks = false\ncheck = { tcp = {} }\n\
               request_headers = { set = { X-A = \"\" } }\nresponse_headers = { remove = \"Server\" }\nservers = [{ name = \"a\", address = \"192.0.2.1:80\" }]\n\
               [backend.tcp]\nmode = \"tcp\"\ncheck = { tcp = {} }\nservers = [{ name = \"a\", address = \"192.0.2.1:80\" }]";
    let plan = cluster(&format!("{defaults}\n{own}"), "").plan;
    let backend = |name: &str| plan.backends.iter().find(|backend| backend.name == name).unwrap();
    assert_eq!((backend("own").tunnel_timeout, backend("own").abort_on_close), (Some(seconds(60)), false));
    assert_eq!(backend("own").check.as_ref().map(|check| check.log), Some(false));
    assert_eq!(backend("own").request_edits, [set("X-A", "")]);
    assert_eq!(backend("own").response_edits, [remove("Server")]);
    assert_eq!(
        (backend("tcp").tunnel_timeout, backend("tcp").abort_on_close),
        (Some(seconds(3600)), false),
        "that one is HTTP's alone"
    );
    assert_eq!(backend("tcp").check.as_ref().map(|check| check.log), Some(true));
}

#[test]
fn servers_are_told_who_the_client_is_as_it_is_written() {
    let forwarded = |text: &str| http(&cluster("", text).plan).forwarded.clone();
    let default = Forwarded { except: Vec::new(), client_supplied: ClientSupplied::Append, rfc7239: false };
    assert_eq!(forwarded("forwarded_for = false"), None);
    assert_eq!(forwarded("forwarded_for = true"), Some(default.clone()));
    assert_eq!(forwarded("forwarded_for = {}"), Some(default));
    let all = "forwarded_for = { except = [\"127.0.0.0/8\", \"::1\"], client_supplied = \"remove\", rfc7239 = true }";
    let except = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    assert_eq!(forwarded(all), Some(Forwarded { except, client_supplied: ClientSupplied::Remove, rfc7239: true }));
}

#[test]
fn headers_go_before_they_come() {
    let lines = "request_headers = { add = { Via = \"x\" }, set = { Host = \"app\" }, remove = [\"Via\", \"Proxy\"] }\n\
                 response_headers = { set = { Server = \"\" } }";
    let plan = cluster("", lines).plan;
    let expected = [remove("Via"), remove("Proxy"), set("Host", "app"), add("Via", "x")];
    assert_eq!(http(&plan).request_edits, expected);
    assert_eq!(http(&plan).response_edits, [set("Server", "")]);
}

#[test]
fn conditions_become_what_they_say() {
    let list = |index| Sources::List(index);
    let network = |text: &str| Sources::Network(text.parse().unwrap());
    let one = |pattern: Pattern| text(&[pattern]);
    let table = [
        ("{ tls = true }", Condition::Tls(true)),
        ("{ host = [\"WWW.Example.com\", \"[2001:DB8::1]\"] }", {
            Condition::Host(any_case(&[is("www.example.com"), is("[2001:db8::1]")]))
        }),
        ("{ host_suffix = \".Example.com\" }", Condition::Host(any_case(&[Pattern::Suffix(".example.com".into())]))),
        ("{ path = [\"/\", \"*\"] }", Condition::Path(text(&[is("/"), is("*")]))),
        ("{ path_prefix = \"/ecp\" }", Condition::Path(one(Pattern::Prefix("/ecp".into())))),
        ("{ path_suffix = \".php\" }", Condition::Path(one(Pattern::Suffix(".php".into())))),
        ("{ path_regex = \"^/v[0-9]+/\" }", Condition::Path(one(Pattern::Regex("^/v[0-9]+/".into())))),
        ("{ query = \"\" }", Condition::Query(one(is("")))),
        ("{ query = { contains = \"debug=\" } }", Condition::Query(one(Pattern::Contains("debug=".into())))),
        ("{ method = [\"GET\", \"RPC_IN_DATA\"] }", Condition::Method(vec!["GET".into(), "RPC_IN_DATA".into()])),
        ("{ port = [80, 8080] }", Condition::Port(vec![80, 8080])),
        ("{ source = \"guests\" }", Condition::Source(vec![list(1)])),
        ("{ source = [\"admins\", \"192.0.2.0/24\", \"::1\"] }", {
            Condition::Source(vec![list(0), network("192.0.2.0/24"), network("::1/128")])
        }),
        ("{ header = { X-A = true } }", Condition::Header("X-A".into(), one(Pattern::Present))),
        ("{ header = { X-A = [\"a\", { prefix = \"b\", }, { suffix = [\"c\", \"d\"] }] } }", {
            let suffix = |text: &str| Pattern::Suffix(text.into());
            Condition::Header("X-A".into(), text(&[is("a"), Pattern::Prefix("b".into()), suffix("c"), suffix("d")]))
        }),
        ("{ cookie = { sid = { regex = \"^[a-f]+$\" } } }", {
            Condition::Cookie("sid".into(), one(Pattern::Regex("^[a-f]+$".into())))
        }),
        ("{ servers_up = { backend = \"app\", at_least = 2 } }", Condition::ServersUp { backend: 0, at_least: 2 }),
        ("{ servers_up = { backend = \"app\" } }", Condition::ServersUp { backend: 0, at_least: 1 }),
        ("{ path = \"/a\", ignore_case = true }", Condition::Path(any_case(&[is("/a")]))),
        ("{ path = \"/a\", ignore_case = true, any = [{ path_suffix = \"b\" }] }", {
            let outer = Condition::Path(any_case(&[is("/a")]));
            let inner = Condition::Path(one(Pattern::Suffix("b".into())));
            Condition::All(vec![outer, Condition::Any(vec![inner])])
        }),
        ("{ not = { all = [{ tls = false }, { not = { port = 80 } }] } }", {
            let not = |condition| Condition::Not(Box::new(condition));
            not(Condition::All(vec![Condition::Tls(false), not(Condition::Port(vec![80]))]))
        }),
        ("{ header = { A = \"1\", B = \"2\" } }", {
            Condition::All(vec![
                Condition::Header("A".into(), one(is("1"))),
                Condition::Header("B".into(), one(is("2"))),
            ])
        }),
    ];
    for (written, expected) in table {
        assert_eq!(when(written), expected, "{written}");
    }
}

#[test]
fn actions_become_what_they_say() {
    let reply = |status, body: Option<&str>, content_type: &str| Reply {
        status,
        body: body.map(str::to_owned),
        content_type: content_type.into(),
    };
    let plain = "text/plain; charset=utf-8";
    let redirect = |to, code| Action::Redirect { to, code };
    let request = Action::EditRequest;
    let response = Action::EditResponse;
    let table = [
        ("deny = 429", vec![Action::Deny(reply(429, None, plain))]),
        ("deny = {}", vec![Action::Deny(reply(403, None, plain))]),
        ("deny = { status = 451, body = \"no\" }", vec![Action::Deny(reply(451, Some("no"), plain))]),
        ("return = 204", vec![Action::Return(reply(204, None, plain))]),
        ("return = { body = \"{}\", content_type = \"application/json\" }", {
            vec![Action::Return(reply(200, Some("{}"), "application/json"))]
        }),
        ("reject = true", vec![Action::Reject { reset: false }]),
        ("reject = \"close\"", vec![Action::Reject { reset: false }]),
        ("reject = \"reset\"", vec![Action::Reject { reset: true }]),
        ("tarpit = \"10s\"", vec![Action::Tarpit(Duration::from_secs(10))]),
        ("redirect = { scheme = \"https\" }", vec![redirect(Redirect::Scheme("https".into()), 302)]),
        ("redirect = { location = \"/new\", code = 308 }", vec![redirect(Redirect::Location("/new".into()), 308)]),
        ("redirect = { prefix = \"https://b\", code = 301 }", {
            vec![redirect(Redirect::Prefix("https://b".into()), 301)]
        }),
        ("use_backend = \"app\"", vec![Action::UseBackend(0)]),
        ("set_request_header = { B = \"2\", A = \"1\" }", vec![request(set("A", "1")), request(set("B", "2"))]),
        ("add_request_header = { A = \"1\" }", vec![request(add("A", "1"))]),
        ("remove_request_header = [\"A\", \"B\"]", vec![request(remove("A")), request(remove("B"))]),
        ("set_response_header = { A = \"1\" }", vec![response(set("A", "1"))]),
        ("add_response_header = { Host = \"1\" }", vec![response(add("Host", "1"))]),
        ("remove_response_header = \"A\"", vec![response(remove("A"))]),
        ("set_path = \"/new\"", vec![Action::SetPath("/new".into())]),
        ("rewrite = { path_regex = \"^/(?<v>v[0-9])/(.*)\", to = \"/${v}/$$/$2\" }", {
            vec![Action::Rewrite { path_regex: "^/(?<v>v[0-9])/(.*)".into(), to: "/${v}/$$/$2".into() }]
        }),
    ];
    for (written, expected) in table {
        assert_eq!(actions(written), expected, "{written}");
    }
}

#[test]
fn what_a_condition_looks_at_is_changed_after_what_it_does_not() {
    let changed = |when: &str| {
        let rule = format!(
            "[[frontend.web.rule]]\nwhen = {when}\nset_request_header = {{ Cookie = \"c\", Host = \"h\", X-Z = \"z\" }}"
        );
        let names = |rule: &Rule| match &rule.action {
            Action::EditRequest(edit) => edit.name().to_owned(),
            other => panic!("{other:?}"),
        };
        cluster("", &rule).plan.frontends[0].rules.iter().map(names).collect::<Vec<_>>()
    };
    assert_eq!(changed("{ port = 80 }"), ["Cookie", "Host", "X-Z"]);
    assert_eq!(changed("{ host = \"a\" }"), ["Cookie", "X-Z", "Host"]);
    assert_eq!(changed("{ any = [{ not = { cookie = { a = true } } }] }"), ["Host", "X-Z", "Cookie"]);
    assert_eq!(changed("{ header = { x-z = \"a\" } }"), ["Cookie", "Host", "X-Z"]);
}

#[test]
fn tcp_rules_know_where_clients_come_from() {
    let tcp = "[list.offices]\nnetworks = [\"10.0.0.0/8\"]\n[frontend.a]\nmode = \"tcp\"\nbind = \"*:25\"\ndefault_backend = \"tcp\"\n\
               [[frontend.a.rule]]\nwhen = { not = { source = \"offices\" } }\nreject = \"reset\"\n\
               [[frontend.a.rule]]\nwhen = { any = [{ port = 26 }, { servers_up = { backend = \"app\" } }] }\nuse_backend = \"tcp\"\n\
               [[frontend.a.rule]]\nreject = true\n\
               [backend.tcp]\nmode = \"tcp\"\nservers = [{ name = \"a\", address = \"192.0.2.1:80\" }]";
    let plan = cluster(tcp, "").plan;
    let rules = &plan.frontends[0].rules;
    assert_eq!(rules[0].action, Action::Reject { reset: true });
    assert_eq!(rules[1].action, Action::UseBackend(1));
    assert_eq!(rules[2], Rule { when: None, action: Action::Reject { reset: false } });
}

#[test]
fn frontends_share_a_log_and_each_has_its_own_format() {
    let tables = "[defaults]\nlog = { target = \"syslog:/dev/log\", format = \"http\" }\n\
        [frontend.a]\nmode = \"tcp\"\nbind = \"*:81\"\ndefault_backend = \"tcp\"\n\
        [frontend.b]\nmode = \"http\"\nbind = \"*:82\"\nlog = { format = \"json\" }\n\
        [frontend.c]\nmode = \"http\"\nbind = \"*:83\"\nlog = { facility = \"local7\" }\n\
        [frontend.d]\nmode = \"http\"\nbind = \"*:84\"\nlog = false\n\
        [frontend.e]\nmode = \"tcp\"\nbind = \"*:85\"\ndefault_backend = \"tcp\"\nlog = { target = \"file:/var/log/e.log\", format = \"tcp\" }\n\
        [frontend.f]\nmode = \"http\"\nbind = \"*:86\"\nlog = { target = \"stdout\", format = \"json\" }\n\
        [frontend.g]\nmode = \"http\"\nbind = \"*:87\"\nlog = { target = \"syslog:[::1]:514\" }\n\
        [backend.tcp]\nmode = \"tcp\"\nservers = [{ name = \"a\", address = \"192.0.2.1:80\" }]";
    let plan = cluster(tables, "").plan;
    let sink = |target: &str, facility| LogSink { target: target.into(), facility };
    let expected = [
        sink("syslog:/dev/log", Some(16)),
        sink("syslog:/dev/log", Some(23)),
        sink("file:/var/log/e.log", None),
        sink("stdout", None),
        sink("syslog:[::1]:514", Some(16)),
    ];
    assert_eq!(plan.log_sinks, expected);
    let logs: Vec<Option<Log>> = plan.frontends.iter().map(|frontend| frontend.log).collect();
    let log = |sink, format| Some(Log { sink, format });
    let (http, tcp, json) = (LogFormat::Http, LogFormat::Tcp, LogFormat::Json);
    // The last one is `web`, which says nothing of its own.
    let expected =
        [log(0, tcp), log(0, json), log(1, http), None, log(2, tcp), log(3, json), log(4, http), log(0, http)];
    assert_eq!(logs, expected);
}

#[test]
fn lists_and_pages_are_read_once_and_kept_with_the_text() {
    let dir = std::env::temp_dir().join(format!("lbnode-kept-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (list, page) = (dir.join("a.lst"), dir.join("503.html"));
    fs::write(&list, "# ours\n10.0.0.0/8\n\n192.0.2.1 # one\n").unwrap();
    fs::write(&page, "<h1>Soon</h1>").unwrap();
    let text = format!(
        "[pair]\nname = \"x\"\n[list.a]\nnetworks = [\"::1\"]\nfile = {list:?}\n[frontend.f]\nmode = \"http\"\nbind = \"*:80\"\n\
         error_pages = {{ \"503\" = {page:?}, \"502\" = {page:?} }}\n"
    );
    let first = parse_cluster("c", &text).unwrap_or_else(|error| panic!("{error}"));
    fs::remove_dir_all(&dir).unwrap();
    let networks: Vec<String> = first.plan.lists[0].networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["::1/128", "10.0.0.0/8", "192.0.2.1/32"]);
    let pages = [(502, "<h1>Soon</h1>".to_owned()), (503, "<h1>Soon</h1>".to_owned())];
    assert_eq!(http(&first.plan).error_pages, BTreeMap::from(pages));
    assert_eq!(first.files.len(), 2);

    assert!(parse_cluster("c", &text).is_err(), "the files are gone");
    assert_eq!(parse_kept("c", &text, &first.files).unwrap_or_else(|error| panic!("{error}")), first);
    assert!(parse_kept("c", &text, &BTreeMap::new()).is_err());
}

#[test]
fn clients_stay_with_their_servers_by_tables_and_cookies() {
    let text = r#"
[pair]
name = "x"
[stick_table.mag]
key = "source"
size = 10_485_760
expire = "60m"
counters = ["conn_cur", "conn_rate(10s)", "http_req_rate(1m)", "gpc0"]
replicate = false
[stick_table.net]
key = "source/24/56"
size = 1
expire = "1s"
[frontend.web]
mode = "http"
bind = "*:80"
default_backend = "app"
[[frontend.web.rule]]
track = "mag"
[[frontend.web.rule]]
when = { rate = { table = "mag", counter = "http_req_rate(60s)", above = 100 } }
deny = 429
[[frontend.web.rule]]
when = { path = "/trap" }
inc_gpc0 = "mag"
[frontend.raw]
mode = "tcp"
bind = "*:81"
default_backend = "raw"
[[frontend.raw.rule]]
when = { rate = [{ table = "mag", counter = "conn_cur", above = 0 }, { table = "mag", counter = "gpc0", above = 9 }] }
reject = true
[backend.app]
mode = "http"
persist = { cookie = { name = "SRV", secure = true, http_only = true, same_site = "none", domain = ".a.test", max_idle = "30m", max_life = "8h" } }
servers = [{ name = "a", address = "192.0.2.1:80", cookie = "one" }, { name = "s", address = "192.0.2.2:80", stick = false }]
[backend.raw]
mode = "tcp"
persist = { table = "net" }
servers = [{ name = "a", address = "192.0.2.1:80" }]
"#;
    let plan = parse_cluster("c", text).unwrap_or_else(|error| panic!("{error}")).plan;
    assert_eq!(plan.validate(), Ok(()), "what was read can be run");
    let seconds = Duration::from_secs;
    let rate = StickCounter::HttpReqRate(seconds(60));
    assert_eq!(
        plan.stick_tables,
        [
            StickTable {
                name: "mag".into(),
                key: StickKey::Source { v4: 32, v6: 128 },
                size: 10_485_760,
                expire: seconds(3600),
                counters: vec![StickCounter::ConnCur, StickCounter::ConnRate(seconds(10)), rate, StickCounter::Gpc0],
            },
            StickTable {
                name: "net".into(),
                key: StickKey::Source { v4: 24, v6: 56 },
                size: 1,
                expire: seconds(1),
                counters: Vec::new(),
            },
        ]
    );
    let frontend = |name: &str| plan.frontends.iter().find(|frontend| frontend.name == name).unwrap();
    let above = |counter, above| Condition::Rate { table: 0, counter, above };
    let rules = &frontend("web").rules;
    assert_eq!(rules[0], Rule { when: None, action: Action::Track(0) });
    assert_eq!(rules[1].when, Some(above(rate, 100)));
    assert_eq!(rules[2].action, Action::IncGpc0(0));
    let any = Condition::Any(vec![above(StickCounter::ConnCur, 0), above(StickCounter::Gpc0, 9)]);
    assert_eq!(frontend("raw").rules[0].when, Some(any));
    let cookie = Cookie {
        name: "SRV".into(),
        mode: CookieMode::Insert,
        secure: true,
        http_only: true,
        same_site: Some(SameSite::None),
        domain: Some(".a.test".into()),
        max_idle: Some(seconds(1800)),
        max_life: Some(seconds(8 * 3600)),
    };
    assert_eq!(plan.backends[0].persist, Some(Persist::Cookie(Box::new(cookie))));
    let servers = &plan.backends[0].servers;
    assert_eq!((servers[0].cookie_value(), servers[0].stick), ("one", true));
    assert_eq!((servers[1].cookie_value(), servers[1].stick), ("s", false));
    assert_eq!(plan.backends[1].persist, Some(Persist::Table(1)));
}
