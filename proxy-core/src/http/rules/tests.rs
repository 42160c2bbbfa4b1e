//! Rules as a frontend has them, walked for requests as the parser hands them on.

use std::net::IpAddr;

use super::*;
use crate::http::head;
use crate::plan::{self, Action, Condition, Mode, Pattern, Rule, Sources, Text};

fn http(rules: Vec<Rule>, request_edits: Vec<HeaderEdit>) -> plan::Frontend {
    let second = Duration::from_secs(1);
    let http = plan::Http {
        request_timeout: second,
        keep_alive_timeout: second,
        forwarded: None,
        client_cert_headers: Vec::new(),
        request_edits,
        response_edits: Vec::new(),
        error_pages: std::collections::BTreeMap::new(),
        http2: false,
    };
    plan::Frontend {
        name: "web".into(),
        binds: Vec::new(),
        mode: Mode::Http(Box::new(http)),
        rules,
        backend: None,
        max_connections: None,
        max_connections_per_source: None,
        client_timeout: second,
        log: None,
    }
}

fn lists(networks: &[&str]) -> Arc<Lists> {
    let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
    Arc::new(Lists::new(&[plan::List { name: "admins".into(), networks }]))
}

fn compile(rules: Vec<Rule>) -> Rules {
    Rules::compile(&http(rules, Vec::new()), &lists(&["10.8.5.17/32"])).unwrap()
}

fn always(action: Action) -> Rule {
    Rule { when: None, action }
}

fn when(condition: Condition, action: Action) -> Rule {
    Rule { when: Some(condition), action }
}

fn set(name: &str, value: &str) -> HeaderEdit {
    HeaderEdit::Set(name.into(), value.into())
}

fn text(pattern: Pattern) -> Text {
    Text { any: vec![pattern], ignore_case: false }
}

fn is(text: &str) -> Text {
    Text { any: vec![Pattern::Is(text.into())], ignore_case: false }
}

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

