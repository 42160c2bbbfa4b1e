//! TLS 1.3 with pinned certificates on both sides, and the keys that a session lends to the datagrams.
//!
//! No authority, no name and no date is checked: a certificate is the one that was pinned, or it is refused. There
//! are no tickets, so that each session proves both keys.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::counters::Reason;
use crate::pairing::{Identity, Peer, Pin, provider};
use crate::session::Refusal;

/// What the exported keys are for; RFC 8446 §7.5.
const LABEL: &[u8] = b"EXPORTER-lbnode-datagram";
const TO_LISTENER: &[u8] = b"dialler to listener";
const TO_DIALLER: &[u8] = b"listener to dialler";
const ID: &[u8] = b"id";

/// The keys of a session for signing what travels outside of it. Both sides have the same, crossed.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Tells the keys of one session from those of another; the same on both sides.
    pub id: u32,
    /// For what this node sends.
    pub send: [u8; 32],
    /// For what the peer sends.
    pub receive: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Dialler,
    Listener,
}

/// What a handshake needs; made anew when a pin or the identity changes.
#[derive(Clone)]
pub(super) struct Tls {
    client: TlsConnector,
    server: TlsAcceptor,
}

/// Who is at the other end, proven.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) pin: Pin,
    pub(super) keys: Keys,
}

impl Tls {
    pub(super) fn new(identity: &Identity, peer: &Peer) -> Result<Tls, rustls::Error> {
        let provider = provider();
        let pins = Arc::new(Pins {
            own: identity.pin(),
            accepted: peer.pins.clone(),
            algorithms: provider.signature_verification_algorithms,
        });
        let versions = &[&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&pins) as Arc<dyn ServerCertVerifier>)
            .with_client_cert_resolver(identity.certified());
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(pins)
            .with_cert_resolver(identity.certified());
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Tls { client: Arc::new(client).into(), server: Arc::new(server).into() })
    }

    /// The handshake. The dialler's ends before the listener has looked at its certificate.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        end: End,
    ) -> Result<(TlsStream<TcpStream>, Proven), Refusal> {
        let shaken: io::Result<TlsStream<TcpStream>> = match end {
            End::Dialler => {
                let name = ServerName::try_from("lbnode").expect("a name that is never sent");
                self.client.connect(name, stream).await.map(TlsStream::from)
            }
            End::Listener => self.server.accept(stream).await.map(TlsStream::from),
        };
        let stream = shaken.map_err(|error| broken(&error))?;
        let proven = prove(&stream, end).map_err(|error| Refusal::new(Reason::Tls, error.to_string()))?;
        Ok((stream, proven))
    }
}

fn prove(stream: &TlsStream<TcpStream>, end: End) -> Result<Proven, rustls::Error> {
    let (_, connection) = stream.get_ref();
    let certificate =
        connection.peer_certificates().and_then(|chain| chain.first()).ok_or(rustls::Error::NoCertificatesPresented)?;
    let export = |context| exported([0; 32], stream, context);
    let (send, receive) = match end {
        End::Dialler => (TO_LISTENER, TO_DIALLER),
        End::Listener => (TO_DIALLER, TO_LISTENER),
    };
    let id = u32::from_be_bytes(exported([0; 4], stream, ID)?);
    let keys = Keys { id, send: export(send)?, receive: export(receive)? };
    Ok(Proven { pin: Pin::of(certificate), keys })
}

fn exported<const N: usize>(
    room: [u8; N],
    stream: &TlsStream<TcpStream>,
    context: &[u8],
) -> Result<[u8; N], rustls::Error> {
    match stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material(room, LABEL, Some(context)),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material(room, LABEL, Some(context)),
    }
}

/// What went wrong with a connection that speaks TLS.
pub(super) fn broken(error: &io::Error) -> Refusal {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Refusal::new(Reason::Closed, "the connection broke off")
            }
            _ => Refusal::new(Reason::Tls, error.to_string()),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            match other.downcast_ref::<NotAccepted>() {
                Some(refused) => Refusal::new(refused.reason(), refused.to_string()),
                None => Refusal::new(Reason::Tls, tls.to_string()),
            }
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateUnknown) => Refusal::new(
            Reason::Tls,
            "the other side does not accept this node's certificate; compare `lbnode pair show` on both nodes",
        ),
        _ => Refusal::new(Reason::Tls, tls.to_string()),
    }
}

/// A certificate that is not the peer's.
#[derive(Debug, thiserror::Error)]
enum NotAccepted {
    #[error("the other side shows this node's own certificate ({}): a clone of this node's identity", .0.short())]
    Clone(Pin),
    #[error(
        "an unknown certificate {}, and {} is accepted; if the peer was set up anew, pair the nodes again",
        shown.short(),
        expected(accepted)
    )]
    Unknown { shown: Pin, accepted: Vec<Pin> },
}

impl NotAccepted {
    fn reason(&self) -> Reason {
        match self {
            NotAccepted::Clone(_) => Reason::Clone,
            NotAccepted::Unknown { .. } => Reason::Pin,
        }
    }
}

fn expected(accepted: &[Pin]) -> String {
    accepted.iter().map(Pin::short).collect::<Vec<String>>().join(" or ")
}

/// The verifier of both sides.
#[derive(Debug)]
struct Pins {
    own: Pin,
    accepted: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pins {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let shown = Pin::of(certificate);
        let refused = match () {
            () if shown == self.own => NotAccepted::Clone(shown),
            () if self.accepted.contains(&shown) => return Ok(()),
            () => NotAccepted::Unknown { shown, accepted: self.accepted.clone() },
        };
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused)))))
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// No session gets there: only TLS 1.3 is offered.
fn tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
}

impl ServerCertVerifier for Pins {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pins {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
