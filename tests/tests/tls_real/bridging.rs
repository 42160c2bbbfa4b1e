//! TLS to servers: nginx and Apache with certificates of a private CA. A server that cannot prove who it is gets nothing.

use std::time::Duration;

use serde_json::Value;
use tests::apache::Apache;
use tests::nginx::Nginx;
use tests::place::Place;
use tests::serve::Site;
use tests::wait::wait_until;

use crate::site::{Front, Said, authority, certificates, pki};

const SOON: Duration = Duration::from_secs(20);

/// A backend's `tls` with verification against the private CA, and what more is said.
fn verified(site: &mut Site, more: &str) {
    site.more += &authority();
    site.backend += &format!("tls = {{ verify = \"required\", ca = \"corp\"{more} }}\n");
}

fn status(front: &Front) -> Value {
    let output = front.serve.command(&["status", "--json"]).unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What status says of the first server, once it says this of its state.
fn server_is(front: &Front, state: &str) -> Value {
    wait_until(&format!("the server to be {state}"), SOON, || {
        let server = status(front)["backends"][0]["servers"][0].clone();
        if server["state"] == state { Ok(server) } else { Err(server.to_string()) }
    })
    .unwrap()
}

/// The words of `/tls` of nginx: `name=value …`.
fn word<'a>(said: &'a str, name: &str) -> &'a str {
    let words = said.trim().split(' ');
    words.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).unwrap_or_else(|| panic!("{said}")).1
}

#[test]
fn nginx_is_verified_and_spoken_to_by_its_name() {
    let place = Place::new("bridge-nginx").unwrap();
    let server = place.at(9443);
    let _nginx = Nginx::tls_server(&place, "one", server, &pki().path("one.corp.pem"), "").unwrap();
    let front = Front::start(&place, server, |site| {
        verified(site, ", server_name = \"one.corp\"");
        site.backend += "check = { http = { path = \"/who\" }, interval = \"200ms\", rise = 1, fall = 1 }\n";
    });
    server_is(&front, "up");
    let said = front.get("a.test", "/tls", &[]);
    assert_eq!((word(&said, "version"), word(&said, "name")), ("TLSv1.3", "one.corp"), "{said}");
    let big: Vec<u8> = (0..3_000_000_u32).map(|index| (index * 31 % 251) as u8).collect();
    std::fs::create_dir_all(place.path("files")).unwrap();
    place.write("files/big", &big).unwrap();
    let (sent, got) = (place.path("files/big").display().to_string(), place.path("got").display().to_string());
    for version in ["--http1.1", "--http2"] {
        front.get("a.test", "/files/big", &[version, "-o", &got]);
        assert!(std::fs::read(&got).unwrap() == big, "{version}: GET");
        front.get("a.test", "/echo", &[version, "-o", &got, "--data-binary", &format!("@{sent}")]);
        assert!(std::fs::read(&got).unwrap() == big, "{version}: POST");
    }
    // Clear in front, TLS behind.
    let clear = crate::site::run("curl", &["-sS", "-m", "20", &format!("http://{}/who", front.clear)], "");
    assert_eq!(clear.text, "one\n", "{clear:?}");
}

