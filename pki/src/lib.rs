//! Who is who on the uplink: a development CA, certificates, identity, revocation, and TLS that follows its
//! files without a restart. rustls and rcgen do the cryptography; nothing here makes its own.
//!
//! # For the collector
//! ```text
//! let ca = DevelopmentCa::open_or_create(pki_dir)?;             // first `up`; later runs open it
//! ca.issue_server(&["host7", "127.0.0.1"], LEAF_LIFE)?.write(pki_dir, "collector")?
//! Credentials::load(CredentialFiles { trust, certificate, key, revoked })?   refuses what would fail later, and says why
//! incoming(listener, credentials.clone(), limits)              for tonic's `serve_with_incoming`
//! request.extensions().get::<Caller>()                         who called (host, serial, until when), and whether its kernel answers
//! tokio::spawn(follow(credentials.clone(), interval))          new handshakes use new files; a bad file keeps the old
//! credentials.generation() / credentials.is_revoked(&peer)     re-check streams that are open already
//! ```
//! `railwatch-collector pki issue HOST` is `ca.issue_agent(&HostName::parse(host)?, life)?.write(dir, host)?`;
//! `pki revoke HOST` is `ca.revoke_host(&host, Reason::KeyCompromise)?`; both print the paths they are given.
//!
//! # For the agent
//! `Credentials::load` and `AgentConnector::new(address, server_name, credentials)` for tonic's
//! `Endpoint::connect_with_connector` (the endpoint's scheme is `http`: the connector does TLS itself).
//!
//! # Never
//! TLS below 1.3; session resumption (a resumed session would outlive a revocation); a key file that others can
//! read; an identity from anything but the URI SAN of a verified certificate.
#![forbid(unsafe_code)]

mod authority;
mod client;
mod credentials;
mod error;
mod explain;
mod files;
mod follow;
mod host_name;
mod identity;
mod kernel;
mod revocation;
mod server;
#[cfg(test)]
mod tests;

pub use authority::{CA_LIFE, DevelopmentCa, Issued, IssuedFiles, LEAF_LIFE, Revocation};
pub use client::{AgentConnector, AgentStream, DialError};
pub use credentials::{CredentialFiles, Credentials, Reload};
pub use error::PkiError;
pub use explain::explain;
pub use follow::follow;
pub use host_name::{HostName, HostNameError};
pub use identity::{IdentityError, PeerIdentity, Serial, host_of};
pub use kernel::{KEEPALIVE_EVERY, LastWord, PeerKernel};
pub use rcgen::RevocationReason as Reason;
pub use revocation::Revoked;
pub use server::{Caller, HandshakeCounts, HandshakeLimits, PeerStream, incoming};