/// What `look` sees of the walk for this request, by a client without TLS at port 80.
fn walk<T>(rules: &Rules, bytes: &[u8], look: impl FnOnce(Outcome<'_>) -> T) -> T {
    let mut slots = head::slots();
    let request = head::request(&mut slots, bytes).expect("it is allowed").expect("it is whole");
    let servers_up = |backend: usize| if backend == 1 { 2 } else { 0 };
    let tracks = Tracks::default();
    let subject = Subject {
        client: CLIENT,
        port: 80,
        tls: None,
        hello: None,
        request: Some(&request),
        servers_up: &servers_up,
        tables: &[],
        tracks: &tracks,
    };
    look(rules.walk(&subject))
}

fn holds(condition: Condition, bytes: &[u8]) -> bool {
    let rules = compile(vec![when(condition, Action::UseBackend(3))]);
    walk(&rules, bytes, |outcome| outcome.verdict == Verdict::UseBackend(3))
}

/// The target that the rules make of this one.
fn target(rules: Vec<Rule>, target: &str) -> Option<String> {
    let method = if target == "*" { "OPTIONS" } else { "GET" };
    walk(&compile(rules), format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes(), |out| out.target)
}

#[test]
fn each_key_looks_at_its_own_part() {
    let request = b"POST /owa/x.aspx?id=7&q HTTP/1.1\r\nHost: Mail.Test:8080\r\nX-Team: red\r\nX-Team: Blue\r\n\
        Cookie: sid=42; lang=de; a=b=c\r\n\r\n";
    let source = |text: &str| Condition::Source(vec![Sources::Network(text.parse().unwrap())]);
    let header = |name: &str, value: Text| Condition::Header(name.into(), value);
    let cookie = |name: &str, value: Text| Condition::Cookie(name.into(), value);
    let cases = [
        (Condition::Tls(false), true),
        (Condition::Tls(true), false),
        (Condition::Host(is("mail.test")), true),
        (Condition::Host(is("mail.test:8080")), false),
        (Condition::Host(text(Pattern::Suffix(".test".into()))), true),
        (Condition::Host(text(Pattern::Regex("^mail[.]".into()))), true),
        (Condition::Path(is("/owa/x.aspx")), true),
        (Condition::Path(is("/OWA/x.aspx")), false),
        (Condition::Path(text(Pattern::Prefix("/owa".into()))), true),
        (Condition::Path(text(Pattern::Suffix("?id=7&q".into()))), false),
        (Condition::Query(is("id=7&q")), true),
        (Condition::Query(text(Pattern::Contains("=7&".into()))), true),
        (Condition::Method(vec!["GET".into(), "POST".into()]), true),
        (Condition::Method(vec!["post".into()]), false),
        (header("x-team", is("Blue")), true),
        (header("X-Team", is("blue")), false),
        (header("X-Team", text(Pattern::Present)), true),
        (header("X-Tea", text(Pattern::Present)), false),
        (cookie("sid", is("42")), true),
        (cookie("SID", is("42")), false),
        (cookie("a", is("b=c")), true),
        (cookie("lan", text(Pattern::Present)), false),
        (source("198.51.100.0/24"), true),
        (source("::ffff:198.51.100.7/128"), true),
        (source("198.51.101.0/24"), false),
        (Condition::Port(vec![443, 80]), true),
        (Condition::Port(vec![443]), false),
        (Condition::ServersUp { backend: 1, at_least: 2 }, true),
        (Condition::ServersUp { backend: 1, at_least: 3 }, false),
        (Condition::ServersUp { backend: 0, at_least: 1 }, false),
        (Condition::ServersUp { backend: 0, at_least: 0 }, true),
    ];
    for (condition, expected) in cases {
        assert_eq!(holds(condition.clone(), request), expected, "{condition:?}");
    }
}

#[test]
fn texts_are_compared_in_their_form_and_case() {
    let cases = [
        (Pattern::Present, false, true),
        (Pattern::Is("Abc.def".into()), false, true),
        (Pattern::Is("abc.DEF".into()), false, false),
        (Pattern::Is("abc.DEF".into()), true, true),
        (Pattern::Is("Abc.de".into()), true, false),
        (Pattern::Prefix("Abc".into()), false, true),
        (Pattern::Prefix("aBC".into()), true, true),
        (Pattern::Prefix("Abc.def.".into()), false, false),
        (Pattern::Suffix("def".into()), false, true),
        (Pattern::Suffix("DEF".into()), true, true),
        (Pattern::Suffix("xAbc.def".into()), true, false),
        (Pattern::Contains("c.d".into()), false, true),
        (Pattern::Contains("C.D".into()), false, false),
        (Pattern::Contains("C.D".into()), true, true),
        (Pattern::Contains(String::new()), true, true),
        (Pattern::Contains("Abc.def.".into()), true, false),
        (Pattern::Regex("^[A-Z][a-z.]+$".into()), false, true),
        (Pattern::Regex("^[A-Z.]+$".into()), false, false),
        (Pattern::Regex("^[A-Z.]+$".into()), true, true),
        (Pattern::Regex("b".into()), false, true),
    ];
    for (pattern, ignore_case, expected) in cases {
        let text = Text { any: vec![Pattern::Is("another".into()), pattern.clone()], ignore_case };
        let found = holds(Condition::Header("X".into(), text), b"GET / HTTP/1.1\r\nHost: a\r\nX: Abc.def\r\n\r\n");
        assert_eq!(found, expected, "{pattern:?}, ignoring case: {ignore_case}");
    }
}

#[test]
fn a_value_that_is_no_utf8_is_searched_like_any_other() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX: evil\xff\xfething\r\n\r\n";
    for pattern in [Pattern::Regex("evil.*thing".into()), Pattern::Contains("thing".into()), Pattern::Present] {
        assert!(holds(Condition::Header("X".into(), text(pattern.clone())), request), "{pattern:?}");
    }
}

