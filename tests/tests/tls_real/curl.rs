//! curl over TLS: which certificate it is shown, in which version and protocol they speak, and that bodies arrive as they left.

use tests::nginx::Nginx;
use tests::place::Place;

use crate::site::{Front, run, s_client, serial_of, serial_shown};

/// What curl calls a certificate that it does not believe, and a handshake that failed.
const NOT_BELIEVED: i32 = 60;
const NO_HANDSHAKE: i32 = 35;

/// Has curl offer TLS 1.0 and 1.1 too: otherwise it would refuse itself.
const LENIENT: [&str; 2] = ["--ciphers", "DEFAULT@SECLEVEL=0"];

#[test]
fn the_certificate_is_the_one_for_the_name() {
    let place = Place::new("tls-names").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |_| {});
    for host in ["a.test", "www.a.test", "b.test", "x.b.test", "default.test"] {
        for version in ["--http1.1", "--http2"] {
            assert_eq!(front.get(host, "/who", &[version]), "one\n", "{host} {version}");
        }
    }
    // No certificate is theirs: the first one is shown, and not believed.
    for host in ["deep.x.b.test", "c.test", "xb.test"] {
        let said = front.try_get(host, "/who", &[]);
        assert_eq!(said.code, NOT_BELIEVED, "{host}: {said:?}");
        assert_eq!(serial_shown(front.tls(), host, &[]), serial_of("default"), "{host}");
    }
    assert_eq!(serial_shown(front.tls(), "B.Test", &[]), serial_of("b"), "case is nothing");
    let unnamed = s_client(front.tls(), "/who", &["-noservername"]);
    assert!(unnamed.text.contains("subject=O = Corp, CN = default.test"), "{unnamed:?}");
    // The whole chain is shown, but for the root.
    let chain = s_client(front.tls(), "/who", &["-servername", "a.test", "-showcerts"]);
    assert_eq!(chain.text.matches("-----BEGIN CERTIFICATE-----").count(), 2, "{chain:?}");
}

#[test]
fn versions_before_the_least_one_are_refused_by_an_alert() {
    let place = Place::new("tls-versions").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let mut front = Front::start(&place, server, |_| {});
    let refused = |front: &Front, most: &str| {
        let said = front.try_get("a.test", "/who", &[&LENIENT[..], &["--tls-max", most, "--tlsv1.0"]].concat());
        assert_eq!(said.code, NO_HANDSHAKE, "{most}: {said:?}");
        // rustls misses other things first that old versions do not have.
        let said_why =
            ["alert protocol version", "alert handshake failure"].map(|alert| said.complaint.contains(alert));
        assert!(said_why.contains(&true), "{most}: {said:?}");
    };
    assert_eq!(front.get("a.test", "/who", &["--tlsv1.3"]), "one\n");
    assert_eq!(front.get("a.test", "/who", &["--tls-max", "1.2"]), "one\n");
    refused(&front, "1.1");
    refused(&front, "1.0");
    front.site.more = front.site.more.replace("[tls.front]\n", "[tls.front]\nmin_version = \"1.3\"\n");
    front.apply();
    assert_eq!(front.get("a.test", "/who", &["--tlsv1.3"]), "one\n");
    refused(&front, "1.2");
}

