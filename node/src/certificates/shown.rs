//! Which certificate a server shows: connects to it, looks, and goes.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_core::plan::{Plan, Server, ServerTls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use super::Facts;

/// For the whole of it.
const LIMIT: Duration = Duration::from_secs(5);

/// The certificate of a server of the plan, as the proxy would be shown it.
///
/// # Errors
/// In words: it cannot be reached, or does not speak TLS.
pub fn by(plan: &Plan, tls: &ServerTls, server: &Server) -> Result<Facts, String> {
    let seen = Arc::new(Mutex::new(None));
    let provider = Arc::new(default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Looker {
            seen: Arc::clone(&seen),
            schemes: provider.signature_verification_algorithms.supported_schemes(),
        }));
    let own = tls.certificate.and_then(|index| plan.certificates.get(index));
    let mut config = match own {
        Some(own) => {
            let chain = own.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
            let key = PrivateKeyDer::try_from(own.key.0.clone()).map_err(ToOwned::to_owned)?;
            config.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = match tls.name.as_ref().or(server.tls_name.as_ref()) {
        Some(name) => ServerName::try_from(name.clone()).map_err(|error| error.to_string())?,
        None => ServerName::from(server.address.ip()),
    };
    let handshake =
        handshake(server.address, ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?);
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (seen, handshake) {
        // Whatever came later, it was shown.
        (Some(der), _) => Facts::read(der),
        (None, Err(error)) => Err(error.to_string()),
        (None, Ok(())) => Err("it showed no certificate".into()),
    }
}

fn handshake(address: SocketAddr, mut tls: ClientConnection) -> io::Result<()> {
    let until = Instant::now() + LIMIT;
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    while tls.is_handshaking() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))?;
        while tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
        if tls.is_handshaking() {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut unread = &bytes[..read];
            while !unread.is_empty() {
                tls.read_tls(&mut unread)?;
                tls.process_new_packets().map_err(io::Error::other)?;
            }
        }
    }
    tls.send_close_notify();
    tls.write_tls(&mut stream)?;
    stream.flush()
}

/// Trusts everybody, and remembers who it was: nothing is told them.
#[derive(Debug)]
struct Looker {
    seen: Arc<Mutex<Option<Vec<u8>>>>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
