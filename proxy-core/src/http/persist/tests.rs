//! What becomes of cookies in heads, case by case.

use super::*;
use proptest::prelude::*;
use std::net::SocketAddr;

const NOW: u64 = 1_700_000_000;

fn cookie(mode: CookieMode) -> Cookie {
    Cookie {
        name: "SRV".into(),
        mode,
        secure: false,
        http_only: false,
        same_site: None,
        domain: None,
        max_idle: None,
        max_life: None,
    }
}

fn dated(max_idle: Option<u64>, max_life: Option<u64>) -> Cookie {
    let seconds = |time: Option<u64>| time.map(Duration::from_secs);
    Cookie { max_idle: seconds(max_idle), max_life: seconds(max_life), ..cookie(CookieMode::Insert) }
}

/// `a`, `b` (called `bee` in cookies), and `sorry`, which nobody stays with.
fn servers() -> Vec<Server> {
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    let server = |name: &str, cookie: Option<&str>, stick| Server {
        stick,
        cookie: cookie.map(Into::into),
        ..Server::new(name, address)
    };
    vec![server("a", None, true), server("b", Some("bee"), true), server("sorry", None, false)]
}

/// What is understood of a request with such `Cookie` lines, and which of them are left.
fn ask(cookie: &Cookie, lines: &[&str]) -> (Presented, Vec<String>) {
    let fields: String = lines.iter().map(|line| format!("Cookie: {line}\r\n")).collect();
    let mut head = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}Accept: */*\r\n\r\n").into_bytes();
    let servers = servers();
    let presented = request(&mut head, cookie, &servers, |server| servers[server].stick, NOW);
    let text = String::from_utf8(head).unwrap();
    assert!(text.starts_with("GET / HTTP/1.1\r\nHost: a.test\r\n") && text.ends_with("Accept: */*\r\n\r\n"), "{text}");
    (presented, text.lines().filter_map(|line| line.strip_prefix("Cookie: ")).map(Into::into).collect())
}

/// The lines of an answer with these fields, from server 1.
fn answer(cookie: &Cookie, server: usize, presented: Presented, fields: &[&str]) -> Vec<String> {
    let fields: String = fields.iter().map(|line| format!("{line}\r\n")).collect();
    let mut head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes();
    response(&mut head, cookie, (server, &servers()[server]), &presented, NOW);
    let text = String::from_utf8(head).unwrap();
    let lines = text.strip_prefix("HTTP/1.1 200 OK\r\n").and_then(|text| text.strip_suffix("\r\n")).unwrap();
    lines.lines().map(Into::into).collect()
}

fn date(seconds: u64) -> String {
    let mut text = String::new();
    to_base64(step(seconds), &mut text);
    text
}

