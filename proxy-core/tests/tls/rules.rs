//! What TLS tells of a client decides where it goes, and what its server hears of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::plan::{Action, ClientAuth, ClientCertField, Condition, Pattern, Plan, Reply, Rule, Text};
use rustls::{ClientConfig, ClientConnection};

use super::ends::{Ca, accept, ask, head, secure_front, shake_hands, shake_hands_with};
use crate::data_support::http::{get, http, ok, stage};
use crate::data_support::{PATIENCE, Plane, at, client, listeners, pace, plan, server, start};

fn is(text: &str) -> Text {
    Text { any: vec![Pattern::Is(text.into())], ignore_case: false }
}

fn when(condition: Condition, action: Action) -> Rule {
    Rule { when: Some(condition), action }
}

/// A TLS server that says its name and goes.
fn named(ca: &Ca, name: &'static str) -> SocketAddr {
    let config = Arc::new(ca.server(&[name]));
    let (address, _) = server(move |socket| {
        let mut stream = accept(socket, &config);
        let _ = stream.write_all(name.as_bytes()).and_then(|()| stream.flush());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    address
}

/// Says hello before anybody else does, and listens to no one.
fn greeter() -> SocketAddr {
    let greet = |mut socket: TcpStream| {
        let _ = socket.write_all(b"220 ready").and_then(|()| socket.shutdown(Shutdown::Write));
        // Closed with bytes that nobody read, it would be a reset.
        let _ = socket.read_to_end(&mut Vec::new());
    };
    server(greet).0
}

/// TLS passed on to `a.test` and `b.test` by the name asked for; everything else goes to the greeter.
fn passes_on(ca: &Ca, change: impl FnOnce(&mut Plan)) -> (SocketAddr, Plane) {
    let (address, sockets) = listeners(1);
    let mut plan = plan(address, vec![at("greeter", greeter())]);
    for (index, name) in ["a.test", "b.test"].into_iter().enumerate() {
        let mut backend = plan.backends[0].clone();
        (backend.name, backend.servers) = (name.into(), vec![at(name, named(ca, name))]);
        plan.backends.push(backend);
        plan.frontends[0].rules.push(when(Condition::Sni(is(name)), Action::UseBackend(index + 1)));
    }
    change(&mut plan);
    (address, start(plan, 1, sockets))
}

fn all(stream: &mut impl Read) -> String {
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    all
}

#[test]
fn tls_that_is_passed_on_goes_where_its_hello_says() {
    let ca = Ca::new();
    let (address, _plane) = passes_on(&ca, |_| {});
    let config = Arc::new(ca.client());
    for name in ["a.test", "b.test", "a.test"] {
        assert_eq!(all(&mut shake_hands_with(name, address, &config).unwrap()), name);
    }
    assert!(shake_hands_with("c.test", address, &config).is_err(), "the greeter speaks no TLS");
    let mut plain = client(address);
    plain.write_all(b"EHLO client\r\n").unwrap();
    assert_eq!(all(&mut plain), "220 ready");
}

#[test]
fn by_the_protocols_on_offer_as_well() {
    let ca = Ca::new();
    let (address, _plane) = passes_on(&ca, |plan| {
        plan.frontends[0].rules = vec![when(Condition::Alpn(vec!["h2".into()]), Action::UseBackend(1))];
    });
    let mut config = ca.client();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    assert_eq!(all(&mut shake_hands(address, &Arc::new(config)).unwrap()), "a.test");
    assert!(shake_hands(address, &Arc::new(ca.client())).is_err());
}

/// What a client of `b.test` says first.
fn hello(config: ClientConfig) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = "b.test".try_into().unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_hello_that_comes_in_pieces_is_waited_for_and_nothing_of_it_is_lost() {
    /// Sends byte by byte, for as long as it takes the other side to look at each.
    struct Slow(TcpStream);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            for piece in bytes.chunks(40) {
                self.0.write_all(piece)?;
                pace(Duration::from_millis(5));
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let ca = Ca::new();
    let (address, _plane) = passes_on(&ca, |_| {});
    let mut socket = Slow(client(address));
    socket.0.set_nodelay(true).unwrap();
    let name = "b.test".try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(ca.client()), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).unwrap();
    }
    assert_eq!(all(&mut rustls::Stream::new(&mut connection, &mut socket)), "b.test");
}

#[test]
fn who_says_nothing_is_served_without_it_after_a_while_and_who_has_gone_at_once() {
    let ca = Ca::new();
    let limit = Duration::from_millis(300);
    let (address, _plane) = passes_on(&ca, |plan| plan.frontends[0].client_timeout = limit);
    let began = Instant::now();
    assert_eq!(all(&mut client(address)), "220 ready");
    assert!(began.elapsed() >= limit, "nobody waited for a hello");

    let (address, _plane) = passes_on(&ca, |_| {});
    let began = Instant::now();
    let half = hello(ca.client());
    let mut socket = client(address);
    socket.write_all(&half[..half.len() / 2]).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all(&mut socket), "220 ready");
    assert!(began.elapsed() < PATIENCE / 3, "what had ended was waited for");
}

