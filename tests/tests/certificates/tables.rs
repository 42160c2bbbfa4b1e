//! `[certificate]`, `[ca]`, `[tls]` and what names them: what the plan gets, and what is refused.

use node::config::{ClusterConfig, ConfigError, parse_cluster};
use proxy_core::plan::{ClientAuth, ClientCertField, Condition, Mode, Pattern, ServerTls, Text, TlsVersion, Verify};

use super::pki::Pki;

/// A PKI with two bundles, `a.pem` and `b.pem`.
fn pki(name: &str) -> Pki {
    let pki = Pki::new(name);
    pki.join("a.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    pki.leaf("other", "lower", "ec", 400);
    pki.join("b.pem", &["other.pem", "other.key", "lower.pem", "upper.pem"]);
    pki
}

const TRUST: &str = "[pair]\nname = \"x\"\n[ca.corp]\nfile = \"DIR/root.pem\"\n\
                     [certificate.a]\nfile = \"DIR/a.pem\"\n[certificate.b]\nfile = \"DIR/b.pem\"\n";
const SERVERS: &str = "servers = [{ name = \"s\", address = \"192.0.2.1:443\" }]\n";

fn read(pki: &Pki, rest: &str) -> Result<ClusterConfig, ConfigError> {
    parse_cluster("c", &format!("{TRUST}{rest}").replace("DIR", &pki.dir().display().to_string()))
}

fn good(pki: &Pki, rest: &str) -> ClusterConfig {
    read(pki, rest).unwrap_or_else(|error| panic!("{error}"))
}

/// `line:column: message`, the line counted in `rest`.
fn mistakes(pki: &Pki, rest: &str) -> Vec<String> {
    let before = TRUST.lines().count();
    match read(pki, rest) {
        Err(ConfigError::Invalid(found)) => {
            found.iter().map(|one| format!("{}:{}: {}", one.line - before, one.column, one.message)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_profile_offers_what_its_frontend_speaks() {
    let pki = pki("alpn");
    let cluster = good(
        &pki,
        &format!(
            "[tls.t]\ncertificates = [\"b\", \"a\"]\n[tls.unused]\ncertificates = \"a\"\nalpn = [\"x\"]\n\
             [frontend.both]\nmode = \"http\"\nbind = [\"*:80\", {{ to = \"*:443\", tls = \"t\" }}, {{ to = \"*:444\", tls = \"t\" }}]\n\
             [frontend.old]\nmode = \"http\"\nhttp2 = false\nbind = {{ to = \"*:445\", tls = \"t\" }}\n\
             [frontend.tcp]\nmode = \"tcp\"\nbind = {{ to = \"*:446\", tls = \"t\" }}\ndefault_backend = \"s\"\n\
             [backend.s]\nmode = \"tcp\"\n{SERVERS}"
        ),
    );
    let plan = &cluster.plan;
    let profiles: Vec<(&str, Vec<&str>)> =
        plan.tls.iter().map(|tls| (tls.name.as_str(), tls.alpn.iter().map(String::as_str).collect())).collect();
    assert_eq!(
        profiles,
        [
            ("t", vec!["h2", "http/1.1", "http/1.0"]),
            ("t (http/1.1, http/1.0)", vec!["http/1.1", "http/1.0"]),
            ("t (no ALPN)", vec![]),
            ("unused", vec!["x"])
        ]
    );
    let binds: Vec<Option<usize>> =
        plan.frontends.iter().flat_map(|frontend| frontend.binds.iter().map(|bind| bind.tls)).collect();
    assert_eq!(binds, [None, Some(0), Some(0), Some(1), Some(2)]);
    let http2: Vec<Option<bool>> = plan
        .frontends
        .iter()
        .map(|frontend| match &frontend.mode {
            Mode::Http(http) => Some(http.http2),
            Mode::Tcp => None,
        })
        .collect();
    assert_eq!(http2, [Some(true), Some(false), None]);
    let names = |index: usize| plan.tls[0].certificates[index];
    assert_eq!((plan.certificates[names(0)].name.as_str(), plan.certificates[names(1)].name.as_str()), ("b", "a"));
    assert_eq!(
        (plan.tls[0].min_version, plan.tls[0].tickets, plan.tls[0].client_auth.as_ref()),
        (TlsVersion::V12, true, None)
    );
    assert_eq!(plan.validate(), Ok(()));
}

#[test]
fn every_key_of_a_profile_reaches_the_plan() {
    let pki = pki("profile");
    let cluster = good(
        &pki,
        "[tls.t]\ncertificates = \"a\"\nmin_version = \"1.3\"\ncipher_suites = [\"TLS13_AES_128_GCM_SHA256\"]\n\
         alpn = \"http/1.1\"\nclient_auth = { ca = \"corp\", mode = \"optional\" }\ntickets = false\n\
         [frontend.f]\nmode = \"http\"\nbind = { to = \"*:443\", tls = \"t\" }\n\
         client_cert_headers = { certificate = \"Client-Cert\", subject = \"X-SSL-Client-DN\" }\n",
    );
    let tls = &cluster.plan.tls[0];
    assert_eq!(tls.min_version, TlsVersion::V13);
    assert_eq!(tls.cipher_suites, ["TLS13_AES_128_GCM_SHA256"]);
    assert_eq!((tls.alpn.as_slice(), tls.tickets), (["http/1.1".to_owned()].as_slice(), false));
    assert_eq!(tls.client_auth, Some(ClientAuth { authority: 0, required: false }));
    assert_eq!(cluster.plan.authorities[0].certificates, [pki.der("root")]);
    let Mode::Http(http) = &cluster.plan.frontends[0].mode else { panic!("it speaks HTTP") };
    let headers = [
        (ClientCertField::Subject, "X-SSL-Client-DN".to_owned()),
        (ClientCertField::Certificate, "Client-Cert".to_owned()),
    ];
    assert_eq!(http.client_cert_headers, headers);
}

#[test]
fn servers_and_their_checks_are_spoken_to_as_it_is_written() {
    let pki = pki("servers");
    let backend = |name: &str, keys: &str| {
        format!(
            "[backend.{name}]\nmode = \"http\"\n{keys}servers = [{{ name = \"s\", address = \"192.0.2.1:443\", server_name = \"s.test\" }}]\n"
        )
    };
    let cluster = good(
        &pki,
        &[
            "[frontend.f]\nmode = \"http\"\nbind = \"*:80\"\n".to_owned(),
            backend("a", "tls = { verify = \"required\", ca = \"corp\", server_name = \"mail.corp\", certificate = \"b\", min_version = \"1.3\" }\ncheck = { http = {} }\n"),
            backend("b", "tls = { verify = \"none\" }\nhttp2 = true\ncheck = { http = {} }\n"),
            backend("c", "tls = { ca = \"corp\" }\ncheck = { http = { port = 80 }, tls = false }\n"),
            backend("d", "check = { tcp = {}, tls = { verify = \"none\" } }\n"),
        ]
        .concat(),
    );
    let backends = &cluster.plan.backends;
    let a = ServerTls {
        verify: Verify::Authority(0),
        name: Some("mail.corp".into()),
        min_version: TlsVersion::V13,
        certificate: Some(1),
        alpn: Vec::new(),
    };
    let nothing = |alpn: &[&str]| ServerTls {
        verify: Verify::Nothing,
        name: None,
        min_version: TlsVersion::V12,
        certificate: None,
        alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
    };
    let check = |index: usize| backends[index].check.as_ref().unwrap().tls.clone();
    assert_eq!((backends[0].tls.clone(), check(0), backends[0].http2), (Some(a.clone()), Some(a), false));
    // A check speaks HTTP/1.1 whatever the backend does.
    assert_eq!(
        (backends[1].tls.clone(), check(1), backends[1].http2),
        (Some(nothing(&["h2"])), Some(nothing(&["http/1.1"])), true)
    );
    assert_eq!((backends[2].tls.as_ref().map(|tls| tls.verify), check(2)), (Some(Verify::Authority(0)), None));
    assert_eq!((backends[3].tls.clone(), check(3)), (None, Some(nothing(&[]))));
    assert_eq!(backends[0].servers[0].tls_name.as_deref(), Some("s.test"));
    assert_eq!(cluster.plan.validate(), Ok(()));
}

#[test]
fn rules_ask_about_the_handshake_in_both_modes() {
    let pki = pki("rules");
    for mode in ["tcp", "http"] {
        let cluster = good(
            &pki,
            &format!(
                "[frontend.f]\nmode = \"{mode}\"\nbind = \"*:80\"\ndefault_backend = \"s\"\n\
                 [[frontend.f.rule]]\nwhen = {{ sni = \"A.test\", sni_suffix = \".b.test\", alpn = [\"h2\"], tls = true }}\nreject = true\n\
                 [[frontend.f.rule]]\nwhen = {{ client_cert = true }}\nreject = true\n\
                 [[frontend.f.rule]]\nwhen = {{ client_cert = {{ suffix = \",O=Corp\" }}, ignore_case = true }}\nreject = true\n\
                 [backend.s]\nmode = \"{mode}\"\n{SERVERS}"
            ),
        );
        let text = |pattern, ignore_case| Text { any: vec![pattern], ignore_case };
        let when: Vec<Option<Condition>> =
            cluster.plan.frontends[0].rules.iter().map(|rule| rule.when.clone()).collect();
        let expected = [
            Some(Condition::All(vec![
                Condition::Tls(true),
                Condition::Sni(text(Pattern::Is("a.test".into()), true)),
                Condition::Sni(text(Pattern::Suffix(".b.test".into()), true)),
                Condition::Alpn(vec!["h2".into()]),
            ])),
            Some(Condition::ClientCert(text(Pattern::Present, false))),
            Some(Condition::ClientCert(text(Pattern::Suffix(",O=Corp".into()), true))),
        ];
        assert_eq!(when, expected, "{mode}");
        assert_eq!(cluster.plan.validate(), Ok(()));
    }
}

#[test]
fn what_contradicts_itself_or_leads_nowhere_is_refused_at_its_place() {
    let pki = pki("mistakes");
    let found = mistakes(
        &pki,
        &format!(
            "[tls.t]\ncertificates = [\"a\", \"c\"]\nmin_version = \"1.1\"\ntickets = 1\nclient_auth = {{ ca = \"crop\", mode = \"maybe\" }}\n\
             [tls.new]\ncertificates = \"a\"\nmin_version = \"1.3\"\ncipher_suites = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]\n\
             [tls.suite]\ncertificates = \"a\"\ncipher_suites = [\"TLS13_AES_128_GCM_SHA265\"]\nalpn = [\"h2\", \"h2\"]\n\
             [tls.spdy]\ncertificates = \"a\"\nalpn = [\"spdy/3\"]\n[tls.h2]\ncertificates = \"a\"\nalpn = \"h2\"\n\
             [frontend.f]\nmode = \"http\"\nhttp2 = false\ntls = \"t\"\n\
             bind = [{{ to = \"*:1\", tls = \"x\" }}, {{ to = \"*:2\", tls = \"spdy\" }}, {{ to = \"*:3\", tls = \"h2\" }}, {{ to = \"*:4\", alpn = \"h2\" }}]\n\
             [frontend.g]\nmode = \"http\"\nbind = {{ to = \"*:5\", tls = \"new\" }}\n\
             client_cert_headers = {{ subject = \"Host\", issuer = \"A\", serial = \"a\", sha1 = \"B\" }}\n\
             [frontend.tcp]\nmode = \"tcp\"\nhttp2 = true\nbind = \"*:6\"\ndefault_backend = \"t\"\n\
             [[frontend.tcp.rule]]\nwhen = {{ sni = [\"*.a\", \"10.0.0.1\", \"a:1\", \"a.\"], client_cert = false }}\nreject = true\n\
             [backend.t]\nmode = \"tcp\"\nhttp2 = true\ntls = true\nservers = [{{ name = \"s\", address = \"192.0.2.1:1\", server_name = \"a b\" }}]\n\
             [backend.h]\nmode = \"http\"\ntls = {{ verify = \"none\", ca = \"corp\", alpn = [\"h2\"], certificate = \"zz\" }}\ncheck = {{ http = {{}}, tls = true }}\n{SERVERS}\
             [backend.i]\nmode = \"http\"\nhttp2 = true\ntls = {{ alpn = \"http/1.1\" }}\n{SERVERS}\
             [backend.j]\nmode = \"http\"\nservers = [{{ name = \"s\", address = \"192.0.2.1:1\", server_name = \"a\" }}]\n"
        ),
    );
    let expected = include_str!("tables.expected");
    assert_eq!(found.join("\n"), expected.trim_end());
}
