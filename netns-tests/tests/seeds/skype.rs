//! Skype for Business behind a reverse proxy: `deploy/examples/skype-for-business`. nginx stands in for the web sites of two
//! front ends and of an Office Web Apps farm; dnsmasq knows their names.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use netns_lab::netns::Netns;
use netns_lab::pair::Pair;
use netns_lab::site::VIP;
use tests::dnsmasq::Dnsmasq;
use tests::fixture::{Folder, OrFail, attempt};
use tests::nginx::Nginx;
use tests::pki::{Key, Pki, Use, Validity, Wanted};

use crate::setup::{
    Answer, Example, Syslog, curl, curl_until, hand_over, kill_active, place, settled, start, until_down,
};

const NAMES: [&str; 4] = ["meet.contoso.com", "dialin.contoso.com", "lyncdiscover.contoso.com", "webext.contoso.com"];
const OFFICE: &str = "office.contoso.com";

/// The public CA with its intermediate, whose certificates come as PFX files, and the company's own, which the servers have.
fn certificates(folder: &Path) -> Pki {
    let pki = Pki::new(folder.join("pki")).or_fail("make a folder");
    let issue = |name: &str, issuer: Option<&str>, usage: Use<'_>| {
        let subject = format!("/CN={name}");
        let (key, validity) = (Key::Ec, Validity::Days(30));
        pki.issue(Wanted { name, issuer, key, subject: &subject, usage, validity }).or_fail("make a certificate");
    };
    issue("root", None, Use::Authority);
    issue("intermediate", Some("root"), Use::Authority);
    issue("corp", None, Use::Authority);
    for (name, names) in [("skype", &NAMES[..]), ("office", &[OFFICE])] {
        issue(name, Some("intermediate"), Use::Server(names));
        // One as it is exported today, and one as it was for long.
        pki.pfx(name, &["intermediate.crt"], "secret", name == "office").or_fail("make a PFX");
        pki.write(&format!("{name}.pass"), "secret\n").or_fail("write a password");
        fs::set_permissions(pki.path(&format!("{name}.pass")), Permissions::from_mode(0o600))
            .or_fail("hide a password");
    }
    for name in ["fe1", "fe2", "owa1", "owa2"] {
        issue(name, Some("corp"), Use::Server(&[&format!("{name}.contoso.com")]));
    }
    pki
}

