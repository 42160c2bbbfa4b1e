//! What a profile's clients meet.

use std::fmt;
use std::sync::Mutex;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{DigitallySignedStruct, PeerIncompatible, SignatureScheme};

use super::*;

/// Whose certificate a client gets, by its name in the plan.
fn chosen(plan: &Plan, client: ClientConfig, name: ServerName<'static>) -> String {
    let configs = built(plan);
    let met = shake(client, name, configs.bind(0)).unwrap();
    let certificate = plan.certificates.iter().find(|certificate| certificate.chain[0] == met.shown());
    certificate.expect("it is of the plan").name.clone()
}

#[test]
fn the_name_decides_exactly_then_by_wildcard_then_the_first_is_the_default() {
    let ca = Ca::new("ca");
    let certificates = vec![
        ca.sign("default", &["shop.test"], Kind::Ecdsa),
        ca.sign("wild", &["*.Mail.test"], Kind::Ecdsa),
        ca.sign("exact", &["www.mail.test", "OWA.mail.test"], Kind::Ecdsa),
        ca.sign("alone.test", &[], Kind::Ecdsa),
    ];
    let plan = plan(certificates);
    for (name, shown) in [
        (dns("shop.test"), "default"),
        (dns("www.mail.test"), "exact"),
        (dns("WWW.Mail.test"), "exact"),
        (dns("owa.mail.test"), "exact"),
        (dns("owa.mail.test."), "exact"),
        (dns("autodiscover.mail.test"), "wild"),
        (dns("a.autodiscover.mail.test"), "default"),
        (dns("mail.test"), "default"),
        (dns("alone.test"), "alone.test"),
        (dns("other.test"), "default"),
        (address("192.0.2.1"), "default"),
    ] {
        assert_eq!(chosen(&plan, anybody(Vec::new()), name.clone()), shown, "{name:?}");
    }
}

#[test]
fn a_client_gets_a_key_that_it_can_verify_and_the_cheaper_one_if_it_can_verify_both() {
    let ca = Ca::new("ca");
    let certificates = vec![
        ca.sign("rsa", &["a.test"], Kind::Rsa),
        ca.sign("ecdsa", &["a.test"], Kind::Ecdsa),
        ca.sign("only-ecdsa", &["b.test"], Kind::Ecdsa),
        ca.sign("wild-rsa", &["*.test"], Kind::Rsa),
    ];
    let plan = plan(certificates);
    let (rsa, ecdsa) = (SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256);
    for (schemes, name, shown) in [
        (vec![rsa, ecdsa], dns("a.test"), "ecdsa"),
        (vec![ecdsa], dns("a.test"), "ecdsa"),
        (vec![rsa], dns("a.test"), "rsa"),
        (vec![rsa, ecdsa], dns("other.example"), "ecdsa"),
        (vec![rsa], dns("other.example"), "rsa"),
        // A wildcard of the right kind before the default, and before an exact one of the wrong kind.
        (vec![rsa], dns("b.test"), "wild-rsa"),
        (vec![rsa, ecdsa], dns("b.test"), "only-ecdsa"),
        (vec![ecdsa], dns("c.test"), "ecdsa"),
    ] {
        assert_eq!(chosen(&plan, anybody(schemes.clone()), name.clone()), shown, "{name:?} {schemes:?}");
    }
    let configs = built(&plan);
    let met = shake(anybody(vec![SignatureScheme::ECDSA_NISTP384_SHA384]), dns("a.test"), configs.bind(0));
    let Err(Refused::ByServer(rustls::Error::PeerIncompatible(why))) = met else { panic!("nobody can verify it") };
    assert_eq!(why, PeerIncompatible::NoSignatureSchemesInCommon);
}

#[test]
fn the_default_is_the_first_in_any_of_its_kinds_of_key() {
    let ca = Ca::new("ca");
    let certificates = |names: &[&str]| {
        vec![
            ca.sign("first", &["a.test", "b.test"], Kind::Rsa),
            ca.sign("second", names, Kind::Ecdsa),
            ca.sign("third", &["c.test"], Kind::Ecdsa),
        ]
    };
    let default = |names: &[&str]| chosen(&plan(certificates(names)), anybody(Vec::new()), dns("other.example"));
    assert_eq!(default(&["b.test", "more.test", "a.test"]), "second");
    assert_eq!(default(&["b.test"]), "first");
    let nameless = vec![ca.sign("", &[], Kind::Rsa), ca.sign("b.test", &[], Kind::Ecdsa)];
    assert_eq!(chosen(&plan(nameless), anybody(Vec::new()), dns("other.example")), "");
}

