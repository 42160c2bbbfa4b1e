//! Exchange by TCP: `deploy/examples/exchange-tcp`.

use std::fs;
use std::process::Command;

use netns_lab::netns::Netns;
use netns_lab::pair::Pair;
use netns_lab::site::VIP;
use netns_lab::wait::wait_until;
use tests::fixture::{Folder, LIMIT, OrFail, attempt};

use crate::mail::{Exchange, Lines, OUTSIDER, SERVERS, USER, certificates, still_there};
use crate::setup::{Example, Syslog, curl, hand_over_unnoticed, kill_active, start};

/// Whose certificate the client sees, by its common name; each connection is a new one.
fn shown(netns: &Netns, trust: &str) -> Result<String, String> {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &format!("{VIP}:443"), "-servername", "mail.mydomain.local"]);
    client.args(["-verify_hostname", "mail.mydomain.local", "-verify_return_error", "-CAfile", trust]);
    client.stdin(std::process::Stdio::null());
    let output = netns.run(move || client.output()).or_fail("run openssl");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let subject = said.lines().find_map(|line| line.strip_prefix("subject="));
    match subject.map(|subject| subject.replace(' ', "")) {
        Some(subject) if output.status.success() => Ok(subject.trim_start_matches("CN=").to_owned()),
        _ => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

#[test]
fn exchange_by_tcp() {
    attempt("seed-exchange-tcp", run);
}

fn run(folder: &Folder) {
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    let pki = certificates(folder.path());
    let exchange = Exchange::start(&pair, folder.path(), &[], [&pki.path("exch01.pem"), &pki.path("exch02.pem")]);
    let senders = folder.path().join("smtp.lst");
    fs::write(&senders, USER).or_fail("write a list");
    Example::read("exchange-tcp")
        .with("10.12.8.15", &VIP.to_string())
        .with("\"10.12.8.5\", \"10.12.8.6\"", &format!("\"{OUTSIDER}\""))
        .with("/etc/lbnode/smtp.lst", &senders.display().to_string())
        .with("preempt_delay = \"5s\"", "preempt_delay = \"1000s\"")
        .install(&pair);
    let syslog = [0, 1].map(|index| Syslog::start(&pair.site.nodes[index].netns));
    let active = start(&mut pair);
    let netns = pair.site.client.netns.clone();
    let trust = pki.file("corp.crt");

    // Three to one; each worker has a turn of its own, so not to the last one.
    let ask = || shown(&netns, &trust).unwrap_or_else(|error| panic!("{error}"));
    let first = (0..40).filter(|_| ask() == SERVERS[0]).count();
    assert!((26..=34).contains(&first), "{first} of 40 came to the first server");
    let line = syslog[active].line(" exchange exchange/exch01 ");
    assert!(line.starts_with("<134>") && line.contains(&format!(": {OUTSIDER}:")) && line.contains(" -- "), "{line}");

    let resolve = format!("mail.mydomain.local:80:{VIP}");
    let redirect = curl(&netns, &["--resolve", &resolve, "http://mail.mydomain.local/owa/"]);
    let redirect = redirect.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((redirect.status, redirect.header("Location")), (301, "https://mail.mydomain.local/owa/"));

    let (mut smtp, greeting) = Lines::open(&netns, USER, 25).or_fail("reach SMTP");
    assert!(SERVERS.iter().any(|server| greeting == format!("220 {server} ESMTP")), "{greeting}");
    assert_eq!(smtp.ask("HELO client.test").or_fail("say hello"), "250 mx.test");
    assert_eq!(smtp.ask("QUIT").or_fail("leave"), "221 2.0.0 Bye");
    assert!(Lines::open(&netns, OUTSIDER, 25).is_err(), "a list keeps it out");

    let (mut older, greeting) = Lines::open(&netns, OUTSIDER, 143).or_fail("reach IMAP");
    assert!(greeting.starts_with("* OK "), "{greeting}");
    let resolve = format!("mail.mydomain.local:443:{VIP}");
    let arguments = ["--cacert", &trust, "--resolve", &resolve, "https://mail.mydomain.local/"];
    let active = hand_over_unnoticed(&mut pair, active, &arguments);
    ask();
    syslog[active].line(" exchange exchange/exch0");
    let (mut newer, _) = Lines::open(&netns, OUTSIDER, 143).or_fail("reach IMAP at the other node");
    assert!(still_there(&mut older) && still_there(&mut newer));

    kill_active(&mut pair, active);
    wait_until("TLS to be answered", LIMIT, || shown(&netns, &trust)).or_fail("reach a server");
    assert!(still_there(&mut older), "it stayed with the node that lives");
    assert!(!still_there(&mut newer), "it ended with its node");
    Lines::open(&netns, OUTSIDER, 143).or_fail("open a mailbox again");
    Lines::open(&netns, USER, 25).or_fail("reach SMTP again");
    drop(exchange);
}
