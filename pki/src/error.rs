//! What can be wrong with keys and certificates on disk, each with the file, the reason, and what to do next.

use std::path::PathBuf;

/// A failure of this crate that a person has to see.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", ...
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A private key that others can read is a public key.
    #[error(
        "the private key {} is open to others (mode {mode:04o}, owner {owner}): run `chmod 600 {}`; a key that others may have copied should be replaced",
        path.display(), path.display()
    )]
    KeyTooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's user id.
        owner: u32,
    },
    /// The file holds no usable object of the expected sort.
    #[error("{} is not usable: expected {expected}, found {found}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What should have been in it.
        expected: &'static str,
        /// What is in it.
        found: String,
    },
    /// The certificate's time is over.
    #[error(
        "the certificate {} expired on {not_after} ({days} days ago): issue a new one (`railwatch-collector pki issue HOST`) and put it in place; no restart is needed",
        path.display()
    )]
    Expired {
        /// Which file.
        path: PathBuf,
        /// When, UTC.
        not_after: String,
        /// How long ago, whole days.
        days: i64,
    },
    /// The certificate's time has not begun.
    #[error(
        "the certificate {} is valid only from {not_before}, and this host's clock says {now}: is the clock right (`timedatectl`)?",
        path.display()
    )]
    NotYetValid {
        /// Which file.
        path: PathBuf,
        /// From when, UTC.
        not_before: String,
        /// What this host believes the time to be, UTC.
        now: String,
    },
    /// Key and certificate are of different pairs.
    #[error(
        "the key {} does not belong to the certificate {}: both files must be replaced together (while they are being replaced, the old pair stays in use)",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A revocation list that no trusted CA signed.
    #[error("the revocation list {} is signed by none of the CAs in {}: is it of another installation?", list.display(), trust.display())]
    ForeignRevocationList {
        /// The list's file.
        list: PathBuf,
        /// The trust bundle.
        trust: PathBuf,
    },
    /// A name for a certificate that is none.
    #[error("cannot issue a certificate for {name:?}: it is neither an IP address nor a DNS name")]
    BadName {
        /// As given.
        name: String,
    },
    /// No certificate of that host was issued by this CA.
    #[error("nothing to revoke: {} records no certificate of host {host}", record.display())]
    NeverIssued {
        /// Which host.
        host: String,
        /// Where the CA records what it issued.
        record: PathBuf,
    },
    /// Signing failed.
    #[error("cannot sign {what}: {source}")]
    Sign {
        /// What was to be signed.
        what: &'static str,
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// rustls refused the material for a reason not told apart above.
    #[error("TLS refuses {}: {source}", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}
