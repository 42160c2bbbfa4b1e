//! Exchange by HTTP: `deploy/examples/exchange-http`.

use std::fs;

use netns_lab::netns::Netns;
use netns_lab::pair::Pair;
use netns_lab::site::VIP;
use netns_lab::wait::wait_until;
use tests::fixture::{Folder, LIMIT, OrFail, attempt};

use crate::mail::{ADMIN, Exchange, Lines, OUTSIDER, SERVERS, USER, certificates, still_there};
use crate::setup::{
    Answer, Example, Syslog, curl, curl_until, down, hand_over_unnoticed, kill_active, start, until_down, values,
};

/// Paths as clients write them, and the backend that each belongs to.
const PATHS: [(&str, &str); 21] = [
    ("/", "owa"),
    ("/owa", "owa"),
    ("/owa/auth/logon.aspx", "owa"),
    ("/OWA/", "owa"),
    ("/ecp/", "ecp"),
    ("/ECP/", "ecp"),
    ("/autodiscover/autodiscover.xml", "autodiscover"),
    ("/Autodiscover/Autodiscover.xml", "autodiscover"),
    ("/AutoDiscover/autodiscover.xml", "autodiscover"),
    ("/autodiscover/autodiscover.json/v1.0/user%40mydomain.local", "autodiscover"),
    ("/Microsoft-Server-ActiveSync", "activesync"),
    ("/Microsoft-Server-activeSync", "activesync"),
    ("/microsoft-server-activesync", "activesync"),
    ("/mapi/emsmdb", "mapi"),
    ("/MAPI/emsmdb", "mapi"),
    ("/rpc/rpcproxy.dll", "rpc"),
    ("/RPC/RpcProxy.dll", "rpc"),
    ("/EWS/Exchange.asmx", "ews"),
    ("/ews/exchange.asmx", "ews"),
    ("/OAB/oab.xml", "oab"),
    ("/oab/oab.xml", "oab"),
];
const SERVICES: [&str; 8] = ["owa", "ecp", "autodiscover", "microsoft-server-activesync", "mapi", "rpc", "ews", "oab"];

/// Whatever lies behind these is not for everybody.
const DISGUISES: [&str; 8] = [
    "/%65cp/",
    "/%6Fwa/",
    "//ecp/",
    "/ews/../ecp/",
    "/ews/%2e%2e/ecp/",
    "/ews/..%2fecp/",
    "/ews/x%2f..%2F..%2fecp/",
    "/ews/..%5cecp/",
];

struct Clients<'a> {
    netns: &'a Netns,
    trust: String,
}

impl Clients<'_> {
    /// Asks over TLS for a path, from one of the client's addresses.
    fn try_ask(&self, from: &str, path: &str) -> Result<Answer, String> {
        curl(self.netns, &self.arguments(from, path).each_ref().map(String::as_str))
    }

    #[track_caller]
    fn ask(&self, from: &str, path: &str) -> Answer {
        self.try_ask(from, path).unwrap_or_else(|error| panic!("{path} from {from}: {error}"))
    }

    fn arguments(&self, from: &str, path: &str) -> [String; 7] {
        let resolve = format!("mail.mydomain.local:443:{VIP}");
        let url = format!("https://mail.mydomain.local{path}");
        ["--cacert", &self.trust, "--resolve", &resolve, "--interface", from, &url].map(str::to_owned)
    }
}

#[test]
fn exchange_by_http() {
    attempt("seed-exchange-http", run);
}