#[test]
fn who_speaks_an_older_version_is_refused() {
    let ca = Ca::new("ca");
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    let old = |plan: &Plan| shake(speaks_only_tls12(&ca), dns("a.test"), built(plan).bind(0));
    assert_eq!(old(&plan).unwrap().facts().version, TlsVersion::V12);
    assert_eq!(shake(client(&ca), dns("a.test"), built(&plan).bind(0)).unwrap().facts().version, TlsVersion::V13);
    plan.tls[0].min_version = TlsVersion::V13;
    assert!(matches!(old(&plan), Err(Refused::ByServer(rustls::Error::PeerIncompatible(_)))));
    assert_eq!(shake(client(&ca), dns("a.test"), built(&plan).bind(0)).unwrap().facts().version, TlsVersion::V13);
}

#[test]
fn only_the_cipher_suites_of_the_profile_are_used() {
    let ca = Ca::new("ca");
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    let mut suite = |names: &[&str]| {
        plan.tls[0].cipher_suites = names.iter().map(ToString::to_string).collect();
        shake(client(&ca), dns("a.test"), built(&plan).bind(0)).map(|met| met.facts().cipher_suite)
    };
    let chacha = "TLS13_CHACHA20_POLY1305_SHA256";
    assert_eq!(suite(&[chacha]).unwrap(), chacha);
    assert_eq!(suite(&["TLS_CHACHA20_POLY1305_SHA256"]).unwrap(), chacha, "IANA's name");
    let ecdsa = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    assert_eq!(suite(&[ecdsa]).unwrap(), ecdsa, "TLS 1.2, if there is no suite for 1.3");
    assert!(suite(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]).is_err(), "the key is no RSA key");
}

#[test]
fn of_the_suites_that_both_know_the_profiles_first_is_used() {
    let ca = Ca::new("ca");
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    let suites = [
        (TlsVersion::V13, ["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384"]),
        (TlsVersion::V12, ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]),
    ];
    for (version, [one, other]) in suites {
        for (first, second) in [(one, other), (other, one)] {
            plan.tls[0].cipher_suites = vec![first.into(), second.into()];
            let met = shake(client(&ca), dns("a.test"), built(&plan).bind(0)).unwrap();
            let facts = met.facts();
            assert_eq!((facts.version, facts.cipher_suite), (version, first), "the client's order is one of these");
        }
    }
}

#[test]
fn cipher_suites_that_are_not_there_are_named_with_those_that_are() {
    let ca = Ca::new("ca");
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    plan.tls[0].cipher_suites = vec!["TLS_RSA_WITH_RC4_128_SHA".into()];
    assert_eq!(
        refused(&plan),
        "tls `web`: there is no cipher suite `TLS_RSA_WITH_RC4_128_SHA`; known are TLS13_AES_256_GCM_SHA384, \
        TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, \
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, \
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, \
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
    );
    plan.tls[0].cipher_suites = vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".into()];
    plan.tls[0].min_version = TlsVersion::V13;
    assert_eq!(refused(&plan), "tls `web`: no cipher suite of it is for its versions of TLS");
}