/// What is on a server: the external sites of a front end on 4443 and 8080, Office Web Apps on 443. Each answer says who it is, which
/// port was asked for which host, and what was heard of the client.
fn websites(pair: &Pair, folder: &Path, pki: &Pki, index: usize) -> Nginx {
    let host = &pair.site.servers[index];
    let number = index + 1;
    let place = place(&host.netns, host.address, folder.join(format!("web{number}")));
    let says = |name: &str| {
        format!("return 200 \"{name} $server_port $host from=$http_x_forwarded_for cookie=$http_cookie\\n\";")
    };
    let tls = |name: &str| {
        let file = pki.file(&format!("{name}{number}.pem"));
        format!("ssl_certificate {file}; ssl_certificate_key {file};")
    };
    let http = format!(
        "server {{ listen {external} ssl; {fe_tls} location / {{ {fe} }} }}
        server {{ listen {plain}; location / {{ {fe} }} }}
        server {{ listen {office} ssl; {owa_tls} location = /hosting/discovery {{ return 200 \"wopi\\n\"; }} location / {{ {owa} }} }}",
        external = place.at(4443),
        plain = place.at(8080),
        office = place.at(443),
        fe_tls = tls("fe"),
        owa_tls = tls("owa"),
        fe = says(&format!("fe{number}")),
        owa = says(&format!("owa{number}")),
    );
    Nginx::start(&place, "web", place.at(4443), &http, "").or_fail("start the web sites")
}

/// The front end's SIP port, by which it is checked.
fn sip(pair: &Pair, folder: &Path, index: usize) -> Nginx {
    let host = &pair.site.servers[index];
    let place = place(&host.netns, host.address, folder.join(format!("sip{index}")));
    let http = format!("server {{ listen {}; return 444; }}", place.at(5061));
    Nginx::start(&place, "sip", place.at(5061), &http, "").or_fail("start SIP")
}

/// Who trusts the public root and nothing else.
struct Clients {
    netns: Netns,
    trust: PathBuf,
}

impl Clients {
    fn arguments(&self, url: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["--cacert".to_owned(), self.trust.display().to_string()];
        let host = url.split('/').nth(2).unwrap_or_default();
        for port in [443, 80] {
            arguments.extend(["--resolve".into(), format!("{host}:{port}:{VIP}")]);
        }
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        arguments.push(url.into());
        arguments
    }

    #[track_caller]
    fn ask(&self, url: &str, more: &[&str]) -> Answer {
        let arguments = self.arguments(url, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        curl(&self.netns, &arguments).unwrap_or_else(|error| panic!("{url}: {error}"))
    }
}

/// The first word of an answer: who gave it.
fn who(answer: &Answer) -> &str {
    answer.body.split(' ').next().unwrap_or_default()
}

#[test]
fn skype_for_business() {
    attempt("seed-skype", run);
}

fn run(folder: &Folder) {
    let mut pair = Pair::new(folder.settings()).or_fail("make the pair");
    // 8080 is theirs.
    pair.site.stop_servers();
    let pki = certificates(folder.path());
    let _websites = [0, 1].map(|index| websites(&pair, folder.path(), &pki, index));
    let mut sips = [0, 1].map(|index| Some(sip(&pair, folder.path(), index)));
    let client = &pair.site.client;
    let clients = Clients { netns: client.netns.clone(), trust: pki.path("root.crt") };
    let from = client.address.to_string();
    let resolver = place(&client.netns, client.address, folder.path().join("dns"));
    let [s1, s2] = [0, 1].map(|index| IpAddr::V4(pair.site.servers[index].address));
    let servers =
        [("fe1.contoso.com", s1), ("owa1.contoso.com", s1), ("fe2.contoso.com", s2), ("owa2.contoso.com", s2)];
    let _dnsmasq = Dnsmasq::start(&resolver, resolver.at(53), &servers).or_fail("start dnsmasq");
    Example::read("skype-for-business")
        .with("192.0.2.30", &VIP.to_string())
        .with("/etc/lbnode/corp-ca.pem", &pki.file("corp.crt"))
        .with("/etc/lbnode/", &pki.file(""))
        .with("[pair]\n", &format!("[resolver]\nnameservers = [\"{from}\"]\n\n[pair]\n"))
        // A busy machine may let a check wait for longer than that.
        .with("interval = \"5s\"", "interval = \"200ms\", timeout = \"10s\"")
        .with("preempt_delay = \"5s\"", "preempt_delay = \"1000s\"")
        .install(&pair);
    let syslog = [0, 1].map(|index| Syslog::start(&pair.site.nodes[index].netns));
    let active = start(&mut pair);

    let cookie = names(&clients, &from);
    syslog[active].line(" skype~ external/fe1 ");
    let home = cookies(&clients, &cookie);

    // The front end whose SIP port is closed serves nobody: who had it gets the other one.
    let index = usize::from(home == "fe2");
    let other = ["fe2", "fe1"][index];
    sips[index] = None;
    until_down(&mut pair, &[0, 1], &[&format!("external-http/{home}"), &format!("external/{home}")]);
    let moved = clients.ask("https://meet.contoso.com/", &["--cookie", &cookie]);
    assert_eq!((who(&moved), moved.header("set-cookie")), (other, &*format!("MS-WSMAN={other}; path=/; Secure")));
    sips[index] = Some(sip(&pair, folder.path(), index));
    settled(&mut pair);

    // Cookies are the same at both nodes.
    let active = hand_over(&mut pair, active);
    assert_eq!(cookies(&clients, &cookie), home);
    settled(&mut pair);
    kill_active(&mut pair, active);
    let arguments = clients.arguments("https://meet.contoso.com/killed", &["--cookie", &cookie]);
    let answer = curl_until(&clients.netns, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((answer.status, who(&answer)), (200, &*home));
    assert_eq!(cookies(&clients, &cookie), home);
}

/// Each name comes to its servers and their port, with the certificate of that name and its intermediate. Returns the cookie that
/// the last answer set.
#[track_caller]
fn names(clients: &Clients, from: &str) -> String {
    for name in NAMES {
        let secure = clients.ask(&format!("https://{name}/"), &["-H", "X-Forwarded-For: 192.0.2.1"]);
        let expected = [1, 2].map(|number| format!("fe{number} 4443 {name} from={from} cookie=\n"));
        assert!(expected.contains(&secure.body), "{secure:?}");
        // What Lync asks of it: this name, no end, no HttpOnly.
        let cookie = format!("MS-WSMAN={}; path=/; Secure", who(&secure));
        assert_eq!(secure.header("set-cookie"), cookie);
        let plain = clients.ask(&format!("http://{name}/"), &[]);
        let expected = [1, 2].map(|number| format!("fe{number} 8080 {name} from={from} cookie=\n"));
        assert!(expected.contains(&plain.body), "{plain:?}");
        assert_eq!(plain.header("set-cookie"), format!("MS-WSMAN={}; path=/", who(&plain)));
    }
    let office = clients.ask(&format!("https://{OFFICE}/wv/wordviewerframe.aspx"), &[]);
    assert!(office.body.starts_with("owa") && office.body.contains(&format!(" 443 {OFFICE} ")), "{office:?}");
    assert!(office.header("set-cookie").starts_with(&format!("OFFICE={};", who(&office))), "{office:?}");
    let plain = clients.ask(&format!("http://{OFFICE}/x?y"), &[]);
    assert_eq!((plain.status, plain.header("location")), (301, "https://office.contoso.com/x?y"));
    for (url, more) in [("https://www.contoso.com/", &["--insecure"][..]), ("http://www.contoso.com/", &[])] {
        assert_eq!(clients.ask(url, more).status, 404, "{url}");
    }
    // Which certificate is shown follows the name, so it is no good for another one.
    let insecure = clients.arguments("https://www.contoso.com/", &[]);
    let refused = curl(&clients.netns, &insecure.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.as_ref().is_err_and(|why| why.contains("subject name")), "{refused:?}");
    let first = clients.ask("https://meet.contoso.com/", &[]);
    format!("MS-WSMAN={}", who(&first))
}

/// Who has a cookie stays where it says, on connections of their own; others are spread. Returns who that is.
#[track_caller]
fn cookies(clients: &Clients, cookie: &str) -> String {
    let ask = |more: &[&str]| {
        let answers: Vec<Answer> = (0..4).map(|_| clients.ask("https://meet.contoso.com/", more)).collect();
        assert!(answers.iter().all(|answer| answer.body.ends_with("cookie=\n")), "servers don't see it: {answers:?}");
        answers.iter().map(|answer| who(answer).to_owned()).collect::<BTreeSet<_>>()
    };
    let met = ask(&["--cookie", cookie]);
    assert_eq!(met.iter().map(|name| format!("MS-WSMAN={name}")).collect::<Vec<_>>(), [cookie]);
    assert_eq!(ask(&[]).len(), 2);
    met.into_iter().next().unwrap_or_default()
}
