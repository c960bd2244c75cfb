//! Who a verified certificate says its holder is: the one URI SAN `railwatch://agent/HOST`.
//!
//! Flows in: DER of a certificate whose chain was verified by TLS. Flows out: a host's name. Nothing else in the
//! certificate (subject, DNS names) ever names an agent.

use crate::host_name::{HostName, HostNameError};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What the URI SAN of an agent begins with.
pub(crate) const AGENT_URI_PREFIX: &str = "railwatch://agent/";

/// A certificate's serial number, big endian without leading zeroes (RFC 5280 section 4.1.2.2: 20 bytes at most).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    pub(crate) fn new(raw: &[u8]) -> Self {
        let zeroes = raw.iter().take_while(|byte| **byte == 0).count();
        Self(raw[zeroes..].to_vec())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
            return None;
        }
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .collect::<Option<Vec<_>>>()
            .map(|raw| Self::new(&raw))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Who is at the other end of a connection: [`crate::Caller`] has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The host, from the certificate.
    pub host: HostName,
    /// Serial of the certificate.
    pub serial: Serial,
    /// DER of the issuer's distinguished name: serials are unique within it.
    pub issuer: Vec<u8>,
    /// End of the certificate's validity.
    pub not_after: SystemTime,
    /// Where the connection came from.
    pub address: SocketAddr,
}

/// Why a verified certificate names no agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509, or trailing bytes.
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(String),
    /// No URI SAN with the prefix.
    #[error("the peer's certificate names no agent: it has no URI SAN railwatch://agent/HOST (is it a collector's?)")]
    NoAgent,
    /// Two identities are none.
    #[error("the peer's certificate names {0} agents; exactly one is allowed")]
    Ambiguous(usize),
    /// The name breaks the grammar.
    #[error("the peer's certificate names an agent badly: {0}")]
    BadName(#[from] HostNameError),
}

/// The host that the certificate `der` names. The chain must have been verified before.
pub fn host_of(der: &[u8]) -> Result<HostName, IdentityError> {
    host(&parse(der)?)
}

pub(crate) fn peer(der: &[u8], address: SocketAddr) -> Result<PeerIdentity, IdentityError> {
    let certificate = parse(der)?;
    Ok(PeerIdentity {
        host: host(&certificate)?,
        serial: Serial::new(certificate.raw_serial()),
        issuer: certificate.issuer().as_raw().to_vec(),
        not_after: instant(certificate.validity().not_after.timestamp()),
        address,
    })
}

pub(crate) fn instant(unix_s: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_s).unwrap_or(0))
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(IdentityError::Malformed(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(IdentityError::Malformed(error.to_string())),
    }
}

fn host(certificate: &X509Certificate<'_>) -> Result<HostName, IdentityError> {
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.as_slice(),
        Ok(None) => &[],
        Err(error) => return Err(IdentityError::Malformed(error.to_string())),
    };
    let agents: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(AGENT_URI_PREFIX),
            _ => None,
        })
        .collect();
    match agents.as_slice() {
        [] => Err(IdentityError::NoAgent),
        [one] => Ok(HostName::parse(one)?),
        more => Err(IdentityError::Ambiguous(more.len())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["gpu-1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "gpu-1");
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn only_one_well_formed_agent_uri_names_a_host() {
        assert_eq!(host_of(&certificate(&["railwatch://agent/gpu-1"])).unwrap().as_str(), "gpu-1");
        assert_eq!(host_of(&certificate(&["https://x", "railwatch://agent/gpu-1"])).unwrap().as_str(), "gpu-1");
        for (uris, expected) in [
            (&[][..], "no URI SAN"),
            (&["railwatch://collector/gpu-1"], "no URI SAN"),
            (&["RAILWATCH://agent/gpu-1"], "no URI SAN"),
            (&["railwatch://agent/gpu-1", "railwatch://agent/gpu-2"], "names 2 agents"),
            (&["railwatch://agent/gpu-1", "railwatch://agent/gpu-1"], "names 2 agents"),
            (&["railwatch://agent/"], "empty"),
            (&["railwatch://agent/../gpu-1"], "outside"),
            (&["railwatch://agent/gpu-1?x"], "outside"),
            (&["railwatch://agent/GPU-1"], "upper-case"),
        ] {
            let error = host_of(&certificate(uris)).unwrap_err().to_string();
            assert!(error.contains(expected), "{uris:?}: {error}");
        }
    }

    #[test]
    fn serials_compare_without_their_leading_zeroes() {
        assert_eq!(Serial::new(&[0, 0x8f, 1]), Serial::from_hex("8f01").unwrap());
        assert_eq!(Serial::new(&[0, 0x8f, 1]).to_string(), "8f01");
        for bad in ["", "8", "zz", "é"] {
            assert!(Serial::from_hex(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0usize..600, byte: u8, cut in 0usize..600) {
            let mut der = certificate(&["railwatch://agent/gpu-1"]);
            let at = at % der.len();
            der[at] = byte;
            let _ = host_of(&der);
            let _ = host_of(&der[..cut.min(der.len())]);
        }
    }
}
