//! AirWatch's gateways: `deploy/examples/airwatch`. TLS passes through to nginx, which stands in for both gateways.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netns_lab::netns::Netns;
use netns_lab::pair::Pair;
use netns_lab::site::VIP;
use netns_lab::wait::wait_until;
use serde_json::Value;
use tests::fixture::{Folder, LIMIT, OrFail, attempt};
use tests::nginx::Nginx;
use tests::pki::{Key, Pki, Use, Validity, Wanted};

use crate::setup::{
    Example, Syslog, add_address, curl, curl_until, hand_over, kill_active, place, settled, start, until_down,
};

const MAG: &str = "airwatchmag.domain.com";
const SEG: &str = "airwatchseg.domain.com";
const SEG_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
const PORTS: [u16; 3] = [443, 2010, 2020];
const SERVERS: [&str; 2] = ["rip1", "rip2"];
/// Devices, each with an address of its own.
const DEVICES: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 77, 0, 31),
    Ipv4Addr::new(10, 77, 0, 32),
    Ipv4Addr::new(10, 77, 0, 33),
    Ipv4Addr::new(10, 77, 0, 34),
    Ipv4Addr::new(10, 77, 0, 35),
    Ipv4Addr::new(10, 77, 0, 36),
];
/// One that comes when only the fallback is there.
const LATE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 37);

/// The gateways, and the fallback at each node.
struct Gateways {
    _parts: Vec<Nginx>,
    flags: [PathBuf; 2],
}

