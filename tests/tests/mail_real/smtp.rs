//! Postfix, which delivers to where Dovecot looks: mail arrives whole, and once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use tests::mail::{certificate, dovecot, postfix, swaks};
use tests::place::Place;
use tests::serve::Serve;
use tests::wait::{pass, wait_until};

use crate::client::Imap;
use crate::{SOON, site};

/// Whether Postfix can be had; says so if not.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: Postfix starts only as root");
    }
    root
}

/// A text of many lines, none of which is like another; some begin with a dot.
fn big(lines: u32) -> String {
    (0..lines).map(|number| format!("{}{number} {}\r\n", ["", "."][number as usize % 2], "x".repeat(200))).collect()
}

#[test]
fn mail_is_delivered_small_big_and_under_tls() {
    if !root() {
        return;
    }
    let place = Place::new("smtp").unwrap();
    let [smtp, imap] = [place.at(10025), place.at(10143)];
    certificate(&place).unwrap();
    let _postfix = postfix(&place, smtp, "mx.mail.test ESMTP").unwrap();
    let _dovecot = dovecot(&place, imap).unwrap();
    let mut site = site(&place, &[smtp], "smtp = {}");
    // Mail is read through it, too.
    let mailbox = place.at(8143);
    site.more = format!(
        "[frontend.imap]\nmode = \"tcp\"\nbind = \"{mailbox}\"\ndefault_backend = \"imap\"\n\
        [backend.imap]\nmode = \"tcp\"\nservers = [{{ name = \"imap\", address = \"{imap}\" }}]\n"
    );
    let serve = Serve::start(&place, &site.toml()).unwrap();
    let mut ann = Imap::login(mailbox, "ann").unwrap();
    ann.idle().unwrap();
    swaks(site.bind, "ann", &["--body", "small"]).unwrap();
    assert_eq!(ann.news().unwrap(), "* 1 EXISTS", "she is told of it");

    let text = big(60_000);
    let mail = place.write("big", format!("Subject: big\r\n\r\n{text}")).unwrap();
    let said =
        swaks(site.bind, "ann", &["--data", &format!("@{}", mail.display()), "--tls", "--suppress-data"]).unwrap();
    assert!(said.contains("TLS started with cipher TLSv1.3"), "{said}");
    ann.hears("* 2 EXISTS").unwrap();
    ann.done().unwrap();
    assert!(ann.text(1).unwrap().starts_with(b"small\r\n"));
    let got = String::from_utf8(ann.text(2).unwrap()).unwrap();
    // swaks ends what it says with one more line.
    assert_eq!(got.len(), text.len() + 2);
    assert!(got.trim_end() == text.trim_end(), "the big one is another one");
    // Its refusals are the server's own.
    let said = swaks(site.bind, "carol", &[]).unwrap_err();
    assert!(said.contains("550 5.1.1 <carol@mail.test>"), "{said}");
    drop(serve);
}

#[test]
fn every_mail_arrives_and_no_more_often_than_it_was_sent_while_the_servers_go_and_come() {
    if !root() {
        return;
    }
    let place = Place::new("smtp-gone").unwrap();
    let [a, b, imap] = [place.at(10025), place.at(10026), place.at(10143)];
    let start = |address| Some(postfix(&place, address, "mx.mail.test ESMTP").unwrap());
    let mut servers = [start(a), start(b)];
    let _dovecot = dovecot(&place, imap).unwrap();
    let mut site = site(&place, &[a, b], "smtp = {}");
    // A greeting may take longer than a second while the machine is busy.
    site.defaults = site.defaults.replace("\"1s\"", "\"10s\"").replace("connect = \"10s\"", "connect = \"200ms\"");
    let _serve = Serve::start(&place, &site.toml()).unwrap();
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let (over, bind) = (&over, site.bind);
                scope.spawn(move || {
                    let mut sent = BTreeMap::new();
                    while !over.load(SeqCst) {
                        let text = format!("mail {sender}.{}.", sent.len());
                        // Who was in the middle of it when its server went tries again, as all who send mail do.
                        let tries = (1..=5).find(|_| swaks(bind, "ann", &["--body", &text]).is_ok());
                        sent.insert(text, tries.expect("somebody takes a mail"));
                    }
                    sent
                })
            })
            .collect();
        for gone in 0..2 {
            pass(Duration::from_millis(400));
            drop(servers[gone].take());
            pass(Duration::from_millis(400));
            servers[gone] = start([a, b][gone]);
        }
        over.store(true, SeqCst);
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<BTreeMap<String, usize>>()
    });
    assert!(sent.len() > 4, "{sent:?}");
    // Postfix delivers on its own time.
    let mut ann = Imap::login(imap, "ann").unwrap();
    let found = wait_until("all mail", SOON, || {
        let count = ann.count().map_err(|error| error.to_string())?;
        if count as usize >= sent.len() { Ok(count) } else { Err(format!("{count} of {}", sent.len())) }
    })
    .unwrap();
    ann.ask("NOOP").unwrap();
    let mut got: BTreeMap<String, usize> = BTreeMap::new();
    for number in 1..=found {
        let text = String::from_utf8(ann.text(number).unwrap()).unwrap().trim().to_owned();
        *got.entry(text).or_default() += 1;
    }
    let again = sent.values().filter(|tries| **tries > 1).count();
    println!("{} mails, {again} of them sent again; {found} arrived", sent.len());
    assert!(got.keys().eq(sent.keys()), "{sent:?} {got:?}");
    assert!(sent.iter().all(|(text, tries)| got[text] <= *tries), "{sent:?} {got:?}");
    // A server that is gone costs those who were with it one attempt each, and nobody else any.
    assert!(again <= 4, "{sent:?}");
}