#[test]
fn conditions_are_joined_by_all_any_and_not() {
    let (yes, no) = (|| Condition::Tls(false), || Condition::Tls(true));
    let cases = [
        (Condition::All(vec![yes(), yes()]), true),
        (Condition::All(vec![yes(), no()]), false),
        (Condition::Any(vec![no(), yes()]), true),
        (Condition::Any(vec![no(), no()]), false),
        (Condition::Not(Box::new(no())), true),
        (Condition::Not(Box::new(Condition::Any(vec![no(), yes()]))), false),
    ];
    for (condition, expected) in cases {
        assert_eq!(holds(condition.clone(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), expected, "{condition:?}");
    }
}

#[test]
fn a_request_without_a_host_is_for_none() {
    let old = b"GET / HTTP/1.0\r\n\r\n";
    assert!(!holds(Condition::Host(text(Pattern::Present)), old));
    assert!(holds(Condition::Not(Box::new(Condition::Host(text(Pattern::Present)))), old));
}

#[test]
fn in_tcp_conditions_on_a_request_never_hold_and_those_on_the_client_do() {
    let mut frontend = http(Vec::new(), Vec::new());
    frontend.mode = Mode::Tcp;
    let source = |list| Condition::Source(vec![Sources::List(list)]);
    frontend.rules = vec![
        when(Condition::Path(text(Pattern::Present)), Action::UseBackend(1)),
        when(Condition::Header("Host".into(), text(Pattern::Present)), Action::UseBackend(1)),
        when(Condition::Method(vec!["GET".into()]), Action::UseBackend(1)),
        when(source(0), Action::UseBackend(2)),
        always(Action::Reject { reset: true }),
    ];
    let rules = Rules::compile(&frontend, &lists(&["10.8.5.17/32"])).unwrap();
    for (client, verdict) in [("10.8.5.17", Verdict::UseBackend(2)), ("10.8.5.18", Verdict::Reject { reset: true })] {
        let client = client.parse().unwrap();
        let tracks = Tracks::default();
        let subject = Subject {
            client,
            port: 25,
            tls: None,
            hello: None,
            request: None,
            servers_up: &|_| 0,
            tables: &[],
            tracks: &tracks,
        };
        assert_eq!(rules.walk(&subject).verdict, verdict, "{client}");
    }
}

/// Whether the condition holds in TCP, for a client whose TLS ends here, or is passed on.
fn holds_in_tcp(condition: Condition, tls: Option<&Facts>, hello: Option<&Hello>) -> bool {
    let mut frontend = http(vec![when(condition, Action::UseBackend(1))], Vec::new());
    frontend.mode = Mode::Tcp;
    let rules = Rules::compile(&frontend, &lists(&[])).unwrap();
    let tracks = Tracks::default();
    let subject = Subject {
        client: CLIENT,
        port: 443,
        tls,
        hello,
        request: None,
        servers_up: &|_| 0,
        tables: &[],
        tracks: &tracks,
    };
    rules.walk(&subject).verdict == Verdict::UseBackend(1)
}

fn facts() -> Facts {
    Facts {
        version: plan::TlsVersion::V13,
        cipher_suite: "TLS13_AES_128_GCM_SHA256",
        server_name: Some("mail.test".into()),
        alpn: Some((*b"h2").into()),
        resumed: false,
        client: None,
    }
}

#[test]
fn what_is_known_of_tls_is_asked_of_the_connection_where_it_ends_here_and_of_the_hello_where_it_is_passed_on() {
    let hello = Hello { sni: Some("other.test".into()), alpn: vec![(*b"h2").into(), (*b"http/1.1").into()] };
    let (sni, alpn) =
        (|name: &str| Condition::Sni(is(name)), |name: &str| Condition::Alpn(vec!["x".into(), name.into()]));
    let there = || Condition::Sni(text(Pattern::Present));
    // By condition: where TLS ends here, where it is passed on, and where there is none.
    let cases = [
        (Condition::Tls(true), [true, false, false]),
        (Condition::Tls(false), [false, true, true]),
        (there(), [true, true, false]),
        (sni("mail.test"), [true, false, false]),
        (sni("MAIL.test"), [true, false, false]),
        (sni("other.test"), [false, true, false]),
        (Condition::Sni(text(Pattern::Suffix(".test".into()))), [true, true, false]),
        (Condition::Sni(text(Pattern::Regex("^(mail|OTHER)[.]".into()))), [true, true, false]),
        (alpn("h2"), [true, true, false]),
        (alpn("http/1.1"), [false, true, false]),
        (alpn("H2"), [false, false, false]),
        (Condition::Not(Box::new(there())), [false, false, true]),
        (Condition::ClientCert(text(Pattern::Present)), [false, false, false]),
    ];
    for (condition, expected) in cases {
        let seen = [(Some(&facts()), None), (None, Some(&hello)), (None, None)]
            .map(|(tls, hello)| holds_in_tcp(condition.clone(), tls, hello));
        assert_eq!(seen, expected, "{condition:?}");
    }
    let silent = Facts { server_name: None, alpn: None, ..facts() };
    assert!(!holds_in_tcp(there(), Some(&silent), Some(&hello)), "what ends here is not asked for its hello");
    assert!(!holds_in_tcp(alpn("h2"), Some(&silent), None));
}

#[test]
fn a_client_is_known_by_the_subject_of_its_certificate() {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.remove(rcgen::DnType::CommonName);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Corp");
    params.distinguished_name.push(rcgen::DnType::CommonName, "Jörg");
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let client = crate::tls::Identity::of(certificate.der()).map(Box::new);
    let facts = Facts { client, ..facts() };
    let subject = |text| holds_in_tcp(Condition::ClientCert(text), Some(&facts), None);
    assert!(subject(is("CN=Jörg,O=Corp")));
    assert!(!subject(is("cn=Jörg,o=corp")));
    assert!(subject(Text { ignore_case: true, ..is("cn=Jörg,o=corp") }));
    assert!(subject(text(Pattern::Suffix(",O=Corp".into()))));
    assert!(subject(text(Pattern::Present)));
    assert!(!subject(text(Pattern::Prefix("O=Corp".into()))));
}

#[test]
fn hellos_are_looked_into_where_a_rule_asks_for_it_however_deep() {
    let asks = |condition| compile(vec![when(condition, Action::UseBackend(1))]).looks_into_hellos();
    let sni = || Condition::Sni(text(Pattern::Present));
    assert!(asks(sni()) && asks(Condition::Alpn(vec!["h2".into()])));
    assert!(asks(Condition::Any(vec![Condition::Port(vec![1]), Condition::Not(Box::new(sni()))])));
    assert!(asks(Condition::All(vec![sni()])));
    assert!(!asks(Condition::Tls(true)) && !asks(Condition::ClientCert(text(Pattern::Present))));
    assert!(!compile(vec![always(Action::UseBackend(1))]).looks_into_hellos());
}

#[test]
fn rules_do_not_believe_what_a_client_says_of_its_certificate() {
    let mut frontend = http(
        vec![when(Condition::Header("x-client".into(), text(Pattern::Present)), Action::UseBackend(1))],
        Vec::new(),
    );
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Client: CN=admin\r\n\r\n";
    let believed = |frontend: &plan::Frontend| {
        let rules = Rules::compile(frontend, &lists(&[])).unwrap();
        walk(&rules, request, |outcome| outcome.verdict == Verdict::UseBackend(1))
    };
    assert!(believed(&frontend));
    let Mode::Http(http) = &mut frontend.mode else { unreachable!("it speaks HTTP") };
    http.client_cert_headers = vec![(plan::ClientCertField::Subject, "X-Client".into())];
    assert!(!believed(&frontend));
}

#[test]
fn a_list_that_is_replaced_counts_from_the_next_walk() {
    let (lists, source) = (lists(&[]), Condition::Source(vec![Sources::List(0)]));
    let rules = Rules::compile(&http(vec![when(source, Action::UseBackend(1))], Vec::new()), &lists).unwrap();
    let of_a_worker = rules.clone();
    let verdict = |rules: &Rules| walk(rules, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", |out| out.verdict == Verdict::None);
    assert!(verdict(&of_a_worker));
    assert!(lists.replace("admins", &["198.51.100.0/24".parse().unwrap()]));
    assert!(!verdict(&of_a_worker) && !verdict(&rules));
}

#[test]
fn the_first_rule_that_ends_the_walk_has_the_last_word() {
    let reply = Reply { status: 403, body: None, content_type: "text/plain".into() };
    let to = Redirect::Scheme("https".into());
    let cases = [
        (Action::Deny(reply.clone()), Verdict::Deny(&reply)),
        (Action::Return(reply.clone()), Verdict::Return(&reply)),
        (Action::Reject { reset: false }, Verdict::Reject { reset: false }),
        (Action::Tarpit(Duration::from_secs(10)), Verdict::Tarpit(Duration::from_secs(10))),
        (Action::Redirect { to: to.clone(), code: 301 }, Verdict::Redirect { to: &to, code: 301 }),
        (Action::UseBackend(4), Verdict::UseBackend(4)),
    ];
    for (action, verdict) in cases {
        let rules = compile(vec![
            when(Condition::Tls(true), Action::UseBackend(9)),
            always(Action::EditResponse(set("A", "1"))),
            always(action),
            always(Action::EditResponse(set("B", "2"))),
            always(Action::UseBackend(9)),
        ]);
        walk(&rules, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", |outcome| {
            assert_eq!(outcome.verdict, verdict);
            assert_eq!(rules.response_edits(&outcome.response_edits).collect::<Vec<_>>(), [&set("A", "1")]);
        });
    }
}

#[test]
fn without_a_rule_that_holds_nothing_happens() {
    let rules = compile(vec![when(Condition::Tls(true), Action::EditRequest(set("A", "1")))]);
    walk(&rules, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", |outcome| {
        assert_eq!(outcome.verdict, Verdict::None);
        assert_eq!((outcome.request_edits, outcome.response_edits), (Picked::default(), Picked::default()));
        assert_eq!(outcome.target, None);
    });
}

