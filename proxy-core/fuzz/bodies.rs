//! What is tried with any input, by libFuzzer and by `cargo test` alike: nothing panics, and what was accepted means the
//! same to a reader that knows nothing of ours.

use std::net::SocketAddr;

use proxy_core::http::chunked::{Chunked, Keep};
use proxy_core::http::head::{Asked, Framing, Version, request, response, slots};
use proxy_core::http::{cookie, host};
use proxy_core::proxy_protocol;
use proxy_core::tls::hello::{MOST, Peek, peek};
use rustls::server::Acceptor;

/// A head, as a request and as a response.
pub(crate) fn head(data: &[u8]) {
    for asked in [Asked::Head, Asked::Connect, Asked::Other] {
        if let Ok(Some(read)) = response(&mut slots(), data, asked) {
            plain(&data[..read.length], read.framing, read.fields.len());
        }
    }
    let mut room = slots();
    let Ok(Some(read)) = request(&mut room, data) else { return };
    plain(&data[read.start..read.length], read.framing, read.fields.len());
    assert!(matches!(request(&mut slots(), &data[..read.length - 1]), Ok(None)), "it was whole before its end");
    // What a server would get is read by us as the same request, with nothing left that concerned the first connection.
    let mut forwarded = Vec::new();
    let version = if read.version == Version::Http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    forwarded.extend_from_slice(format!("{} {} {version}\r\n", read.method, read.target).as_bytes());
    for (index, field) in read.fields.iter().enumerate() {
        if read.hop.hop_by_hop & 1 << index == 0 {
            forwarded.extend_from_slice(&[field.name.as_bytes(), b":", field.value, b"\r\n"].concat());
        }
    }
    forwarded.extend_from_slice(b"\r\n");
    let mut room = slots();
    let again = request(&mut room, &forwarded).expect("accepted once").expect("whole");
    assert_eq!((again.method, again.target, again.version), (read.method, read.target, read.version));
    assert_eq!((again.framing, again.hop.hop_by_hop, again.hop.upgrade), (read.framing, 0, false));
    assert_eq!(again.hop.connection_auth, read.hop.connection_auth);
    assert_eq!(again.length, forwarded.len());
    if !read.absolute {
        assert_eq!(again.host, read.host);
    }
}

/// Reads an accepted head line by line, and the framing from its own lines.
fn plain(head: &[u8], framing: Framing, fields: usize) {
    let text = head.strip_suffix(b"\r\n\r\n").expect("it ends with the empty line");
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), fields + 1, "a line is no field");
    let (mut lengths, mut encodings) = (Vec::new(), 0);
    for (index, line) in lines.iter().enumerate() {
        let line = if index + 1 < lines.len() { line.strip_suffix(b"\r").expect("CR LF") } else { line };
        assert!(!line.contains(&b'\r') && !line.contains(&0), "{line:?}");
        if index > 0 {
            let colon = line.iter().position(|byte| *byte == b':').expect("a field");
            let name = line[..colon].to_ascii_lowercase();
            assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic), "{name:?}");
            encodings += usize::from(name == b"transfer-encoding");
            if name == b"content-length" {
                lengths.push(String::from_utf8(line[colon + 1..].trim_ascii().to_vec()).expect("digits"));
            }
        }
    }
    assert!(lengths.len() + encodings <= 1, "framed twice");
    match framing {
        Framing::Length(length) => assert_eq!(lengths[0].parse(), Ok(length)),
        Framing::Chunked => assert_eq!(encodings, 1),
        // A response without a body may say how long it would have been.
        Framing::Empty | Framing::UntilClose => {}
    }
}

/// A body; its first byte says how it is cut.
pub(crate) fn chunked(data: &[u8]) {
    let [cut, body @ ..] = data else { return };
    let whole = pass(body, Keep::Framing, body.len().max(1));
    let pieces = pass(body, Keep::Framing, usize::from(*cut % 32) + 1);
    assert_eq!(whole, pieces, "it matters where it is cut");
    let bare = pass(body, Keep::Data, usize::from(*cut / 32) + 1);
    let Some((sent, consumed)) = whole else {
        assert!(bare.is_none());
        return;
    };
    assert!(sent.len() <= consumed);
    assert_eq!(pass(&sent, Keep::Framing, sent.len()), Some((sent.clone(), sent.len())), "cleaned once is clean");
    assert_eq!(bare, Some((decode(&sent), consumed)));
}

/// What goes on of a whole body, and how many bytes it took; `None`: it is wrong, or not whole.
fn pass(body: &[u8], keep: Keep, piece: usize) -> Option<(Vec<u8>, usize)> {
    let mut filter = Chunked::new(keep);
    let (mut sent, mut consumed) = (Vec::new(), 0);
    for piece in body.chunks(piece) {
        let mut piece = piece.to_vec();
        let passed = filter.pass(&mut piece).ok()?;
        assert!(passed.forward <= passed.consumed && passed.consumed <= piece.len());
        sent.extend_from_slice(&piece[..passed.forward]);
        consumed += passed.consumed;
        if passed.done {
            sent.extend_from_slice(filter.tail());
            return Some((sent, consumed));
        }
        assert_eq!(passed.consumed, piece.len());
    }
    None
}