#[test]
fn a_frontend_whose_rules_ask_for_no_hello_waits_for_none() {
    let ca = Ca::new();
    let (address, _plane) = passes_on(&ca, |plan| plan.frontends[0].rules.clear());
    let began = Instant::now();
    assert_eq!(all(&mut client(address)), "220 ready");
    assert!(began.elapsed() < PATIENCE / 3);
}

#[test]
fn a_server_hears_who_the_client_is_from_us_alone() {
    let ca = Ca::new();
    // Answers with the head that came.
    let (behind, _) = server(|mut socket| {
        while let Ok(head) = head(&mut socket)
            && !head.is_empty()
            && socket.write_all(ok(&head).as_ref()).is_ok()
        {}
    });
    let (address, _plane) = stage(vec![at("one", behind)], |plan| {
        secure_front(plan, &ca);
        plan.authorities.push(ca.authority());
        plan.tls[0].client_auth = Some(ClientAuth { authority: 0, required: false });
        plan.frontends[0].rules = vec![when(
            Condition::All(vec![
                Condition::Path(is("/rule")),
                Condition::ClientCert(Text { any: vec![Pattern::Contains("CN=".into())], ignore_case: false }),
            ]),
            Action::Return(Reply { status: 200, body: Some("known".into()), content_type: "text/plain".into() }),
        )];
        http(plan).client_cert_headers = vec![
            (ClientCertField::Verified, "X-Verified".into()),
            (ClientCertField::Subject, "X-Subject".into()),
            (ClientCertField::Certificate, "Client-Cert".into()),
        ];
    });
    let lie =
        "GET / HTTP/1.1\r\nHost: a.test\r\nX-Verified: SUCCESS\r\nX_Subject: CN=admin\r\nclient-cert: :AA==:\r\n\r\n";
    let heard = |config: ClientConfig| {
        let config = Arc::new(config);
        // A session that is resumed is of the same client.
        let heads = [(); 2].map(|()| {
            let mut stream = shake_hands(address, &config).unwrap();
            let head = String::from_utf8(ask(&mut stream, lie.as_bytes()).unwrap()).unwrap();
            let by_rule = ask(&mut stream, get("/rule").as_bytes()).unwrap();
            (head, by_rule == b"known")
        });
        assert_eq!(heads[0], heads[1]);
        heads.into_iter().next().unwrap()
    };
    let (stranger, known) = heard(ca.client());
    assert_eq!(stranger, "GET / HTTP/1.1\r\nHost: a.test\r\nX-Verified: NONE\r\n\r\n");
    assert!(!known);
    let (client, known) = heard(ca.client_with_certificate());
    let ours = client.strip_prefix("GET / HTTP/1.1\r\nHost: a.test\r\nX-Verified: SUCCESS\r\nX-Subject: CN=").unwrap();
    assert!(ours.contains("\r\nClient-Cert: :MII") && ours.ends_with(":\r\n\r\n"), "{ours}");
    assert_eq!(ours.matches("\r\n").count(), 3, "{ours}");
    assert!(known);
}
