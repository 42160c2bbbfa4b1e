//! Why a handshake with a client comes to nothing.

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

use crate::reasons::reasons;

reasons! {
    /// Why a handshake with a client came to nothing.
    Fault {
        Closed "closed" "the client closed the connection in the middle of the handshake"
        Timeout "timeout" "the client took too long"
        NotTls "not_tls" "the client doesn't speak TLS"
        Version "version" "the client knows no version of TLS that is allowed here"
        NothingShared "nothing_shared" "the client and the profile share no cipher suite, group or signature"
        Protocol "alpn" "the client offers no application protocol that is spoken here"
        NoCertificate "no_certificate" "the client shows no certificate"
        BadCertificate "bad_certificate" "the client's certificate doesn't pass"
        Refused "refused" "the client refused, by an alert: it may not trust the certificate"
        Broken "broken" "the client broke the protocol"
    }
}

impl Fault {
    pub(crate) fn of(error: &Error) -> Fault {
        use PeerIncompatible as Incompatible;
        match error {
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::InvalidEmptyPayload,
            ) => Fault::NotTls,
            Error::PeerIncompatible(
                Incompatible::SupportedVersionsExtensionRequired
                | Incompatible::Tls12NotOffered
                | Incompatible::Tls12NotOfferedOrEnabled
                | Incompatible::Tls13RequiredForQuic,
            ) => Fault::Version,
            Error::PeerIncompatible(_) => Fault::NothingShared,
            Error::NoApplicationProtocol => Fault::Protocol,
            Error::NoCertificatesPresented => Fault::NoCertificate,
            Error::InvalidCertificate(_) => Fault::BadCertificate,
            Error::AlertReceived(AlertDescription::CloseNotify) => Fault::Closed,
            Error::AlertReceived(_) => Fault::Refused,
            _ => Fault::Broken,
        }
    }
}
