//! The PROXY protocol on real sockets: clients that another proxy announces, and servers that are told of them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use proxy_core::plan::{
    Action, Check, ClientAuth, ClientSupplied, Condition, Forwarded, HttpProbe, Plan, Probe, Rule, SendProxy, Sources,
};
use proxy_core::plane::LogDescriptors;
use proxy_core::proxy_protocol::{Header, MOST, Tlvs, local, read, write_v2};
use proxy_core::stats::ServerState;

use super::ends::{Ca, accept, ask, head, secure_back, secure_front, shake_hands_on};
use crate::data_support::http::{Peer, get, http, ok, stage};
use crate::data_support::{PATIENCE, at, client, echoes, listeners, nobody, plan, server, start, wait_for};

const V1: &str = "PROXY TCP4 192.0.2.1 192.0.2.9 40000 8443\r\n";

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Everybody is announced.
fn announced(plan: &mut Plan) {
    plan.frontends[0].binds[0].accept_proxy = Some(Vec::new());
}

/// The header of a connection, to its last byte; whatever is said of the client.
fn header(connection: &mut impl Read) -> Option<String> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    loop {
        connection.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
        if let Some(Header { ends, tlvs, .. }) = read(&bytes).unwrap() {
            let Some((client, own)) = ends else { return Some("nobody".into()) };
            let text = |value: Option<&[u8]>| value.map_or("-".into(), |value| value.escape_ascii().to_string());
            let Tlvs { alpn, authority, unique_id, ssl } = tlvs;
            let (alpn, authority, id, ssl) = (text(alpn), text(authority), text(unique_id), text(ssl));
            return Some(format!("{client} {own} alpn={alpn} authority={authority} id={id} ssl={ssl}"));
        }
    }
}

/// What a line of [`header`] says of this.
fn word<'a>(line: &'a str, name: &str) -> &'a str {
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).unwrap()
}

/// Answers with the number of the connection, what its header said, and `X-Forwarded-For`.
fn telling() -> (SocketAddr, Arc<AtomicUsize>) {
    let numbers = AtomicUsize::new(0);
    server(move |mut connection| {
        let number = numbers.fetch_add(1, SeqCst) + 1;
        let Some(said) = header(&mut connection) else { return };
        let mut peer = Peer::new(connection);
        while let Ok(Some(request)) = peer.request() {
            let forwarded = request.field("x-forwarded-for").unwrap_or("-").to_owned();
            peer.say(ok(&format!("{number} {said} forwarded={forwarded}")));
        }
    })
}

/// Says its header back, and then everything that it gets.
fn echoing() -> SocketAddr {
    let serve = |mut connection: TcpStream| {
        let Some(said) = header(&mut connection) else { return };
        connection.write_all(format!("{said}\n").as_bytes()).unwrap();
        crate::data_support::echo(connection);
    };
    server(serve).0
}

fn line(stream: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" && stream.read(&mut byte).unwrap() > 0 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

#[test]
fn an_announced_client_is_told_on_byte_for_byte_whatever_pieces_its_header_comes_in() {
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("none", nobody()), at("one", echoing())]);
    announced(&mut plan);
    (plan.backends[0].retries, plan.backends[0].redispatch) = (1, true);
    plan.backends[0].send_proxy = Some(SendProxy::V2);
    let _plane = start(plan, 1, sockets);
    let all = Tlvs {
        alpn: Some(b"h2"),
        authority: Some(b"b.test"),
        unique_id: Some(b"theirs"),
        ssl: Some(b"\x01\0\0\0\x01\x21\0\x07TLSv1.2"),
    };
    let mut told = Vec::new();
    write_v2(&mut told, socket("[2001:db8::1]:1"), socket("[2001:db8::2]:2"), &all);
    let mut padded = told.clone();
    let padding = [&[4][..], &3000_u16.to_be_bytes(), &[0; 3000]].concat();
    padded.extend_from_slice(&padding);
    let length = u16::try_from(padded.len() - 16).unwrap().to_be_bytes();
    padded[14..16].copy_from_slice(&length);
    let theirs = "[2001:db8::1]:1 [2001:db8::2]:2 alpn=h2 authority=b.test id=theirs \
        ssl=\\x01\\x00\\x00\\x00\\x01!\\x00\\x07TLSv1.2";
    for (header, expected) in
        [(V1.as_bytes(), "192.0.2.1:40000 192.0.2.9:8443 alpn=- authority=- id="), (&told, theirs), (&padded, theirs)]
    {
        for piece in [1, 7, 16, 4096] {
            let mut stream = client(address);
            stream.set_nodelay(true).unwrap();
            for piece in header.chunks(piece.max(header.len() / 100)) {
                stream.write_all(piece).unwrap();
            }
            let line = line(&mut stream);
            assert!(line.starts_with(expected), "{line}");
            assert!(echoes(&mut stream));
            let mut stream = client(address);
            stream.write_all(&[header, b"behind"].concat()).unwrap();
            assert!(self::line(&mut stream).starts_with(expected));
            let mut behind = [0; 6];
            stream.read_exact(&mut behind).unwrap();
            assert_eq!(&behind, b"behind");
        }
    }
}