#[test]
fn a_server_has_the_name_that_is_its_own() {
    let place = Place::new("bridge-names").unwrap();
    let (one, two) = (place.at(9443), place.at(9444));
    let _one = Nginx::tls_server(&place, "one", one, &pki().path("one.corp.pem"), "").unwrap();
    let _two = Nginx::tls_server(&place, "two", two, &pki().path("two.corp.pem"), "").unwrap();
    let (site, clear) = crate::site::ordinary(&place, one, |site| verified(site, ""));
    let servers = format!(
        "  {{ name = \"one\", address = \"{one}\", server_name = \"one.corp\" }},\n  \
        {{ name = \"two\", address = \"{two}\", server_name = \"two.corp\" }},\n"
    );
    let toml = site.toml().replace(&format!("  {{ name = \"one\", address = \"{one}\" }},\n"), &servers);
    assert!(toml.contains("two.corp"), "{toml}");
    let front = Front { serve: tests::serve::Serve::start(&place, &toml).unwrap(), site, clear };
    let mut seen: Vec<String> = (0..4).map(|_| front.get("a.test", "/tls", &[])).collect();
    seen.sort_by_key(|said| word(said, "name").to_owned());
    seen.dedup_by_key(|said| word(said, "name").to_owned());
    assert_eq!(seen.iter().map(|said| word(said, "name")).collect::<Vec<_>>(), ["one.corp", "two.corp"]);
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_no_request_and_status_says_why() {
    let cases: [(&str, &str, &str, &[&str]); 4] = [
        ("the wrong name", "one.corp", "two.corp", &["name"]),
        ("the wrong authority", "fake.corp", "one.corp", &["issuer", "authority", "ca"]),
        ("an expired certificate", "over.corp", "over.corp", &["expired"]),
        ("no TLS at all", "", "one.corp", &["tls"]),
    ];
    for (what, shown, wanted, words) in cases {
        let place = Place::new("bridge-refused").unwrap();
        let server = place.at(9443);
        let _nginx = if shown.is_empty() {
            Nginx::server(&place, "one", server).unwrap()
        } else {
            Nginx::tls_server(&place, "one", server, &pki().path(&format!("{shown}.pem")), "").unwrap()
        };
        // Unchecked, the request itself finds out.
        let mut front = Front::start(&place, server, |site| {
            verified(site, &format!(", server_name = \"{wanted}\""));
            site.backend += "retries = 0\n";
        });
        let said = front.try_get("a.test", "/who", &["-w", "%{http_code}"]);
        assert!(said.text.ends_with("502") || said.text.ends_with("503"), "{what}: {said:?}");
        let counted = status(&front)["backends"][0]["servers"][0].clone();
        assert_ne!(counted["connect_errors"], 0, "{what}: {counted}");

        front.site.backend += "check = { http = { path = \"/who\" }, interval = \"200ms\", rise = 1, fall = 1 }\n";
        front.apply();
        let down = server_is(&front, "down");
        let why = down["check"].to_string().to_lowercase();
        println!("{what}: {why}");
        assert!(words.iter().any(|word| why.contains(word)), "{what}: {down}");
        let Said { text, .. } = front.try_get("a.test", "/who", &["-w", "%{http_code}"]);
        assert!(text.ends_with("503"), "{what}: {text}");
    }
}

#[test]
fn verify_none_takes_any_certificate() {
    for shown in ["fake.corp", "over.corp"] {
        let place = Place::new("bridge-none").unwrap();
        let server = place.at(9443);
        let _nginx = Nginx::tls_server(&place, "one", server, &pki().path(&format!("{shown}.pem")), "").unwrap();
        let front = Front::start(&place, server, |site| site.backend = "tls = { verify = \"none\" }\n".into());
        assert_eq!(front.get("a.test", "/who", &[]), "one\n", "{shown}");
    }
}

#[test]
fn checks_may_believe_more_than_requests_do() {
    let place = Place::new("bridge-checks").unwrap();
    let server = place.at(9443);
    let _nginx = Nginx::tls_server(&place, "one", server, &pki().path("fake.corp.pem"), "").unwrap();
    let check = "check = { http = { path = \"/who\" }, interval = \"200ms\", rise = 1, fall = 1, tls = { verify = \"none\" } }\n";
    let front = Front::start(&place, server, |site| {
        verified(site, ", server_name = \"one.corp\"");
        site.backend += check;
        site.backend += "retries = 0\n";
    });
    server_is(&front, "up");
    let said = front.try_get("a.test", "/who", &["-w", "%{http_code}"]);
    assert!(said.text.ends_with("502") || said.text.ends_with("503"), "{said:?}");
}

#[test]
fn apache_that_demands_a_certificate_gets_ours() {
    let place = Place::new("bridge-apache").unwrap();
    let server = place.at(9443);
    let _apache =
        Apache::tls_server(&place, "one", server, &pki().path("two.corp.pem"), &pki().path("root.crt")).unwrap();
    std::fs::create_dir_all(place.path("files")).unwrap();
    place.write("files/small", "small").unwrap();
    let mut front = Front::start(&place, server, |site| {
        site.more += &certificates(&["lb"]);
        verified(site, ", server_name = \"two.corp\", certificate = \"lb\"");
        site.backend += "check = { http = { path = \"/files/small\" }, interval = \"200ms\", rise = 1, fall = 1 }\n";
    });
    server_is(&front, "up");
    for version in ["--http1.1", "--http2"] {
        let answer = front.get("a.test", "/files/small", &["-i", version]).to_lowercase();
        assert!(answer.contains("x-client: cn=lb,o=corp\r\n") && answer.ends_with("small"), "{answer}");
    }
    // Without one it is a server that refuses us.
    front.site.backend = front.site.backend.replace(", certificate = \"lb\"", "");
    front.apply();
    server_is(&front, "down");
}

#[test]
fn sessions_with_a_server_are_used_again() {
    let place = Place::new("bridge-sessions").unwrap();
    let server = place.at(9443);
    // One request a connection: the next request needs another one.
    let _nginx =
        Nginx::tls_server(&place, "one", server, &pki().path("one.corp.pem"), "keepalive_requests 1;").unwrap();
    for version in ["1.2", "1.3"] {
        let more = format!(", server_name = \"one.corp\", min_version = \"{version}\"");
        let front = Front::start(&place, server, |site| verified(site, &more));
        let said: Vec<String> = (0..4).map(|_| front.get("a.test", "/tls", &[])).collect();
        let connections: std::collections::BTreeSet<_> = said.iter().map(|said| word(said, "connection")).collect();
        assert_eq!(connections.len(), 4, "{said:?}");
        // nginx says `r` of a session that was used again, `.` of another.
        let reused: Vec<_> = said.iter().map(|said| word(said, "reused")).collect();
        assert_eq!(reused, [".", "r", "r", "r"], "{version}: {said:?}");
    }
}

#[test]
fn tls_that_has_only_its_old_version_is_spoken_to_in_it() {
    let place = Place::new("bridge-old").unwrap();
    let server = place.at(9443);
    let more = "ssl_protocols TLSv1.2;";
    let _nginx = Nginx::tls_server(&place, "one", server, &pki().path("one.corp.pem"), more).unwrap();
    let mut front = Front::start(&place, server, |site| verified(site, ", server_name = \"one.corp\""));
    assert_eq!(word(&front.get("a.test", "/tls", &[]), "version"), "TLSv1.2");
    front.site.backend = front.site.backend.replace("\"one.corp\"", "\"one.corp\", min_version = \"1.3\"");
    front.apply();
    let said = front.try_get("a.test", "/tls", &["-w", "%{http_code}"]);
    assert!(said.text.ends_with("502") || said.text.ends_with("503"), "{said:?}");
}

#[test]
fn idle_connections_are_not_used_once_another_tls_is_wanted() {
    let place = Place::new("bridge-changed").unwrap();
    let (fake, clear) = (place.at(9443), place.at(9001));
    let _fake = Nginx::tls_server(&place, "fake", fake, &pki().path("fake.corp.pem"), "").unwrap();
    let _clear = Nginx::server(&place, "clear", clear).unwrap();
    for (what, server, before, after) in [
        (
            "nothing, then the authority",
            fake,
            "tls = { verify = \"none\" }",
            "tls = { verify = \"required\", ca = \"corp\" }",
        ),
        ("clear, then TLS", clear, "", "tls = { verify = \"none\" }"),
    ] {
        let mut front = Front::start(&place, server, |site| {
            site.more += &authority();
            site.backend = format!("retries = 0\n{before}\n");
        });
        assert_eq!(front.try_get("a.test", "/who", &["-w", " %{http_code}"]).text.split(' ').next_back(), Some("200"));
        front.site.backend = format!("retries = 0\n{after}\n");
        front.apply();
        let said = front.try_get("a.test", "/who", &["-o", "/dev/null", "-w", "%{http_code}"]);
        assert!(["502", "503"].contains(&said.text.as_str()), "{what}: {said:?}");
    }
}
