//! The two Exchange servers of the HTTP and the TCP variant: nginx where IIS would be, Postfix and Dovecot for SMTP and
//! IMAP, and a name server that knows them. And a client that speaks in lines.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_lab::netns::Netns;
use netns_lab::pair::Pair;
use netns_lab::site::VIP;
use socket2::{Domain, Socket, Type};
use tests::dnsmasq::Dnsmasq;
use tests::fixture::{LIMIT, OrFail};
use tests::mail::{Postfix, dovecot, postfix};
use tests::nginx::Nginx;
use tests::part::Part;
use tests::pki::{Key, Pki, Use, Validity, Wanted};
use tests::place::Place;

use crate::setup::{add_address, place};

/// What the example calls them.
pub(crate) const SERVERS: [&str; 2] = ["exch01", "exch02"];
/// Clients: one that no list has, one of the administration, one that may use OWA and send mail.
pub(crate) const OUTSIDER: &str = "10.77.0.10";
pub(crate) const ADMIN: &str = "10.77.0.11";
pub(crate) const USER: &str = "10.77.0.12";

/// Certificates for `mail.mydomain.local` and the servers: `all.pem` with every name, `exch01.pem`, `exch02.pem`.
pub(crate) fn certificates(folder: &Path) -> Pki {
    let pki = Pki::new(folder.join("pki")).or_fail("make certificates");
    let [exch01, exch02] = ["exch01.mydomain.local", "exch02.mydomain.local"];
    let names = ["mail.mydomain.local", "autodiscover.mydomain.local", exch01, exch02];
    let issue = |name: &str, issuer: Option<&str>, subject: &str, usage: Use<'_>| {
        let wanted = Wanted { name, issuer, key: Key::Ec, subject, usage, validity: Validity::Days(30) };
        pki.issue(wanted).or_fail("make a certificate");
    };
    issue("corp", None, "/CN=Corp Root", Use::Authority);
    issue("all", Some("corp"), "/CN=mail.mydomain.local", Use::Server(&names));
    for (name, subject, own) in [("exch01", "/CN=exch01", exch01), ("exch02", "/CN=exch02", exch02)] {
        issue(name, Some("corp"), subject, Use::Server(&[names[0], own]));
    }
    pki
}

/// The two servers, the name server, and the addresses of the clients.
pub(crate) struct Exchange {
    _dns: Dnsmasq,
    _web: [Nginx; 2],
    _smtp: [Postfix; 2],
    _imap: [Part; 2],
    health: [PathBuf; 2],
    // Last: their folders go with them.
    _places: [Place; 3],
}

impl Exchange {
    /// `services` are those with a health page; `certificates` what each server shows.
    pub(crate) fn start(pair: &Pair, folder: &Path, services: &[&str], certificates: [&Path; 2]) -> Exchange {
        let client = &pair.site.client;
        for address in [ADMIN, USER] {
            add_address(&client.netns, address.parse().or_fail("read an address"));
        }
        let hosts = &pair.site.servers;
        let dns_place = place(&client.netns, client.address, folder.join("dns"));
        let names = [
            ("exch01.mydomain.local", IpAddr::V4(hosts[0].address)),
            ("exch02.mydomain.local", IpAddr::V4(hosts[1].address)),
        ];
        let dns = Dnsmasq::start(&dns_place, dns_place.at(53), &names).or_fail("start dnsmasq");
        let places = [0, 1].map(|index| {
            let host: &netns_lab::site::Host = &hosts[index];
            place(&host.netns, host.address, folder.join(SERVERS[index]))
        });
        let health = [0, 1].map(|index| places[index].path("health"));
        let web = [0, 1].map(|index| {
            fs::create_dir_all(&health[index]).or_fail("make a folder");
            for service in services {
                fs::write(health[index].join(service), "200 OK").or_fail("write a health page");
            }
            web(&places[index], SERVERS[index], services, certificates[index])
        });
        let smtp = [0, 1].map(|index| {
            let banner = format!("{} ESMTP", SERVERS[index]);
            postfix(&places[index], places[index].at(25), &banner).or_fail("start Postfix")
        });
        let imap = [0, 1].map(|index| dovecot(&places[index], places[index].at(143)).or_fail("start Dovecot"));
        let [one, two] = places;
        Exchange { _dns: dns, _web: web, _smtp: smtp, _imap: imap, health, _places: [dns_place, one, two] }
    }

    /// Has a server's health page of one service fail, or be well again.
    pub(crate) fn set_health(&self, server: usize, service: &str, well: bool) {
        let page = self.health[server].join(service);
        if well { fs::write(page, "200 OK") } else { fs::remove_file(page) }.or_fail("change a health page");
    }
}

/// Answers everything with the head of the request, and says who it is. As IIS it minds no case in paths.
fn web(place: &Place, name: &str, services: &[&str], certificate: &Path) -> Nginx {
    let (address, certificate, folder) = (place.at(443), certificate.display(), place.folder().display());
    let page = |service: &&str| {
        format!("location ~* ^/{service}/healthcheck\\.htm$ {{ root {folder}/health; try_files /{service} =404; }}\n")
    };
    let pages: String = services.iter().map(page).collect();
    let http = format!(
        "server {{
          listen {address} ssl; ssl_protocols TLSv1.2 TLSv1.3;
          ssl_certificate {certificate}; ssl_certificate_key {certificate};
          add_header X-Server {name} always; add_header X-Frame-Options DENY always;
          {pages}
          location / {{ echo -n $echo_client_request_headers; }}
        }}"
    );
    Nginx::start(place, name, address, &http, "").or_fail("start nginx")
}

/// A connection on which lines go to and fro.
pub(crate) struct Lines(BufReader<TcpStream>);

impl Lines {
    /// To a port of the VIP, from one of the client's addresses; with what is said first.
    pub(crate) fn open(netns: &Netns, from: &str, port: u16) -> io::Result<(Lines, String)> {
        let from: Ipv4Addr = from.parse().or_fail("read an address");
        let stream = netns.run(move || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((from, 0)).into())?;
            socket.connect_timeout(&SocketAddr::from((VIP, port)).into(), Duration::from_secs(3))?;
            Ok(socket.into())
        })?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut lines = Lines(BufReader::new(stream));
        let greeting = lines.hear()?;
        Ok((lines, greeting))
    }

    /// Says a line and returns the next one.
    pub(crate) fn ask(&mut self, line: &str) -> io::Result<String> {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.hear()
    }

    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// Whether an IMAP session goes on.
pub(crate) fn still_there(mailbox: &mut Lines) -> bool {
    mailbox.ask("a1 NOOP").is_ok_and(|answer| answer == "a1 OK NOOP completed.")
}
