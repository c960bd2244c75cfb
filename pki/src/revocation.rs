//! The revocation list in two uses: whole, for rustls to check in every handshake, and as a set, to re-check
//! streams that were open before their certificate was revoked.
//!
//! A list past its `nextUpdate` is still used: an old list refuses some, no list refuses none.

use crate::error::PkiError;
use crate::identity::{PeerIdentity, Serial, parse};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use std::collections::HashSet;
use std::path::Path;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// The serials that are revoked, by issuer.
#[derive(Debug, Default)]
pub struct Revoked {
    entries: HashSet<(Vec<u8>, Serial)>,
}

impl Revoked {
    /// Reads `lists`, each of which one of the CAs in `trust` must have signed.
    pub(crate) fn read(
        lists: &[CertificateRevocationListDer<'_>],
        lists_path: &Path,
        trust: &[CertificateDer<'_>],
        trust_path: &Path,
    ) -> Result<Self, PkiError> {
        let mut entries = HashSet::new();
        for der in lists {
            let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| PkiError::Unusable {
                path: lists_path.to_owned(),
                expected: "a revocation list",
                found: error.to_string(),
            })?;
            let signed = trust.iter().filter_map(|ca| parse(ca).ok()).any(|ca| {
                ca.subject().as_raw() == list.issuer().as_raw() && list.verify_signature(ca.public_key()).is_ok()
            });
            if !signed {
                return Err(PkiError::ForeignRevocationList {
                    list: lists_path.to_owned(),
                    trust: trust_path.to_owned(),
                });
            }
            let issuer = list.issuer().as_raw();
            entries.extend(
                list.iter_revoked_certificates().map(|entry| (issuer.to_vec(), Serial::new(entry.raw_serial()))),
            );
        }
        Ok(Self { entries })
    }

    /// Whether that peer's certificate is on a list of its issuer.
    pub fn contains(&self, peer: &PeerIdentity) -> bool {
        self.entries.contains(&(peer.issuer.clone(), peer.serial.clone()))
    }

    /// How many certificates are revoked.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