/// The data of a body that is clean, as anyone would read it.
fn decode(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let end = body.iter().position(|byte| *byte == b'\r').expect("a size ends");
        let digits = std::str::from_utf8(&body[..end]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        body = body[end..].strip_prefix(b"\r\n").expect("CR LF after the size");
        if size == 0 {
            assert!(body.ends_with(b"\r\n"));
            return data;
        }
        data.extend_from_slice(&body[..size]);
        body = body[size..].strip_prefix(b"\r\n").expect("CR LF after the data");
    }
}

/// A `Cookie` field.
pub(crate) fn cookie(data: &[u8]) {
    let mut length = 0;
    for (name, value) in cookie::pairs(data) {
        assert!(!name.is_empty() && !name.contains(&b'=') && !name.contains(&b';') && !value.contains(&b';'));
        assert_eq!((name.trim_ascii(), value.trim_ascii()), (name, value));
        length += name.len() + value.len() + 1;
    }
    assert!(length <= data.len());
}

/// A `Host` field.
pub(crate) fn host(data: &[u8]) {
    let Some(authority) = host::parse(data) else { return };
    assert_eq!(authority.text.as_bytes(), data);
    assert!(data.iter().all(|byte| byte.is_ascii_graphic() && !b",/@?#\\\"<>".contains(byte)), "{data:?}");
    assert_eq!(host::without_port(authority.text), authority.host);
    assert_eq!(host::parse(authority.host.as_bytes()).map(|alone| alone.port), Some(None));
    assert!(authority.same(&authority, 80));
}

/// The beginning of a connection: whoever rustls would take as a client asks for the same by its reading and by ours.
pub(crate) fn hello(data: &[u8]) {
    let looked = peek(data);
    for length in [data.len() / 2, data.len().saturating_sub(1)] {
        let earlier = peek(&data[..length]);
        assert!(earlier == Peek::Incomplete || earlier == looked, "{length} bytes meant more than all");
    }
    let (mut acceptor, mut rest) = (Acceptor::default(), &data[..data.len().min(MOST - 1)]);
    let accepted = loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => break accepted,
            Ok(None) if !rest.is_empty() => drop(acceptor.read_tls(&mut rest)),
            Ok(None) | Err(_) => return,
        }
    };
    let theirs = accepted.client_hello();
    let Peek::Hello(ours) = looked else { panic!("{looked:?}, but rustls reads {theirs:?}") };
    assert_eq!(ours.sni.as_deref(), theirs.server_name().map(|name| name.strip_suffix('.').unwrap_or(name)));
    let alpn: Vec<&[u8]> = theirs.alpn().into_iter().flatten().collect();
    assert_eq!(ours.alpn.iter().map(|name| &**name).collect::<Vec<_>>(), alpn);
}

/// The beginning of a connection that another proxy makes: what was read of it is read again from what we would say.
pub(crate) fn proxy_protocol(data: &[u8]) {
    let read = proxy_protocol::read(data);
    for length in [data.len() / 2, data.len().saturating_sub(1)] {
        let earlier = proxy_protocol::read(&data[..length]);
        assert!(matches!(earlier, Ok(None)) || earlier == read, "{length} bytes meant more than all");
    }
    let Ok(Some(header)) = read else {
        assert!(read.is_err() || data.len() < proxy_protocol::MOST, "it would never be whole");
        return;
    };
    assert!(matches!(proxy_protocol::read(&data[..header.length - 1]), Ok(None)), "it was whole before its end");
    assert_eq!(proxy_protocol::read(&data[..header.length]), read, "what follows it matters");
    let Some((client, own)) = header.ends else { return assert!(header.tlvs.is_empty() || data.starts_with(b"\r\n")) };
    let mut said = Vec::new();
    proxy_protocol::write_v2(&mut said, client, own, &header.tlvs);
    let again = proxy_protocol::read(&said).expect("we said it").expect("all of it");
    let plain = |end: SocketAddr| (end.ip().to_canonical(), end.port());
    let ends = again.ends.map(|(client, own)| (plain(client), plain(own)));
    assert_eq!(ends, Some((plain(client), plain(own))));
    assert_eq!((again.length, again.tlvs), (said.len(), header.tlvs));
    said.clear();
    proxy_protocol::write_v1(&mut said, client, own);
    assert!(matches!(proxy_protocol::read(&said), Ok(Some(line)) if line.length == said.len() && said.len() <= 107));
}
