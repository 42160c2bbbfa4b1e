//! Hellos of rustls, and some put together by hand.

use proptest::prelude::*;

use super::hello::{Hello, MOST, Peek, peek};
use super::*;

/// What a client of ours says first.
fn said(name: ServerName<'static>, alpn: &[&str]) -> Vec<u8> {
    let mut config = client(&Ca::new("ca"));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn hello(sni: Option<&str>, alpn: &[&str]) -> Peek {
    Peek::Hello(Hello { sni: sni.map(Into::into), alpn: alpn.iter().map(|name| name.as_bytes().into()).collect() })
}

/// A message in records of at most so many bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    message.chunks(most).flat_map(record).collect()
}

/// A length of two bytes, and what is so long.
fn long(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(content)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &long(&[&[0], &long(name)[..]].concat()))
}

fn alpn(names: &[u8]) -> Vec<u8> {
    extension(16, &long(names))
}

/// A hello around these extensions; `None`: it ends before them.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(extensions.map(long).unwrap_or_default());
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1], &length[1..], &body].concat()
}

fn of(extensions: &[Vec<u8>]) -> Peek {
    peek(&records(&message(Some(&extensions.concat())), 16_384))
}

#[test]
fn a_hello_says_whom_it_is_for_and_what_it_speaks() {
    assert_eq!(peek(&said(dns("Mail.test"), &["h2", "http/1.1"])), hello(Some("mail.test"), &["h2", "http/1.1"]));
    assert_eq!(peek(&said(address("192.0.2.1"), &[])), hello(None, &[]));
    assert_eq!(of(&[]), hello(None, &[]));
    assert_eq!(peek(&records(&message(None), 16_384)), hello(None, &[]), "TLS 1.2 may do without extensions");
    assert_eq!(of(&[sni(b"a.test.")]), hello(Some("a.test"), &[]));
    let grease = [extension(0x0a0a, b""), sni(b"a.test"), extension(0xfafa, b"x"), alpn(b"\x02h2\x02\x0a\x0a")];
    assert_eq!(of(&grease), hello(Some("a.test"), &["h2", "\n\n"]));
}

#[test]
fn the_hellos_of_others_are_read_as_rustls_reads_them() {
    let seeds: [(&[u8], Option<&str>, &[&str]); 8] = [
        (include_bytes!("../../../fuzz/seeds/hello/openssl"), Some("mail.example.com"), &[]),
        (include_bytes!("../../../fuzz/seeds/hello/openssl-tls12-alpn"), Some("a.example.com"), &["h2", "http/1.1"]),
        (include_bytes!("../../../fuzz/seeds/hello/openssl-nameless"), None, &[]),
        (include_bytes!("../../../fuzz/seeds/hello/curl"), Some("www.example.com"), &["h2", "http/1.1"]),
        (include_bytes!("../../../fuzz/seeds/hello/node"), Some("node.example.com"), &["h2", "http/1.1"]),
        (include_bytes!("../../../fuzz/seeds/hello/python"), Some("py.example.com"), &["http/1.1"]),
        (include_bytes!("../../../fuzz/seeds/hello/browser"), Some("browser.example.com"), &["h2", "http/1.1"]),
        (include_bytes!("../../../fuzz/seeds/hello/browser-records"), Some("browser.example.com"), &["h2", "http/1.1"]),
    ];
    for (mut bytes, name, alpn) in seeds {
        assert_eq!(peek(bytes), hello(name, alpn));
        let mut acceptor = rustls::server::Acceptor::default();
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes).unwrap();
        }
        let accepted = acceptor.accept().unwrap_or_else(|_| panic!("{name:?} is refused")).expect("it is whole");
        assert_eq!(accepted.client_hello().server_name(), name);
    }
}

#[test]
fn it_may_come_in_any_pieces_and_records() {
    let whole = said(dns("a.test"), &["h2"]);
    let expected = hello(Some("a.test"), &["h2"]);
    for length in 0..whole.len() {
        assert_eq!(peek(&whole[..length]), Peek::Incomplete, "{length}");
    }
    assert_eq!(peek(&[&whole[..], b"whatever follows"].concat()), expected);
    for most in [1, 2, 3, 4, 5, 60, 100] {
        let split = records(&whole[5..], most);
        assert_eq!(peek(&split), expected, "{most}");
        for length in 0..split.len() {
            assert_eq!(peek(&split[..length]), Peek::Incomplete, "{most} {length}");
        }
    }
}

#[test]
fn names_that_are_none_are_as_good_as_no_name() {
    for name in [&b"192.0.2.1"[..], b"::1", b"a b", b"\xff\xfe", "ä.test".as_bytes(), b"-a.test", b"a.test\0.evil"] {
        assert_eq!(of(&[sni(name)]), hello(None, &[]), "{}", name.escape_ascii());
    }
    let unknown_kind = extension(0, &long(&[&[9], &long(b"x")[..]].concat()));
    assert_eq!(of(&[unknown_kind]), hello(None, &[]));
}

