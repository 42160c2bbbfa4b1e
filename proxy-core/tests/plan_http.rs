//! What a plan that speaks HTTP may be, in tables: a valid one with one thing changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_core::plan::{
    Action, Backend, Bind, ClientCertField, Condition, Frontend, HeaderEdit, Http, List, Log, LogFormat, LogSink,
    MAX_BODY, Mode, Pattern, Plan, Redirect, Reply, Rule, Sources, Text,
};

const SECOND: Duration = Duration::from_secs(1);

/// `web` speaks HTTP, `mail` TCP.
fn valid() -> Plan {
    let http = Http {
        request_timeout: SECOND,
        keep_alive_timeout: SECOND,
        forwarded: None,
        request_edits: Vec::new(),
        response_edits: Vec::new(),
        client_cert_headers: Vec::new(),
        error_pages: BTreeMap::new(),
        http2: false,
    };
    let frontend = |name: &str, port, mode| Frontend {
        name: name.into(),
        binds: vec![Bind { address: SocketAddr::from(([192, 0, 2, 9], port)), tls: None, accept_proxy: None }],
        mode,
        rules: Vec::new(),
        backend: Some(0),
        max_connections: None,
        max_connections_per_source: None,
        client_timeout: SECOND,
        log: None,
    };
    let backend = Backend::new("app", Vec::new(), SECOND);
    Plan {
        revision: 7,
        frontends: vec![frontend("web", 80, Mode::Http(Box::new(http))), frontend("mail", 25, Mode::Tcp)],
        backends: vec![backend],
        lists: vec![List { name: "admins".into(), networks: Vec::new() }],
        log_sinks: vec![LogSink { target: "stdout".into(), facility: None }],
        ..Plan::default()
    }
}

fn http(plan: &mut Plan) -> &mut Http {
    match &mut plan.frontends[0].mode {
        Mode::Http(http) => http,
        Mode::Tcp => panic!("the first one speaks HTTP"),
    }
}

/// What is wrong with `valid` changed like this; empty: nothing.
fn problem(change: impl FnOnce(&mut Plan)) -> String {
    let mut plan = valid();
    change(&mut plan);
    plan.validate().map_or_else(|error| error.to_string(), |()| String::new())
}

/// What is wrong with a rule of one of the frontends.
fn rule(frontend: usize, when: Option<Condition>, action: Action) -> String {
    problem(|plan| plan.frontends[frontend].rules = vec![Rule { when, action }])
}

fn action(action: Action) -> String {
    rule(0, None, action)
}

fn when(condition: Condition) -> String {
    rule(0, Some(condition), Action::UseBackend(0))
}

fn text(any: &[Pattern]) -> Text {
    Text { any: any.to_vec(), ignore_case: false }
}

fn reply(status: u16, body: Option<&str>, content_type: &str) -> Reply {
    Reply { status, body: body.map(str::to_owned), content_type: content_type.into() }
}