#[test]
fn edits_are_picked_in_their_order_however_many_there_are() {
    let even = |number: usize| if number.is_multiple_of(2) { Condition::Tls(false) } else { Condition::Tls(true) };
    let edit = |number: usize| set(&format!("N{number}"), "");
    let rules = (0..150).map(|number| when(even(number), Action::EditRequest(edit(number)))).collect();
    let rules = compile(rules);
    walk(&rules, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", |outcome| {
        let picked: Vec<_> = rules.request_edits(&outcome.request_edits).cloned().collect();
        assert_eq!(picked, (0..150).step_by(2).map(edit).collect::<Vec<_>>());
    });
}

#[test]
fn later_rules_see_the_path_that_earlier_ones_set() {
    let seen = compile(vec![
        when(Condition::Path(is("/a")), Action::SetPath("/b".into())),
        when(Condition::Path(is("/a")), Action::UseBackend(1)),
        when(Condition::All(vec![Condition::Path(is("/b")), Condition::Query(is("q"))]), Action::UseBackend(2)),
    ]);
    walk(&seen, b"GET /a?q HTTP/1.1\r\nHost: a\r\n\r\n", |outcome| {
        assert_eq!(outcome.verdict, Verdict::UseBackend(2));
        assert_eq!(outcome.target.as_deref(), Some("/b?q"));
    });
}

