//! The PROXY protocol with those who speak it: HAProxy, nginx and curl, in front of lbnode and behind it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tests::haproxy::Haproxy;
use tests::nginx::Nginx;
use tests::place::Place;
use tests::serve::Serve;
use tests::wait::wait_until;

use crate::site::{curl_at, pki, profile, run};

const SOON: Duration = Duration::from_secs(20);
const TIMES: &str = "timeout client 20s\n  timeout server 20s\n  timeout connect 5s";

/// HAProxy that answers, also with what it was told: `src=… dst=… name=… id=… for=…`.
fn haproxy_behind(place: &Place, address: SocketAddr, tls: bool) -> Haproxy {
    let tls = if tls { format!(" ssl crt {}", pki().file("one.corp.pem")) } else { String::new() };
    let said = "src=%[src]:%[src_port] dst=%[dst]:%[dst_port] name=%[fc_pp_authority] id=%[fc_pp_unique_id] \
        for=%[req.hdr(x-forwarded-for)]\\n";
    let sections = format!(
        "frontend told\n  mode http\n  {TIMES}\n  bind {address} accept-proxy{tls}\n  \
        http-request return status 200 content-type text/plain lf-string \"{said}\""
    );
    Haproxy::start(place, "told", address, &sections).unwrap()
}

/// nginx that answers the same; `c=` is the number of its connection.
fn nginx_behind(place: &Place, address: SocketAddr) -> Nginx {
    let http = format!(
        "server {{ listen {address} proxy_protocol; location / {{ return 200 \"src=$proxy_protocol_addr:$proxy_protocol_port \
        dst=$proxy_protocol_server_addr:$proxy_protocol_server_port c=$connection\\n\"; }} }}"
    );
    Nginx::start(place, "told", address, &http, "").unwrap()
}

/// A cluster file of one frontend and one backend.
fn cluster(mode: &str, bind: &str, server: SocketAddr, frontend: &str, backend: &str, more: &str) -> String {
    format!(
        "[pair]\nname = \"site\"\n[frontend.front]\nmode = \"{mode}\"\nbind = [{{ {bind} }}]\ndefault_backend = \"back\"\n\
        {frontend}\n[backend.back]\nmode = \"{mode}\"\nservers = [{{ name = \"one\", address = \"{server}\" }}]\n\
        {backend}\n{more}\n"
    )
}

fn word<'a>(said: &'a str, name: &str) -> &'a str {
    let words = said.trim_end().split([' ', '\n']);
    words.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).unwrap_or_else(|| panic!("{said}")).1
}

/// curl in the clear; it has to succeed.
fn curl(serve: &Serve, arguments: &[&str]) -> String {
    let said = run("curl", &[&["-sS", "-m", "20", "--noproxy", "*"], arguments].concat(), "");
    assert!(said.code == 0, "curl {arguments:?}: {said:?}\n{}", serve.part.tail());
    said.text
}

#[test]
fn what_haproxy_announces_is_what_haproxy_hears_and_the_log_names_it() {
    let place = Place::new("announced-haproxy").unwrap();
    let (outside, inside, behind) = (place.at(8443), place.at(8080), place.at(9080));
    let log = place.path("log");
    let frontend = format!("forwarded_for = true\nlog = {{ target = \"file:{}\", format = \"json\" }}", log.display());
    for (round, send) in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn proxy-v2-options unique-id,crc32c"].iter().enumerate()
    {
        let _told = haproxy_behind(&place, behind, false);
        let bind = format!("to = \"{inside}\", accept_proxy = {{ from = \"{}\" }}", inside.ip());
        let _ = std::fs::remove_file(&log);
        let toml = cluster("http", &bind, behind, &frontend, "send_proxy = \"v2\"\ncheck = { http = {} }", "");
        let serve = Serve::start(&place, &toml).unwrap();
        let before = format!(
            "frontend outside\n  mode tcp\n  {TIMES}\n  unique-id-format theirs-{round}\n  \
            bind {outside} ssl crt {} ca-file {} verify optional\n  default_backend lb\n\
            backend lb\n  mode tcp\n  {TIMES}\n  server lb {inside} {send} source {}",
            pki().file("a.pem"),
            pki().file("root.crt"),
            inside.ip()
        );
        let _outside = Haproxy::start(&place, "outside", outside, &before).unwrap();
        let url = format!("https://a.test:{}/", outside.port());
        let wanted = ["-w", "%{local_ip}:%{local_port}", "--cert", &pki().file("alice.pem"), &url];
        let said = curl_at(outside, "a.test", &wanted);
        assert!(said.code == 0, "{send}: {said:?}\n{}", serve.part.tail());
        let (told, own) = said.text.trim_end().rsplit_once('\n').unwrap();
        assert_eq!((word(told, "src"), word(told, "dst")), (own, &*outside.to_string()), "{send}: {told}");
        assert_eq!(word(told, "for"), own.split(':').next().unwrap());
        let id = word(told, "id");
        if send.contains("unique-id") {
            assert_eq!(id, format!("theirs-{round}"));
        } else {
            assert!(id.starts_with("7F"), "{send}: {told}");
        }
        let line = wait_until("the line", SOON, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.ends_with('\n') { Ok(text) } else { Err(text) }
        });
        let line: Value = serde_json::from_str(line.unwrap().trim()).unwrap();
        assert_eq!((&line["unique_id"], &line["client"]), (&id.into(), &word(told, "for").into()), "{line}");
    }
}

