//! Heads read by the parser and sent on: case by case, and against a model that goes field by field.

use proptest::prelude::*;

use super::super::edits::tests::{edits, step_by_step};
use super::*;
use crate::http::head::{self, Asked, Framing, Hop};
use crate::plan::{self, ClientCertField, ClientSupplied, HeaderEdit};

fn ends() -> Ends {
    Ends { client: "198.51.100.7:40000".parse().unwrap(), own: "192.0.2.9:8080".parse().unwrap(), tls: false }
}

fn forwarding(client_supplied: ClientSupplied, rfc7239: bool) -> Forwarding {
    Forwarding::new(&plan::Forwarded { except: vec!["127.0.0.0/8".parse().unwrap()], client_supplied, rfc7239 })
}

/// What is done with a request, other than with an ordinary one.
struct Wish<'a> {
    target: Option<&'a str>,
    ends: Ends,
    forwarding: Option<Forwarding>,
    client_cert: ClientCert<'a>,
    edits: &'a [HeaderEdit],
    connection: Connection,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Wish {
            target: None,
            ends: ends(),
            forwarding: None,
            client_cert: ClientCert::default(),
            edits: &[],
            connection: Connection::Persistent,
        }
    }
}

/// What is sent on of this request, and whether as it lies there.
fn forwarded(wish: &Wish<'_>, bytes: &str) -> (String, bool) {
    let mut slots = head::slots();
    let request = head::request(&mut slots, bytes.as_bytes()).expect("it is allowed").expect("it is whole");
    let head = RequestHead {
        bytes: bytes.as_bytes(),
        request: &request,
        target: wish.target,
        ends: &wish.ends,
        forwarding: wish.forwarding.as_ref(),
        client_cert: wish.client_cert,
        edits: wish.edits.iter(),
        connection: wish.connection,
    };
    let mut out = b"before".to_vec();
    head.write(&mut out);
    let out = String::from_utf8(out).unwrap();
    let out = out.strip_prefix("before").expect("what was there stays");
    let same = head.as_it_is().map(|same| std::str::from_utf8(same).expect("the test's are text"));
    assert!(same.is_none_or(|same| same == out), "{same:?} is not {out:?}");
    (out.to_owned(), same.is_some())
}

fn sent(wish: &Wish<'_>, bytes: &str) -> String {
    forwarded(wish, bytes).0
}

fn is_sent_as_it_is(wish: &Wish<'_>, bytes: &str) -> bool {
    forwarded(wish, bytes).1
}

fn answered(bytes: &str, edits: &[HeaderEdit], connection: Connection, dechunked: bool) -> (String, bool) {
    let mut slots = head::slots();
    let response = head::response(&mut slots, bytes.as_bytes(), Asked::Other).expect("it is allowed").expect("whole");
    let head =
        ResponseHead { bytes: bytes.as_bytes(), response: &response, edits: edits.iter(), connection, dechunked };
    let mut out = Vec::new();
    head.write(&mut out);
    let same = head.as_it_is();
    assert!(same.is_none_or(|same| same == out));
    (String::from_utf8(out).unwrap(), same.is_some())
}

#[test]
fn a_request_with_nothing_to_change_is_sent_as_it_is() {
    let request = "GET /a?b HTTP/1.1\r\nhost:  a.test \r\nX-oDD:\tv\r\n\r\n";
    assert!(is_sent_as_it_is(&Wish::default(), request));
    assert_eq!(sent(&Wish::default(), request), request);
    // The empty line that was ignored before it isn't sent, nor is what follows the head.
    assert_eq!(sent(&Wish::default(), &format!("\r\n{request}GET /next")), request);

    let edits = [HeaderEdit::Remove("A".into())];
    let trusted = Ends { client: "127.0.0.1:40000".parse().unwrap(), ..ends() };
    let told = || Some(forwarding(ClientSupplied::Append, false));
    assert!(is_sent_as_it_is(&Wish { ends: trusted, forwarding: told(), ..Wish::default() }, request));
    for wish in [
        Wish { forwarding: told(), ..Wish::default() },
        Wish { edits: &edits, ..Wish::default() },
        Wish { target: Some("/c"), ..Wish::default() },
        Wish { connection: Connection::Close, ..Wish::default() },
    ] {
        assert!(!is_sent_as_it_is(&wish, request));
    }
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n",
    ] {
        assert!(!is_sent_as_it_is(&Wish::default(), request), "{request}");
    }
}

