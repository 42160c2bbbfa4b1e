use proptest::prelude::*;

use super::*;

/// Reads a request and hands it on; that it is whole is part of the test.
fn read<R>(bytes: &str, then: impl FnOnce(Request<'_, '_>) -> R) -> Result<R, BadRequest> {
    Ok(then(request(&mut slots(), bytes.as_bytes())?.expect("the head is whole")))
}

/// A request with these lines after a good beginning.
fn with<R>(lines: &str, then: impl FnOnce(Request<'_, '_>) -> R) -> Result<R, BadRequest> {
    read(&format!("POST /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n"), then)
}

fn refusal(bytes: &[u8]) -> Option<BadRequest> {
    request(&mut slots(), bytes).map(|read| read.is_some()).err()
}

fn dropped(request: &Request<'_, '_>) -> Vec<String> {
    let marked = |index: &usize| request.hop.hop_by_hop & 1 << index != 0;
    (0..request.fields.len()).filter(marked).map(|index| request.fields[index].name.into()).collect()
}

#[test]
fn a_request_is_taken_apart_where_it_lies() {
    let text = "\r\nRPC_IN_DATA /rpc/rpcproxy.dll?a:6001?b HTTP/1.1\r\nhost:mail:443\r\nX-Odd:  \t \r\nAccept: a, b\t\r\n\r\nbody";
    read(text, |read| {
        assert_eq!((read.method, read.target), ("RPC_IN_DATA", "/rpc/rpcproxy.dll?a:6001?b"));
        assert_eq!((read.path(), read.query()), ("/rpc/rpcproxy.dll", "a:6001?b"));
        assert_eq!((read.version, read.host, read.absolute), (Version::Http11, Some("mail:443"), false));
        assert_eq!((read.framing, read.expects_continue), (Framing::Empty, false));
        assert_eq!((read.start, read.length), (2, text.len() - 4));
        let values: Vec<_> = read.fields.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(values, [("host", &b"mail:443"[..]), ("X-Odd", b""), ("Accept", b"a, b")]);
    })
    .unwrap();
}

#[test]
fn more_bytes_are_asked_for_until_the_empty_line() {
    let text = b"\r\nPOST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: x, close\r\n\r\n";
    for length in 0..text.len() {
        assert_eq!(refusal(&text[..length]), None, "{length}");
        assert!(request(&mut slots(), &text[..length]).unwrap().is_none(), "{length}");
    }
    assert!(request(&mut slots(), text).unwrap().is_some());
}