#[test]
fn later_rules_see_the_headers_that_earlier_edits_left() {
    let seen = |condition: Condition| {
        let rules = vec![
            always(Action::EditRequest(HeaderEdit::Add("X-Team".into(), "green".into()))),
            always(Action::EditRequest(HeaderEdit::Remove("X-Gone".into()))),
            always(Action::EditRequest(set("Cookie", "sid=ours"))),
            always(Action::EditRequest(set("host", "inner.test:81"))),
            when(condition, Action::UseBackend(1)),
        ];
        let base = vec![HeaderEdit::Remove("X-Trusted".into()), set("X-Ours", "1")];
        let rules = Rules::compile(&http(rules, base), &lists(&[])).unwrap();
        let request =
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Team: red\r\nX-Gone: 1\r\nX-Trusted: yes\r\nCookie: sid=42\r\n\r\n";
        walk(&rules, request, |outcome| outcome.verdict == Verdict::UseBackend(1))
    };
    let header = |name: &str, value: &str| Condition::Header(name.into(), is(value));
    for (condition, expected) in [
        (header("x-team", "red"), true),
        (header("x-team", "green"), true),
        (header("x-gone", "1"), false),
        (header("x-trusted", "yes"), false),
        (header("x-ours", "1"), true),
        (Condition::Cookie("sid".into(), is("42")), false),
        (Condition::Cookie("sid".into(), is("ours")), true),
        (Condition::Host(is("inner.test")), true),
        (Condition::Host(is("a")), false),
    ] {
        assert_eq!(seen(condition.clone()), expected, "{condition:?}");
    }
}

