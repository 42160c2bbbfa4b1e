//! What servers meet when we are their client.

use rustls::CertificateError;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::CertifiedKey;

use super::*;

/// Servers of a plan with this backend TLS; authority 0 is `ca`.
fn backend_plan(ca: &Ca, tls: ServerTls, servers: Vec<Server>) -> Plan {
    Plan { authorities: vec![ca.authority()], backends: vec![backend(tls, servers)], ..Plan::default() }
}

/// A server that shows this certificate.
fn shows(certificate: Certificate) -> Arc<ServerConfig> {
    Arc::clone(built(&plan(vec![certificate])).bind(0))
}

fn meet(outbound: &Outbound, server: &Arc<ServerConfig>) -> Result<Met, Refused> {
    shake(Arc::clone(&outbound.config), outbound.name.clone(), server)
}

fn why(met: Result<Met, Refused>) -> CertificateError {
    match met.map(drop) {
        Err(Refused::ByClient(rustls::Error::InvalidCertificate(why))) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_is_verified_against_the_authority_its_name_and_the_time() {
    let (ca, stranger) = (Ca::new("ca"), Ca::new("ca"));
    let plan = backend_plan(&ca, verified(), vec![server("a", Some("a.corp")), server("b", None)]);
    let configs = built(&plan);
    let (named, by_address) = (configs.server(0, 0).unwrap(), configs.server(0, 1).unwrap());
    let right = shows(ca.sign("right", &["a.corp"], Kind::Ecdsa));
    assert!(meet(named, &right).is_ok());
    assert_eq!(meet(named, &right).unwrap().server.server_name(), Some("a.corp"));
    assert!(matches!(why(meet(by_address, &right)), CertificateError::NotValidForNameContext { .. }));
    let with_address = shows(ca.sign("address", &["127.0.0.1"], Kind::Ecdsa));
    let met = meet(by_address, &with_address).unwrap();
    assert_eq!(met.server.server_name(), None, "RFC 6066 §3: addresses aren't asked for");
    let wrong = shows(ca.sign("wrong", &["b.corp"], Kind::Ecdsa));
    assert!(matches!(why(meet(named, &wrong)), CertificateError::NotValidForNameContext { .. }));
    let foreign = shows(stranger.sign("foreign", &["a.corp"], Kind::Ecdsa));
    assert!(matches!(why(meet(named, &foreign)), CertificateError::UnknownIssuer | CertificateError::BadSignature));
    let late = shows(ca.expired("late", &["a.corp"]));
    assert!(matches!(why(meet(named, &late)), CertificateError::ExpiredContext { .. }));
}

#[test]
fn the_backends_name_comes_before_the_servers_own() {
    let ca = Ca::new("ca");
    let tls = ServerTls { name: Some("farm.corp".into()), ..verified() };
    let configs = built(&backend_plan(&ca, tls, vec![server("a", Some("a.corp"))]));
    assert_eq!(configs.server(0, 0).unwrap().name, dns("farm.corp"));
}

#[test]
fn without_verification_anybody_will_do_who_has_the_key() {
    let ca = Ca::new("ca");
    let tls = ServerTls { verify: Verify::Nothing, ..verified() };
    let configs = built(&backend_plan(&ca, tls, vec![server("a", Some("a.corp"))]));
    let outbound = configs.server(0, 0).unwrap();
    let anybody = Ca::new("anybody");
    for certificate in [
        anybody.sign("foreign", &["b.corp"], Kind::Ecdsa),
        anybody.sign("rsa", &["b.corp"], Kind::Rsa),
        anybody.expired("late", &["a.corp"]),
    ] {
        assert!(meet(outbound, &shows(certificate)).is_ok());
    }
    // The certificate of one, and another's key.
    let (theirs, own) = (ca.sign("a", &["a.corp"], Kind::Ecdsa), ca.sign("b", &["a.corp"], Kind::Ecdsa));
    let own = Shown::load(&own).unwrap();
    let key = CertifiedKey::new(vec![theirs.chain[0].clone().into()], Arc::clone(&own.key.key));
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(versions);
        let mut resolver = ResolvesServerCertUsingSni::new();
        resolver.add("a.corp", key.clone()).unwrap();
        let server = builder.unwrap().with_no_client_auth().with_cert_resolver(Arc::new(resolver));
        assert_eq!(why(meet(outbound, &Arc::new(server))), CertificateError::BadSignature);
    }
}

#[test]
fn a_server_that_asks_is_shown_the_certificate_and_all_speak_the_protocols_and_versions_of_the_plan() {
    let (ca, clients) = (Ca::new("ca"), Ca::new("clients"));
    let tls = ServerTls {
        certificate: Some(0),
        alpn: vec!["h2".into(), "http/1.1".into()],
        min_version: TlsVersion::V13,
        ..verified()
    };
    let mut ours = backend_plan(&ca, tls, vec![server("a", Some("a.corp"))]);
    ours.certificates = vec![clients.sign("proxy", &[], Kind::Ecdsa)];
    let configs = built(&ours);
    let outbound = configs.server(0, 0).unwrap();
    let mut theirs = plan(vec![ca.sign("a", &["a.corp"], Kind::Ecdsa)]);
    theirs.authorities = vec![clients.authority()];
    theirs.tls[0].client_auth = Some(ClientAuth { authority: 0, required: true });
    theirs.tls[0].alpn = vec!["http/1.1".into()];
    let facts = meet(outbound, built(&theirs).bind(0)).unwrap().facts();
    assert_eq!(facts.client.unwrap().subject, "CN=proxy".into());
    assert_eq!(facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
    theirs.tls[0] = of_version(TlsVersion::V12, theirs.tls[0].clone());
    assert!(meet(outbound, built(&theirs).bind(0)).is_err(), "the server speaks only what is too old");
}

#[test]
fn sessions_are_resumed_with_each_server_apart_and_never_by_checks() {
    let ca = Ca::new("ca");
    let servers = vec![server("a", Some("a.corp")), server("b", Some("a.corp"))];
    let mut ours = backend_plan(&ca, verified(), servers);
    ours.backends[0].check = Some(crate::plan::Check { tls: Some(verified()), ..crate::plan::Check::default() });
    let configs = built(&ours);
    for version in VERSIONS {
        let mut theirs = plan(vec![ca.sign("a", &["a.corp"], Kind::Ecdsa)]);
        theirs.tls[0] = of_version(version, theirs.tls[0].clone());
        let (one, other) = (built(&theirs), built(&theirs));
        let resumed =
            |index, at: &Configs| meet(configs.server(0, index).unwrap(), at.bind(0)).unwrap().facts().resumed;
        let went = [(0, &one), (1, &other), (0, &one), (1, &other)].map(|(index, at)| resumed(index, at));
        assert_eq!(went, [false, false, true, true], "{version:?}");
        let checked = || meet(configs.check(0, 1).unwrap(), other.bind(0)).unwrap().facts().resumed;
        assert!(!checked() && !checked(), "{version:?}");
    }
}

#[test]
fn a_name_that_is_none_is_refused_with_its_server() {
    let ca = Ca::new("ca");
    let refused = |name| super::refused(&backend_plan(&ca, verified(), vec![server("one", Some(name))]));
    for name in ["", "a b", "http://a.corp", "a.corp:443", "-a.corp", "ä.corp"] {
        let expected = format!(
            "backend `farm`: server `one`: tls: `{}` is neither a DNS name nor an address",
            name.escape_debug()
        );
        assert_eq!(refused(name), expected);
    }
    let configs = built(&backend_plan(&ca, verified(), vec![server("one", Some("::1")), server("two", None)]));
    assert_eq!(configs.server(0, 0).unwrap().name, address("::1"));
    assert_eq!(configs.server(0, 1).unwrap().name, address("127.0.0.1"));
}

#[test]
fn in_the_clear_there_is_nothing_to_speak_over() {
    let plan = Plan {
        backends: vec![Backend { tls: None, ..backend(verified(), vec![server("a", None)]) }],
        ..Plan::default()
    };
    assert!(built(&plan).server(0, 0).is_none() && built(&plan).check(0, 0).is_none());
}