#[test]
fn each_client_without_an_id_gets_one_of_its_own() {
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("one", echoing())]);
    plan.backends[0].send_proxy = Some(SendProxy::V2);
    let _plane = start(plan, 1, sockets);
    let ids: Vec<String> = (0..2)
        .map(|_| {
            let mut stream = client(address);
            let line = line(&mut stream);
            let own = stream.local_addr().unwrap();
            assert!(line.starts_with(&format!("{own} {address} alpn=-")), "{line}");
            let id = word(&line, "id").to_owned();
            assert!(id.starts_with(&format!("7F000001:{:X}_7F000001:{:X}_", own.port(), address.port())), "{id}");
            id
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn rules_and_limits_mean_the_announced_client() {
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("one", echoing())]);
    announced(&mut plan);
    plan.backends[0].send_proxy = Some(SendProxy::V1);
    plan.frontends[0].max_connections_per_source = Some(1);
    let source = |text: &str| Condition::Source(vec![Sources::Network(text.parse().unwrap())]);
    plan.frontends[0].rules = vec![
        Rule { when: Some(source("198.51.100.0/24")), action: Action::Reject { reset: true } },
        Rule { when: Some(Condition::Port(vec![25])), action: Action::Reject { reset: true } },
    ];
    let plane = start(plan, 1, sockets);
    let said = |header: &str| {
        let mut stream = client(address);
        stream.write_all(header.as_bytes()).unwrap();
        let mut byte = [0];
        let came = stream.read(&mut byte).unwrap_or(0) == 1;
        (came, stream)
    };
    let (served, first) = said(V1);
    assert!(served);
    assert!(!said("PROXY TCP4 198.51.100.1 192.0.2.9 1 80\r\n").0, "a rule rejects that source");
    assert!(!said("PROXY TCP4 192.0.2.2 192.0.2.9 1 25\r\n").0, "a rule rejects that port");
    assert!(!said(V1).0, "that source has its session");
    assert!(said("PROXY TCP4 192.0.2.2 192.0.2.9 1 80\r\n").0, "another one has none");
    // The connection's own: 127.0.0.1, which has a limit of its own.
    let (served, second) = said("PROXY UNKNOWN\r\n");
    assert!(served);
    drop((first, second));
    wait_for("all to have left", || plane.stats().sessions == 0);
    assert!(said(V1).0);
    assert_eq!(plane.stats().frontends[0].denied, 3);
}

