//! The certificates of the run, a site of lbnode that shows them, and the two clients that everybody has: curl and openssl.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tests::pki::{Key, Pki, Use, Validity, Wanted, sweep};
use tests::place::Place;
use tests::serve::{Serve, Site};

/// Made once. Issued by `intermediate`, which `root` issued, and each with it in one file:
///
/// - `default`, `a` and `b` (its wildcard too) on ECDSA, `a-rsa` as `a` on RSA; `a-next`: what replaces `a` one day;
/// - servers: `one.corp`, `two.corp` (RSA), `over.corp`, which expired;
/// - clients: `alice`, `bob`, and `lb`, which is us.
///
/// `strange` is an authority of somebody else, `mallory` its client, `fake.corp` its server, who says to be `one.corp`.
pub(crate) fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(make)
}

fn make() -> Pki {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    sweep(folder, "pki");
    let pki = Pki::new(folder.join(format!("pki-{}", std::process::id()))).unwrap();
    let issue = |name: &str, issuer, key, common_name: &str, usage: Use<'_>, validity| {
        let subject = format!("/O=Corp/CN={common_name}");
        pki.issue(Wanted { name, issuer, key, subject: &subject, usage, validity }).unwrap();
    };
    let year = Validity::Days(365);
    for root in ["root", "strange"] {
        issue(root, None, Key::Ec, root, Use::Authority, year);
    }
    issue("intermediate", Some("root"), Key::Ec, "intermediate", Use::Authority, year);
    let a: &[&str] = &["a.test", "www.a.test"];
    let servers: [(&str, Key, &[&str], Validity); 8] = [
        ("default", Key::Ec, &["default.test"], year),
        ("a", Key::Ec, a, year),
        ("a-rsa", Key::Rsa(2048), a, year),
        ("a-next", Key::Ec, a, year),
        ("b", Key::Ec, &["b.test", "*.b.test"], year),
        ("one.corp", Key::Ec, &["one.corp", "shared.corp"], year),
        ("two.corp", Key::Rsa(2048), &["two.corp", "shared.corp"], year),
        ("over.corp", Key::Ec, &["over.corp"], Validity::Over),
    ];
    for (name, key, names, validity) in servers {
        issue(name, Some("intermediate"), key, names[0], Use::Server(names), validity);
    }
    for name in ["alice", "bob", "lb"] {
        issue(name, Some("intermediate"), Key::Ec, name, Use::Client, year);
    }
    for name in servers.map(|(name, ..)| name).into_iter().chain(["alice", "bob", "lb"]) {
        let [leaf, key] = ["crt", "key"].map(|end| format!("{name}.{end}"));
        pki.bundle(&format!("{name}.pem"), &[&leaf, "intermediate.crt", &key]).unwrap();
    }
    issue("mallory", Some("strange"), Key::Ec, "alice", Use::Client, year);
    issue("fake.corp", Some("strange"), Key::Ec, "one.corp", Use::Server(&["one.corp"]), year);
    pki
}

/// TOML of certificates, each under the name of its file; dots are none in a key.
pub(crate) fn certificates(names: &[&str]) -> String {
    let table =
        |name: &&str| format!("[certificate.{}]\nfile = \"{}\"\n", key(name), pki().file(&format!("{name}.pem")));
    names.iter().map(table).collect()
}

/// TOML of a profile `front` with these certificates, and what more is said of it; and of the certificates.
pub(crate) fn profile(names: &[&str], more: &str) -> String {
    let list: Vec<String> = names.iter().map(|name| format!("\"{}\"", key(name))).collect();
    format!("{}[tls.front]\ncertificates = [{}]\n{more}\n", certificates(names), list.join(", "))
}

/// TOML of the authority `corp`: the root of it all.
pub(crate) fn authority() -> String {
    format!("[ca.corp]\nfile = \"{}\"\n", pki().file("root.crt"))
}

fn key(name: &str) -> String {
    name.replace('.', "-")
}

