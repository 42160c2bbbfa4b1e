//! Dovecot: a client that waits for mail says nothing for as long as it likes (RFC 2177 allows 29 minutes).

use std::io;
use std::time::{Duration, Instant};

use tests::mail::dovecot;
use tests::place::Place;
use tests::serve::Serve;
use tests::wait::{pass, wait_until};

use crate::client::Imap;
use crate::{SOON, site};

const MAIL: &str = "From: bob@mail.test\r\nSubject: news\r\n\r\nIt is here.\r\n";

/// Says nothing for so long, and then hears of a new mail through the proxy at once.
fn idles(name: &str, idle: Duration) {
    let place = Place::new(name).unwrap();
    let server = place.at(10143);
    let _dovecot = dovecot(&place, server).unwrap();
    let site = site(&place, &[server], "imap = {}");
    let mut serve = Serve::start(&place, &site.toml()).unwrap();
    let mut waits = Imap::login(site.bind, "ann").unwrap();
    waits.idle().unwrap();
    pass(idle);
    let mut other = Imap::login(site.bind, "ann").unwrap();
    let began = Instant::now();
    other.append(MAIL).unwrap();
    assert_eq!(waits.news().unwrap(), "* 1 EXISTS");
    println!("{name}: told after {:?} of a mail that came after {idle:?}", began.elapsed());
    waits.done().unwrap();
    assert_eq!(waits.text(1).unwrap(), b"It is here.\r\n");

    // What goes on meanwhile is told, too; an apply changes nothing about that.
    waits.idle().unwrap();
    serve.apply(&site.toml().replace("200ms", "210ms")).unwrap();
    other.ask("STORE 1 +FLAGS (\\Deleted)").unwrap();
    other.ask("EXPUNGE").unwrap();
    waits.hears("* 1 EXPUNGE").unwrap();

    // The same without a time of its own for idling ends as the other limits say.
    serve.apply(&site.toml().replace(", tunnel = \"30m\"", "")).unwrap();
    let mut cut = Imap::login(site.bind, "ann").unwrap();
    cut.idle().unwrap();
    let began = Instant::now();
    let end = cut.news().map_err(|error| error.kind());
    assert_eq!(end, Err(io::ErrorKind::UnexpectedEof));
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(900) && waited < SOON / 2, "{waited:?}");
}

#[test]
fn an_idle_session_outlives_every_other_time_limit_and_hears_of_new_mail() {
    idles("imap-idle", Duration::from_secs(3));
}

#[test]
fn long_imap_idle_of_half_an_hour() {
    if std::env::var_os("LBNODE_LONG").is_some() {
        idles("imap-idle-long", Duration::from_secs(29 * 60));
    } else {
        println!("skipped long_imap_idle_of_half_an_hour: set LBNODE_LONG=1");
    }
}

#[test]
fn a_client_whose_server_goes_is_told_at_once_and_comes_back_to_the_other() {
    let place = Place::new("imap-gone").unwrap();
    let addresses = [place.at(10143), place.at(10144)];
    let start = |index: usize| Some(dovecot(&place, addresses[index]).unwrap());
    // Both show the same mail.
    let mut servers = [start(0), start(1)];
    let mut site = site(&place, &addresses, "imap = {}");
    site.backend += "\nbalance = \"first\"";
    let toml = site.toml().replace("143\" }", "143\", max_connections = 100 }");
    let serve = Serve::start(&place, &toml).unwrap();
    let mut client = Imap::login(site.bind, "ann").unwrap();
    client.append(MAIL).unwrap();
    // Each time the server that it is with: the first, the second, and the first again.
    for gone in [0, 1, 0] {
        client.idle().unwrap();
        let began = Instant::now();
        drop(servers[gone].take());
        // Dovecot says goodbye where it can.
        let end = std::iter::from_fn(|| Some(client.news())).find_map(Result::err).unwrap().kind();
        assert!(matches!(end, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{end:?}");
        assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
        // Without a wait: where it was is refused, and the other one is there.
        client = Imap::login(site.bind, "ann").unwrap();
        assert_eq!(client.text(1).unwrap(), b"It is here.\r\n");
        servers[gone] = start(gone);
        let name = format!("at-{}", addresses[gone].port());
        wait_until("it to be up again", SOON, || match serve.server(&name) {
            server if server["state"] == "up" => Ok(()),
            server => Err(server.to_string()),
        })
        .unwrap();
    }
}
