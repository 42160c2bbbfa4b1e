//! Handshakes that come to nothing, and the many that come at once.

use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proxy_core::plan::{Check, ClientAuth, Mode, TlsVersion};
use proxy_core::plane::DataPlane;

use super::ends::{Ca, ask, secure_back, secure_front, shake_hands};
use crate::data_support::http::{Peer, get, http, ok, stage};
use crate::data_support::{at, client, nobody, server, wait_for};

fn failed(plane: &DataPlane, why: &str) -> u64 {
    let stats = plane.stats();
    stats.frontends[0].tls.as_ref().unwrap().failed.get(why).copied().unwrap_or(0)
}

#[test]
fn each_reason_for_which_a_handshake_fails_is_counted_under_its_name() {
    let ca = Ca::new();
    let (address, plane) = stage(vec![at("one", nobody())], |plan| {
        secure_front(plan, &ca);
        plan.authorities.push(ca.authority());
        plan.tls[0].min_version = TlsVersion::V13;
        plan.tls[0].alpn = vec!["h2".into()];
        plan.tls[0].client_auth = Some(ClientAuth { authority: 0, required: true });
        http(plan).request_timeout = Duration::from_millis(300);
    });
    let count = |why: &str| wait_for(why, || failed(&plane, why) == 1);

    drop(client(address));
    count("closed");
    let silent = client(address);
    count("timeout");
    drop(silent);
    let mut plain = client(address);
    plain.write_all(get("/").as_bytes()).unwrap();
    count("not_tls");
    // The alert says so, then it ends.
    let mut alert = Vec::new();
    plain.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "{alert:?}");

    let mut alpn = ca.client();
    alpn.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(shake_hands(address, &Arc::new(alpn)).is_err());
    count("alpn");
    let mut without = shake_hands(address, &Arc::new(ca.client())).unwrap();
    assert!(ask(&mut without, get("/").as_bytes()).is_err());
    count("no_certificate");
    assert!(shake_hands(address, &Arc::new(Ca::new().client())).is_err());
    count("refused");
}

#[test]
fn a_server_that_is_not_who_it_should_be_is_not_used() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let config = Arc::new(theirs.server(&["b.test"]));
    let (behind, _) = server(move |socket| {
        let mut stream = super::ends::accept(socket, &config);
        let _ = stream.read(&mut [0]);
    });
    let (address, plane) = stage(vec![at("one", behind)], |plan| secure_back(plan, &ours));
    assert_eq!(Peer::to(address).get("/").status(), 503);
    assert_eq!(plane.stats().backends[0].servers[0].connect_errors, 1);
}

#[test]
fn while_hundreds_shake_hands_who_has_a_connection_is_served() {
    let ca = Ca::new();
    let (behind, _) = server(|stream| {
        let mut peer = Peer::new(stream);
        while let Ok(Some(_)) = peer.request() {
            peer.say(ok("served"));
        }
    });
    let (address, plane) = stage(vec![at("one", behind)], |plan| {
        secure_front(plan, &ca);
        assert!(matches!(plan.frontends[0].mode, Mode::Http(_)));
    });
    let config = Arc::new(ca.client());
    let mut established = shake_hands(address, &config).unwrap();
    let herd: Vec<_> = (0..8)
        .map(|_| {
            // No resumption between them: each its own memory.
            let ca = ca.client();
            thread::spawn(move || {
                for _ in 0..40 {
                    let mut client = shake_hands(address, &Arc::new(ca.clone())).unwrap();
                    assert_eq!(ask(&mut client, get("/").as_bytes()).unwrap(), b"served");
                }
            })
        })
        .collect();
    let mut rounds = 0;
    while herd.iter().any(|one| !one.is_finished()) {
        assert_eq!(ask(&mut established, get("/").as_bytes()).unwrap(), b"served");
        rounds += 1;
    }
    herd.into_iter().for_each(|one| one.join().unwrap());
    assert!(rounds > 10, "only {rounds} requests were served meanwhile");
    let stats = plane.stats();
    let tls = stats.frontends[0].tls.as_ref().unwrap();
    assert_eq!((tls.full + tls.resumed, tls.failed.len()), (321, 0));
}

#[test]
fn what_comes_behind_a_bad_hello_is_not_looked_at() {
    let ca = Ca::new();
    let (address, plane) = stage(vec![at("one", nobody())], |plan| {
        secure_front(plan, &ca);
        plan.tls[0].alpn = vec!["h2".into()];
    });
    let mut config = ca.client();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let mut hello = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut hello).unwrap();
    for garbage in
        [&b""[..], b"garbage that is no record", &[22, 3, 3, 0, 0], &[21, 3, 3, 0, 2, 2, 40], &[0xff; 20_000]]
    {
        let mut client = client(address);
        client.write_all(&[&hello, garbage].concat()).unwrap();
        let mut heard = Vec::new();
        let _ = client.read_to_end(&mut heard);
        // A hello of the server's, then an alert, encrypted or not.
        assert_eq!(heard.first(), Some(&22), "{heard:?}");
    }
    wait_for("all to be counted", || failed(&plane, "alpn") == 5);
}

#[test]
fn a_check_says_why_a_server_is_not_trusted_and_what_to_do() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let cases =
        [(theirs.server(&["b.test"]), "is from nobody in the `ca`"), (ours.server(&["c.test"]), "`server_name` says")];
    for (config, expected) in cases {
        let config = Arc::new(config);
        let (behind, _) = server(move |socket| {
            let _ = super::ends::accept(socket, &config).read(&mut [0]);
        });
        let (_, plane) = stage(vec![at("one", behind)], |plan| {
            secure_back(plan, &ours);
            plan.backends[0].check = Some(Check {
                tls: plan.backends[0].tls.clone(),
                interval: Duration::from_millis(50),
                timeout: Duration::from_secs(5),
                rise: 1,
                fall: 1,
                ..Check::default()
            });
        });
        let said =
            || plane.stats().backends[0].servers[0].last_check.clone().map(|check| check.what).unwrap_or_default();
        wait_for(expected, || said().contains(expected));
    }
}