#[test]
fn each_mistake_has_its_reason() {
    use BadRequest as Bad;
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
    let long = format!("{} / HTTP/1.1\r\nHost: h\r\n\r\n", "M".repeat(33));
    let options = format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: {}\r\n\r\n", "x,".repeat(33));
    for (bytes, reason) in [
        ("\r\n\r\nGET / HTTP/1.1\r\n", Bad::LeadingLines),
        ("\nGET / HTTP/1.1\r\n", Bad::BareLf),
        ("\r\n\nGET / HTTP/1.1\r\n", Bad::BareLf),
        ("\rGET / HTTP/1.1\r\n", Bad::BareCr),
        ("\r\n\rGET / HTTP/1.1\r\n", Bad::BareCr),
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost: h\n\r\n", Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost: h\r\n\n", Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost:\n\r\n", Bad::BareLf),
        ("GET / HTTP/1.1\r\n\rHost: h\r\n\r\n", Bad::BareCr),
        ("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", Bad::BareCr),
        ("GET / HTTP/1.1\rHost: h\r\n\r\n", Bad::BareCr),
        ("GET /\rx HTTP/1.1\r\nHost: h\r\n\r\n", Bad::BareCr),
        ("GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Nul),
        ("GET / HTTP/1.1\r\nHo\0st: h\r\n\r\n", Bad::Nul),
        ("GET / HTTP/1.1\r\nHost: h\0\r\n\r\n", Bad::Nul),
        ("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", Bad::ObsFold),
        ("GET / HTTP/1.1\r\n\tHost: h\r\n\r\n", Bad::ObsFold),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", Bad::SpaceBeforeColon),
        ("GET / HTTP/1.1\r\nHost\t: h\r\n\r\n", Bad::SpaceBeforeColon),
        ("GET / HTTP/1.1\r\nHost h\r\n\r\n", Bad::FieldName),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", Bad::FieldName),
        ("GET / HTTP/1.1\r\n: h\r\n\r\n", Bad::FieldName),
        ("GET / HTTP/1.1\r\nH\u{f6}st: h\r\n\r\n", Bad::FieldName),
        ("GET / HTTP/1.1\r\nX(y): h\r\n\r\n", Bad::FieldName),
        ("GET / HTTP/1.1\r\nX: a\x0bb\r\n\r\n", Bad::FieldValue),
        ("GET / HTTP/1.1\r\nX: a\x7f\r\n\r\n", Bad::FieldValue),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET /  HTTP/1.1\r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET / HTTP/1.1 x\r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET /\tHTTP/1.1\r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET /\r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET / http/1.1\r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET / HTTP/1.1x\r\nHost: h\r\n\r\n", Bad::RequestLine),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", Bad::Version),
        ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", Bad::Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Bad::Version),
        (" GET / HTTP/1.1\r\n", Bad::Method),
        ("G@T / HTTP/1.1\r\n", Bad::Method),
        ("\x16\x03\x01\x02", Bad::Method),
        (&long, Bad::Method),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", Bad::Connect),
        ("GET h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", Bad::Target),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET a/b HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET /#a HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET /\u{f6} HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET http://h/#q HTTP/1.1\r\nHost: h\r\n\r\n", Bad::Target),
        ("GET http://i/ HTTP/1.1\r\nHost: h\r\n\r\n", Bad::HostMismatch),
        ("GET http://h:81/ HTTP/1.1\r\nHost: h\r\n\r\n", Bad::HostMismatch),
        ("GET / HTTP/1.1\r\n\r\n", Bad::HostMissing),
        ("GET http://h/ HTTP/1.1\r\n\r\n", Bad::HostMissing),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", Bad::HostRepeated),
        ("GET / HTTP/1.0\r\nHost: h\r\nhost: i\r\n\r\n", Bad::HostRepeated),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Bad::Host),
        ("GET / HTTP/1.1\r\nHost: h, i\r\n\r\n", Bad::Host),
        ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", Bad::Host),
        (&many, Bad::TooManyFields),
        (&options, Bad::ConnectionOptions),
    ] {
        assert_eq!(refusal(bytes.as_bytes()), Some(reason), "{bytes:?}");
    }
}

#[test]
fn framing_that_could_be_read_in_two_ways_is_refused() {
    use BadRequest as Bad;
    for (lines, reason) in [
        ("Content-Length:\r\n", Bad::ContentLength),
        ("Content-Length: +1\r\n", Bad::ContentLength),
        ("Content-Length: -1\r\n", Bad::ContentLength),
        ("Content-Length: 0x1\r\n", Bad::ContentLength),
        ("Content-Length: 1 2\r\n", Bad::ContentLength),
        ("Content-Length: 5, 5\r\n", Bad::ContentLength),
        ("Content-Length: 1.0\r\n", Bad::ContentLength),
        ("Content-Length: 18446744073709551616\r\n", Bad::ContentLength),
        ("Content-Length: 5\r\ncontent-length: 5\r\n", Bad::ContentLengthRepeated),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", Bad::ContentLengthRepeated),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Bad::LengthAndEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Bad::LengthAndEncoding),
        ("Transfer-Encoding:\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: identity\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked, chunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked,\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked;a=b\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Bad::TransferEncoding),
        ("Transfer-Encoding: \x0bchunked\r\n", Bad::FieldValue),
        ("Content_Length: 5\r\n", Bad::LookAlike),
        ("TRANSFER_encoding: chunked\r\n", Bad::LookAlike),
    ] {
        assert_eq!(with(lines, |_| ()), Err(reason), "{lines:?}");
    }
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refusal(old), Some(Bad::EncodingInHttp10));
}

#[test]
fn the_end_of_a_request_is_known() {
    let framing = |lines| with(lines, |read| read.framing).unwrap();
    assert_eq!(framing(""), Framing::Empty);
    assert_eq!(framing("Content-Length: 0\r\n"), Framing::Empty);
    assert_eq!(framing("Content-Length: 1073741824\r\n"), Framing::Length(1 << 30));
    assert_eq!(framing("Content-Length: 18446744073709551615\r\n"), Framing::Length(u64::MAX));
    assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Framing::Chunked);
}