#[test]
fn a_path_is_replaced_and_its_query_stays() {
    let rewrite =
        |path_regex: &str, to: &str| vec![always(Action::Rewrite { path_regex: path_regex.into(), to: to.into() })];
    let cases = [
        (vec![always(Action::SetPath("/new".into()))], "/old?q=1", Some("/new?q=1")),
        (vec![always(Action::SetPath("/new".into()))], "/old", Some("/new")),
        (vec![always(Action::SetPath("/new".into()))], "*", None),
        (rewrite("^/app(/|$)", "/"), "/app/x?/app/", Some("/x?/app/")),
        (rewrite("^/app(/|$)", "/"), "/apple", None),
        (rewrite("^/([a-z]+)/([0-9]+)$", "/$2/${1}s"), "/item/7", Some("/7/items")),
        (rewrite("/a", "/b"), "/a/a", Some("/b/a")),
        // Nothing is left, or no path: a request line needs one.
        (rewrite("^/app", ""), "/app?q", Some("/?q")),
        (rewrite("^/", ""), "/x", Some("/x")),
        (rewrite("A", "/b"), "/a", None),
    ];
    for (rules, before, after) in cases {
        assert_eq!(target(rules.clone(), before).as_deref(), after, "{before} by {rules:?}");
    }
}

#[test]
fn rewrites_follow_each_other() {
    let rules = vec![
        always(Action::Rewrite { path_regex: "^/a".into(), to: "/b".into() }),
        always(Action::Rewrite { path_regex: "^/b".into(), to: "/c".into() }),
        always(Action::Rewrite { path_regex: "^/a".into(), to: "/d".into() }),
    ];
    assert_eq!(target(rules, "/a/x?y").as_deref(), Some("/c/x?y"));
}

#[test]
fn what_cannot_be_compiled_is_named_with_its_rule() {
    let bad = |condition| {
        let rules = vec![always(Action::UseBackend(0)), when(condition, Action::UseBackend(0))];
        Rules::compile(&http(rules, Vec::new()), &lists(&[])).unwrap_err().to_string()
    };
    assert_eq!(
        bad(Condition::Path(text(Pattern::Regex("(".into())))),
        "rule 2: `(` is no regular expression that can be used"
    );
    assert_eq!(
        bad(Condition::Path(text(Pattern::Regex("(a{1000}){1000}".into())))),
        "rule 2: `(a{1000}){1000}` is no regular expression that can be used"
    );
    assert_eq!(bad(Condition::Source(vec![Sources::List(1)])), "rule 2: there is no list number 1");
}

#[test]
fn a_key_is_found_in_the_request_as_the_rules_left_it() {
    let header = |edit: fn(String, String) -> HeaderEdit| Action::EditRequest(edit("X-Id".into(), "edited".into()));
    let remove = || Action::EditRequest(HeaderEdit::Remove("x-id".into()));
    let by_header = || StickKey::Header("x-id".into());
    let sent = "X-Id: first\r\nX-Id: second\r\nCookie: a=1; id=mine\r\nCookie: id=other\r\n";
    let table = [
        (vec![], by_header(), Some("first")),
        (vec![header(HeaderEdit::Add)], by_header(), Some("first")),
        (vec![header(HeaderEdit::Set)], by_header(), Some("edited")),
        (vec![remove()], by_header(), None),
        (vec![remove(), header(HeaderEdit::Add)], by_header(), Some("edited")),
        (vec![], StickKey::Cookie("id".into()), Some("mine")),
        (vec![], StickKey::Cookie("ID".into()), None),
        (vec![], StickKey::Path, Some("/a")),
        (vec![Action::SetPath("/b".into())], StickKey::Path, Some("/b")),
        (vec![], StickKey::Sni, None),
        (vec![], StickKey::Source { v4: 16, v6: 128 }, Some("198.51.0.0")),
    ];
    let bytes = format!("GET /a?q HTTP/1.1\r\nHost: a.test\r\n{sent}\r\n");
    for (actions, key, expected) in table {
        let rules = compile(actions.into_iter().map(|action| Rule { when: None, action }).collect());
        let mut slots = head::slots();
        let request = head::request(&mut slots, bytes.as_bytes()).expect("it is allowed").expect("it is whole");
        let tracks = Tracks::default();
        let subject = Subject {
            client: CLIENT,
            port: 80,
            tls: None,
            hello: None,
            request: Some(&request),
            servers_up: &|_| 0,
            tables: &[],
            tracks: &tracks,
        };
        let outcome = rules.walk(&subject);
        let found = rules.key(&subject, &outcome, &key).map(|key| key.to_string());
        assert_eq!(found.as_deref(), expected, "{key:?}");
    }
}