fn run(folder: &Folder) {
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    let pki = certificates(folder.path());
    let certificate = pki.path("all.pem");
    let exchange = Exchange::start(&pair, folder.path(), &SERVICES, [&certificate, &certificate]);
    let list = |name: &str, networks: &[&str]| {
        let path = folder.path().join(name);
        fs::write(&path, networks.join("\n")).or_fail("write a list");
        path.display().to_string()
    };
    Example::read("exchange-http")
        .with("10.12.8.15", &VIP.to_string())
        .with("\"10.12.8.5\", \"10.12.8.6\"", &format!("\"{OUTSIDER}\""))
        .with("/etc/lbnode/ecp.lst", &list("ecp.lst", &[ADMIN]))
        .with("/etc/lbnode/owa.lst", &list("owa.lst", &[ADMIN, USER]))
        .with("/etc/lbnode/smtp.lst", &list("smtp.lst", &[USER]))
        .with("/etc/ssl/certs/exch.pem", &pki.file("all.pem"))
        .with("/etc/pki/tls/certs/ca-bundle.crt", &pki.file("corp.crt"))
        .with("interval = \"15s\"", "interval = \"200ms\"")
        .with("preempt_delay = \"5s\"", "preempt_delay = \"1000s\"")
        .install(&pair);
    let syslog = [0, 1].map(|index| Syslog::start(&pair.site.nodes[index].netns));
    let active = start(&mut pair);
    let netns = pair.site.client.netns.clone();
    let clients = Clients { netns: &netns, trust: pki.file("corp.crt") };

    paths(&clients, &syslog[active]);
    lists(&clients);
    headers(&clients, &pair.site.nodes[active].netns);
    one_service_fails(&clients, &mut pair, &exchange, active);
    mail(&netns, &syslog[active]);

    let home = clients.ask(ADMIN, "/mapi/emsmdb").header("X-Server").to_owned();
    let (mut older, _) = Lines::open(&netns, USER, 143).or_fail("open a mailbox");
    let arguments = clients.arguments(ADMIN, "/owa/");
    let active = hand_over_unnoticed(&mut pair, active, &arguments.each_ref().map(String::as_str));
    assert_eq!(clients.ask(ADMIN, "/mapi/emsmdb").header("X-Server"), home, "the hash is the same on both nodes");
    syslog[active].line("/mapi/emsmdb");
    let (mut newer, _) = Lines::open(&netns, USER, 143).or_fail("open a mailbox at the other node");
    assert!(still_there(&mut older) && still_there(&mut newer));

    kill_active(&mut pair, active);
    let arguments = clients.arguments(ADMIN, "/mapi/emsmdb?killed");
    let answer = curl_until(&netns, &arguments.each_ref().map(String::as_str));
    assert_eq!((answer.status, answer.header("X-Server")), (200, home.as_str()));
    syslog[1 - active].line("/mapi/emsmdb?killed");
    assert!(still_there(&mut older), "it stayed with the node that lives");
    assert!(!still_there(&mut newer), "it ended with its node");
    let (mut again, _) = Lines::open(&netns, USER, 143).or_fail("open a mailbox again");
    assert!(still_there(&mut again));
}

