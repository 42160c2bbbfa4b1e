//! Exchange 2010, offloaded and bridged, with a persistence for each protocol: `deploy/examples/exchange-2010`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use netns_lab::netns::Netns;
use netns_lab::pair::Pair;
use netns_lab::site::VIP;
use tests::fixture::{Folder, OrFail, attempt};
use tests::nginx::Nginx;
use tests::pki::{Key, Pki, Use, Validity, Wanted};
use tests::place::Place;

use crate::mail::{ADMIN, USER};
use crate::setup::{
    Answer, Example, add_address, curl, curl_until, hand_over_unnoticed, kill_active, place, start, until_down, values,
};

const SERVERS: [&str; 2] = ["cas01", "cas02"];

/// The public certificate below an intermediate, as a PFX; those of the servers from the corporation's own CA.
fn certificates(folder: &Path) -> Pki {
    let pki = Pki::new(folder.join("pki")).or_fail("make certificates");
    let issue = |name: &str, issuer: Option<&str>, subject: &str, usage: Use<'_>| {
        let wanted = Wanted { name, issuer, key: Key::Rsa(2048), subject, usage, validity: Validity::Days(30) };
        pki.issue(wanted).or_fail("make a certificate");
    };
    issue("public", None, "/CN=Public Root", Use::Authority);
    issue("between", Some("public"), "/CN=Public Intermediate", Use::Authority);
    issue("mail", Some("between"), "/CN=mail.contoso.com", Use::Server(&["mail.contoso.com"]));
    pki.pfx("mail", &["between.crt"], "secret", true).or_fail("make a PFX");
    pki.write("mail.pass", "secret\n").or_fail("write its password");
    issue("corp", None, "/CN=Contoso CA", Use::Authority);
    issue("cas01", Some("corp"), "/CN=cas01", Use::Server(&["cas01.contoso.com"]));
    issue("cas02", Some("corp"), "/CN=cas02", Use::Server(&["cas02.contoso.com"]));
    pki
}

/// nginx where IIS would be: OWA and ECP in the clear, the others over TLS. What its checks ask for is answered as IIS
/// does; everything else with the head of the request.
fn web(place: &Place, name: &str, certificate: &Path) -> Nginx {
    let (clear, secret, certificate) = (place.at(80), place.at(443), certificate.display());
    let folder = place.folder().display();
    fs::write(place.path("logon"), "sign in").or_fail("write a page");
    let common = format!("add_header X-Server {name} always;");
    let http = format!(
        "server {{
          listen {clear}; {common}
          location = /owa/auth/logon.aspx {{ root {folder}; try_files /logon =503; }}
          location ~* ^/(owa|ecp)/ {{ echo -n $echo_client_request_headers; }}
        }}
        server {{
          listen {secret} ssl; ssl_protocols TLSv1.2; {common}
          ssl_certificate {certificate}; ssl_certificate_key {certificate};
          location = /microsoft-server-activesync/ {{ return 401; }}
          location = /rpc/rpcproxy.dll {{ return 401; }}
          location = /ews/exchange.asmx {{ return 401; }}
          location ~* ^/(microsoft-server-activesync|rpc|ews|oab|autodiscover) {{ echo -n $echo_client_request_headers; }}
        }}"
    );
    Nginx::start(place, name, secret, &http, "").or_fail("start nginx")
}

struct Clients<'a> {
    netns: &'a Netns,
    trust: String,
}

impl Clients<'_> {
    #[track_caller]
    fn ask(&self, path: &str, more: &[&str]) -> Answer {
        let arguments = self.arguments(path);
        let arguments = [&arguments.each_ref().map(String::as_str), more].concat();
        let answer = curl_until(self.netns, &arguments);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer
    }

    fn arguments(&self, path: &str) -> [String; 5] {
        let url = format!("https://mail.contoso.com{path}");
        let resolve = format!("mail.contoso.com:443:{VIP}");
        ["--cacert", &self.trust, "--resolve", &resolve, &url].map(str::to_owned)
    }

    /// With a cookie.
    #[track_caller]
    fn follow(&self, path: &str, cookie: &str) -> Answer {
        self.ask(path, &["--cookie", cookie])
    }

    /// The server of everybody who has no cookie: by who they are, and where they come from.
    #[track_caller]
    fn homes(&self) -> Vec<String> {
        let server = |answer: Answer| answer.header("X-Server").to_owned();
        let phone =
            |name: u8| server(self.ask("/Microsoft-Server-ActiveSync?Cmd=Ping", &["--user", &format!("u{name}:p")]));
        let outlook = |from: &&str| server(self.ask("/rpc/x", &["--interface", from]));
        (0..8).map(phone).chain([ADMIN, USER].iter().map(outlook)).collect()
    }
}

