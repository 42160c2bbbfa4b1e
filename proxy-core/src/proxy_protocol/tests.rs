use super::*;

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const ALL: Tlvs<'static> = Tlvs {
    alpn: Some(b"h2"),
    authority: Some(b"a.test"),
    unique_id: Some(b"\0\xff42"),
    ssl: Some(b"\x01\0\0\0\x01\x21\0\x07TLSv1.3"),
};

fn v2(client: &str, own: &str, tlvs: &Tlvs<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_v2(&mut out, end(client), end(own), tlvs);
    out
}

/// Version 2 by hand.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

/// Addresses of TCP over IPv4, and these TLVs.
fn with(tlvs: &[u8]) -> Vec<u8> {
    binary(0x21, 0x11, &[&[192, 0, 2, 1, 192, 0, 2, 9, 0x9c, 0x40, 0, 80][..], tlvs].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// What is read of exactly these bytes, which no others need follow.
fn ends(bytes: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, BadProxy> {
    let header = read(bytes)?.expect("it is whole");
    assert_eq!(header.length, bytes.len());
    Ok(header.ends)
}

#[test]
fn lines_say_who_came_to_whom() {
    let both = |client, own| Ok(Some((end(client), end(own))));
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.1 192.0.2.9 40000 80\r\n", both("192.0.2.1:40000", "192.0.2.9:80")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            both("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", both("0.0.0.0:0", "0.0.0.0:0")),
        ("PROXY TCP6 2001:DB8::1 ::9 1 2\r\n", both("[2001:db8::1]:1", "[::9]:2")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::9 1 2\r\n", both("[::ffff:192.0.2.1]:1", "[::9]:2")),
        ("PROXY UNKNOWN\r\n", Ok(None)),
        ("PROXY UNKNOWN ffff::1 nothing \x01 at all\r\n", Ok(None)),
    ] {
        assert_eq!(ends(line.as_bytes()), expected, "{line:?}");
    }
}

#[test]
fn lines_that_are_not_exactly_right_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.9 40000 80\n",
        "PROXY TCP4  192.0.2.1 192.0.2.9 40000 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 40000 80 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 40000\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 40000 80 1\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.9 40000 80\r\n",
        "PROXY TCP4 192.0.2 192.0.2.9 40000 80\r\n",
        "PROXY TCP4 256.0.2.1 192.0.2.9 40000 80\r\n",
        "PROXY TCP4 ::1 ::2 40000 80\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.9 40000 80\r\n",
        "PROXY TCP6 fe80::1%eth0 ::2 40000 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 65536 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 +1 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 01 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9  80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.9 1 80\r\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.9 1 80\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.9 1 80\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY \r\n",
        "PROXY \n",
    ] {
        assert_eq!(read(line.as_bytes()), Err(BadProxy::Malformed), "{line:?}");
    }
    for other in
        ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXX", "PROXY\r\n", "\r\n\r\n\0\r\nQUIX", "\x16\x03\x01", "\n", "P "]
    {
        assert_eq!(read(other.as_bytes()), Err(BadProxy::Missing), "{other:?}");
    }
    assert_eq!(read(&b"PROXY UNKNOWN ".repeat(8)), Err(BadProxy::TooLong));
    // 107 bytes with the end of the line are allowed, 108 are not.
    let padded = |length: usize| [b"PROXY UNKNOWN ", &vec![b'x'; length - 16][..], b"\r\n"].concat();
    assert_eq!(ends(&padded(107)), Ok(None));
    assert_eq!(read(&padded(108)), Err(BadProxy::TooLong));
}

#[test]
fn binary_headers_say_who_came_to_whom_and_more() {
    for (client, own) in [("192.0.2.1:40000", "192.0.2.9:80"), ("[2001:db8::1]:1", "[::9]:2")] {
        for tlvs in [Tlvs::default(), ALL] {
            let header = v2(client, own, &tlvs);
            let read = read(&header).unwrap().unwrap();
            assert_eq!(read, Header { length: header.len(), ends: Some((end(client), end(own))), tlvs });
        }
    }
    assert_eq!(with(&[]), v2("192.0.2.1:40000", "192.0.2.9:80", &Tlvs::default()), "the same by hand");
    // Families that are not ours, and those that are half unspecified; padding, a network's name, and types of nobody.
    let unix = [0; 216];
    for (family, rest) in [
        (0, &[][..]),
        (0, b"what"),
        (1, b""),
        (0x10, b"abc"),
        (0x12, &[0; 12]),
        (0x22, &[0; 36]),
        (0x31, &unix),
        (0x32, &unix),
    ] {
        assert_eq!(ends(&binary(0x21, family, rest)), Ok(None), "{family:#x}");
    }
    let more = [tlv(4, &[0; 9]), tlv(0x30, b"net"), tlv(0xee, b""), tlv(0xee, b"twice")].concat();
    assert_eq!(read(&with(&more)).unwrap().unwrap().tlvs, Tlvs::default());
}

#[test]
fn a_connection_of_the_proxy_itself_has_its_own_addresses_whatever_stands_behind() {
    let mut plain = Vec::new();
    local(&mut plain);
    for header in [plain, binary(0x20, 0xff, b"\x01\xff"), binary(0x20, 0x11, &[1; 12])] {
        assert_eq!(ends(&header), Ok(None));
        assert!(read(&header).unwrap().unwrap().tlvs.is_empty());
    }
}

#[test]
fn binary_headers_that_are_not_right_are_refused() {
    let ssl = |sub: &[u8]| with(&tlv(0x20, &[&[1, 0, 0, 0, 0][..], sub].concat()));
    for (why, header) in [
        ("version 1", binary(0x11, 0x11, &[0; 12])),
        ("version 3", binary(0x31, 0x11, &[0; 12])),
        ("a command of nobody", binary(0x22, 0x11, &[0; 12])),
        ("a family of nobody", binary(0x21, 0x41, &[0; 36])),
        ("a protocol of nobody", binary(0x21, 0x13, &[0; 36])),
        ("too short for IPv4", binary(0x21, 0x11, &[0; 11])),
        ("too short for IPv6", binary(0x21, 0x21, &[0; 35])),
        ("too short for a path", binary(0x21, 0x31, &[0; 215])),
        ("half a TLV", with(&[4, 0])),
        ("a TLV beyond the end", with(&[4, 0, 2, 1])),
        ("two names", with(&[tlv(2, b"a"), tlv(2, b"a")].concat())),
        ("a unique id that is too long", with(&tlv(5, &[1; 129]))),
        ("a short checksum", with(&tlv(3, &[0; 3]))),
        ("two checksums", with(&[tlv(3, &[0; 4]), tlv(3, &[0; 4])].concat())),
        ("TLS without a verdict", with(&tlv(0x20, &[1, 0, 0, 0]))),
        ("half a TLV in TLS", ssl(&[0x21, 0])),
        ("a TLV in TLS beyond its end", ssl(&[0x21, 0, 9, 1])),
        ("a version that is no text", ssl(&tlv(0x21, b"\xff"))),
    ] {
        assert_eq!(read(&header), Err(BadProxy::Malformed), "{why}");
    }
    assert_eq!(read(&with(&tlv(3, &[1; 4]))), Err(BadProxy::Checksum));
    let long = binary(0x21, 0x11, &vec![4; MOST - FIXED + 1]);
    assert_eq!(read(&long), Err(BadProxy::TooLong));
    assert_eq!(read(&long[..FIXED]), Err(BadProxy::TooLong), "it is known before it is there");
    assert_eq!(read(&long[..13]), Ok(None));
    assert_eq!(read(&binary(0x41, 0x11, &[])[..13]), Err(BadProxy::Malformed), "and so is the version");
}

#[test]
fn a_checksum_is_verified() {
    // RFC 3720 B.4: 32 bytes of zero, and the digits.
    assert_eq!(read::crc32c([&[0; 32][..]]), 0x8A91_36AA);
    assert_eq!(read::crc32c([&b"1234"[..], b"56789"]), 0xE306_9283);
    let mut header = with(&[tlv(2, b"a.test"), tlv(3, &[0; 4]), tlv(4, b"x")].concat());
    let sum = read::crc32c([&header[..]]);
    let at = header.len() - 8;
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(read(&header).unwrap().unwrap().tlvs.authority, Some(&b"a.test"[..]));
    // Were it of another type, there would be none.
    let kind = at - 3;
    for bit in (0..header.len() * 8).filter(|bit| bit / 8 != kind) {
        let mut other = header.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let same =
            read(&other).is_ok_and(|header| header.is_some_and(|header| header.tlvs.authority == Some(b"a.test")));
        assert!(!same, "bit {bit} didn't matter");
    }
}

#[test]
fn no_beginning_of_a_header_is_one_or_refused_and_nothing_behind_it_matters() {
    let mut headers = vec![b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 80\r\n".to_vec(), b"PROXY UNKNOWN\r\n".to_vec()];
    headers.extend([v2("192.0.2.1:1", "192.0.2.9:2", &ALL), v2("[::1]:1", "[::2]:2", &ALL), binary(0x20, 0, b"")]);
    for header in headers {
        for length in 0..header.len() {
            assert_eq!(read(&header[..length]), Ok(None), "{:?}", header[..length].escape_ascii().to_string());
        }
        let whole = read(&header);
        let more = [&header[..], b"PROXY \r\n\r\n\0\r\nQUIT\n"].concat();
        assert_eq!(read(&more), whole);
    }
}

#[test]
fn both_addresses_are_of_one_family() {
    let line = |client, own| {
        let mut out = Vec::new();
        write_v1(&mut out, end(client), end(own));
        String::from_utf8(out).unwrap()
    };
    assert_eq!(line("192.0.2.1:1", "192.0.2.9:2"), "PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n");
    assert_eq!(line("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.9]:2"), "PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n");
    assert_eq!(line("[2001:db8::1]:1", "192.0.2.9:2"), "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.9 1 2\r\n");
    assert_eq!(
        ends(&v2("192.0.2.1:1", "[::9]:2", &Tlvs::default())),
        Ok(Some((end("[::ffff:192.0.2.1]:1"), end("[::9]:2"))))
    );
}

#[test]
fn tls_is_told_with_who_the_client_is() {
    let told = |certificate| {
        let mut out = Vec::new();
        Client { version: "TLSv1.3", certificate }.write(&mut out);
        out
    };
    let name = |now| Some(Certificate { now, common_name: Some("Ann") });
    let version = tlv(0x21, b"TLSv1.3");
    assert_eq!(told(None), [&[1, 0, 0, 0, 1][..], &version].concat());
    assert_eq!(told(name(true)), [&[7, 0, 0, 0, 0][..], &version, &tlv(0x22, b"Ann")].concat());
    assert_eq!(told(name(false))[0], 5, "it was shown in an earlier connection");
}

#[test]
fn what_does_not_fit_is_left_out() {
    let huge = vec![b'a'; MOST];
    let tlvs = Tlvs { authority: Some(&huge), unique_id: Some(b"id"), ..Tlvs::default() };
    let header = v2("192.0.2.1:1", "192.0.2.9:2", &tlvs);
    assert_eq!(read(&header).unwrap().unwrap().tlvs, Tlvs { unique_id: Some(b"id"), ..Tlvs::default() });
}