#[test]
fn only_the_suites_that_are_named_are_spoken() {
    let place = Place::new("tls-suites").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let suites = "cipher_suites = [\"TLS13_AES_256_GCM_SHA384\", \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]\n";
    let front = Front::start(&place, server, |site| {
        site.more = site.more.replace("[tls.front]\n", &format!("[tls.front]\n{suites}"));
    });
    for (arguments, expected) in [
        (["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"], "TLS_AES_256_GCM_SHA384"),
        (["-tls1_2", "-cipher", "ECDHE+AESGCM"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let said = s_client(front.tls(), "/who", &arguments);
        assert!(said.text.contains(&format!("Cipher is {expected}")), "{said:?}");
    }
    for arguments in [
        ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
    ] {
        let said = s_client(front.tls(), "/who", &arguments);
        assert!(said.complaint.contains("alert handshake failure") && !said.text.contains("\r\n\r\none\n"), "{said:?}");
    }
}

#[test]
fn the_protocol_is_the_first_of_ours_that_the_client_knows() {
    let place = Place::new("tls-alpn").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let mut front = Front::start(&place, server, |_| {});
    let version = |front: &Front, arguments: &[&str]| {
        front.get("a.test", "/who", &[arguments, &["-o", "/dev/null", "-w", "%{http_version}"]].concat())
    };
    // As browsers have it: h2 before http/1.1; then HTTP/1.1 alone, and nothing said at all.
    assert_eq!(version(&front, &["--http2"]), "2");
    assert_eq!(version(&front, &["--http1.1"]), "1.1");
    assert_eq!(version(&front, &["--no-alpn"]), "1.1");
    for (offered, chosen) in [
        ("h2,http/1.1", "ALPN protocol: h2"),
        ("http/1.1,h2", "ALPN protocol: h2"),
        ("h2", "ALPN protocol: h2"),
        ("http/1.1", "ALPN protocol: http/1.1"),
        ("spdy/3,http/1.1", "ALPN protocol: http/1.1"),
    ] {
        let said = s_client(front.tls(), "/who", &["-alpn", offered]);
        assert!(said.text.contains(chosen), "{offered}: {said:?}");
    }
    let said = s_client(front.tls(), "/who", &["-alpn", "imap"]);
    assert!(said.complaint.contains("alert no application protocol"), "{said:?}");

    let with_all = front.site.more.clone();
    front.site.more = with_all.replace("[tls.front]\n", "[tls.front]\nalpn = [\"http/1.1\"]\n");
    front.apply();
    assert_eq!(version(&front, &["--http2"]), "1.1", "the profile has no h2");
    front.site.more = with_all;
    front.site.frontend = "http2 = false".into();
    front.apply();
    assert_eq!(version(&front, &["--http2"]), "1.1", "the frontend has no h2");
}

#[test]
fn bodies_arrive_as_they_left_over_every_version() {
    let place = Place::new("tls-bodies").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let big: Vec<u8> = (0..3_000_000_u32).map(|index| (index * 31 % 251) as u8).collect();
    std::fs::create_dir_all(place.path("files")).unwrap();
    place.write("files/big", &big).unwrap();
    let sent = place.path("files/big").display().to_string();
    let got_file = place.path("got");
    let got = got_file.to_str().unwrap();
    let body = format!("@{sent}");
    for version in [
        ["--http1.1", "--tlsv1.3"],
        ["--http1.1", "--tls-max=1.2"],
        ["--http2", "--tlsv1.3"],
        ["--http2", "--tls-max=1.2"],
    ] {
        let version: Vec<&str> = version.iter().flat_map(|option| option.split('=')).collect();
        let ask = |path: &str, more: &[&str], what: &str| {
            let code = front.get("a.test", path, &[&version[..], more, &["-o", got, "-w", "%{http_code}"]].concat());
            assert_eq!(code, if what == "range" { "206" } else { "200" }, "{version:?} {what}");
            std::fs::read(&got_file).unwrap()
        };
        assert!(ask("/files/big", &[], "GET") == big, "{version:?} GET");
        assert!(ask("/files/big", &["-r", "1000-1999"], "range") == big[1000..2000], "{version:?} range");
        assert!(ask("/echo", &["--data-binary", &body, "-H", "Expect:"], "POST") == big, "{version:?} POST");
        let waits = ["--data-binary", &body, "-H", "Expect: 100-continue", "--expect100-timeout", "30"];
        assert!(ask("/echo", &waits, "100-continue") == big, "{version:?} POST that waits for 100");
        assert!(ask("/echo", &["-X", "POST", "-T", &sent], "upload") == big, "{version:?} upload");
        assert_eq!(ask("/chunked", &[], "chunked"), b"one\ntwo\nthree\n", "{version:?}");
    }
    // In chunks, which HTTP/2 has none of.
    let chunked = ["--http1.1", "-H", "Transfer-Encoding: chunked", "--data-binary", &body, "-o", got];
    front.get("a.test", "/echo", &chunked);
    assert!(std::fs::read(&got_file).unwrap() == big, "POST in chunks");
    for (path, code) in [("/status/204", "204"), ("/status/304", "304"), ("/files/none", "404")] {
        for version in ["--http1.1", "--http2"] {
            let arguments = [version, "-o", "/dev/null", "-w", "%{http_code}"];
            assert_eq!(front.get("a.test", path, &arguments), code, "{version}");
        }
    }
    // One connection for all of it.
    for version in ["--http1.1", "--http2"] {
        let again = front.url("a.test", "/files/big");
        let arguments = [version, "-w", "%{num_connects} ", "-o", got, &again, "-o", got, &again, "-o", got];
        assert_eq!(front.get("a.test", "/who", &arguments), "1 0 0 ", "{version}");
    }
}

#[test]
fn rules_and_servers_know_how_the_client_came() {
    let place = Place::new("tls-rules").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |site| {
        site.frontend = "forwarded_for = true".into();
        let rules = ["sni = \"b.test\"", "sni_suffix = \".b.test\"", "alpn = [\"h2\"]", "tls = true"];
        for rule in rules {
            let body = rule.replace('"', "'");
            site.more += &format!(
                "[[frontend.front.rule]]\nwhen = {{ path = \"/rule\", {rule} }}\nreturn = {{ status = 200, body = \"{body}\" }}\n"
            );
        }
        site.more +=
            "[[frontend.clear.rule]]\nwhen = { tls = false, path = \"/move\" }\nredirect = { scheme = \"https\" }\n";
    });
    assert_eq!(front.get("b.test", "/rule", &["--http2"]), "sni = 'b.test'");
    assert_eq!(front.get("x.b.test", "/rule", &["--http1.1"]), "sni_suffix = '.b.test'");
    assert_eq!(front.get("a.test", "/rule", &["--http2"]), "alpn = ['h2']");
    assert_eq!(front.get("a.test", "/rule", &["--http1.1"]), "tls = true");
    for version in ["--http1.1", "--http2"] {
        let head = front.get("a.test", "/head", &[version, "-H", "X-Forwarded-Proto: http"]).to_lowercase();
        assert!(
            head.contains("x-forwarded-proto: https\r\n") && !head.contains("x-forwarded-proto: http\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("host: a.test:{}\r\n", front.tls().port())), "{version}: {head}");
    }
    let moved =
        run("curl", &["-s", "-o", "/dev/null", "-w", "%{redirect_url}", &format!("http://{}/move?x", front.clear)], "");
    assert_eq!(moved.text, format!("https://{}/move?x", front.clear.ip()));
}