#[test]
fn the_profiles_preferred_protocol_is_agreed_on() {
    let ca = Ca::new("ca");
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    let mut agreed = |ours: &[&str], theirs: &[&str]| {
        plan.tls[0].alpn = ours.iter().map(ToString::to_string).collect();
        let mut client = client(&ca);
        client.alpn_protocols = theirs.iter().map(|name| name.as_bytes().to_vec()).collect();
        let met = shake(client, dns("a.test"), built(&plan).bind(0));
        met.map(|met| met.facts().alpn.map(|name| String::from_utf8(name.into()).unwrap()))
    };
    assert_eq!(agreed(&["h2", "http/1.1"], &["http/1.1", "h2"]).unwrap().as_deref(), Some("h2"));
    assert_eq!(agreed(&["h2", "http/1.1"], &["http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(agreed(&["h2", "http/1.1"], &[]).unwrap(), None);
    assert_eq!(agreed(&[], &["h2"]).unwrap(), None);
    let none = agreed(&["h2"], &["http/1.1"]);
    assert!(matches!(none, Err(Refused::ByServer(rustls::Error::NoApplicationProtocol))), "RFC 7301 §3.2");
}

#[test]
fn clients_show_certificates_where_they_must_or_may() {
    let (ca, clients, strangers) = (Ca::new("ca"), Ca::new("clients"), Ca::new("strangers"));
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    plan.authorities = vec![clients.authority()];
    let shows = |certificate: Option<Certificate>| certificate.map_or_else(|| client(&ca), |one| client_with(&ca, one));
    let good = clients.sign("good", &[], Kind::Ecdsa);
    let bad = [strangers.sign("foreign", &[], Kind::Ecdsa), clients.expired("late", &[])];
    for version in VERSIONS {
        plan.tls[0] = of_version(version, plan.tls[0].clone());
        for required in [true, false] {
            plan.tls[0].client_auth = Some(ClientAuth { authority: 0, required });
            let configs = built(&plan);
            let meets = |certificate| shake(shows(certificate), dns("a.test"), configs.bind(0));
            let facts = meets(Some(good.clone())).unwrap().facts();
            assert_eq!(facts.client.as_ref().expect("it has shown one").subject, "CN=good".into());
            assert!(admits(&plan.tls[0], &facts) && facts.version == version);
            match meets(None) {
                Ok(met) => assert!(!required && met.facts().client.is_none() && admits(&plan.tls[0], &met.facts())),
                Err(Refused::ByServer(why)) => assert!(required, "{why}"),
                Err(Refused::ByClient(why)) => panic!("{why}"),
            }
            for certificate in &bad {
                let refused = matches!(meets(Some(certificate.clone())), Err(Refused::ByServer(_)));
                assert!(refused, "{} {required}", certificate.name);
            }
        }
    }
}

#[test]
fn the_staple_goes_with_its_certificate() {
    let ca = Ca::new("ca");
    let mut certificates =
        vec![ca.sign("with", &["a.test"], Kind::Ecdsa), ca.sign("without", &["b.test"], Kind::Ecdsa)];
    certificates[0].ocsp = b"a response".to_vec();
    let mut plan = plan(certificates);
    for version in VERSIONS {
        plan.tls[0] = of_version(version, plan.tls[0].clone());
        let configs = built(&plan);
        for (name, staple) in [("a.test", &b"a response"[..]), ("b.test", b"")] {
            let verifier = Arc::new(Lenient::default());
            let mut client = client(&ca);
            client.dangerous().set_certificate_verifier(Arc::clone(&verifier) as _);
            shake(client, dns(name), configs.bind(0)).unwrap();
            assert_eq!(*verifier.staple.lock().unwrap(), staple, "{name}");
        }
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let ca = Ca::new("ca");
    let good = ca.sign("a", &["a.test"], Kind::Ecdsa);
    let with = |change: fn(&mut Certificate)| {
        let mut certificate = good.clone();
        change(&mut certificate);
        refused(&plan(vec![certificate]))
    };
    assert_eq!(with(|one| one.chain.clear()), "certificate `a`: its chain is empty");
    assert_eq!(with(|one| one.chain[0].truncate(40)), "certificate `a`: it is no X.509 certificate");
    assert_eq!(with(|one| one.key.0.clear()), "certificate `a`: its key is neither PKCS #8, PKCS #1 nor SEC 1");
    let other = with(|one| one.key.0 = rsa().serialize_der());
    assert!(other.starts_with("certificate `a`: it can't be used with its key: "), "{other}");
    let mut plan = plan(vec![good]);
    plan.authorities = vec![Authority { name: "corp".into(), certificates: vec![b"no DER".to_vec()] }];
    plan.tls[0].client_auth = Some(ClientAuth { authority: 0, required: true });
    let broken = refused(&plan);
    assert!(broken.starts_with("ca `corp`: certificate 1 can't be used: "), "{broken}");
    plan.authorities[0].certificates.clear();
    assert_eq!(refused(&plan), "ca `corp`: it has no certificate");
}

/// Takes any certificate, offers only some schemes, and keeps what was stapled.
#[derive(Default)]
struct Lenient {
    schemes: Vec<SignatureScheme>,
    staple: Mutex<Vec<u8>>,
}

impl fmt::Debug for Lenient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lenient")
    }
}

/// A client that takes any certificate with a signature of one of these schemes; none: of all.
fn anybody(schemes: Vec<SignatureScheme>) -> ClientConfig {
    let mut client = client(&Ca::new("nobody's"));
    client.dangerous().set_certificate_verifier(Arc::new(Lenient { schemes, ..Lenient::default() }));
    client
}

fn speaks_only_tls12(trusted: &Ca) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
    builder.with_root_certificates(roots(&trusted.authority()).unwrap()).with_no_client_auth()
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        staple: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.staple.lock().unwrap() = staple.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = || provider().signature_verification_algorithms.supported_schemes();
        if self.schemes.is_empty() { all() } else { self.schemes.clone() }
    }
}
