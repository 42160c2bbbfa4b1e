//! Real handshakes of rustls with itself, in memory, under configurations that came from plans.

mod clients;
mod hellos;
mod identities;
mod plans;
mod servers;
mod sessions;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, date_time_ymd,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};

use super::certificates::Shown;
use super::*;
use crate::plan::{Backend, Certificate, ClientAuth, Plan, Secret, Server, ServerTls, Tls, Verify};

/// A private authority.
struct Ca(CertifiedIssuer<'static, KeyPair>);

/// The kind of a key. There is one RSA key for all tests: making one takes long.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Ecdsa,
    Rsa,
}

fn rsa() -> KeyPair {
    static DER: OnceLock<Vec<u8>> = OnceLock::new();
    let der = DER.get_or_init(|| KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_der());
    KeyPair::try_from(der.as_slice()).unwrap()
}

impl Ca {
    fn new(name: &str) -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn authority(&self) -> Authority {
        Authority { name: "corp".into(), certificates: vec![self.0.der().to_vec()] }
    }

    /// A certificate for these names, in time.
    fn sign(&self, name: &str, names: &[&str], kind: Kind) -> Certificate {
        self.sign_with(name, names, kind, |_| {})
    }

    fn sign_with(
        &self,
        name: &str,
        names: &[&str],
        kind: Kind,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            Kind::Rsa => rsa(),
        };
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certificate {
            name: name.into(),
            chain: vec![certificate.der().to_vec()],
            key: Secret(key.serialize_der()),
            ocsp: Vec::new(),
        }
    }

    fn expired(&self, name: &str, names: &[&str]) -> Certificate {
        self.sign_with(name, names, Kind::Ecdsa, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        })
    }
}

/// A profile with these of the plan's certificates.
fn profile(name: &str, certificates: &[usize]) -> Tls {
    Tls {
        name: name.into(),
        certificates: certificates.to_vec(),
        min_version: TlsVersion::V12,
        cipher_suites: Vec::new(),
        alpn: Vec::new(),
        client_auth: None,
        tickets: true,
    }
}

/// A plan of one profile with all of these certificates.
fn plan(certificates: Vec<Certificate>) -> Plan {
    let all: Vec<usize> = (0..certificates.len()).collect();
    Plan { certificates, tls: vec![profile("web", &all)], ..Plan::default() }
}

/// How servers that `ca` signed are spoken to, if it is the plan's first authority.
fn verified() -> ServerTls {
    ServerTls {
        verify: Verify::Authority(0),
        name: None,
        min_version: TlsVersion::V12,
        certificate: None,
        alpn: Vec::new(),
    }
}

fn server(name: &str, tls_name: Option<&str>) -> Server {
    Server { tls_name: tls_name.map(Into::into), ..Server::new(name, SocketAddr::from(([127, 0, 0, 1], 443))) }
}

fn backend(tls: ServerTls, servers: Vec<Server>) -> Backend {
    Backend { tls: Some(tls), retries: 0, redispatch: false, ..Backend::new("farm", servers, Duration::from_secs(1)) }
}

fn built(plan: &Plan) -> Configs {
    plan.validate().expect("the plan is valid");
    Configs::build(plan, None).expect("it can be built")
}

/// Why a plan that is valid can't be built.
fn refused(plan: &Plan) -> String {
    plan.validate().expect("the plan is valid");
    Configs::build(plan, None).expect_err("it can't be built").to_string()
}

/// A client that trusts these authorities, and can do all that we can.
fn client(trusted: &Ca) -> ClientConfig {
    let plan = Plan { authorities: vec![trusted.authority()], ..Plan::default() };
    super::client::config(&plan, &verified(), &[]).expect("it can be built")
}

/// A profile of which only this version of TLS is spoken, if certificates have ECDSA keys.
fn of_version(version: TlsVersion, tls: Tls) -> Tls {
    let suites = match version {
        TlsVersion::V12 => vec!["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".into()],
        TlsVersion::V13 => Vec::new(),
    };
    Tls { cipher_suites: suites, min_version: version, ..tls }
}

const VERSIONS: [TlsVersion; 2] = [TlsVersion::V12, TlsVersion::V13];

/// A client with this certificate.
fn client_with(trusted: &Ca, certificate: Certificate) -> ClientConfig {
    let tls = ServerTls { certificate: Some(0), ..verified() };
    let plan = Plan { authorities: vec![trusted.authority()], certificates: vec![certificate], ..Plan::default() };
    let shown = Arc::new(Shown::load(&plan.certificates[0]).unwrap());
    super::client::config(&plan, &tls, &[shown]).unwrap()
}

fn dns(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

fn address(text: &str) -> ServerName<'static> {
    ServerName::from(text.parse::<IpAddr>().unwrap())
}

/// Both ends after a handshake, and what came after it.
struct Met {
    client: ClientConnection,
    server: ServerConnection,
}

/// Who refused, and why.
#[derive(Debug)]
enum Refused {
    ByClient(rustls::Error),
    ByServer(rustls::Error),
}

impl Met {
    fn facts(&self) -> Facts {
        Facts::of(&self.server, self.server.server_name())
    }

    /// The certificate that the client was shown.
    fn shown(&self) -> &[u8] {
        self.client.peer_certificates().and_then(|chain| chain.first()).expect("it was shown one")
    }
}

fn shake(
    client: impl Into<Arc<ClientConfig>>,
    name: ServerName<'static>,
    server: &Arc<ServerConfig>,
) -> Result<Met, Refused> {
    let mut client = ClientConnection::new(client.into(), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        carry(&mut client, &mut server).map_err(Refused::ByServer)?;
        carry(&mut server, &mut client).map_err(Refused::ByClient)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Met { client, server })
}

fn carry<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = bytes.as_slice();
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}