#[test]
fn what_concerns_the_clients_connection_alone_stays_behind() {
    let request = "GET / HTTP/1.1\r\nConnection: keep-alive, X-Mine\r\nHost: a.test\r\nKeep-Alive: timeout=5\r\n\
        X-Mine: 1\r\nx-YOURS: 2\r\nUpgrade: h2c\r\nProxy-Connection: close\r\n\r\n";
    assert_eq!(sent(&Wish::default(), request), "GET / HTTP/1.1\r\nHost: a.test\r\nx-YOURS: 2\r\n\r\n");
}

#[test]
fn an_upgrade_that_passes_names_its_protocols_anew() {
    let request = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: h2c, WebSocket\r\n\
        Upgrade: other/1\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(
        sent(&Wish { connection: Connection::Upgrade, ..Wish::default() }, request),
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nSec-WebSocket-Version: 13\r\nConnection: upgrade\r\n\
        Upgrade: WebSocket, other/1\r\n\r\n"
    );
    let (switched, _) = answered(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: y\r\n\r\n",
        &[],
        Connection::Upgrade,
        false,
    );
    assert_eq!(
        switched,
        "HTTP/1.1 101 Switching Protocols\r\nX: y\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
}

#[test]
fn an_absolute_form_goes_on_in_origin_form_with_its_host() {
    for (request, expected) in [
        ("GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /x?y HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        (
            "GET HTTP://a.test HTTP/1.1\r\nHost: a.test\r\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\r\n\r\n",
        ),
        ("OPTIONS http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        ("GET http://a.test:81/ HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.test:81\r\n\r\n"),
    ] {
        assert_eq!(sent(&Wish::default(), request), expected);
    }
}

#[test]
fn an_old_client_that_names_no_host_means_the_address_it_came_to() {
    let at = |own: &str, tls| Wish { ends: Ends { own: own.parse().unwrap(), tls, ..ends() }, ..Wish::default() };
    for (wish, host) in [
        (at("192.0.2.9:8080", false), "192.0.2.9:8080"),
        (at("192.0.2.9:80", false), "192.0.2.9"),
        (at("192.0.2.9:443", false), "192.0.2.9:443"),
        (at("192.0.2.9:443", true), "192.0.2.9"),
        (at("[2001:db8::9]:80", false), "[2001:db8::9]"),
        (at("[2001:db8::9]:81", false), "[2001:db8::9]:81"),
        (at("[::ffff:192.0.2.9]:80", false), "192.0.2.9"),
    ] {
        assert_eq!(sent(&wish, "GET / HTTP/1.0\r\n\r\n"), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    let named = sent(&Wish::default(), "GET / HTTP/1.0\r\nHOST: a.test\r\n\r\n");
    assert_eq!(named, "GET / HTTP/1.1\r\nHOST: a.test\r\n\r\n");
    let edits = [HeaderEdit::Set("Host".into(), "inner.test".into())];
    let set = sent(&Wish { edits: &edits, ..Wish::default() }, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(set, "GET / HTTP/1.1\r\nHost: inner.test\r\n\r\n");
}

#[test]
fn a_new_path_is_asked_for_in_place_of_the_old_one() {
    let wish = Wish { target: Some("/new?q"), ..Wish::default() };
    assert_eq!(sent(&wish, "GET /old?q HTTP/1.1\r\nHost: a\r\n\r\n"), "GET /new?q HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(sent(&wish, "\r\nGET http://a/old HTTP/1.0\r\n\r\n"), "GET /new?q HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn a_server_connection_that_ends_with_the_request_is_announced() {
    let wish = Wish { connection: Connection::Close, ..Wish::default() };
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(sent(&wish, request), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
}

#[test]
fn servers_learn_of_the_client_after_what_it_said_itself_or_instead() {
    let request = "GET / HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1\r\nHost: A.test\r\nforwarded: for=x\r\n\
        X-FORWARDED-PROTO: https\r\nX-Forwarded-Host: evil\r\nX: y\r\n\r\n";
    let ours = "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: A.test\r\n";
    let told = |client_supplied, rfc7239| {
        sent(&Wish { forwarding: Some(forwarding(client_supplied, rfc7239)), ..Wish::default() }, request)
    };
    assert_eq!(
        told(ClientSupplied::Append, false),
        format!(
            "GET / HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1\r\nHost: A.test\r\nforwarded: for=x\r\nX: y\r\n{ours}\r\n"
        )
    );
    assert_eq!(
        told(ClientSupplied::Remove, true),
        format!(
            "GET / HTTP/1.1\r\nHost: A.test\r\nX: y\r\n{ours}Forwarded: for=198.51.100.7;host=A.test;proto=http\r\n\r\n"
        )
    );
}

#[test]
fn an_edit_of_the_scheme_is_not_sent_twice() {
    let edits = [HeaderEdit::Set("x-forwarded-proto".into(), "https".into())];
    let forwarding = Some(forwarding(ClientSupplied::Append, false));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: ftp\r\n\r\n";
    assert_eq!(
        sent(&Wish { edits: &edits, forwarding, ..Wish::default() }, request),
        "GET / HTTP/1.1\r\nHost: a\r\nx-forwarded-proto: https\r\nX-Forwarded-For: 198.51.100.7\r\n\
        X-Forwarded-Host: a\r\n\r\n"
    );
}

#[test]
fn a_client_never_speaks_for_its_own_certificate() {
    let headers =
        [(ClientCertField::Subject, "X-Client".to_owned()), (ClientCertField::Verified, "X-Verified".to_owned())];
    let client_cert = ClientCert { headers: &headers, identity: None };
    let request = "GET / HTTP/1.1\r\nx-client: CN=admin\r\nHost: a\r\nX_Verified: SUCCESS\r\nX-Client: CN=root\r\n\r\n";
    assert_eq!(
        sent(&Wish { client_cert, ..Wish::default() }, request),
        "GET / HTTP/1.1\r\nHost: a\r\nX-Verified: NONE\r\n\r\n"
    );
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(!is_sent_as_it_is(&Wish { client_cert, ..Wish::default() }, plain));
    let only_when_there = ClientCert { headers: &headers[..1], identity: None };
    assert_eq!(sent(&Wish { client_cert: only_when_there, ..Wish::default() }, plain), plain);
}

#[test]
fn a_response_is_sent_as_it_is_unless_something_concerns_the_connection() {
    let plain = "HTTP/1.1 200 Fine  so far\r\nserver: x\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(answered(&format!("{plain}abc"), &[], Connection::Persistent, false), (plain.to_owned(), true));
    let old = "HTTP/1.0 404 \r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(
        answered(old, &[], Connection::Persistent, false),
        ("HTTP/1.1 404 \r\nContent-Length: 3\r\n\r\n".to_owned(), false)
    );
    for (connection, line) in [(Connection::Close, "close"), (Connection::KeepAlive, "keep-alive")] {
        let expected = format!("{}Connection: {line}\r\n\r\n", &plain[..plain.len() - 2]);
        assert_eq!(answered(plain, &[], connection, false), (expected, false));
    }
}

#[test]
fn a_response_whose_chunks_are_taken_apart_names_no_coding() {
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n";
    assert_eq!(
        answered(response, &[], Connection::Close, true).0,
        "HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(answered(response, &[], Connection::Persistent, false).0, response);
}

#[test]
fn headers_of_a_response_are_edited() {
    let edits = [
        HeaderEdit::Remove("SERVER".into()),
        HeaderEdit::Set("X-Frame-Options".into(), "SAMEORIGIN".into()),
        HeaderEdit::Add("Via".into(), "us".into()),
    ];
    let response = "HTTP/1.1 200 OK\r\nServer: x\r\nx-frame-options: DENY\r\nVia: them\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        answered(response, &edits, Connection::Persistent, false),
        (
            "HTTP/1.1 200 OK\r\nVia: them\r\nContent-Length: 0\r\nX-Frame-Options: SAMEORIGIN\r\nVia: us\r\n\r\n"
                .to_owned(),
            false
        )
    );
}

/// A head with these fields, of which any may be hop-by-hop.
fn fields() -> impl Strategy<Value = Vec<(String, String, bool)>> {
    let name = prop_oneof![
        super::super::edits::tests::name(),
        prop::sample::select(vec!["Forwarded", "Connection", "X-Long-Name-17-chr"]).prop_map(str::to_owned),
    ];
    prop::collection::vec((name, "[0-9]{0,4}", prop::bool::weighted(0.2)), 0..12)
}

type Fields = Vec<(String, String)>;

/// First line and fields of a head, in which nothing else is.
fn read(head: &str) -> (String, Fields) {
    let head = head.strip_suffix("\r\n\r\n").expect("it ends with an empty line");
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap().to_owned();
    let field = |line: &str| {
        let (name, value) = line.split_once(':').expect("a field has a colon");
        (name.to_owned(), value.trim().to_owned())
    };
    (first, lines.map(field).collect())
}

proptest! {
    #[test]
    fn a_request_goes_on_with_what_a_field_by_field_model_says(
        fields in fields(),
        edits in edits(),
        told in prop::option::of((any::<bool>(), any::<bool>())),
        target in prop::option::of(Just("/new?path")),
        close in any::<bool>(),
        next in prop::sample::select(vec!["", "GET / HTTP/1.1\r\n", "\0"]),
    ) {
        let mut bytes = "PUT /old?q=1 HTTP/1.1\r\nHost: A.test\r\n".to_owned();
        fields.iter().for_each(|(name, value, _)| bytes += &format!("{name}:{value}\r\n"));
        bytes += "\r\n";
        let length = bytes.len();
        bytes += next;
        // Any field may be hop-by-hop here: what makes one so is the parser's business.
        let mut slots = head::slots();
        let mut parsed = httparse::Request::new(&mut []);
        parsed.parse_with_uninit_headers(bytes.as_bytes(), &mut slots).expect("it is a request");
        let hop_by_hop = (1..).zip(&fields).fold(0, |bits, (index, (_, _, hop))| bits | u128::from(*hop) << index);
        let request = Request {
            method: "PUT",
            target: "/old?q=1",
            absolute: false,
            version: Version::Http11,
            host: Some("A.test"),
            fields: parsed.headers,
            framing: Framing::Empty,
            hop: Hop { persistent: true, upgrade: false, connection_auth: false, hop_by_hop },
            expects_continue: false,
            length,
            start: 0,
        };
        let supplied = |remove| if remove { ClientSupplied::Remove } else { ClientSupplied::Append };
        let forwarding = told.map(|(remove, rfc7239)| forwarding(supplied(remove), rfc7239));
        let head = RequestHead {
            bytes: bytes.as_bytes(),
            request: &request,
            target,
            ends: &ends(),
            forwarding: forwarding.as_ref(),
            client_cert: ClientCert::default(),
            edits: edits.iter(),
            connection: if close { Connection::Close } else { Connection::Persistent },
        };
        let mut out = Vec::new();
        head.write(&mut out);
        if let Some(same) = head.as_it_is() {
            prop_assert_eq!(same, &out);
        }

        let mut expected: Fields = vec![("Host".into(), "A.test".into())];
        let stay = fields.iter().filter(|(_, _, hop)| !hop).map(|(name, value, _)| (name.clone(), value.clone()));
        expected.extend(stay);
        if let Some((remove, _)) = told {
            let ours: &[&str] = if remove {
                &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"]
            } else {
                &["x-forwarded-proto", "x-forwarded-host"]
            };
            expected.retain(|(name, _)| !ours.contains(&name.to_ascii_lowercase().as_str()));
        }
        let before = expected.clone();
        step_by_step(&mut expected, &edits);
        if let Some((_, rfc7239)) = told {
            let edited: Vec<_> = {
                let mut alone = Fields::new();
                step_by_step(&mut alone, &edits);
                alone.into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
            };
            expected.push(("X-Forwarded-For".into(), "198.51.100.7".into()));
            for (name, value) in [("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "A.test")] {
                if !edited.contains(&name.to_ascii_lowercase()) {
                    expected.push((name.into(), value.into()));
                }
            }
            if rfc7239 {
                expected.push(("Forwarded".into(), "for=198.51.100.7;host=A.test;proto=http".into()));
            }
        }
        if close {
            expected.push(("Connection".into(), "close".into()));
        }
        let line = format!("PUT {} HTTP/1.1", target.unwrap_or("/old?q=1"));
        prop_assert_eq!(read(std::str::from_utf8(&out).unwrap()), (line, expected), "before edits: {:?}", before);
    }

    #[test]
    fn a_response_goes_on_with_what_a_field_by_field_model_says(
        fields in fields(),
        edits in edits(),
        old in any::<bool>(),
        chunked in any::<bool>(),
        dechunked in any::<bool>(),
    ) {
        let version = if old { Version::Http10 } else { Version::Http11 };
        let mut bytes = format!("HTTP/1.{} 203 So so\r\n", u8::from(!old));
        fields.iter().for_each(|(name, value, _)| bytes += &format!("{name}: {value} \r\n"));
        bytes += if chunked { "transfer-ENCODING: chunked\r\n\r\n" } else { "\r\n" };
        let mut slots = head::slots();
        let mut parsed = httparse::Response::new(&mut []);
        httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, bytes.as_bytes(), &mut slots)
            .expect("it is a response");
        let hop_by_hop = (0..).zip(&fields).fold(0, |bits, (index, (_, _, hop))| bits | u128::from(*hop) << index);
        let response = Response {
            version,
            status: 203,
            reason: "So so",
            fields: parsed.headers,
            framing: Framing::UntilClose,
            hop: Hop { persistent: true, upgrade: false, connection_auth: false, hop_by_hop },
            length: bytes.len(),
        };
        let (bytes, connection) = (bytes.as_bytes(), Connection::Persistent);
        let head = ResponseHead { bytes, response: &response, edits: edits.iter(), connection, dechunked };
        let mut out = Vec::new();
        head.write(&mut out);
        if let Some(same) = head.as_it_is() {
            prop_assert_eq!(same, &out);
        }

        let stay = fields.iter().filter(|(_, _, hop)| !hop).map(|(name, value, _)| (name.clone(), value.clone()));
        let mut expected: Fields = stay.collect();
        if chunked && !dechunked {
            expected.push(("transfer-ENCODING".into(), "chunked".into()));
        }
        step_by_step(&mut expected, &edits);
        let out = std::str::from_utf8(&out).unwrap();
        prop_assert_eq!(read(out), ("HTTP/1.1 203 So so".to_owned(), expected));
    }

    #[test]
    fn what_was_sent_on_needs_no_second_cleaning(
        lines in prop::collection::vec(
            prop::sample::select(vec![
                "Connection: keep-alive, X-Mine",
                "connection: Upgrade,,close",
                "Keep-Alive: timeout=5",
                "Proxy-Connection: x",
                "TE: trailers",
                "te: gzip",
                "Upgrade: websocket",
                "HTTP2-Settings: x",
                "X-Mine: 1",
                "X-Forwarded-For: 10.0.0.1",
                "Cookie: a=b",
            ]),
            0..8,
        ),
        line in prop::sample::select(vec![
            "GET / HTTP/1.1\r\nHost: a",
            "GET http://a HTTP/1.1\r\nHost: a",
            "POST /x?y HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a:80",
            "POST /x HTTP/1.0\r\nContent-Length: 5",
            "\r\nOPTIONS * HTTP/1.1\r\nhost:a",
        ]),
        told in any::<bool>(),
    ) {
        let request = [&[line], lines.as_slice()].concat().join("\r\n") + "\r\n\r\n";
        let forwarding = told.then(|| forwarding(ClientSupplied::Append, true));
        let once = sent(&Wish { forwarding, ..Wish::default() }, &request);
        prop_assert_eq!(forwarded(&Wish::default(), &once), (once.clone(), true), "{}", request);
    }
}