#[test]
fn haproxy_is_told_of_clients_by_tcp_mode_and_by_tls_on_both_sides() {
    let place = Place::new("announced-tls").unwrap();
    let (front, behind) = (place.at(8443), place.at(9443));
    let _told = haproxy_behind(&place, behind, true);
    let more = profile(&["default", "a"], "");
    for mode in ["tcp", "http"] {
        let bind = format!("to = \"{front}\", tls = \"front\"");
        let backend = "send_proxy = \"v2\"\ntls = { verify = \"none\" }";
        let serve = Serve::start(&place, &cluster(mode, &bind, behind, "", backend, &more)).unwrap();
        let url = format!("https://a.test:{}/", front.port());
        let said = curl_at(front, "a.test", &["--http1.1", "-w", "%{local_ip}:%{local_port}", &url]);
        assert!(said.code == 0, "{mode}: {said:?}\n{}", serve.part.tail());
        let (told, own) = said.text.trim_end().rsplit_once('\n').unwrap();
        let words = (word(told, "src"), word(told, "dst"), word(told, "name"));
        assert_eq!(words, (own, &*front.to_string(), "a.test"), "{mode}");
    }
}

#[test]
fn nginx_behind_hears_of_each_client_on_connections_of_its_own() {
    let place = Place::new("announced-nginx").unwrap();
    let (front, secure, behind) = (place.at(8080), place.at(8443), place.at(9080));
    let _told = nginx_behind(&place, behind);
    let tls = profile(&["a"], "");
    for version in ["v1", "v2"] {
        let bind = format!("to = \"{front}\" }}, {{ to = \"{secure}\", tls = \"front\"");
        let backend = format!("send_proxy = \"{version}\"\ncheck = {{ http = {{}}, interval = \"100ms\" }}");
        let mut serve = Serve::start(&place, &cluster("http", &bind, behind, "", &backend, &tls)).unwrap();
        let (plain, http2) = (format!("http://{front}/"), format!("https://a.test:{}/", secure.port()));
        let mut seen = Vec::new();
        // curl 7.88 with prior knowledge of HTTP/2 begins a second request with a second preface.
        for (own, url) in [(front, &plain), (front, &plain), (secure, &http2)] {
            let said = curl_at(secure, "a.test", &["-w", "own=%{local_ip}:%{local_port}\n", url, url, url]);
            assert!(said.code == 0, "{said:?}\n{}", serve.part.tail());
            let parts: Vec<&str> = said.text.split("own=").collect();
            for both in parts.windows(2) {
                let (told, client) = (both[0].lines().last().unwrap(), both[1].lines().next().unwrap());
                assert_eq!((word(told, "src"), word(told, "dst")), (client, &*own.to_string()), "{version}: {said:?}");
                seen.push(word(told, "c").to_owned());
            }
        }
        let mut connections = seen.clone();
        connections.dedup();
        assert_eq!((seen.len(), connections.len()), (9, 3), "{version}: three clients, each three times: {seen:?}");
        // What it answers to checks: they begin with a header of their own, unless they are told otherwise.
        let state = |serve: &Serve| {
            let output = serve.command(&["status", "--json"]).unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            status["backends"][0]["servers"][0].clone()
        };
        let is = |serve: &Serve, wanted: &str| {
            wait_until(&format!("the server to be {wanted}"), SOON, || {
                let server = state(serve);
                if server["state"] == wanted { Ok(()) } else { Err(server.to_string()) }
            })
            .unwrap();
        };
        is(&serve, "up");
        let backend = backend.replace("http = {}", "http = {}, send_proxy = false");
        serve.apply(&cluster("http", &bind, behind, "", &backend, &tls)).unwrap();
        is(&serve, "down");
    }
}

#[test]
fn nginx_and_curl_announce_clients_and_who_does_not_is_counted() {
    let place = Place::new("announced-curl").unwrap();
    let (outside, front, behind) = (place.at(8000), place.at(8080), place.at(9080));
    let _told = nginx_behind(&place, behind);
    let bind = format!("to = \"{front}\", accept_proxy = true");
    let serve = Serve::start(&place, &cluster("tcp", &bind, behind, "", "send_proxy = \"v1\"", "")).unwrap();
    let stream = format!("server {{ listen {outside}; proxy_pass {front}; proxy_protocol on; }}");
    let _outside = Nginx::start(&place, "outside", outside, "", &stream).unwrap();
    let words = ["-w", "own=%{local_ip}:%{local_port}"];
    for (url, more) in [(outside, &[][..]), (front, &["--haproxy-protocol"])] {
        let said = curl(&serve, &[more, &words, &[&format!("http://{url}/")]].concat());
        assert_eq!((word(&said, "src"), word(&said, "dst")), (word(&said, "own"), &*url.to_string()), "{said}");
    }
    let said = run("curl", &["-sS", "-m", "20", "--noproxy", "*", &format!("http://{front}/")], "");
    assert_ne!(said.code, 0, "{said:?}");
    let output = serve.command(&["status", "--json"]).unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["frontends"][0]["bad_proxy"], serde_json::json!({ "missing": 1 }), "{status}");
}