#[test]
fn an_inserted_cookie_names_a_server_and_is_not_seen_by_it() {
    type Case<'a> = (&'a [&'a str], Option<usize>, &'a [&'a str]);
    let table: [Case<'_>; 20] = [
        (&[], None, &[]),
        (&["SRV=a"], Some(0), &[]),
        (&["SRV=bee"], Some(1), &[]),
        (&["SRV=b"], None, &[]),
        (&["SRV=sorry"], None, &[]),
        (&["SRV=gone"], None, &[]),
        (&["SRV="], None, &[]),
        (&["srv=a"], None, &["srv=a"]),
        (&["XSRV=a; SRVX=a"], None, &["XSRV=a; SRVX=a"]),
        (&["x=1; SRV=a; y=2"], Some(0), &["x=1; y=2"]),
        (&["SRV=a; y=2"], Some(0), &["y=2"]),
        (&["x=1; SRV=a"], Some(0), &["x=1"]),
        (&["x=1;SRV=a;y"], Some(0), &["x=1;y"]),
        (&["  SRV = a "], Some(0), &[]),
        (&["x=1", "SRV=a", "y=2"], Some(0), &["x=1", "y=2"]),
        (&["SRV=gone; SRV=bee; SRV=a"], Some(1), &[]),
        (&["SRV=\"a\""], None, &[]),
        (&["SRV"], None, &["SRV"]),
        (&["=a; ;;SRV=a=b;="], None, &["=a; ;;="]),
        (&["SRV=a\u{e9}\u{0}"], None, &[]),
    ];
    for (lines, server, left) in table {
        let (presented, seen) = ask(&cookie(CookieMode::Insert), lines);
        assert_eq!(
            (presented.server, &*seen),
            (server, &*left.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()),
            "{lines:?}"
        );
    }
}

#[test]
fn the_servers_own_cookies_are_passed_on_without_the_prefix() {
    type Case<'a> = (CookieMode, &'a str, Option<usize>, &'a str);
    let (rewrite, prefix) = (CookieMode::Rewrite, CookieMode::Prefix);
    let table: [Case<'_>; 11] = [
        (rewrite, "SRV=bee", Some(1), "SRV=bee"),
        (rewrite, "x=1; SRV=other", None, "x=1; SRV=other"),
        (rewrite, "SRV=a|AAAAA", None, "SRV=a|AAAAA"),
        (prefix, "SRV=bee~id", Some(1), "SRV=id"),
        (prefix, "x=1; SRV=a~id~more; y=2", Some(0), "x=1; SRV=id~more; y=2"),
        (prefix, "SRV=gone~id", None, "SRV=id"),
        (prefix, "SRV=~id", None, "SRV=id"),
        (prefix, "SRV=a~", Some(0), "SRV="),
        (prefix, "SRV=id", None, "SRV=id"),
        (prefix, "SRV=a", None, "SRV=a"),
        (prefix, "SRV=\"a~id\"", None, "SRV=id\""),
    ];
    for (mode, line, server, left) in table {
        let (presented, seen) = ask(&cookie(mode), &[line]);
        assert_eq!((presented.server, seen), (server, vec![left.to_owned()]), "{mode:?} {line}");
    }
}

#[test]
fn dates_end_a_cookie() {
    let (idle, life, both) = (dated(Some(60), None), dated(None, Some(600)), dated(Some(60), Some(600)));
    let d = |before: u64| date(NOW - before);
    let ahead = date(NOW + 2 * AHEAD);
    let table = [
        (&idle, format!("a|{}", d(0)), Some(0)),
        (&idle, format!("a|{}", d(60)), Some(0)),
        (&idle, format!("a|{}", d(70)), None),
        (&idle, "a".to_owned(), Some(0)),
        (&idle, "a|".to_owned(), Some(0)),
        (&idle, format!("a|{ahead}"), None),
        (&idle, format!("a|{}|{}", d(8), d(9_999)), Some(0)),
        (&life, format!("a|{}|{}", d(9_999), d(500)), Some(0)),
        (&life, format!("a|{}|{}", d(0), d(610)), None),
        (&life, format!("a|{}", d(0)), Some(0)),
        (&life, format!("a||{}", d(610)), None),
        (&both, format!("a|{}|{}", d(30), d(500)), Some(0)),
        (&both, format!("a|{}|{}", d(70), d(500)), None),
        (&both, format!("a|{}|{}|{}", d(0), d(0), d(0)), None),
        (&both, "a|AAA".to_owned(), None),
        (&both, "a|AA A\u{7f}".to_owned(), None),
        (&both, "a|AAAAAA".to_owned(), None),
        (&both, "a|/////|/////".to_owned(), None),
        // Nobody asks for dates, and those are none.
        (&dated(None, None), format!("a|{}|{}", d(9_999), d(9_999)), Some(0)),
    ];
    for (cookie, value, server) in table {
        assert_eq!(ask(cookie, &[&format!("SRV={value}")]).0.server, server, "{value}");
    }
}

#[test]
fn a_cookie_is_set_for_who_has_not_the_right_one() {
    let insert = cookie(CookieMode::Insert);
    let has = |server| Presented { server: Some(server), ..Presented::default() };
    let set = ["Set-Cookie: SRV=bee; path=/", "Cache-Control: private"];
    assert_eq!(answer(&insert, 1, Presented::default(), &[]), set);
    assert_eq!(answer(&insert, 1, has(0), &[]), set, "it went elsewhere");
    assert!(answer(&insert, 1, has(1), &[]).is_empty(), "it has it");
    assert!(answer(&insert, 2, Presented::default(), &[]).is_empty(), "nobody stays there");
    let all = Cookie {
        secure: true,
        http_only: true,
        same_site: Some(SameSite::Lax),
        domain: Some(".a.test".into()),
        ..insert.clone()
    };
    let line = "Set-Cookie: SRV=bee; path=/; domain=.a.test; HttpOnly; Secure; SameSite=Lax";
    assert_eq!(answer(&all, 1, Presented::default(), &[])[0], line);
    for (mine, kept) in [
        ("Set-Cookie: SRV=mine; path=/x", false),
        ("set-cookie:SRV=", false),
        ("Set-Cookie: SRVX=mine", true),
        ("Set-Cookie: x=SRV=1; SRV=2", true),
        ("X-Set-Cookie: SRV=1", true),
    ] {
        let expected: Vec<&str> = [mine].into_iter().filter(|_| kept).collect();
        assert_eq!(answer(&insert, 1, has(1), &["A: b", mine]), [vec!["A: b"], expected].concat());
    }
    for (control, ours) in [
        ("Cache-Control: max-age=60", true),
        ("Cache-Control: max-age=60, Private", false),
        ("cache-control:no-store", false),
        ("Cache-Control: no-cache", false),
        ("Cache-Control: public, s-maxage=1", true),
    ] {
        let lines = answer(&insert, 1, Presented::default(), &[control]);
        assert_eq!(lines.iter().any(|line| line == "Cache-Control: private"), ours, "{control}");
        assert_eq!(lines[0], control);
    }
}

#[test]
fn a_servers_cookie_is_rewritten_or_prefixed() {
    type Case<'a> = (CookieMode, usize, &'a str, &'a str);
    let (rewrite, prefix) = (CookieMode::Rewrite, CookieMode::Prefix);
    let table: [Case<'_>; 9] = [
        (rewrite, 1, "Set-Cookie: SRV=mine; path=/", "Set-Cookie: SRV=bee; path=/"),
        (rewrite, 1, "Set-Cookie: SRV=", "Set-Cookie: SRV=bee"),
        (rewrite, 1, "Set-Cookie:  SRV = mine ; x", "Set-Cookie:  SRV = bee ; x"),
        (rewrite, 1, "Set-Cookie: other=mine", "Set-Cookie: other=mine"),
        (rewrite, 2, "Set-Cookie: SRV=mine", "Set-Cookie: SRV=mine"),
        (prefix, 1, "Set-Cookie: SRV=id; path=/", "Set-Cookie: SRV=bee~id; path=/"),
        (prefix, 0, "set-cookie: SRV=a~id", "set-cookie: SRV=a~a~id"),
        (prefix, 2, "Set-Cookie: SRV=id", "Set-Cookie: SRV=~id"),
        (prefix, 1, "Set-Cookie: SRVX=id", "Set-Cookie: SRVX=id"),
    ];
    for (mode, server, line, expected) in table {
        assert_eq!(answer(&cookie(mode), server, Presented::default(), &[line, "A: b"]), [expected, "A: b"], "{line}");
    }
}

#[test]
fn dates_are_kept_up_to_date_and_the_first_one_stays() {
    let both = dated(Some(60), Some(600));
    let presented = |last: u64, first: u64| ask(&both, &[&format!("SRV=bee|{}|{}", date(last), date(first))]).0;
    let value = |lines: Vec<String>| lines.first().map(|line| line[16..line.find(';').unwrap()].to_owned());
    let now = date(NOW);
    assert_eq!(value(answer(&both, 1, Presented::default(), &[])), Some(format!("bee|{now}|{now}")));
    let old = presented(NOW - 40, NOW - 400);
    assert_eq!(value(answer(&both, 1, old, &[])), Some(format!("bee|{now}|{}", date(NOW - 400))));
    assert_eq!(value(answer(&both, 0, old, &[])), Some(format!("a|{now}|{}", date(NOW - 400))));
    assert_eq!(value(answer(&both, 1, presented(NOW, NOW - 400), &[])), None, "nothing is new");
    let over = presented(NOW - 40, NOW - 700);
    assert_eq!(value(answer(&both, 1, over, &[])), Some(format!("bee|{now}|{now}")), "its life was over");
    let dateless = ask(&both, &["SRV=bee"]).0;
    assert_eq!(value(answer(&both, 1, dateless, &[])), Some(format!("bee|{now}|{now}")));
    let wanted_no_more = Presented { server: Some(1), last: Some(1), first: None };
    assert_eq!(value(answer(&dated(None, None), 1, wanted_no_more, &[])), Some("bee".into()));
}

#[test]
fn dates_are_read_as_they_are_written() {
    assert_eq!((date(0), date(1), date(4 * 64)), ("AAAAA".into(), "AAAAB".into(), "AAABA".into()));
    for seconds in [0, 1, NOW, u64::from(u32::MAX) - 3] {
        assert_eq!(from_base64(date(seconds).as_bytes()), Some(step(seconds)));
    }
}

proptest! {
    #[test]
    fn whatever_a_client_sends_the_head_stays_one(
        mode in prop::sample::select(vec![CookieMode::Insert, CookieMode::Rewrite, CookieMode::Prefix]),
        lines in prop::collection::vec("[SRVabe=;,~|\" \\x80-\\xff-]{0,24}", 0..4),
    ) {
        let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
        let (presented, left) = ask(&Cookie { max_idle: Some(Duration::from_secs(60)), ..cookie(mode) }, &lines);
        prop_assert!(left.len() <= lines.len());
        prop_assert!(presented.server != Some(2));
        if mode == CookieMode::Insert {
            let named = |line: &String| crate::http::cookie::pairs(line.as_bytes()).any(|(name, _)| name == b"SRV");
            prop_assert!(!left.iter().any(named), "{left:?}");
        }
        answer(&cookie(mode), 1, presented, &["Set-Cookie: SRV=x", "A: b"]);
    }
}
