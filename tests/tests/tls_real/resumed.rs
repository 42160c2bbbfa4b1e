//! `openssl s_client` and `s_time`: sessions that are taken up again, also after the certificate was replaced; staples; clients
//! of which one knows RSA only, the other ECDSA only.

use tests::nginx::Nginx;
use tests::place::Place;

use crate::site::{Front, pki, run, s_client, serial_of, serial_shown};

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

#[test]
fn sessions_are_resumed_also_after_the_certificate_was_replaced() {
    let place = Place::new("tls-resumed").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let leaf = place.path("a.pem").display().to_string();
    std::fs::copy(pki().path("a.pem"), &leaf).unwrap();
    let mut front = Front::start(&place, server, |site| {
        site.more = site.more.replace(&pki().file("a.pem"), &leaf);
    });
    let sessions = VERSIONS.map(|version| place.path(&format!("session{version}")).display().to_string());
    let ask = |version: &str, option: &str, session: &str| {
        let said = s_client(front.tls(), "/who", &[version, "-servername", "a.test", option, session]);
        assert!(said.text.contains("HTTP/1.1 200 "), "{version}: {said:?}");
        said.text
    };
    for (version, session) in VERSIONS.iter().zip(&sessions) {
        assert!(ask(version, "-sess_out", session).contains("New, TLSv1."), "{version}");
        assert!(ask(version, "-sess_in", session).contains("Reused, TLSv1."), "{version}");
    }
    assert_eq!(serial_shown(front.tls(), "a.test", &[]), serial_of("a"));
    std::fs::copy(pki().path("a-next.pem"), &leaf).unwrap();
    front.apply();
    assert_eq!(serial_shown(front.tls(), "a.test", &[]), serial_of("a-next"), "the new one is shown");
    let ask = |version: &str, session: &str| {
        s_client(front.tls(), "/who", &[version, "-servername", "a.test", "-sess_in", session]).text
    };
    for (version, session) in VERSIONS.iter().zip(&sessions) {
        let text = ask(version, session);
        assert!(text.contains("Reused, TLSv1.") && text.contains("\r\n\r\none\n"), "{version}: {text}");
    }

    front.site.more = front.site.more.replace("[tls.front]\n", "[tls.front]\ntickets = false\n");
    front.apply();
    for (version, session) in VERSIONS.iter().zip(&sessions) {
        let text = s_client(front.tls(), "/who", &[version, "-servername", "a.test", "-sess_in", session]).text;
        assert!(text.contains("New, TLSv1.") && text.contains("\r\n\r\none\n"), "no tickets, {version}: {text}");
        assert!(!text.contains("TLS session ticket:"), "no tickets, {version}: {text}");
    }
}

#[test]
fn a_staple_is_shown_to_who_asks_for_it() {
    let place = Place::new("tls-staple").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    pki().staple("b", "intermediate", 7).unwrap();
    let front = Front::start(&place, server, |site| {
        let file = format!("file = \"{}\"\n", pki().file("b.pem"));
        site.more = site.more.replace(&file, &format!("{file}ocsp = \"{}\"\n", pki().file("b.ocsp")));
    });
    for version in VERSIONS {
        let said = s_client(front.tls(), "/who", &[version, "-servername", "b.test", "-status"]).text;
        assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");
        let none = s_client(front.tls(), "/who", &[version, "-servername", "a.test", "-status"]).text;
        assert!(none.contains("OCSP response: no response sent"), "{none}");
    }
    // curl demands one, and checks it.
    assert_eq!(front.get("b.test", "/who", &["--cert-status"]), "one\n");
    assert_ne!(front.try_get("a.test", "/who", &["--cert-status"]).code, 0);
}

#[test]
fn who_knows_rsa_only_or_ecdsa_only_is_served_by_the_same_name() {
    let place = Place::new("tls-kinds").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let name = ["-servername", "a.test"];
    for (arguments, expected) in [
        (&["-tls1_3"][..], "a"),
        (&["-tls1_2"], "a"),
        (&["-tls1_3", "-sigalgs", "ECDSA+SHA256"], "a"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "a"),
        (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "a-rsa"),
        (&["-tls1_2", "-sigalgs", "RSA+SHA256:RSA-PSS+SHA256"], "a-rsa"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "a-rsa"),
    ] {
        let said = s_client(front.tls(), "/who", &[&name[..], arguments].concat());
        assert!(said.text.contains("\r\n\r\none\n"), "{arguments:?}: {said:?}");
        assert_eq!(serial_shown(front.tls(), "a.test", arguments), serial_of(expected), "{arguments:?}");
    }
}

#[test]
fn handshakes_for_two_seconds_all_succeed() {
    let place = Place::new("tls-s-time").unwrap();
    let server = place.at(9001);
    let _nginx = Nginx::server(&place, "one", server).unwrap();
    let front = Front::start(&place, server, |_| {});
    let at = front.tls().to_string();
    for kind in ["-new", "-reuse"] {
        for version in VERSIONS {
            let arguments = ["20", "openssl", "s_time", "-connect", &at, kind, version, "-time", "1", "-www", "/who"];
            let said = run("timeout", &arguments, "");
            let line = said.text.lines().find(|line| line.contains("connections in") && line.contains("real seconds"));
            let line = line.unwrap_or_else(|| panic!("{kind} {version}: {said:?}"));
            let count: u32 = line.split(' ').next().unwrap().parse().unwrap();
            println!("{kind} {version}: {line}");
            assert!(said.code == 0 && count > 3 && !said.complaint.contains("error"), "{kind} {version}: {said:?}");
        }
    }
}