#[test]
fn what_is_not_well_formed_is_no_hello() {
    let broken: [(&str, Vec<Vec<u8>>); 12] = [
        ("two names in two extensions", vec![sni(b"a.test"), sni(b"b.test")]),
        ("two names in one", vec![extension(0, &long(&[&[0], &long(b"a")[..], &[0], &long(b"b")].concat()))]),
        ("an empty name", vec![sni(b"")]),
        ("bytes after the names", vec![extension(0, &[&long(&[&[0], &long(b"a")[..]].concat())[..], b"x"].concat())]),
        ("a name that is too long", vec![extension(0, &long(b"\0\0\x05a"))]),
        ("an extension without its list", vec![extension(0, b"")]),
        ("two lists of protocols", vec![alpn(b"\x02h2"), alpn(b"\x02h2")]),
        ("an empty protocol", vec![alpn(b"\x02h2\0")]),
        ("no protocol", vec![alpn(b"")]),
        ("a protocol that is too long", vec![alpn(b"\x03h2")]),
        ("bytes after the protocols", vec![extension(16, b"\0\x03\x02h2x")]),
        ("half an extension", vec![vec![0, 1, 0]]),
    ];
    for (what, extensions) in broken {
        assert_eq!(of(&extensions), Peek::NotTls, "{what}");
    }
    let valid = message(Some(&sni(b"a.test")));
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut message = valid.clone();
        change(&mut message);
        let length = u32::try_from(message.len() - 4).unwrap().to_be_bytes();
        message[1..4].copy_from_slice(&length[1..]);
        peek(&records(&message, 16_384))
    };
    assert_eq!(changed(|_| {}), hello(Some("a.test"), &[]));
    type Case = (&'static str, fn(&mut Vec<u8>));
    let broken: [Case; 7] = [
        ("a message of another kind", |message| message[0] = 2),
        ("bytes after the extensions", |message| message.push(0)),
        ("half of the extensions", |message| message.truncate(message.len() - 1)),
        ("a session of 33 bytes", |message| drop(message.splice(38..39, [vec![33], vec![0; 33]].concat()))),
        ("no suites", |message| drop(message.splice(39..43, [0, 0]))),
        ("half a suite", |message| drop(message.splice(39..43, [0, 1, 0x13]))),
        ("no compression", |message| drop(message.splice(43..45, [0]))),
    ];
    for (what, change) in broken {
        assert_eq!(changed(change), Peek::NotTls, "{what}");
    }
}

#[test]
fn who_does_not_speak_tls_is_known_by_the_first_bytes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0",
        b"SSH-2.0-x",
        b"\0",
        // A hello of SSL 2, an alert, an empty record, one that is too long, another version's.
        b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x01\0\x02",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x04",
    ] {
        assert_eq!(peek(bytes), Peek::NotTls, "{}", bytes.escape_ascii());
    }
    // Its first record may end before the message says how long it is, but what follows must be a record, too.
    assert_eq!(peek(b"\x16\x03\x01\0\x02\x01\0"), Peek::Incomplete);
    assert_eq!(peek(b"\x16\x03\x01\0\x02\x01\0\x17"), Peek::NotTls);
}

#[test]
fn nobody_is_waited_for_without_end() {
    let padded = |length: usize| message(Some(&[sni(b"a.test"), extension(21, &vec![0; length])].concat()));
    let longest = padded((16 << 10) - message(Some(&sni(b"a.test"))).len());
    assert_eq!(longest.len(), 4 + (16 << 10));
    assert_eq!(peek(&records(&longest, 16_384)), hello(Some("a.test"), &[]));
    assert_eq!(peek(&records(&padded(16 << 10), 16_384)), Peek::NotTls);
    // Whoever sends it in tiny records is given up after so many bytes.
    let tiny = records(&longest, 1);
    assert_eq!(peek(&tiny[..MOST - 1]), Peek::Incomplete);
    assert_eq!(peek(&tiny[..MOST]), Peek::NotTls);
}

proptest! {
    /// More bytes never change what fewer have settled.
    #[test]
    fn a_verdict_stands(at in 0usize..600, byte: u8, cut in 0usize..600) {
        let mut bytes = said(dns("a.test"), &["h2", "http/1.1"]);
        let at = at.min(bytes.len() - 1);
        bytes[at] = byte;
        let earlier = peek(&bytes[..cut.min(bytes.len())]);
        if earlier != Peek::Incomplete {
            prop_assert_eq!(earlier, peek(&bytes));
        }
    }
}