#[test]
fn exchange_2010() {
    attempt("seed-exchange-2010", run);
}

fn run(folder: &Folder) {
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    let pki = certificates(folder.path());
    for address in [ADMIN, USER] {
        add_address(&pair.site.client.netns, address.parse().or_fail("read an address"));
    }
    let places = [0, 1].map(|index| {
        let host = &pair.site.servers[index];
        place(&host.netns, host.address, folder.path().join(SERVERS[index]))
    });
    let _web = [0, 1].map(|index| web(&places[index], SERVERS[index], &pki.path(&format!("{}.pem", SERVERS[index]))));
    Example::read("exchange-2010")
        .with("10.12.8.15", &VIP.to_string())
        .with("10.12.8.21", &pair.site.servers[0].address.to_string())
        .with("10.12.8.22", &pair.site.servers[1].address.to_string())
        .with("/etc/ssl/mail.pfx", &pki.file("mail.pfx"))
        .with("/etc/ssl/mail.pass", &pki.file("mail.pass"))
        .with("/etc/ssl/certs/corp-ca.pem", &pki.file("corp.crt"))
        .with("interval = \"5s\"", "interval = \"200ms\"")
        .with("preempt_delay = \"5s\"", "preempt_delay = \"1000s\"")
        .install(&pair);
    let active = start(&mut pair);
    let netns = pair.site.client.netns.clone();
    // The root alone: the intermediate comes with the PFX.
    let clients = Clients { netns: &netns, trust: pki.file("public.crt") };

    let resolve = format!("mail.contoso.com:80:{VIP}");
    let redirect = curl(&netns, &["--resolve", &resolve, "http://mail.contoso.com/owa"]);
    let redirect = redirect.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((redirect.status, redirect.header("Location")), (301, "https://mail.contoso.com/owa"));

    // One log-in for OWA and ECP.
    let first = clients.ask("/owa/", &[]);
    let home = first.header("X-Server").to_owned();
    let set = first.header("Set-Cookie");
    assert_eq!(set, format!("CAS={home}; path=/; HttpOnly; Secure"));
    assert!(first.header("Cache-Control").contains("private"), "{first:?}");
    let cookie = format!("CAS={home}; other=1");
    for path in ["/owa/", "/OWA/", "/ecp/", "/ECP/"] {
        for _ in 0..4 {
            let answer = clients.follow(path, &cookie);
            assert_eq!((answer.header("X-Server"), answer.header("Set-Cookie")), (home.as_str(), ""), "{path}");
            assert_eq!(values(&answer.body, "Front-End-Https"), ["on"]);
            assert_eq!(values(&answer.body, "Cookie"), ["other=1"], "the servers don't see it");
        }
    }
    let spread: BTreeSet<String> = (0..8).map(|_| clients.ask("/owa/", &[]).header("X-Server").to_owned()).collect();
    assert_eq!(spread.len(), 2, "who has no cookie is balanced");

    // Each phone and each Outlook has its server, and not all the same; web services take what comes.
    let homes = clients.homes();
    assert_eq!(clients.homes(), homes);
    assert_eq!(homes.iter().take(8).collect::<BTreeSet<_>>().len(), 2, "{homes:?}");
    for path in ["/ews/x", "/OAB/x", "/autodiscover/x"] {
        let met: BTreeSet<String> = (0..8).map(|_| clients.ask(path, &[]).header("X-Server").to_owned()).collect();
        assert_eq!(met.len(), 2, "{path}");
    }

    // Neither a hand-off nor a dead node moves anybody.
    let arguments = clients.arguments("/owa/");
    let active = hand_over_unnoticed(&mut pair, active, &arguments.each_ref().map(String::as_str));
    assert_eq!(clients.follow("/ecp/", &cookie).header("X-Server"), home);
    assert_eq!(clients.homes(), homes);
    let last = kill_active(&mut pair, active);
    assert_eq!(clients.follow("/ecp/", &cookie).header("X-Server"), home);
    assert_eq!(clients.homes(), homes);

    // OWA fails on its server: a new home there, and none for the services that are well.
    let index = SERVERS.iter().position(|server| *server == home).expect("it is one of them");
    fs::remove_file(places[index].path("logon")).or_fail("remove a page");
    until_down(&mut pair, &[last], &[&format!("ecp/{home}"), &format!("owa/{home}")]);
    let moved = clients.follow("/owa/", &cookie);
    let other = SERVERS[1 - index];
    assert_eq!(moved.header("X-Server"), other);
    assert_eq!(moved.header("Set-Cookie"), format!("CAS={other}; path=/; HttpOnly; Secure"));
    assert_eq!(clients.homes(), homes);
}
