//! Servers by name, asked of a name server whose answers change.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use tests::dnsmasq::Dnsmasq;
use tests::place::Place;
use tests::serve::{Serve, Site};
use tests::wait::wait_until;

use crate::{SOON, server, wait_for};

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
    let mut site = Site::new(front, place.at(1));
    site.mode = "tcp";
    site.more = format!("[resolver]\nnameservers = [\"{dns}\"]\n");
    site.backend = "check = { tcp = {}, interval = \"100ms\" }".into();
    let servers = "servers = [{ name = \"one\", address = \"one.site.test:9001\" }, \
                   { name = \"late\", address = \"late.site.test:9001\", backup = true }]";
    let text = site.toml();
    let (before, rest) = text.split_once("servers = [").unwrap();
    let (_, after) = rest.split_once("\n]\n").unwrap();
    let mut serve = Serve::start(&place, &format!("{before}{servers}\n{after}")).unwrap();

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
    assert_eq!(server(&serve, "one")["address"], b.at(port).to_string());

    // Nobody answers: what was known stays, and it is said.
    drop(dnsmasq);
    let kept = wait_for(&serve, "one", "up", "the last good answer is kept");
    assert_eq!(kept["address"], b.at(port).to_string());
    reaches(front, "b");

    // A reload meanwhile keeps it too.
    let changed = format!("{before}{servers}\n{after}").replace("100ms", "110ms");
    serve.apply(&changed).unwrap();
    reaches(front, "b");
}
