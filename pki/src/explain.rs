//! What a failed handshake means, for the person who reads the log of either side.

use rustls::{AlertDescription, CertificateError, Error};

/// One sentence: what the TLS error `error` says about the peer or about us, and what to do.
pub fn explain(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => explain_tls(tls),
        None => error.to_string(),
    }
}

fn explain_tls(error: &Error) -> String {
    let text = match error {
        Error::NoCertificatesPresented => {
            "the peer presented no certificate: is it a Railwatch agent with `certificate` and `key` configured?"
        }
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the peer's certificate has expired: issue a new one for it (`railwatch-collector pki issue HOST`); is this host's clock right?"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the peer's certificate is not valid yet: is this host's clock right (`timedatectl`)?"
            }
            CertificateError::Revoked => {
                "the peer's certificate was revoked: issue a new one if the host may come back"
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the peer's certificate is of a CA that is not in the trust bundle: is it of another installation, or is a CA being replaced and missing here?"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the collector's certificate does not carry the name or address that was dialled: issue it for that name, or dial one it has"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the peer's certificate is for the other role: agents need clientAuth, collectors serverAuth"
            }
            _ => return format!("the peer's certificate is refused: {error}"),
        },
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => {
                "the peer says that our certificate is expired or not valid yet: issue a new one, and compare both clocks"
            }
            AlertDescription::CertificateRevoked => "the peer says that our certificate was revoked: ask for a new one",
            AlertDescription::UnknownCA => {
                "the peer does not trust the CA of our certificate: are both of the same installation?"
            }
            AlertDescription::CertificateRequired => "the peer requires a certificate and we sent none",
            AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
                "the peer refuses our certificate: is it for this role?"
            }
            _ => return format!("the peer ended the handshake: {error}"),
        },
        Error::InvalidMessage(_) => "the peer does not speak TLS here: is it the right port (7700 is the uplink)?",
        _ => return error.to_string(),
    };
    format!("{text} ({error})")
}