#[test]
fn an_absolute_target_loses_what_its_host_header_says() {
    let read = |line: &str, host: &str| {
        read(&format!("{line}\r\n{host}\r\n"), |read| {
            (read.target.to_owned(), read.host.map(str::to_owned), read.absolute)
        })
    };
    let is = |target: &str, host: &str| Ok((target.to_owned(), Some(host.to_owned()), true));
    assert_eq!(read("GET http://a.b/c?d HTTP/1.1", "Host: a.b\r\n"), is("/c?d", "a.b"));
    assert_eq!(read("GET HTTP://A.b:80 HTTP/1.1", "Host: a.B\r\n"), is("/", "a.B"));
    assert_eq!(read("GET https://[::1]/ HTTP/1.1", "Host: [::1]:443\r\n"), is("/", "[::1]:443"));
    assert_eq!(read("OPTIONS http://a HTTP/1.1", "Host: a\r\n"), is("*", "a"));
    assert_eq!(read("GET http://a/ HTTP/1.0", ""), is("/", "a"));
    assert_eq!(read("OPTIONS * HTTP/1.1", "Host: a\r\n"), Ok(("*".into(), Some("a".into()), false)));
    assert_eq!(read("GET / HTTP/1.0", ""), Ok(("/".into(), None, false)));
}

#[test]
fn the_connection_persists_as_the_version_and_its_options_say() {
    let persistent = |version: &str, lines: &str| {
        read(&format!("GET / {version}\r\nHost: h\r\n{lines}\r\n"), |read| read.hop.persistent).unwrap()
    };
    assert!(persistent("HTTP/1.1", ""));
    assert!(persistent("HTTP/1.1", "Connection: closed, foo\r\n"));
    assert!(!persistent("HTTP/1.1", "Connection: Close\r\n"));
    assert!(!persistent("HTTP/1.1", "Connection: keep-alive\r\nConnection: x ,close\r\n"));
    assert!(!persistent("HTTP/1.0", ""));
    assert!(persistent("HTTP/1.0", "Connection: Keep-Alive\r\n"));
    assert!(!persistent("HTTP/1.0", "Connection: keep-alive, close\r\n"));
    assert!(!persistent("HTTP/1.0", "Proxy-Connection: keep-alive\r\n"));
}

#[test]
fn what_concerns_this_connection_only_is_marked() {
    let dropped = |lines| with(lines, |read| dropped(&read)).unwrap();
    assert_eq!(dropped("Accept: a\r\nTE: trailers\r\nTrailer: X\r\nConnection: TE\r\n"), ["Connection"]);
    assert_eq!(dropped("TE: trailers, deflate\r\n"), ["TE"]);
    let all = "Keep-Alive: 5\r\nproxy-connection: x\r\nUpgrade: a\r\nHTTP2-Settings: b\r\nconnection: c\r\n";
    assert_eq!(dropped(all), ["Keep-Alive", "proxy-connection", "Upgrade", "HTTP2-Settings", "connection"]);
    let named = "X-One: 1\r\nConnection: x-one, X-TWO\r\nX-Two: 2\r\nX-Three: 3\r\nx-two: 4\r\n";
    assert_eq!(dropped(named), ["X-One", "Connection", "X-Two", "x-two"]);
}

#[test]
fn a_client_cannot_make_the_server_blind() {
    let lines = "Connection: host, content-length, Cookie, authorization, x-forwarded-for, X-Forwarded-Foo, forwarded\r\n\
                 Cookie: a\r\nAuthorization: b\r\nX-Forwarded-For: c\r\nX-Forwarded-Foo: d\r\nForwarded: e\r\nContent-Length: 5\r\n";
    assert_eq!(with(lines, |read| (dropped(&read), read.framing)), Ok((vec!["Connection".into()], Framing::Length(5))));
    let chunked = "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(with(chunked, |read| (dropped(&read), read.framing)), Ok((vec!["Connection".into()], Framing::Chunked)));
}