#[test]
fn what_can_be_run_passes() {
    let harmless: [fn(&mut Plan); 8] = [
        |_| {},
        |plan| plan.frontends[0].backend = None,
        |plan| plan.frontends[0].log = Some(Log { sink: 0, format: LogFormat::Http }),
        |plan| plan.frontends[0].log = Some(Log { sink: 0, format: LogFormat::Json }),
        |plan| plan.frontends[1].log = Some(Log { sink: 0, format: LogFormat::Tcp }),
        |plan| plan.log_sinks.push(LogSink { target: "stdout".into(), facility: Some(23) }),
        |plan| plan.backends[0].tunnel_timeout = Some(SECOND),
        |plan| drop(http(plan).error_pages.insert(599, "a".repeat(MAX_BODY))),
    ];
    for (number, change) in harmless.into_iter().enumerate() {
        assert_eq!(problem(change), "", "case {number}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_with_its_place() {
    type Case = (fn(&mut Plan), &'static str);
    let edit = |edit: &str| {
        format!(
            "frontend `web`: `{edit}` is written by the proxy itself: it frames the message or concerns one connection only"
        )
    };
    let refused: [Case; 16] = [
        (|plan| plan.lists.push(plan.lists[0].clone()), "list `admins`: the name is taken"),
        (|plan| plan.log_sinks.push(plan.log_sinks[0].clone()), "log `stdout`: it is there twice"),
        (|plan| plan.log_sinks[0].facility = Some(24), "log `stdout`: 24 is no facility"),
        (|plan| plan.frontends[1].backend = None, "frontend `mail`: TCP needs a backend"),
        (|plan| plan.frontends[0].backend = Some(1), "frontend `web`: there is no backend number 1"),
        (
            |plan| plan.frontends[0].log = Some(Log { sink: 1, format: LogFormat::Json }),
            "frontend `web`: there is no log number 1",
        ),
        (
            |plan| plan.frontends[0].log = Some(Log { sink: 0, format: LogFormat::Tcp }),
            "frontend `web`: the log's format is of the other mode",
        ),
        (
            |plan| plan.frontends[1].log = Some(Log { sink: 0, format: LogFormat::Http }),
            "frontend `mail`: the log's format is of the other mode",
        ),
        (|plan| plan.frontends[0].max_connections_per_source = Some(0), "frontend `web`: a limit is zero"),
        (|plan| http(plan).request_timeout = Duration::ZERO, "frontend `web`: a timeout is zero"),
        (|plan| http(plan).keep_alive_timeout = Duration::ZERO, "frontend `web`: a timeout is zero"),
        (|plan| drop(http(plan).error_pages.insert(200, "a".into())), "frontend `web`: 200 is no status of an error"),
        (
            |plan| drop(http(plan).error_pages.insert(503, "a".repeat(MAX_BODY + 1))),
            "frontend `web`: the page for 503 is 65537 bytes long; at most 65536",
        ),
        (|plan| plan.backends[0].tunnel_timeout = Some(Duration::ZERO), "backend `app`: a timeout is zero"),
        (
            |plan| plan.backends[0].request_edits.push(HeaderEdit::Remove("host".into())),
            "backend `app`: a request has exactly one `Host`: it can be set, not added or removed",
        ),
        (
            |plan| plan.backends[0].response_edits.push(HeaderEdit::Set("A".into(), "b\r\nC: d".into())),
            "backend `app`: the value of `A` has a control character; a header is one line",
        ),
    ];
    for (change, message) in refused {
        assert_eq!(problem(change), message);
    }
    let told = |names: &[&str]| {
        problem(|plan| {
            let headers = names.iter().map(|name| (ClientCertField::Subject, (*name).to_owned()));
            http(plan).client_cert_headers = headers.collect();
        })
    };
    assert_eq!(told(&["X-A", "X-B"]), "");
    for (names, taken) in [(&["X-A", "x_a"][..], "x_a"), (&["host"], "host")] {
        assert_eq!(told(names), format!("frontend `web`: client_cert_headers: `{taken}` is taken"));
    }
    assert!(told(&["a b"]).starts_with("frontend `web`: `a b` is no header name"));
    assert_eq!(told(&["Upgrade"]), edit("Upgrade"));
    let own = ["Connection", "content-length", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding"];
    for name in own.into_iter().chain(["Upgrade", "Expect"]) {
        for change in [HeaderEdit::Remove(name.into()), HeaderEdit::Set(name.into(), "1".into())] {
            assert_eq!(problem(|plan| http(plan).request_edits.push(change.clone())), edit(name));
            assert_eq!(problem(|plan| http(plan).response_edits.push(change)), edit(name));
        }
    }
}

#[test]
fn names_and_values_of_headers_cannot_end_a_line() {
    let set = |name: &str, value: &str| action(Action::EditResponse(HeaderEdit::Set(name.into(), value.into())));
    for byte in 0..=127u8 {
        let character = char::from(byte);
        let is_token = character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character);
        assert_eq!(set(&format!("X{character}"), "").is_empty(), is_token, "{character:?} in a name");
        let in_value = !character.is_ascii_control() || character == '\t';
        assert_eq!(set("X", &format!("a{character}b")).is_empty(), in_value, "{character:?} in a value");
    }
    assert_eq!(set("X", "grüße"), "");
    assert_eq!(set("", "a"), "frontend `web`: rule 1: `` is no header name: letters, digits and !#$%&'*+-.^_`|~ only");
    for value in [" a", "a ", "\ta"] {
        let message = "frontend `web`: rule 1: the value of `X` begins or ends with white space, which no reader keeps";
        assert_eq!(set("X", value), message);
    }
    assert_eq!(set("X", &"a".repeat(4096)), "");
    assert_eq!(set("X", &"a".repeat(4097)), "frontend `web`: rule 1: it is 4097 bytes long; at most 4096");
}

#[test]
fn conditions_ask_what_there_is() {
    let host = || Condition::Host(text(&[Pattern::Is("a".into())]));
    let good = [
        Condition::Tls(true),
        Condition::Sni(text(&[Pattern::Present])),
        Condition::Alpn(vec!["h2".into()]),
        Condition::ClientCert(text(&[Pattern::Prefix("CN=".into())])),
        Condition::Source(vec![Sources::List(0)]),
        Condition::Header("A".into(), text(&[Pattern::Present])),
        Condition::ServersUp { backend: 0, at_least: 1 },
    ];
    for condition in good {
        assert_eq!(when(condition.clone()), "");
        assert_eq!(when(Condition::All(vec![Condition::Not(Box::new(condition))])), "");
    }
    let bad = [
        (Condition::All(Vec::new()), "it holds for nobody: a list in it is empty"),
        (Condition::Any(Vec::new()), "it holds for nobody: a list in it is empty"),
        (Condition::Path(text(&[])), "it holds for nobody: a list in it is empty"),
        (Condition::Method(Vec::new()), "it holds for nobody: a list in it is empty"),
        (Condition::Sni(text(&[])), "it holds for nobody: a list in it is empty"),
        (Condition::ClientCert(text(&[])), "it holds for nobody: a list in it is empty"),
        (Condition::Alpn(Vec::new()), "it holds for nobody: a list in it is empty"),
        (Condition::Alpn(vec![String::new()]), "`` is no protocol's name: it has 1 to 255 bytes"),
        (Condition::Port(Vec::new()), "it holds for nobody: a list in it is empty"),
        (Condition::Source(Vec::new()), "it holds for nobody: a list in it is empty"),
        (Condition::Source(vec![Sources::List(1)]), "there is no list number 1"),
        (Condition::ServersUp { backend: 1, at_least: 1 }, "there is no backend number 1"),
        (Condition::Path(text(&[Pattern::Regex("(".into())])), "`(` is no regular expression: unclosed group"),
        (
            Condition::Query(text(&[Pattern::Regex("a{1000}{1000}".into())])),
            "`a{1000}{1000}` is no regular expression: it takes more than 1048576 bytes when compiled",
        ),
        (
            Condition::Cookie("a b".into(), text(&[Pattern::Present])),
            "`a b` is no header name: letters, digits and !#$%&'*+-.^_`|~ only",
        ),
        (Condition::Method(vec!["G T".into()]), "`G T` is no method: letters, digits and !#$%&'*+-.^_`|~ only"),
    ];
    for (condition, message) in bad {
        assert_eq!(when(condition.clone()), format!("frontend `web`: rule 1: {message}"));
        let nested = Condition::Any(vec![host(), Condition::Not(Box::new(condition))]);
        assert_eq!(when(nested), format!("frontend `web`: rule 1: {message}"));
    }
}

#[test]
fn actions_are_what_can_be_done() {
    let redirect = |to, code| Action::Redirect { to, code };
    let rewrite = |path_regex: &str, to: &str| Action::Rewrite { path_regex: path_regex.into(), to: to.into() };
    let plain = "text/plain";
    let good = [
        Action::Deny(reply(403, None, plain)),
        Action::Return(reply(200, Some("ä\n"), "text/html; charset=utf-8")),
        Action::Reject { reset: true },
        Action::Tarpit(SECOND),
        redirect(Redirect::Scheme("https".into()), 308),
        redirect(Redirect::Location("/a?b#c".into()), 301),
        redirect(Redirect::Prefix("https://a".into()), 303),
        Action::EditRequest(HeaderEdit::Set("Host".into(), "a".into())),
        Action::EditResponse(HeaderEdit::Add("Host".into(), "a".into())),
        Action::SetPath("/%C3%A4".into()),
        rewrite("^/(a)(?<b>b)", "/$0/$1/${2}x/$b/${b}/$$"),
        rewrite("^/a", ""),
    ];
    for good in good {
        assert_eq!(action(good.clone()), "", "{good:?}");
    }
    let no_group = |group: &str| {
        format!("`${{{group}}}` is no group of `^(a)`; groups are $0 to $1, or by name, and $$ is a dollar")
    };
    let bad = [
        (Action::UseBackend(1), "there is no backend number 1".to_owned()),
        (Action::Deny(reply(199, None, plain)), "199 is no status of a final answer; expected 200 to 599".into()),
        (Action::Deny(reply(600, None, plain)), "600 is no status of a final answer; expected 200 to 599".into()),
        (Action::Return(reply(204, Some("a"), plain)), "an answer with status 204 has no body".into()),
        (Action::Return(reply(304, Some("a"), plain)), "an answer with status 304 has no body".into()),
        (
            Action::Return(reply(200, Some(&"a".repeat(MAX_BODY + 1)), plain)),
            "the body is 65537 bytes long; at most 65536".into(),
        ),
        (Action::Return(reply(200, None, "text")), "`text` is no content type".into()),
        (Action::Return(reply(200, None, "a/b\r\nX: y")), "`a/b\\r\\nX: y` is no content type".into()),
        (Action::Return(reply(200, None, "a/b; c=\r\nX: y")), "`a/b; c=\\r\\nX: y` is no content type".into()),
        (Action::Tarpit(Duration::ZERO), "a tarpit of no time is `deny`".into()),
        (redirect(Redirect::Scheme("https".into()), 300), {
            "300 is no redirect; expected 301, 302, 303, 307 or 308".into()
        }),
        (redirect(Redirect::Scheme("ht tp".into()), 301), "`ht tp` is no scheme such as https".into()),
        (redirect(Redirect::Location("/a\r\nX: y".into()), 301), {
            "`/a\\r\\nX: y` has a character that no URL has; write it as %XX".into()
        }),
        (redirect(Redirect::Location(String::new()), 301), {
            "`` has a character that no URL has; write it as %XX".into()
        }),
        (redirect(Redirect::Prefix("http://a/".into()), 301), {
            "`http://a/` ends with `/`, and the path begins with one: leave it out".into()
        }),
        (Action::SetPath("a".into()), {
            "`a` is no path: it begins with `/` and has only visible ASCII; write others as %XX".into()
        }),
        (Action::SetPath("/ HTTP/1.1\r\nX: y".into()), {
            "`/ HTTP/1.1\\r\\nX: y` is no path: it begins with `/` and has only visible ASCII; write others as %XX"
                .into()
        }),
        (Action::SetPath("/a?b".into()), {
            "`/a?b` has a `?` or `#`: a path has neither, and the query stays as it is".into()
        }),
        (rewrite("(", "/"), "`(` is no regular expression: unclosed group".into()),
        (rewrite("^(a)", "/$2"), no_group("2")),
        (rewrite("^(a)", "/$1a"), no_group("1a")),
        (rewrite("^(a)", "/${b}"), no_group("b")),
        (rewrite("^(a)", "/$"), no_group("")),
        (rewrite("^(a)", "/${1"), no_group("{1")),
        (rewrite("^(a)", "/ "), "`/ ` has a character that no URL has; write it as %XX".into()),
        (rewrite("^(a)", "/?"), "`/?` has a `?` or `#`: a path has neither, and the query stays as it is".into()),
    ];
    for (bad, message) in bad {
        assert_eq!(action(bad.clone()), format!("frontend `web`: rule 1: {message}"), "{bad:?}");
    }
}

#[test]
fn tcp_has_no_request_to_look_at_or_answer() {
    let reject = Action::Reject { reset: false };
    let asks_request = [
        Condition::Host(text(&[Pattern::Is("a".into())])),
        Condition::Path(text(&[Pattern::Is("/".into())])),
        Condition::Query(text(&[Pattern::Is("a".into())])),
        Condition::Method(vec!["GET".into()]),
        Condition::Header("A".into(), text(&[Pattern::Present])),
        Condition::Cookie("A".into(), text(&[Pattern::Present])),
    ];
    for condition in asks_request {
        let message =
            "frontend `mail`: rule 1: TCP knows only source, port, servers_up, rate, tls, sni, alpn and client_cert";
        assert_eq!(rule(1, Some(condition.clone()), reject.clone()), message);
        assert_eq!(rule(1, Some(Condition::All(vec![condition])), reject.clone()), message);
    }
    let asks_connection = [
        Condition::Source(vec![Sources::List(0)]),
        Condition::Port(vec![25]),
        Condition::Tls(true),
        Condition::Sni(text(&[Pattern::Present])),
        Condition::Alpn(vec!["h2".into()]),
        Condition::ClientCert(text(&[Pattern::Present])),
    ];
    for condition in asks_connection {
        assert_eq!(rule(1, Some(Condition::Not(Box::new(condition))), Action::UseBackend(0)), "");
    }
    let needs_request = [
        Action::Deny(reply(403, None, "text/plain")),
        Action::Tarpit(SECOND),
        Action::SetPath("/".into()),
        Action::EditRequest(HeaderEdit::Remove("A".into())),
    ];
    for action in needs_request {
        assert_eq!(
            rule(1, None, action),
            "frontend `mail`: rule 1: TCP knows only reject, use_backend, track and inc_gpc0"
        );
    }
}
