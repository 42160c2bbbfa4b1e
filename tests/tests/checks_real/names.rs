//! Servers by name, asked of a name server whose answers change.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use tests::dnsmasq::Dnsmasq;
use tests::place::Place;
use tests::serve::{Serve, Site};
use tests::wait::wait_until;

use crate::{SOON, wait_for};

/// A server that answers each line with who it is.
fn says(address: SocketAddr, who: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(_)) = lines.next() {
                    if (&stream).write_all(who.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Who is at the other end.
fn ask(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut who = [0];
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"who?\n")?;
    stream.read_exact(&mut who)?;
    Ok(char::from(who[0]).into())
}

fn reaches(front: SocketAddr, who: &str) {
    wait_until(&format!("{who} to answer"), SOON, || match TcpStream::connect(front).and_then(|stream| ask(&stream)) {
        Ok(found) if found == who => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .unwrap();
}

#[test]
fn a_server_follows_its_name_and_sessions_go_on() {
    // Two more places lend their addresses.
    let [place, a, b] = ["names", "names-a", "names-b"].map(|name| Place::new(name).unwrap());
    let port = 9001;
    says(a.at(port), "a");
    says(b.at(port), "b");
    let [at_a, at_b]: [IpAddr; 2] = [a.at(0).ip(), b.at(0).ip()];
    let dns = place.at(10053);
    let mut dnsmasq = Dnsmasq::start(&place, dns, &[("one.site.test", at_a)]).unwrap();
    let front = place.at(8080);
    let text = site(
        front,
        dns,
        "{ name = \"one\", address = \"one.site.test:9001\" }, \
         { name = \"late\", address = \"late.site.test:9001\", backup = true }",
    );
    let mut serve = Serve::start(&place, &text).unwrap();

    // One that has no address is down and says why; the other one serves.
    let one = wait_for(&serve, "one", "up", "passed");
    assert_eq!((&one["host"], &one["address"]), (&"one.site.test".into(), &a.at(port).to_string().into()));
    let late = wait_for(&serve, "late", "down", "`late.site.test` has no address: there is no such name");
    assert_eq!(late["address"], "0.0.0.0:9001");
    reaches(front, "a");
    let session = TcpStream::connect(front).unwrap();
    assert_eq!(ask(&session).unwrap(), "a");

    // Another answer: new sessions go there, this one stays.
    dnsmasq.change(&[("one.site.test", at_b), ("late.site.test", at_a)]).unwrap();
    reaches(front, "b");
    assert_eq!(ask(&session).unwrap(), "a");
    wait_for(&serve, "late", "up", "passed");
    assert_eq!(serve.server("one")["address"], b.at(port).to_string());

    // Nobody answers: what was known stays, and it is said.
    drop(dnsmasq);
    let kept = wait_for(&serve, "one", "up", "the last good answer is kept");
    assert_eq!(kept["address"], b.at(port).to_string());
    reaches(front, "b");

    // A reload meanwhile keeps it too.
    serve.apply(&text.replace("100ms", "110ms")).unwrap();
    reaches(front, "b");

    // Somebody answers again, and says something else.
    let _dnsmasq = Dnsmasq::start(&place, dns, &[("one.site.test", at_a)]).unwrap();
    reaches(front, "a");
    let moved = wait_until("no problem", SOON, || match serve.server("one") {
        one if one["host_problem"].is_null() && one["state"] == "up" => Ok(one),
        one => Err(one.to_string()),
    });
    assert_eq!(moved.unwrap()["address"], a.at(port).to_string());
}

/// lbnode in TCP mode, which asks this name server for its servers.
fn site(front: SocketAddr, dns: SocketAddr, servers: &str) -> String {
    let mut site = Site::new(front, front);
    site.mode = "tcp";
    site.servers.clear();
    site.more = format!("[resolver]\nnameservers = [\"{dns}\"]\n");
    site.backend = "check = { tcp = {}, interval = \"100ms\" }".into();
    site.toml().replacen("servers = [", &format!("servers = [{servers}"), 1)
}

#[test]
fn an_answer_holds_for_as_long_as_it_says() {
    let [place, a, b] = ["ttl", "ttl-a", "ttl-b"].map(|name| Place::new(name).unwrap());
    says(a.at(9001), "a");
    says(b.at(9001), "b");
    let dns = place.at(10053);
    let asked = Instant::now();
    let ttl = 4;
    let mut dnsmasq = Dnsmasq::start_with(&place, dns, &[("one.ttl.test", a.at(0).ip())], ttl, &[]).unwrap();
    let front = place.at(8080);
    let text = site(front, dns, "{ name = \"one\", address = \"one.ttl.test:9001\" }");
    let serve = Serve::start(&place, &text).unwrap();
    reaches(front, "a");
    dnsmasq.change(&[("one.ttl.test", b.at(0).ip())]).unwrap();
    let began = Instant::now();
    reaches(front, "b");
    let (since, waited) = (asked.elapsed(), began.elapsed());
    assert!(since >= Duration::from_secs(ttl.into()), "after {since:?}");
    // Not less often either, if the machine is not too busy; two questions more are one too many.
    assert!(waited < Duration::from_secs(3 * u64::from(ttl)), "after {waited:?}");
    let questions = std::fs::read_to_string(dnsmasq.part.log()).unwrap().matches("query[A] one.ttl.test").count();
    assert!((2..=4).contains(&questions), "{questions}");
    drop(serve);
}

#[test]
fn a_name_that_nobody_answers_for_holds_up_no_other() {
    let [place, a, b] = ["unanswered", "unanswered-a", "unanswered-b"].map(|name| Place::new(name).unwrap());
    says(a.at(9001), "a");
    says(b.at(9001), "b");
    let (dns, silent) = (place.at(10053), UdpSocket::bind(place.at(10054)).unwrap());
    // Questions about names of that zone are passed on to whom nobody has ever heard.
    let zone = format!("--server=/silent.test/{}#10054", place.at(0).ip());
    let names = |at: &Place| [("one.zone.test", at.at(0).ip())];
    let mut dnsmasq = Dnsmasq::start_with(&place, dns, &names(&a), 1, &[&zone]).unwrap();
    let front = place.at(8080);
    let servers = "{ name = \"one\", address = \"one.zone.test:9001\" }, \
                   { name = \"never\", address = \"never.silent.test:9001\", backup = true }";
    let began = Instant::now();
    let mut serve = Serve::start(&place, &site(front, dns, servers)).unwrap();
    reaches(front, "a");
    for to in [&b, &a, &b, &a] {
        let mut question = [0; 512];
        silent.set_read_timeout(Some(SOON)).unwrap();
        silent.recv(&mut question).unwrap();
        dnsmasq.change(&names(to)).unwrap();
        let changed = Instant::now();
        reaches(front, if std::ptr::eq(to, &a) { "a" } else { "b" });
        let took = changed.elapsed();
        println!("followed after {took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    // Nor does a reload wait for it.
    let applied = Instant::now();
    serve.apply(&site(front, dns, servers).replace("100ms", "110ms")).unwrap();
    assert!(applied.elapsed() < Duration::from_secs(4), "{:?}", applied.elapsed());
    println!("{:?}", began.elapsed());
}