/// lbnode in front of a server, over TLS on port 8443 and in the clear on 8080 of the place.
pub(crate) struct Front {
    pub(crate) serve: Serve,
    pub(crate) site: Site,
    pub(crate) clear: SocketAddr,
}

impl Front {
    /// With the profile `front` of all the certificates; `change` says what is not as usual.
    pub(crate) fn start(place: &Place, server: SocketAddr, change: impl FnOnce(&mut Site)) -> Front {
        let (site, clear) = ordinary(place, server, change);
        Front { serve: Serve::start(place, &site.toml()).unwrap(), site, clear }
    }

    /// Where clients that speak TLS arrive.
    pub(crate) fn tls(&self) -> SocketAddr {
        self.site.bind
    }

    /// A URL of a name that leads here.
    pub(crate) fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.site.bind.port())
    }

    /// curl for a path of a name that leads here, and whose certificate the root vouches for; it has to succeed.
    pub(crate) fn get(&self, host: &str, path: &str, arguments: &[&str]) -> String {
        let said = self.try_get(host, path, arguments);
        assert!(said.code == 0, "curl {arguments:?} {host}{path}: {said:?}\n{}", self.serve.part.tail());
        said.text
    }

    /// The same, whatever comes of it.
    pub(crate) fn try_get(&self, host: &str, path: &str, arguments: &[&str]) -> Said {
        let url = self.url(host, path);
        curl_at(self.site.bind, host, &[arguments, &[&url]].concat())
    }

    /// Applies the site as it is now.
    pub(crate) fn apply(&mut self) {
        self.serve.apply(&self.site.toml()).unwrap();
    }
}

/// The site of [`Front::start`], and where it is asked in the clear.
pub(crate) fn ordinary(place: &Place, server: SocketAddr, change: impl FnOnce(&mut Site)) -> (Site, SocketAddr) {
    let mut site = Site::new(place.at(8443), server);
    let clear = place.at(8080);
    site.tls = Some("front");
    site.more = profile(&["default", "a", "a-rsa", "b"], "");
    writeln!(site.more, "[frontend.clear]\nmode = \"http\"\nbind = \"{clear}\"\ndefault_backend = \"back\"").unwrap();
    change(&mut site);
    (site, clear)
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code; -1: a signal.
    pub(crate) code: i32,
    /// What it wrote.
    pub(crate) text: String,
    /// What it complained of.
    pub(crate) complaint: String,
}

/// curl with a name that leads to an address. The arguments name the URL.
pub(crate) fn curl_at(address: SocketAddr, host: &str, arguments: &[&str]) -> Said {
    let resolve = format!("{host}:{}:{}", address.port(), address.ip());
    let root = pki().file("root.crt");
    let fixed =
        ["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--cacert", &root, "--resolve", &resolve];
    run("curl", &[&fixed, arguments].concat(), "")
}

/// `openssl s_client`: a handshake, one request for a path, the answer. It has a time limit.
pub(crate) fn s_client(address: SocketAddr, path: &str, arguments: &[&str]) -> Said {
    let connect = address.to_string();
    let fixed = ["20", "openssl", "s_client", "-connect", &connect, "-ign_eof"];
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    run("timeout", &[&fixed, arguments].concat(), &request)
}

/// The serial number of the certificate that is shown for a name.
pub(crate) fn serial_shown(address: SocketAddr, name: &str, arguments: &[&str]) -> String {
    let said = s_client(address, "/who", &[&["-servername", name], arguments].concat());
    assert!(said.text.contains("-----BEGIN CERTIFICATE-----"), "{said:?}");
    run("openssl", &["x509", "-noout", "-serial"], &said.text).text.trim().to_owned()
}

/// The serial number of a certificate of the run.
pub(crate) fn serial_of(name: &str) -> String {
    pki().openssl(&["x509", "-in", &pki().file(&format!("{name}.crt")), "-noout", "-serial"]).unwrap().trim().to_owned()
}

/// Runs a command that ends by itself.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Said {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed (`.ci/setup test`): {error}"));
    // One that ended before it read this has said why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code().unwrap_or(-1), text: text(&output.stdout), complaint: text(&output.stderr) }
}
