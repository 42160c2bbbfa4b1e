//! Certificates, and the ends of a TLS connection as a test wants them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use proxy_core::plan::{Authority, Certificate, Plan, Secret, ServerTls, Tls, TlsVersion, Verify};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::data_support::PATIENCE;

/// An authority that is everybody's.
pub(crate) struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Ca { certificate, issuer: Issuer::new(params, key) }
    }

    /// The chain and key of who has these names.
    pub(crate) fn issue(&self, names: &[&str]) -> (Vec<CertificateDer<'static>>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone()], key.serialize_der())
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority { name: "ca".into(), certificates: vec![self.certificate.to_vec()] }
    }

    pub(crate) fn certificate(&self, names: &[&str]) -> Certificate {
        let (chain, key) = self.issue(names);
        let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        Certificate { name: names[0].into(), chain, key: Secret(key), ocsp: Vec::new() }
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
    }

    /// A client that shows a certificate of ours.
    pub(crate) fn client_with_certificate(&self) -> ClientConfig {
        let (chain, key) = self.issue(&["client.test"]);
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let key = PrivateKeyDer::try_from(key).unwrap();
        ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap()
    }

    pub(crate) fn server(&self, names: &[&str]) -> ServerConfig {
        let (chain, key) = self.issue(names);
        let key = PrivateKeyDer::try_from(key).unwrap();
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()
    }
}

pub(crate) fn profile() -> Tls {
    Tls {
        name: "tls".into(),
        certificates: vec![0],
        min_version: TlsVersion::V12,
        cipher_suites: Vec::new(),
        alpn: Vec::new(),
        client_auth: None,
        tickets: true,
    }
}

/// The first frontend over TLS, as `a.test`.
pub(crate) fn secure_front(plan: &mut Plan, ca: &Ca) {
    plan.certificates.push(ca.certificate(&["a.test"]));
    plan.tls.push(profile());
    plan.frontends[0].binds[0].tls = Some(0);
}

/// The first backend over TLS, verified as `b.test`.
pub(crate) fn secure_back(plan: &mut Plan, ca: &Ca) {
    plan.authorities.push(ca.authority());
    plan.backends[0].tls = Some(ServerTls {
        verify: Verify::Authority(0),
        name: Some("b.test".into()),
        min_version: TlsVersion::V12,
        certificate: None,
        alpn: Vec::new(),
    });
}

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// A client of `a.test`, after its handshake.
pub(crate) fn shake_hands(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Client> {
    shake_hands_with("a.test", address, config)
}

/// A client of that name, after its handshake.
pub(crate) fn shake_hands_with(name: &str, address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Client> {
    shake_hands_on(name, TcpStream::connect(address)?, config)
}

/// The same on a connection that there is.
pub(crate) fn shake_hands_on(name: &str, mut socket: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Client> {
    socket.set_read_timeout(Some(3 * PATIENCE))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// A server's end.
pub(crate) fn accept(socket: TcpStream, config: &Arc<ServerConfig>) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), socket)
}

/// A head with its empty line, byte by byte; empty at the end of the stream.
pub(crate) fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? > 0 {
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// Says so, and reads an answer of known length.
pub(crate) fn ask(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    body(stream)
}

/// The body of an answer of known length.
pub(crate) fn body(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let head = head(stream)?.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head:?}");
    let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}