#[test]
fn who_announces_nobody_as_it_should_is_refused_and_counted() {
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("one", echoing())]);
    plan.frontends[0].client_timeout = Duration::from_millis(300);
    plan.frontends[0].binds[0].accept_proxy = Some(vec!["127.0.0.2/32".parse().unwrap()]);
    let plane = start(plan.clone(), 1, sockets);
    let from = |ip: [u8; 4], header: &[u8]| {
        let stream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        stream.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        stream.connect(&address.into()).unwrap();
        let mut stream = TcpStream::from(stream);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // One that is refused for where it comes from is gone before it speaks.
        let _ = stream.write_all(header);
        stream
    };
    let refused = |ip, header: &[u8]| {
        let mut stream = from(ip, header);
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "{}", header.escape_ascii());
    };
    let (known, strange) = ([127, 0, 0, 2], [127, 0, 0, 1]);
    refused(strange, V1.as_bytes());
    refused(known, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(known, b"\x16\x03\x01\x02\0\x01");
    refused(known, b"PROXY TCP4 192.0.2.1\r\n");
    refused(known, &b"PROXY UNKNOWN ".repeat(8));
    let mut long = Vec::new();
    local(&mut long);
    long[14..16].copy_from_slice(&u16::try_from(MOST).unwrap().to_be_bytes());
    refused(known, &long);
    let mut wrong = Vec::new();
    write_v2(&mut wrong, socket("192.0.2.1:1"), socket("192.0.2.9:1"), &Tlvs::default());
    wrong[15] = 12 + 7;
    wrong.extend_from_slice(b"\x03\0\x04what");
    refused(known, &wrong);
    refused(known, b"PROXY TCP4 192.0.2.1 192");
    refused(known, b"");
    let stream = from(known, b"PROXY TCP4 192.0.2.1 192");
    stream.shutdown(Shutdown::Write).unwrap();
    let counted = || plane.stats().frontends[0].bad_proxy.clone();
    let expected = [
        ("checksum", 1),
        ("closed", 1),
        ("malformed", 1),
        ("missing", 2),
        ("source", 1),
        ("timeout", 2),
        ("too_long", 2),
    ];
    wait_for("all to be counted", || counted().values().sum::<u64>() == 10);
    assert_eq!(counted(), expected.map(|(why, count)| (why.to_owned(), count)).into());
    wait_for("all to have left", || plane.stats().sessions == 0);
    assert_eq!(plane.stats().backends[0].servers[0].total, 0);
}