#[test]
fn an_upgrade_needs_both_headers_and_is_none_to_http2() {
    let upgrade = |lines| with(lines, |read| read.hop.upgrade).unwrap();
    assert!(upgrade("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    assert!(upgrade("Connection: keep-alive, upgrade\r\nUpgrade: a/1, b\r\n"));
    assert!(!upgrade("Upgrade: websocket\r\n"));
    assert!(!upgrade("Connection: Upgrade\r\n"));
    assert!(!upgrade("Connection: Upgrade\r\nUpgrade: ,\r\n"));
    assert!(!upgrade("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"));
    assert!(!upgrade("Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n"));
    assert!(!upgrade("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: HTTP/2.0\r\n"));
    let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(!read(old, |read| read.hop.upgrade).unwrap());
}

#[test]
fn only_the_one_expectation_is_met() {
    let expects = |lines: &str| with(lines, |read| read.expects_continue);
    assert_eq!(expects("Expect: 100-Continue\r\nContent-Length: 1\r\n"), Ok(true));
    assert_eq!(expects("Expect: 100-continue\r\n"), Ok(false));
    for other in ["x", "100-continue, x", "", "100-continue\r\nExpect: x", "x\r\nExpect: 100-continue"] {
        assert_eq!(expects(&format!("Expect: {other}\r\n")), Err(BadRequest::Expectation), "{other:?}");
    }
    let old = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(read(old, |read| read.expects_continue), Ok(false));
    assert_eq!(read("POST / HTTP/1.0\r\nExpect: x\r\n\r\n", |read| read.expects_continue), Ok(false));
}

#[test]
fn who_authenticates_the_connection_is_seen() {
    let auth = |lines| with(lines, |read| read.hop.connection_auth).unwrap();
    assert!(auth("Authorization: NTLM TlRMTVNTUAAB\r\n"));
    assert!(auth("authorization: negotiate YII\r\n"));
    assert!(auth("Proxy-Authorization: Negotiate\r\n"));
    assert!(!auth("Authorization: Basic TlRMTSB4\r\n"));
    assert!(!auth("Authorization: Bearer NTLM\r\n"));
    assert!(!auth("Authorization: NTLMv3 x\r\n"));
    let asks = |line: &str| {
        let bytes = format!("HTTP/1.1 401 Unauthorized\r\n{line}\r\nContent-Length: 0\r\n\r\n");
        response(&mut slots(), bytes.as_bytes(), Asked::Other).unwrap().unwrap().hop.connection_auth
    };
    assert!(asks("WWW-Authenticate: Negotiate"));
    assert!(asks("WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: NTLM"));
    assert!(asks("WWW-Authenticate: Basic realm=\"a, b\\\"\", nTLM, Digest x=y"));
    assert!(asks("Proxy-Authenticate: Negotiate abc=="));
    assert!(!asks("WWW-Authenticate: Basic realm=\"a, NTLM, b\""));
    assert!(!asks("WWW-Authenticate: Basic realm=NTLM"));
}

#[test]
fn the_end_of_a_response_is_known() {
    use Asked::{Connect, Head, Other};
    use BadResponse as Bad;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let five = "Content-Length: 5\r\n";
    for (asked, line, fields, end) in [
        (Other, "HTTP/1.1 200 OK", five, Ok(Framing::Length(5))),
        (Other, "HTTP/1.1 200 OK", "Content-Length: 0\r\n", Ok(Framing::Empty)),
        (Other, "HTTP/1.1 200 ", chunked, Ok(Framing::Chunked)),
        (Other, "HTTP/1.1 200", "", Ok(Framing::UntilClose)),
        (Other, "HTTP/1.0 200 OK", "", Ok(Framing::UntilClose)),
        (Other, "HTTP/1.1 999 Odd", five, Ok(Framing::Length(5))),
        (Head, "HTTP/1.1 200 OK", five, Ok(Framing::Empty)),
        (Head, "HTTP/1.1 200 OK", chunked, Ok(Framing::Empty)),
        (Head, "HTTP/1.1 200 OK", "", Ok(Framing::Empty)),
        (Connect, "HTTP/1.1 200 OK", "", Ok(Framing::Empty)),
        (Connect, "HTTP/1.1 403 No", five, Ok(Framing::Length(5))),
        (Other, "HTTP/1.1 304 Not Modified", five, Ok(Framing::Empty)),
        (Other, "HTTP/1.1 304 Not Modified", chunked, Ok(Framing::Empty)),
        (Other, "HTTP/1.1 204 No Content", "Content-Length: 0\r\n", Ok(Framing::Empty)),
        (Other, "HTTP/1.1 204 No Content", five, Err(Bad::BodyForbidden)),
        (Other, "HTTP/1.1 204 No Content", chunked, Err(Bad::BodyForbidden)),
        (Other, "HTTP/1.1 100 Continue", "", Ok(Framing::Empty)),
        (Other, "HTTP/1.1 100 Continue", five, Err(Bad::BodyForbidden)),
        (Other, "HTTP/1.1 101 Switching", chunked, Err(Bad::BodyForbidden)),
        (Other, "HTTP/1.1 200 OK", "Content-Length: 5\r\nContent-Length: 5\r\n", Err(Bad::ContentLengthRepeated)),
        (Other, "HTTP/1.1 200 OK", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(Bad::LengthAndEncoding)),
        (Head, "HTTP/1.1 200 OK", "Content-Length: x\r\n", Err(Bad::ContentLength)),
        (Other, "HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked\r\n", Err(Bad::TransferEncoding)),
        (Other, "HTTP/1.0 200 OK", chunked, Err(Bad::EncodingInHttp10)),
        (Other, "HTTP/1.1 099 Low", "", Err(Bad::Status)),
        (Other, "HTTP/1.1 20 Short", "", Err(Bad::StatusLine)),
        (Other, "HTTP/1.1 2000 Long", "", Err(Bad::StatusLine)),
        (Other, "HTTP/1.1  200 OK", "", Err(Bad::StatusLine)),
        (Other, "HTTP/1.1 200 O\0K", "", Err(Bad::StatusLine)),
        (Other, "ICY 200 OK", "", Err(Bad::StatusLine)),
        (Other, "HTTP/2.0 200 OK", "", Err(Bad::Version)),
        (Other, "\r\nHTTP/1.1 200 OK", "", Err(Bad::StatusLine)),
        (Other, "HTTP/1.1 200 OK\n", "", Err(Bad::BareLf)),
        (Other, "HTTP/1.1 200 OK", "X: y\r\n folded\r\n", Err(Bad::ObsFold)),
        (Other, "HTTP/1.1 200 OK", "X : y\r\n", Err(Bad::SpaceBeforeColon)),
    ] {
        let bytes = format!("{line}\r\n{fields}\r\n");
        let read = response(&mut slots(), bytes.as_bytes(), asked).map(|read| read.unwrap().framing);
        assert_eq!(read, end, "{asked:?} {bytes:?}");
    }
}

#[test]
fn a_response_says_whether_its_connection_can_be_used_again() {
    let persistent =
        |head: &str| response(&mut slots(), head.as_bytes(), Asked::Other).unwrap().unwrap().hop.persistent;
    assert!(persistent("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"));
    assert!(!persistent("HTTP/1.1 200 OK\r\n\r\n"), "its body ends the connection");
    assert!(!persistent("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n"));
    assert!(persistent("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"));
}

#[test]
fn a_length_where_none_may_be_is_not_passed_on() {
    let bytes = b"HTTP/1.1 204 No Content\r\nX: y\r\nContent-Length: 0\r\n\r\n";
    let mut slots = slots();
    assert_eq!(response(&mut slots, bytes, Asked::Other).unwrap().unwrap().hop.hop_by_hop, 0b10);
}

#[test]
fn reasons_are_told_apart_by_words_that_are_good_labels() {
    let words: std::collections::BTreeSet<_> = BadRequest::ALL.iter().map(|reason| reason.why()).collect();
    assert_eq!(words.len(), BadRequest::ALL.len());
    for (index, reason) in BadRequest::ALL.into_iter().enumerate() {
        assert_eq!(reason.index(), index);
        assert!(reason.why().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'));
        assert!(matches!(reason.status(), 400 | 405 | 417 | 505));
    }
    let words: std::collections::BTreeSet<_> = BadResponse::ALL.iter().map(|reason| reason.why()).collect();
    assert_eq!(words.len(), BadResponse::ALL.len());
}

/// Heads that are nearly right.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "GET http://h/ HTTP/1.0\r\n",
        "HTTP/1.1 200 OK\r\n",
        "Host: h\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, x\r\n",
        "X: \"\\\t\u{ff}\r\n",
        " \r\n",
        "x:\n",
        "\r",
        "\r\n",
    ]);
    (prop::collection::vec(line, 0..8), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3))
        .prop_map(|(lines, changes)| {
            let mut bytes = lines.concat().into_bytes();
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes
        })
}

proptest! {
    #[test]
    fn no_head_is_too_strange(bytes in head()) {
        let _ = response(&mut slots(), &bytes, Asked::Other);
        let mut room = slots();
        if let Ok(Some(read)) = request(&mut room, &bytes) {
            prop_assert!(read.length <= bytes.len() && read.start <= 2);
            prop_assert!(bytes[..read.length].ends_with(b"\r\n\r\n"));
        }
    }

    /// What has come later does not change what a head says.
    #[test]
    fn what_follows_a_head_does_not_matter(bytes in head(), more in head()) {
        let mut room = slots();
        if let Ok(Some(read)) = request(&mut room, &bytes) {
            let (length, framing, hop) = (read.length, read.framing, read.hop);
            let longer = [&bytes[..length], &more].concat();
            let mut room = slots();
            let again = request(&mut room, &longer).unwrap().unwrap();
            prop_assert_eq!((again.length, again.framing, again.hop), (length, framing, hop));
        }
    }
}
