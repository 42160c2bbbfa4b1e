//! A client's connection, in the clear or over TLS, and how the load speaks TLS: 1.3 alone, X25519, any certificate.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::certificate::NAME;

/// An answer later than this is none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Where a client goes, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Of the proxy.
    pub(crate) address: SocketAddr,
    /// None: in the clear.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// One connection.
#[derive(Debug)]
pub(crate) enum Client {
    /// TCP.
    Clear(TcpStream),
    /// TLS over it.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    /// A new one; reads end after [`PATIENCE`]. Over TLS the handshake comes with the first request.
    pub(crate) fn connect(target: &Target) -> io::Result<Client> {
        let tcp = TcpStream::connect(target.address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let Some(config) = &target.tls else { return Ok(Client::Clear(tcp)) };
        let session = ClientConnection::new(config.clone(), server_name()).map_err(io::Error::other)?;
        Ok(Client::Tls(Box::new(StreamOwned::new(session, tcp))))
    }

    /// The socket.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Client::Clear(tcp) => tcp,
            Client::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Clear(tcp) => tcp.read(buffer),
            Client::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Client::Clear(tcp) => tcp.write(bytes),
            Client::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Client::Clear(tcp) => tcp.flush(),
            Client::Tls(tls) => tls.flush(),
        }
    }
}

/// What clients of one kind share. With `resumption` they keep tickets, and use each of them once.
///
/// Proxies differ in the groups they know and would choose: the load offers the one that all have.
pub(crate) fn config(resumption: bool) -> Result<ClientConfig, rustls::Error> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519];
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes)))
        .with_no_client_auth();
    config.resumption = if resumption { Resumption::in_memory_sessions(16) } else { Resumption::disabled() };
    Ok(config)
}

/// Whom clients ask for.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("it is a name")
}

/// Takes everybody for who they say they are: what a client checks is not the proxy's work, and the processor it would
/// take is the origin's too.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