/// Every path comes to its backend, in every spelling, and the log says so.
fn paths(clients: &Clients<'_>, syslog: &Syslog) {
    for (number, (path, backend)) in PATHS.iter().enumerate() {
        let path = format!("{path}?n={number}");
        let answer = clients.ask(ADMIN, &path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.body.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{answer:?}");
        let server = answer.header("X-Server");
        assert!(SERVERS.contains(&server), "{answer:?}");
        let line = syslog.line(&format!("{path} HTTP/2.0\""));
        assert!(line.contains(&format!(" exchange~ {backend}/{server} ")), "{line}");
        assert!(line.contains(" 200 ") && line.contains(" - - ---- "), "{line}");
        assert!(line.starts_with("<134>") && line.contains(&format!(": {ADMIN}:")), "{line}");
    }
}

/// The administration is for its network, OWA for that of its users, whatever way the path is written.
fn lists(clients: &Clients<'_>) {
    for path in ["/ecp", "/ecp/", "/ECP/", "/Ecp/default.aspx"] {
        let status = [ADMIN, USER, OUTSIDER].map(|from| clients.ask(from, path).status);
        assert_eq!(status, [200, 403, 403], "{path}");
    }
    for path in ["/owa", "/OWA/", "/Owa/auth.owa"] {
        let status = [ADMIN, USER, OUTSIDER].map(|from| clients.ask(from, path).status);
        assert_eq!(status, [200, 200, 403], "{path}");
    }
    assert_eq!(clients.ask(OUTSIDER, "/ews/exchange.asmx").status, 200);
    for path in DISGUISES {
        assert_eq!(clients.ask(OUTSIDER, path).status, 400, "{path}");
    }
}

/// From 80 to 443; what clients and servers are told.
fn headers(clients: &Clients<'_>, node: &Netns) {
    let resolve = format!("mail.mydomain.local:80:{VIP}");
    let redirect = curl(clients.netns, &["--resolve", &resolve, "http://mail.mydomain.local/owa/?a=b"]);
    let redirect = redirect.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((redirect.status, redirect.header("Location")), (301, "https://mail.mydomain.local/owa/?a=b"));

    for (path, status) in [("/owa/", 200), ("/ecp/", 403)] {
        let answer = clients.ask(USER, path);
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("X-Frame-Options"), "SAMEORIGIN");
        assert_eq!(answer.header("X-Content-Type-Options"), "nosniff");
        assert_eq!(answer.header("Strict-Transport-Security"), "max-age=63072000");
    }

    let told = clients.ask(USER, "/ews/exchange.asmx").body;
    assert_eq!(values(&told, "X-Forwarded-For"), [USER]);
    assert_eq!(values(&told, "X-Forwarded-Proto"), ["https"]);
    let itself = Clients { netns: node, trust: clients.trust.clone() };
    let told = itself.ask("127.0.0.1", "/ews/exchange.asmx").body;
    assert!(values(&told, "X-Forwarded-For").is_empty(), "{told}");
}

/// A server whose page of one service fails has no more of that service, and keeps the others.
fn one_service_fails(clients: &Clients<'_>, pair: &mut Pair, exchange: &Exchange, active: usize) {
    for (service, backend, path) in
        [("owa", "owa", "/owa/"), ("microsoft-server-activesync", "activesync", "/microsoft-server-activesync")]
    {
        exchange.set_health(0, service, false);
        let wanted = format!("{backend}/exch01");
        until_down(pair, &[0, 1], &[&wanted]);
        let servers: Vec<String> = (0..6).map(|_| clients.ask(ADMIN, path).header("X-Server").to_owned()).collect();
        assert!(servers.iter().all(|server| server == "exch02"), "{servers:?}");
        let others: Vec<String> = (0..6).map(|_| clients.ask(ADMIN, "/oab/").header("X-Server").to_owned()).collect();
        assert!(others.iter().any(|server| server == "exch01"), "{others:?}");
        exchange.set_health(0, service, true);
        until_down(pair, &[0, 1], &[]);
        wait_until("the server to be used again", LIMIT, || match clients.ask(ADMIN, path).header("X-Server") {
            "exch01" => Ok(()),
            other => Err(other.to_owned()),
        })
        .or_fail("come back");
    }
    let status = pair.nodes[active].status().or_fail("ask for the status");
    assert!(down(&status).is_empty());
}

/// SMTP for who may send; IMAP for everybody.
fn mail(netns: &Netns, syslog: &Syslog) {
    let (mut smtp, greeting) = Lines::open(netns, USER, 25).or_fail("reach SMTP");
    assert!(SERVERS.iter().any(|server| greeting == format!("220 {server} ESMTP")), "{greeting}");
    assert_eq!(smtp.ask("HELO client.test").or_fail("say hello"), "250 mx.test");
    assert_eq!(smtp.ask("QUIT").or_fail("leave"), "221 2.0.0 Bye");
    drop(smtp);
    assert!(Lines::open(netns, OUTSIDER, 25).is_err(), "a list keeps it out");
    let line = syslog.line(" smtp smtp/exch0");
    assert!(line.contains(&format!(": {USER}:")) && line.contains(" -- "), "{line}");

    let (mut imap, greeting) = Lines::open(netns, OUTSIDER, 143).or_fail("reach IMAP");
    assert!(greeting.starts_with("* OK "), "{greeting}");
    assert!(imap.ask("a1 LOGOUT").or_fail("leave").starts_with("* BYE "));
}
