//! Dovecot and Postfix under checks that speak their protocols.

use std::net::SocketAddr;

use tests::mail::{dovecot, postfix};
use tests::place::Place;
use tests::serve::{Serve, Site};

use crate::wait_for;

/// The site's own server, and one more in a backend of its own, both checked like this.
fn site(place: &Place, good: SocketAddr, bad: SocketAddr, check: &str) -> String {
    let mut site = Site::new(place.at(8080), good);
    let check = format!("check = {{ {check}, interval = \"100ms\", timeout = \"10s\" }}");
    site.mode = "tcp";
    site.backend = check.clone();
    site.more =
        format!("[backend.other]\nmode = \"tcp\"\nservers = [{{ name = \"other\", address = \"{bad}\" }}]\n{check}\n");
    site.toml()
}

#[test]
fn a_mailbox_server_is_known_by_its_greeting() {
    let place = Place::new("checks-imap").unwrap();
    let address = place.at(10143);
    let dovecot = dovecot(&place, address).unwrap();
    let nginx = place.at(9001);
    let _nginx = tests::nginx::Nginx::server(&place, "one", nginx).unwrap();
    // A web server waits for us to speak first, and then to ask for something.
    let serve = Serve::start(&place, &site(&place, address, nginx, "imap = {}").replace("10s", "1s")).unwrap();
    wait_for(&serve, "one", "up", "passed");
    wait_for(&serve, "other", "down", "no answer within 1s");
    drop(dovecot);
    wait_for(&serve, "one", "down", "connection refused");
}

#[test]
fn a_mail_server_is_known_by_its_greeting_and_says_goodbye() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: Postfix starts only as root");
    }
    let place = Place::new("checks-smtp").unwrap();
    let address = place.at(10025);
    let postfix = postfix(&place, address, "mx.test ESMTP").unwrap();
    let imap = place.at(10143);
    let _dovecot = dovecot(&place, imap).unwrap();
    let serve = Serve::start(&place, &site(&place, address, imap, "smtp = { name = \"lb.test\" }")).unwrap();
    wait_for(&serve, "one", "up", "passed");
    wait_for(&serve, "other", "down", "its greeting is `* OK");
    drop(postfix);
    wait_for(&serve, "one", "down", "connection refused");
}