impl Gateways {
    /// All of them show the certificate of `pki`; a request for another host than the gateways' is answered 404.
    fn start(pair: &Pair, folder: &Path, pki: &Pki) -> Gateways {
        let certificate = pki.file("gateway.pem");
        let tls = format!("ssl_certificate {certificate}; ssl_certificate_key {certificate};");
        let flags = SERVERS.map(|name| folder.join(format!("{name}.fails")));
        let mut parts = Vec::new();
        for (index, host) in pair.site.servers.iter().enumerate() {
            let name = SERVERS[index];
            let place = place(&host.netns, host.address, folder.join(name));
            let listen = |more: &str| PORTS.map(|port| format!("listen {} ssl{more};", place.at(port))).concat();
            let http = format!(
                "{tls}
                server {{ {every} return 404; }}
                server {{ {named} server_name {MAG} {SEG};
                  location / {{ if (-f {flag}) {{ return 503; }} return 200 \"{name} $server_port\\n\"; }} }}",
                every = listen(" default_server"),
                named = listen(""),
                flag = flags[index].display()
            );
            parts.push(Nginx::start(&place, name, place.at(443), &http, "").or_fail("start a gateway"));
        }
        for node in &pair.site.nodes {
            let place = place(&node.netns, Ipv4Addr::LOCALHOST, folder.join(format!("sorry-{}", node.netns.name())));
            let http = format!("{tls} server {{ listen {} ssl; return 503 \"sorry\\n\"; }}", place.at(9081));
            parts.push(Nginx::start(&place, "sorry", place.at(9081), &http, "").or_fail("start the fallback"));
        }
        Gateways { _parts: parts, flags }
    }

    /// Has a gateway answer 503 to all, its check among them, or serve again.
    fn fails(&self, server: &str, fails: bool) {
        let flag = &self.flags[SERVERS.iter().position(|name| *name == server).expect("one of the two")];
        let told = if fails { fs::write(flag, "") } else { fs::remove_file(flag) };
        told.or_fail("tell a gateway");
    }
}

/// The devices, who all trust the gateways' own certificate: nobody else's is shown.
struct Devices {
    netns: Netns,
    trust: String,
}

impl Devices {
    fn arguments(&self, from: Ipv4Addr, port: u16) -> [String; 7] {
        let resolve = format!("{MAG}:{port}:{VIP}");
        let url = format!("https://{MAG}:{port}/");
        ["--cacert", &self.trust, "--resolve", &resolve, "--interface", &from.to_string(), &url].map(str::to_owned)
    }

    /// Who answers a device at a port, and that it is this port of theirs; the fallback has but one.
    #[track_caller]
    fn ask(&self, from: Ipv4Addr, port: u16) -> String {
        let arguments = self.arguments(from, port);
        let answer = curl(&self.netns, &arguments.each_ref().map(String::as_str));
        named(&answer.unwrap_or_else(|error| panic!("{from} at {port}: {error}")).body, port)
    }

    /// Who answers a device at all ports: one and the same.
    #[track_caller]
    fn home(&self, from: Ipv4Addr) -> String {
        let met: BTreeSet<String> = [443, 2010, 2020, 443].map(|port| self.ask(from, port)).into();
        assert_eq!(met.len(), 1, "{from} met {met:?}");
        met.into_iter().next().unwrap_or_default()
    }
}

#[track_caller]
fn named(body: &str, port: u16) -> String {
    match body.trim().split_once(' ') {
        Some((name, seen)) => {
            assert_eq!(seen, port.to_string());
            name.to_owned()
        }
        None => body.trim().to_owned(),
    }
}

/// A session that stays: openssl at a device.
struct Session {
    child: Child,
    stream: UnixStream,
}

impl Session {
    fn open(devices: &Devices, from: Ipv4Addr) -> Session {
        let (ours, theirs) = UnixStream::pair().or_fail("make a pair of sockets");
        ours.set_read_timeout(Some(LIMIT)).or_fail("set a timeout");
        let mut command = Command::new("openssl");
        let target = SocketAddr::from((VIP, 443)).to_string();
        command.args(["s_client", "-quiet", "-no_ign_eof", "-servername", MAG, "-connect", &target]);
        command.args(["-bind", &format!("{from}:0")]).stderr(Stdio::null());
        command.stdin(OwnedFd::from(theirs.try_clone().or_fail("share a socket"))).stdout(OwnedFd::from(theirs));
        let child = devices.netns.run(move || command.spawn()).or_fail("run openssl");
        Session { child, stream: ours }
    }

    /// Asks who is at the other end.
    #[track_caller]
    fn say(&mut self) {
        let request = format!("GET / HTTP/1.1\r\nHost: {MAG}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).or_fail("ask in a session");
    }

    /// Who is at the other end.
    #[track_caller]
    fn ask(&mut self) -> String {
        self.say();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\n") || heard.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).or_fail("hear an answer in a session");
            heard.push(byte[0]);
        }
        let answer = String::from_utf8_lossy(&heard).into_owned();
        named(answer.rsplit("\r\n").next().unwrap_or_default(), 443)
    }

    #[track_caller]
    fn until_cut(&mut self) {
        wait_until("a session to be cut", LIMIT, || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .or_fail("wait for the end");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ended already: fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a node's status says of a stick table.
fn table(pair: &Pair, node: usize, name: &str) -> Value {
    let status = pair.nodes[node].status().or_fail("ask for the status");
    let tables = status.0["stick_tables"].as_array().cloned().unwrap_or_default();
    tables.into_iter().find(|table| table["name"] == name).unwrap_or_default()
}

/// Waits until a server of the backend `mag-443` grows, as after it came up.
fn until_it_starts_slowly(pair: &mut Pair, node: usize, server: &str) {
    pair.node_until(node, "slow with that server", LIMIT, |status| {
        let backends = status.0["backends"].as_array().into_iter().flatten();
        let servers =
            backends.filter(|backend| backend["name"] == "mag-443").filter_map(|backend| backend["servers"].as_array());
        let found = servers.flatten().find(|one| one["name"] == server);
        found.is_some_and(|one| one["state"] == "up" && one["throttle"].as_u64().is_some_and(|percent| percent < 100))
    })
    .or_fail("see a slow start");
}

#[test]
fn airwatch() {
    attempt("seed-airwatch", run);
}

fn run(folder: &Folder) {
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    let pki = Pki::new(folder.path().join("pki")).or_fail("make a folder");
    let usage = Use::Server(&[MAG, SEG]);
    let validity = Validity::Days(30);
    pki.issue(Wanted { name: "gateway", issuer: None, key: Key::Ec, subject: "/CN=gateway", usage, validity })
        .or_fail("make a certificate");
    let gateways = Gateways::start(&pair, folder.path(), &pki);
    let devices = Devices { netns: pair.site.client.netns.clone(), trust: pki.file("gateway.crt") };
    DEVICES.iter().chain([&LATE]).for_each(|address| add_address(&devices.netns, *address));
    let [rip1, rip2] = [0, 1].map(|index| pair.site.servers[index].address.to_string());
    Example::read("airwatch")
        .with("192.168.1.100", &VIP.to_string())
        .with("192.168.1.200", &SEG_VIP.to_string())
        .with("192.168.1.101", &rip1)
        .with("192.168.1.102", &rip2)
        // A busy machine may let a check wait for longer than that.
        .with("interval = \"4s\"", "interval = \"200ms\", timeout = \"10s\"")
        .with("preempt_delay = \"5s\"", "preempt_delay = \"1000s\"")
        .install(&pair);
    let syslog = [0, 1].map(|index| Syslog::start(&pair.site.nodes[index].netns));
    // The checks ask by HEAD for the gateway's host, over TLS and whoever signed: else the gateways answer 404.
    let active = start(&mut pair);

    // Every device has one gateway for all three ports, and the devices have both.
    let homes = DEVICES.map(|device| devices.home(device));
    assert_eq!(BTreeSet::from(homes.clone()).len(), 2, "{homes:?}");
    assert_eq!(DEVICES.map(|device| devices.home(device)), homes);
    assert_eq!(table(&pair, active, "mag")["entries"], DEVICES.len());
    let line = syslog[active].line(&format!(" mag-2010 mag-2010/{} ", homes[0]));
    assert!(line.contains(&format!(": {}:", DEVICES[0])), "{line}");
    // The other gateway has a table of its own.
    let resolve = format!("{SEG}:443:{SEG_VIP}");
    let answer = curl(&devices.netns, &["--cacert", &devices.trust, "--resolve", &resolve, &format!("https://{SEG}/")]);
    assert_eq!(answer.map(|answer| answer.status), Ok(200));
    assert_eq!(
        (&table(&pair, active, "mag")["entries"], &table(&pair, active, "seg")["entries"]),
        (&6.into(), &1.into())
    );

    one_goes_down(&gateways, &devices, &mut pair, active, &homes);
    only_the_fallback_is_left(&gateways, &devices, &mut pair, active);

    // A planned switchover: sessions go on, and what is new comes through the other node. Its table is its own, so a
    // device may get another gateway once, and has it on all ports.
    let mut session = Session::open(&devices, DEVICES[0]);
    let before = session.ask();
    let active = hand_over(&mut pair, active);
    assert_eq!(session.ask(), before);
    let homes = DEVICES.map(|device| devices.home(device));
    assert_eq!(table(&pair, active, "mag")["entries"], DEVICES.len());
    assert_eq!(DEVICES.map(|device| devices.home(device)), homes);

    let mut session = Session::open(&devices, DEVICES[0]);
    session.ask();
    settled(&mut pair);
    kill_active(&mut pair, active);
    session.say();
    session.until_cut();
    for device in DEVICES {
        curl_until(&devices.netns, &devices.arguments(device, 2020).each_ref().map(String::as_str));
        devices.home(device);
    }
}

/// Sessions at a gateway that is marked down are cut, and those at the other one are not. Who had it gets the other one, on all
/// ports, and keeps it when the first is back, which starts slowly.
fn one_goes_down(gateways: &Gateways, devices: &Devices, pair: &mut Pair, active: usize, homes: &[String; 6]) {
    let device_of = |server: &str| DEVICES[homes.iter().position(|home| home == server).expect("each has some")];
    let (first, second) = (device_of("rip1"), device_of("rip2"));
    let [mut cut, mut kept] = [first, second].map(|device| Session::open(devices, device));
    assert_eq!((cut.ask(), kept.ask()), ("rip1".to_owned(), "rip2".to_owned()));
    gateways.fails("rip1", true);
    until_down(pair, &[0, 1], &["mag-443/rip1", "seg-443/rip1"]);
    cut.until_cut();
    assert_eq!(kept.ask(), "rip2");
    assert_eq!(devices.home(first), "rip2");
    gateways.fails("rip1", false);
    until_it_starts_slowly(pair, active, "rip1");
    assert_eq!((devices.home(first), kept.ask()), ("rip2".to_owned(), "rip2".to_owned()));
}

/// Without a gateway the fallback answers, on that port alone, and nobody stays with it.
fn only_the_fallback_is_left(gateways: &Gateways, devices: &Devices, pair: &mut Pair, active: usize) {
    until_down(pair, &[0, 1], &[]);
    let homes = DEVICES.map(|device| devices.home(device));
    SERVERS.iter().for_each(|server| gateways.fails(server, true));
    until_down(pair, &[0, 1], &["mag-443/rip1", "mag-443/rip2", "seg-443/rip1", "seg-443/rip2"]);
    for device in DEVICES.iter().chain([&LATE]) {
        assert_eq!(devices.ask(*device, 443), "sorry");
    }
    assert_eq!(table(pair, active, "mag")["entries"], DEVICES.len(), "who met the fallback first is not in the table");
    SERVERS.iter().for_each(|server| gateways.fails(server, false));
    until_down(pair, &[0, 1], &[]);
    assert_eq!(DEVICES.map(|device| devices.home(device)), homes);
    assert!(SERVERS.contains(&devices.home(LATE).as_str()));
}