#[test]
fn a_header_comes_before_tls_and_servers_hear_of_the_clients_tls_before_their_own() {
    let ca = Ca::new();
    let config = Arc::new(ca.server(&["b.test"]));
    let (behind, _) = server(move |mut connection| {
        let Some(said) = header(&mut connection) else { return };
        let mut stream = accept(connection, &config);
        while head(&mut stream).is_ok_and(|head| !head.is_empty()) {
            stream.write_all(ok(&said).as_bytes()).unwrap();
            stream.flush().unwrap();
        }
    });
    let (address, plane) = stage(vec![at("one", behind)], |plan| {
        secure_front(plan, &ca);
        secure_back(plan, &ca);
        announced(plan);
        plan.tls[0].alpn = vec!["http/1.1".into()];
        plan.tls[0].client_auth = Some(ClientAuth { authority: 0, required: false });
        plan.backends[0].send_proxy = Some(SendProxy::V2);
    });
    let mut with = ca.client_with_certificate();
    with.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (with, without) = (Arc::new(with), Arc::new(ca.client()));
    let come = |config| {
        let mut socket = client(address);
        socket.write_all(V1.as_bytes()).unwrap();
        let mut stream = shake_hands_on("a.test", socket, config).unwrap();
        let said = ask(&mut stream, get("/").as_bytes()).unwrap();
        let again = ask(&mut stream, get("/").as_bytes()).unwrap();
        assert_eq!(said, again, "the second request goes the same way");
        String::from_utf8(said).unwrap()
    };
    let said = come(&with);
    assert!(
        said.starts_with("192.0.2.1:40000 192.0.2.9:8443 alpn=http/1.1 authority=a.test id=C0000201:9C40_"),
        "{said}"
    );
    // rcgen's name for whom it isn't told one.
    let certified = |bits: u8| format!(r#"ssl=\x{bits:02x}\x00\x00\x00\x00!\x00\x07TLSv1.3\"\x00\x16rcgen"#);
    assert!(said.contains(&certified(7)), "{said}");
    // Its certificate is of the session that it resumes.
    let said = come(&with);
    assert!(said.contains(&certified(5)), "{said}");
    let said = come(&without);
    assert!(
        said.contains(" alpn=- authority=a.test ") && said.ends_with("ssl=\\x01\\x00\\x00\\x00\\x01!\\x00\\x07TLSv1.3"),
        "{said}"
    );
    // Without a header there is no handshake.
    assert!(shake_hands_on("a.test", client(address), &with).is_err());
    wait_for("it to be counted", || plane.stats().frontends[0].bad_proxy.get("missing") == Some(&1));
    assert_eq!(plane.stats().frontends[0].tls.as_ref().unwrap().failed.len(), 0);
}

#[test]
fn a_servers_connection_that_names_a_client_serves_nobody_else() {
    let (behind, connections) = telling();
    let (address, plane) = stage(vec![at("one", behind)], |plan| {
        announced(plan);
        plan.backends[0].send_proxy = Some(SendProxy::V1);
        http(plan).forwarded =
            Some(Forwarded { except: Vec::new(), client_supplied: ClientSupplied::Append, rfc7239: false });
    });
    let come = |ip: &str| {
        let mut peer = Peer::to(address);
        peer.say(format!("PROXY TCP4 {ip} 192.0.2.9 1 80\r\n{}", get("/first")));
        let first = peer.answer().unwrap();
        (peer, first.text().to_owned())
    };
    let (mut ann, first) = come("192.0.2.1");
    assert_eq!(first, "1 192.0.2.1:1 192.0.2.9:80 alpn=- authority=- id=- ssl=- forwarded=192.0.2.1");
    let (mut bob, other) = come("192.0.2.2");
    assert_eq!(other, "2 192.0.2.2:1 192.0.2.9:80 alpn=- authority=- id=- ssl=- forwarded=192.0.2.2");
    for _ in 0..3 {
        assert_eq!((ann.get("/").text(), bob.get("/").text()), (&*first, &*other));
    }
    assert_eq!(connections.load(SeqCst), 2, "each goes on with its own");
    drop(ann);
    wait_for("her connection to be closed with hers", || plane.stats().workers[0].server_connections == 1);
    let (_cem, third) = come("192.0.2.1");
    assert!(third.starts_with("3 192.0.2.1:1 "), "{third}");
}

#[test]
fn a_client_with_several_servers_goes_where_the_balance_says_and_names_itself_at_each() {
    let (one, at_one) = telling();
    let (two, at_two) = telling();
    let (address, _plane) = stage(vec![at("one", one), at("two", two)], |plan| {
        plan.backends[0].send_proxy = Some(SendProxy::V2);
    });
    let mut peer = Peer::to(address);
    let own = peer.stream().local_addr().unwrap().to_string();
    let mut ids = Vec::new();
    for _ in 0..6 {
        let said = peer.get("/").text().to_owned();
        assert_eq!(said.split(' ').nth(1), Some(&*own), "{said}");
        ids.push(word(&said, "id").to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "it is one client: {ids:?}");
    assert!(at_one.load(SeqCst) > 0 && at_two.load(SeqCst) > 0, "it stayed with one of them");
}

#[test]
fn checks_say_that_they_are_nobodys_or_whose_they_are() {
    for (how, expected) in [(SendProxy::V1, "127.0.0.1:"), (SendProxy::V2, "nobody")] {
        let (behind, _) = server(move |mut connection| {
            let Some(said) = header(&mut connection) else { return };
            let mut peer = Peer::new(connection);
            while let Ok(Some(_)) = peer.request() {
                let status = if said.starts_with(expected) { "200 OK" } else { "400 Bad Request" };
                peer.say(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
            }
        });
        let check = Check {
            probe: Probe::Http(HttpProbe::default()),
            send_proxy: Some(how),
            interval: Duration::from_millis(20),
            ..Check::default()
        };
        let (_, plane) = stage(vec![at("one", behind)], |plan| plan.backends[0].check = Some(check.clone()));
        wait_for("the server to be up", || plane.stats().backends[0].servers[0].state == ServerState::Up);
    }
}

#[test]
fn what_a_bind_accepts_changes_with_the_plan() {
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("one", server(crate::data_support::echo).0)]);
    let mut plane = start(plan.clone(), 1, sockets);
    assert!(echoes(&mut client(address)));
    announced(&mut plan);
    plane.apply(plan, Vec::new(), &[], LogDescriptors::new()).unwrap();
    wait_for("the header to be taken", || {
        let mut stream = client(address);
        stream.write_all(V1.as_bytes()).unwrap();
        stream.write_all(b"x").unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        &first == b"x"
    });
}
